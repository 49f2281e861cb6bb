"""Broken files for every command that reads any: a thousand of them, and some fifty in an ordinary run.

Each case breaks one sound file, in its bytes or in what stands in it, and runs the command in this process.
It must end well, with files that can be read and hold finite numbers, or refuse: one line that begins with
"error:", status 2, no traceback, and every file and folder as before. Nothing is written but under OUT, in
the working folder or the one for temporary files, and no code runs that a file brings.

    python -m pytest tests/test_broken_inputs.py -m "not slow"
    BROKEN_INPUTS=10000 python -m pytest tests/test_broken_inputs.py -m slow         (more of them)

A failure names reader, file and seed; `break_file(path, seed)` gives the file again.
"""

import csv
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from broken_inputs import break_file
from conftest import assert_refused, run_main
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from input_readers import MAKERS, READERS, Reader

CASES = int(os.environ.get("BROKEN_INPUTS", 1000))
SECONDS = 60  # of one case
TORCHS_OWN = "temporary/torchinductor*"  # made at import
# The same cases in every run, and as they come: a smaller one of its kind would say no more.
PROFILE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a project's sound files, made when first asked for."""
    made: dict[str, Path] = {}

    def files(project: str) -> Path:
        if project not in made:
            made[project] = tmp_path_factory.mktemp(project)
            MAKERS[project](made[project])
        return made[project]

    return files


# ---------------------------------------------------------------- one case


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file's content; a folder's is None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@contextmanager
def time_limit(seconds: int):
    def stop(*_: object) -> None:
        raise TimeoutError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def finite(value: object) -> bool:
    """No number in it is NaN or infinite."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


def assert_sound(path: Path, passes: bool) -> None:
    """What a command has written can be read, whatever its form, and its own numbers are finite."""
    assert ".tmp" not in path.name and "partial" not in path.name, f"{path} was left behind"
    if path.suffix == ".parquet":
        found: object = pq.read_table(path).to_pydict()
    elif path.suffix == ".json":
        found = json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().split("\n") if line]
    elif path.suffix == ".csv":
        found = list(csv.reader(path.open(newline="")))
    elif path.suffix == ".npy":
        found = np.load(path)
    elif path.suffix == ".npz":
        found = dict(np.load(path))
    elif path.suffix in (".pt", ".pth"):
        found = torch.load(path, weights_only=True).get("model")
    else:
        return
    assert passes or finite(found), f"{path} holds numbers that are not finite"


def start(reader: Reader, folder: Path, file: Path, more: str) -> CompletedProcess:
    """The command, in a working folder of its own and with another for temporary files."""
    named = {"IN": folder / "in", "OUT": folder / "out", "FILE": file, "EXT": file.suffix[1:]}
    flags = f"{reader.flags} {more}"
    for name, path in named.items():
        flags = flags.replace(name, str(path))
    unraisable: list[str] = []  # which a user would see as a traceback
    with (
        chdir(folder / "work"),
        patch.object(tempfile, "tempdir", str(folder / "temporary")),
        patch.object(sys, "unraisablehook", lambda each: unraisable.append(str(each.exc_value))),
        time_limit(SECONDS),
    ):
        result = run_main(reader.main, *flags.split())
    assert not unraisable, unraisable
    return result


def check(reader: Reader, folder: Path, file: Path, more: str = "") -> CompletedProcess:
    """Run the command on what lies in `folder`."""
    before = snapshot(folder)
    result = start(reader, folder, file, more)
    after = snapshot(folder)
    changed = {name for name in before | after if before.get(name, 0) != after.get(name, 0)}
    done = result.returncode == 0
    allowed = (TORCHS_OWN, *(("out/*", *reader.caches) if done else reader.kept))
    outside = {name for name in changed if not any(fnmatch(name, pattern) for pattern in allowed)}
    if not done:
        assert_refused(result)
    assert "Traceback" not in result.stderr
    assert not outside, f"touched {sorted(outside)}"
    if done:
        for path in (folder / "out").rglob("*"):
            if path.is_file():
                assert_sound(path, reader.passes)
    return result


@contextmanager
def copied(source: Path):
    """A folder for one case: in/ as `source`, and out/, work/ and temporary/ empty."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(source, folder / "in")
        for empty in ("out", "work", "temporary"):
            (folder / empty).mkdir()
        yield folder


def broken_ones(reader: Reader, source: Path, cases: int) -> None:
    """So many cases of a reader."""
    files = sorted(
        {str(path.relative_to(source)) for each in reader.files.split() for path in source.glob(each)}
    )

    @settings(PROFILE, max_examples=cases)
    @given(name=st.sampled_from(files), seed=st.integers(0, 2**32 - 1))
    def case(name: str, seed: int) -> None:
        with copied(source) as folder:
            break_file(folder / "in" / name, seed)
            check(reader, folder, folder / "in" / name)

    case()


# ---------------------------------------------------------------- all readers


each_reader = pytest.mark.parametrize(
    "reader", READERS, ids=lambda reader: f"{reader.project}: {reader.name}"
)


@each_reader
def test_sound_files_are_read(reader, sound):
    source = sound(reader.project)
    names = [sorted(source.glob(pattern))[0].relative_to(source) for pattern in reader.files.split()]
    for name in names if "FILE" in reader.flags else names[:1]:
        with copied(source) as folder:
            result = check(reader, folder, folder / "in" / name)
            assert result.returncode == 0, result.stderr


@each_reader
def test_some_broken_files(reader, sound):
    broken_ones(reader, sound(reader.project), 2)


@pytest.mark.slow
@each_reader
def test_a_thousand_broken_files(reader, sound):
    broken_ones(reader, sound(reader.project), round(CASES / len(READERS) + 0.5))


# ---------------------------------------------------------------- settings


SETTINGS = (
    "seed data data.batch_size data.k_negatives data.val_split data.backend model model.dim model.dropout "
    "model.token_budget model.moe.top_k model.moe.num_experts loss loss.geometry loss.temperature "
    "loss.triplet_weight loss.curvature training.learning_rate training.trainer training.trainer.precision "
    "curriculum.positive_levels curriculum.buckets curriculum.max_fallback training.trainer.patience hydra "
    "+model.new ~seed ++loss.new no.such.setting"
).split()
VALUES = (
    "x -1 0 1.5 nan inf -inf 1e400 null true ??? ${oops} ${seed} [] {} [1,x] {1:0.5} ../x ' \" , = a=b "
    "${oc.env:HOME} \\ 99999999999999999999 1_000 0x10 ü"
).split()


@settings(PROFILE, max_examples=60)
@given(
    overrides=st.lists(st.tuples(st.sampled_from(SETTINGS), st.sampled_from(VALUES)), min_size=1, max_size=2),
    stage=st.sampled_from(["01_stage_easy"] * 4 + ["", "04_stage", "../config", "."]),
)
def check_settings(source: Path, overrides: list[tuple[str, str]], stage: str) -> None:
    reader = next(each for each in READERS if each.name == "census")
    more = " ".join(f"{name}={value}" for name, value in overrides)
    with copied(source) as folder:
        check(reader, folder, folder / "in", more + (f" -c {stage}" if stage else ""))


@pytest.mark.slow
def test_settings_that_cannot_be(sound):
    check_settings(sound("naics"))
