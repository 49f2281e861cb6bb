"""Shared by all tests: real data where it exists, and a tiny tokenizer and dataset made on the spot."""

import io
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read on import, and by the scripts: no test waits for a hub

ROOT = Path(__file__).parent.parent
CATEGORY = ROOT / "category_classification"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]

CLASS_WORDS = {
    "Books": "novel paperback author chapter story pages",
    "Jewelry": "ring silver pendant chain gold stone",
    "Shoes": "sneaker leather sole lace boot heel",
}
LANGUAGE_WORDS = {"en": "the new with for", "de": "der neue mit für", "ja": "新しい 商品 の です"}


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("REAL_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; REAL_DATA_DIR names another place")
    return folder


def one_thread() -> dict[str, str]:
    """The environment of a process that is to use one thread and the CPU."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_script(script: Path, *args: object, **kwargs) -> subprocess.CompletedProcess:
    """Run a script as a user would, on one thread and the CPU."""
    env = one_thread() | kwargs.pop("env", {})
    command = [sys.executable, str(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, **kwargs)


def torchrun(script: Path, *args: object) -> subprocess.CompletedProcess:
    """As `run_script`, on two ranks."""
    command = [*TORCHRUN, str(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=one_thread())


def run_main(main: Callable[[], None], *args: object) -> subprocess.CompletedProcess:
    """As `run_script`, inside this process: imports are paid once, so that hundreds of runs take seconds.

    An exception other than the script's own exit shows as a traceback and status 1, as it would to a user.
    """
    from training_utils import run_script as end_like_a_script

    argv, numbers = sys.argv, (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    out, err, status = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO(), 0
    sys.argv = ["script.py", *map(str, args)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            end_like_a_script(main)
    except SystemExit as stop:
        status = stop.code or 0
    except Exception:
        err.write(traceback.format_exc())
        status = 1
    finally:
        sys.argv = argv
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    out.flush()
    return subprocess.CompletedProcess(args, status, out.buffer.getvalue().decode(), err.getvalue())


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """Bad input: status 2, one line on stderr that says what is wrong, no traceback."""
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def assert_same_weights(a: Path, b: Path, rtol: float = 0.0) -> None:
    """Two checkpoints' models are equal to the bit, or within `rtol`."""
    first, second = (torch.load(path, weights_only=True)["model"] for path in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5 if rtol else 0, rtol=rtol, msg=name)


def records(out: Path) -> list[dict]:
    """A run's `metrics.jsonl`."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def make_texts(count: int, seed: int) -> tuple[list[str], list[int], list[str]]:
    """Texts, labels and languages: class words among common ones, so that a small model can learn
    something.
    """
    rng = np.random.default_rng(seed)
    names, codes = list(CLASS_WORDS), list(LANGUAGE_WORDS)
    labels = rng.integers(len(names), size=count)
    languages = rng.choice(codes, size=count, p=[0.8, 0.15, 0.05])
    texts = []
    for label, code in zip(labels, languages, strict=True):
        words = rng.choice(CLASS_WORDS[names[label]].split(), size=2).tolist()
        words += rng.choice(LANGUAGE_WORDS[code].split(), size=rng.integers(1, 12)).tolist()
        texts.append(" ".join(rng.permutation(words)) + f" {rng.integers(1000)}")
    return texts, labels.tolist(), languages.tolist()


def make_dataset(folder: Path, train: int = 600, other: int = 90) -> Path:
    """A prepared dataset, as prepare_lspc.py writes it."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features(
        text=Value("string"),
        label=ClassLabel(names=sorted(CLASS_WORDS)),
        cluster=Value("int64"),
        language=Value("string"),
    )
    splits = {}
    for seed, (name, count) in enumerate({"train": train, "validation": other, "test": other}.items()):
        texts, labels, languages = make_texts(count, seed)
        columns = {"text": texts, "label": labels, "cluster": range(count), "language": languages}
        splits[name] = Dataset.from_dict(columns, features=features)
    splits["full"] = splits["train"]
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def make_tokenizer(folder: Path) -> Path:
    """A byte-level BPE in Qwen's form: 300 tokens, the last of every text is <|endoftext|>, which also
    pads.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_texts(200, 9)[0], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tiny") / "tokenizer")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_data, tiny_tokenizer) -> Path:
    """The folder of a small trained classifier, not to be written into."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    size = "--hidden_size 192 --num_layers 2 --batch_size 16 --seq_len 24 --device cpu --lang_min_samples 5"
    flags = [*size.split(), *"--epochs 2 --lr 2e-3 --log_every 5 --lr_warmup_steps 4".split()]
    script = CATEGORY / "train_embedding_classifier.py"
    result = run_script(script, "--data", tiny_data, "--tokenizer", tiny_tokenizer, "--out", out, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    return out


def pytest_terminal_summary(terminalreporter) -> None:
    stats = terminalreporter.stats
    reports = [
        r
        for kind in ("passed", "failed", "error")
        for r in stats.get(kind, [])
        if "test_contracts" in r.nodeid and "[" in r.nodeid
    ]
    if reports:
        from contracts import table

        terminalreporter.section("contracts of the training scripts")
        for line in table(reports):
            terminalreporter.write_line(line)
