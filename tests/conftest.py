"""Shared by all tests: real data where it exists, and a tiny tokenizer and dataset made on the spot."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CATEGORY = ROOT / "category_classification"

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


def run_script(script: Path, *args: object, **kwargs) -> subprocess.CompletedProcess:
    """Run a script as a user would, on one thread and the CPU."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **kwargs.pop("env", {})}
    command = [sys.executable, str(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, **kwargs)


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """Bad input: status 2, one line on stderr that says what is wrong, no traceback."""
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


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
