"""Every training script of the repository, and how to run one many times: for tests/test_contracts*.py.

A new script joins by one entry of SCRIPTS: where it is, its tiny data, how it spells what all of them have.
"""

import json
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, make_dataset, make_tokenizer, one_thread, run_main
from tiny_items import SMALL, clusters, write_embeddings

# What these import is imported once, and so is what they import late.
PRELOAD = (
    "category_classification.train_embedding_classifier "
    "category_classification.train_embedding_classifier_v2 "
    "category_classification.train_embedding_classifier_v3 semantic_ids.train_rqvae naics.train "
    "experiments.classification.run experiments.language_modeling.run experiments.preload matplotlib.pyplot"
).split()


@dataclass(frozen=True)
class Script:
    """One training script. `{data}` and `{out}` stand for folders; later flags overrule earlier ones."""

    name: str
    path: str
    make_data: Callable[[Path], None]
    flags: str  # a run of some 36 steps, which saves and logs at each
    input_file: str  # of its data: read at the start, and no use when cut in half
    no_input: str  # flags for data that is not there
    non_finite: str  # flags that make the loss so from step 2 on; after {bad} of them the run ends
    two_batches: str  # flags for one process that takes the rows of two
    checkpoints: str = "checkpoint-*.pt"
    weights: tuple[str, ...] = ("checkpoint-last.pt", "best.pt")  # that must come out equal
    ranks: str = ""  # flags for that comparison, such as no dropout
    rounding: float = 1e-4  # of weights in it, relative
    unknown: tuple[str, ...] = ("--unknown",)
    second_run: tuple[int, str] = (2, "already holds a run")  # in the same folder, without --resume
    end_of_bad_steps: tuple[int, str] = (2, "4 steps in a row had a non-finite")

    def arguments(self, data: Path, out: Path, *more: object) -> list[str]:
        flags = [word.format(data=data, out=out) for word in self.flags.split()]
        return [*flags, *(str(word).format(data=data, out=out) for word in more)]

    def saved(self, out: Path) -> list[Path]:
        """Checkpoints that a resume may take, the newest last."""
        found = []
        for path in out.glob(self.checkpoints):
            step = torch.load(path, weights_only=True)["progress"]["step"]
            found.append((step, path.stat().st_mtime_ns, path))
        return [path for _, _, path in sorted(found)]

    def last_weights(self, out: Path) -> Any:
        """Of the newest checkpoint, or the hash that the row of a finished study holds."""
        if saved := self.saved(out):
            return torch.load(saved[-1], weights_only=True)["model"]
        return json.loads((out / "results.jsonl").read_text())["model"]["final_sha256"]

    def stamp(self, out: Path) -> int:
        """Changes with each checkpoint."""
        return max(_times(out, self.checkpoints).values(), default=0)

    def unfinished(self, out: Path) -> dict[str, int]:
        """Checkpoints half written: file -> time."""
        folder, _, name = self.checkpoints.rpartition("/")
        return _times(out, f"{folder}/.{name}.tmp".lstrip("/"))

    def results(self, out: Path) -> dict[str, Any]:
        """What two equal runs have alike: weights, and records but for their times."""
        files = [path for pattern in self.weights for path in sorted(out.glob(pattern))]
        assert len(files) == len(self.weights), sorted(out.rglob("*"))
        return {
            "weights": [torch.load(path, weights_only=True)["model"] for path in files],
            "records": [
                {name: value for name, value in record.items() if "second" not in name and "time" not in name}
                for record in records(out)
            ],
        }


def _times(folder: Path, pattern: str) -> dict[str, int]:
    found = {}
    for path in folder.glob(pattern):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # renamed meanwhile
            continue
    return found


def records(out: Path) -> list[dict]:
    """Whole lines of the run's metrics.jsonl, wherever it lies."""
    lines = [line for path in out.rglob("metrics.jsonl") for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def assert_equal_runs(a: dict[str, Any], b: dict[str, Any]) -> None:
    """To the bit."""
    for first, second in zip(a["weights"], b["weights"], strict=True):
        assert_equal_weights(first, second)
    assert a["records"] == b["records"]


def assert_equal_weights(a: Any, b: Any, rtol: float = 0.0) -> None:
    """To the bit, or within `rtol`."""
    if isinstance(a, str):  # a hash of them
        assert a == b
        return
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5 if rtol else 0, rtol=rtol, msg=name)


# ---------------------------------------------------------------- the table


def classifier_data(folder: Path) -> None:
    make_dataset(folder / "dataset", train=288, other=40)
    make_tokenizer(folder / "tokenizer")


def items_data(folder: Path) -> None:
    write_embeddings(folder / "items.parquet", clusters())


def naics_data(folder: Path) -> None:
    from tiny_naics import write_data

    write_data(folder)


def eurlex_data(folder: Path) -> None:
    import tiny_experiments as tiny

    from experiments.classification.prepare_data import main

    source = tiny.write_zip(folder / "EURLEX57K.zip", tiny.make_documents())
    _prepare(main, folder, "--input", source, "--allow_partial")


def text_data(folder: Path) -> None:
    import tiny_experiments as tiny

    from experiments.language_modeling.prepare_data import main

    _prepare(main, folder, "--input", tiny.make_text(folder / "text.txt"))


def _prepare(main: Callable[[], None], folder: Path, *flags: object) -> None:
    import tiny_experiments as tiny

    tokenizer = tiny.make_tokenizer(folder / "tokenizer")
    made = run_main(main, *flags, "--tokenizer", tokenizer, "--out", folder / "prepared")
    assert made.returncode == 0, made.stderr


V1 = "category_classification/train_embedding_classifier.py"
CLASSIFIER = Script(
    name="classifier-v1",
    path=V1,
    make_data=classifier_data,
    flags="--data {data}/dataset --tokenizer {data}/tokenizer --out {out} --hidden_size 192 --num_layers 1 "
    "--batch_size 8 --grad_accum 2 --seq_len 16 --device cpu --lang_min_samples 5 --epochs 2 "
    "--token_dropout 0.1 --save_every_steps 1 --log_every 1",
    input_file="dataset/train/data-00000-of-00001.arrow",
    no_input="--data {data}/none",
    non_finite="--lr 1e30 --max_grad_norm 0 --lr_warmup_steps 0 --max_bad_steps {bad}",
    two_batches="--batch_size 16",
    ranks="--epochs 1 --token_dropout 0 --classifier_dropout 0 --max_drop_path 0",
)
RQVAE = Script(
    name="rqvae",
    path="semantic_ids/train_rqvae.py",
    make_data=items_data,
    flags=f"--embeddings_path {{data}}/items.parquet --checkpoint_dir {{out}} {SMALL} --num_epochs 13 "
    "--gradient_accumulation_steps 2 --input_noise 0.3 --codebook_size 64 "
    "--steps_per_codebook_reset 4 --save_every_steps 1 --steps_per_train_log 1",
    input_file="items.parquet",
    no_input="--embeddings_path {data}/none.parquet",
    non_finite="--max_lr 1e30 --no-use_gradient_clipping --scheduler_type cosine --max_bad_steps {bad}",
    two_batches="--batch_size 256",
    ranks="--max_steps 6",
    rounding=1e-3,
    checkpoints="checkpoint_step_*.pth",
    weights=("final_model.pth", "best_model.pth"),
)
NAICS = Script(
    name="naics",
    path="naics/train.py",
    make_data=naics_data,
    flags="-c 01_stage_easy paths.data_dir={data} paths.checkpoint_dir={out}/checkpoints "
    "paths.output_dir={out}/outputs model=ngram model.ngram.buckets=509 model.ngram.width=16 model.dim=8 "
    "model.moe.hidden_dim=16 model.dropout=0.2 training.learning_rate=2e-3 training.warmup_steps=4 "
    "training.trainer.max_epochs=3 training.trainer.patience=0 training.trainer.limit_train_batches=12 "
    "training.trainer.log_every_n_steps=1 training.save_every_steps=1 training.keep_last=0 "
    "data.batch_size=1 data.queries=6 data.k_negatives=4 data.val_split=0.3",
    input_file="naics_index.parquet",
    no_input="paths.data_dir={data}/none",
    non_finite="training.learning_rate=1e30 training.warmup_steps=0 training.max_bad_steps={bad}",
    two_batches="data.batch_size=2 data.queries=12",
    ranks="model.dropout=0 training.trainer.max_epochs=2 training.trainer.precision=32",
    checkpoints="checkpoints/*/checkpoint-*.pt",
    weights=("checkpoints/*/checkpoint-last.pt", "checkpoints/*/best.pt"),
    unknown=("--unknown", "model.unknown=1"),
)
STUDY = Script(
    name="eurlex-study",
    path="experiments/classification/run.py",
    make_data=eurlex_data,
    flags="--data {data}/prepared --out {out} --encoder tiny-random --max_length 24 --batch_size 4 "
    "--gradient_accumulation_steps 2 --learning_rate 1e-3 --device cpu --threads 1 --dropout 0.1 "
    "--max_steps 36 --eval_steps 12 --save_every_steps 1",
    input_file="prepared/train.tokens.npy",
    no_input="--data {data}/none",
    non_finite="--learning_rate 1e30 --grad_clip 0 --warmup_ratio 0 --max_steps {bad}",
    two_batches="--batch_size 8",
    ranks="--dropout 0 --max_steps 6",
    checkpoints="runs/*/checkpoint-*.pt",
    weights=("weights/*.pt",),  # a finished run keeps no checkpoint
    second_run=(0, "completed already"),
    end_of_bad_steps=(0, "diverged, the loss is"),  # a result: divergence is what is measured
)
SCRIPTS = (
    CLASSIFIER,
    *(
        replace(
            CLASSIFIER, name=f"classifier-{version}", path=CLASSIFIER.path.replace(".py", f"_{version}.py")
        )
        for version in ("v2", "v3")
    ),
    RQVAE,
    replace(RQVAE, name="rqvae-ema", flags=f"{RQVAE.flags} --use_ema_vq"),
    NAICS,
    STUDY,
    replace(
        STUDY,
        name="text-study",
        path="experiments/language_modeling/run.py",
        make_data=text_data,
        flags=STUDY.flags.replace(
            "--encoder tiny-random --max_length 24",
            "--num_layers 1 --hidden_size 32 --num_heads 2 --block_size 16 --eval_windows 20",
        ),
    ),
)


def table(reports: list[pytest.TestReport]) -> list[str]:
    """A promise a line, a script a column; of kills their number."""
    cells: dict[str, dict[str, str]] = {}
    in_a_checkpoint = kills = 0
    for report in reports:
        case, _, parameters = report.nodeid.partition("::test_")[2].partition("[")
        name = max((s.name for s in SCRIPTS if parameters.startswith(s.name)), key=len)
        row, found = cells.setdefault(case.replace("_", " "), {}), dict(report.user_properties)
        kills += found.get("kills", 0)
        in_a_checkpoint += found.get("in_a_checkpoint", 0)
        result = "ok" if report.passed else "FAILED"
        if row.get(name) != "FAILED":
            row[name] = f"{found['kills']} kills" if "kills" in found else result
    names = [script.name for script in SCRIPTS]
    lines = [" " * 62 + "  ".join(names)]
    for case, row in cells.items():
        lines.append(f"{case[:60]:62}" + "  ".join(row.get(name, "-").ljust(len(name)) for name in names))
    return [*lines, f"{kills} kills, {in_a_checkpoint} of them while a checkpoint was written"]


# ---------------------------------------------------------------- processes


@dataclass
class Child:
    """A process of a script."""

    process: BaseProcess
    log: Path

    @property
    def runs(self) -> bool:
        return self.process.is_alive()

    def signal(self, number: int) -> None:
        if self.runs:
            os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> subprocess.CompletedProcess:
        self.process.join(seconds)
        if self.runs:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"did not end in {seconds} s: {self.log.with_suffix('.out').read_text()}")
        out, err = (self.log.with_suffix(end).read_text() for end in (".out", ".err"))
        return subprocess.CompletedProcess(self.log.name, self.process.exitcode, out, err)


@dataclass
class Starter:
    """Starts a script in a new process, a fork of one that has imported everything and run nothing: as clean
    as a new interpreter, without the seconds that imports take.
    """

    script: Script
    data: Path
    folder: Path  # of outputs and logs
    count: int = 0

    @classmethod
    def of(cls, script: Script, factory: pytest.TempPathFactory) -> "Starter":
        """With its tiny data."""
        data = factory.mktemp("data")
        script.make_data(data)
        return cls(script, data, factory.mktemp("runs"))

    def start(
        self,
        out: Path,
        *more: object,
        environment: dict[str, str] | None = None,
        largest_file: int | None = None,
    ) -> Child:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        with patch.dict(os.environ, one_thread()):
            multiprocessing.forkserver.ensure_running()
        self.count += 1
        log = self.folder / f"log-{self.count}"
        arguments = self.script.arguments(self.data, out, *more)
        process = context.Process(
            target=_run,
            args=(str(ROOT / self.script.path), arguments, log, environment or {}, largest_file),
        )
        process.start()
        return Child(process, log)

    def start_ranks(self, out: Path, *more: object) -> list[Child]:
        """Two, as torchrun starts them."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
        return [self.start(out, *more, environment=environment) for environment in ranks]

    def run(self, out: Path, *more: object, **kwargs: Any) -> subprocess.CompletedProcess:
        return self.start(out, *more, **kwargs).wait()

    def finish(self, out: Path, *more: object) -> subprocess.CompletedProcess:
        """A run that must succeed."""
        result = self.run(out, *more)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr[-3000:]
        return result

    def kill(self, out: Path, steps: int = 1, delay: float = 0.0, writing: bool = False) -> bool:
        """Start or go on, and SIGKILL after so many checkpoints and `delay` seconds, or as soon as the next
        one is being written. Returns whether the process died in the middle of a checkpoint.
        """
        before = self.script.unfinished(out)
        child = self.start(out, "--resume", "auto")
        for _ in range(steps):
            stamp = self.script.stamp(out)
            while child.runs and self.script.stamp(out) == stamp:
                time.sleep(0.001)
        time.sleep(delay)
        while writing and child.runs and self.script.unfinished(out).items() <= before.items():
            pass
        child.signal(signal.SIGKILL)
        result = child.wait()
        assert result.returncode == -signal.SIGKILL, (result.returncode, result.stderr[-3000:])
        assert "Traceback" not in result.stderr
        return not self.script.unfinished(out).items() <= before.items()

    def signal(self, out: Path, number: int) -> subprocess.CompletedProcess:
        """Start, and send a signal after some steps."""
        child = self.start(out)
        while child.runs and len(records(out)) < 6:
            time.sleep(0.001)
        child.signal(number)
        return child.wait()


def _run(
    path: str, arguments: list[str], log: Path, environment: dict[str, str], largest_file: int | None
) -> None:
    """In the new process: what `python path arguments >log.out 2>log.err` does."""
    for number, name, end in ((1, "stdout", ".out"), (2, "stderr", ".err")):
        stream = log.with_suffix(end).open("w", buffering=1)
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
