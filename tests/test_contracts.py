"""What every training script promises, each promise by one test: SCRIPTS of contracts.py lists the scripts.

Kills and ranks, which take longest, are in test_contracts_kills.py. Both print one table at the end of a run.
"""

import itertools
import pickle
import shutil
import signal
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from conftest import assert_refused
from contracts import SCRIPTS, Starter, assert_equal_runs, assert_equal_weights, records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SCRIPTS, ids=attrgetter("name"))
def starter(request, tmp_path_factory) -> Starter:
    return Starter.of(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def whole(starter) -> dict:
    """The results of a run that nothing stopped; its folder is starter.folder / "whole"."""
    starter.finish(starter.folder / "whole")
    return starter.script.results(starter.folder / "whole")


@pytest.fixture(scope="module")
def killed(starter) -> Path:
    """The folder of a run that was killed half way, with the checkpoint before its newest one."""
    out = starter.folder / "killed"
    while not len(starter.script.saved(out)) > 1:
        starter.kill(out, steps=12)
    return out


@pytest.fixture
def stopped(killed, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "stopped", copy_function=shutil.copy2)


# ---------------------------------------------------------------- stops


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_that_resumes(starter, whole, tmp_path, number, status):
    """To the bit; SIGTERM's by --resume auto, SIGINT's by its name."""
    out = tmp_path / "out"
    result = starter.signal(out, number)
    assert result.returncode == status, result.stderr[-3000:]
    assert "stopped after step" in result.stdout and "Traceback" not in result.stderr
    newest = starter.script.saved(out)[-1]
    resumed = starter.finish(out, "--resume", "auto" if number == signal.SIGTERM else newest)
    assert "resume: " in resumed.stdout and "not exact" not in resumed.stdout
    assert_equal_runs(starter.script.results(out), whole)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(starter, whole, killed, tmp_path):
    """Also where the run that goes on is killed as it writes its first checkpoint, beside the damaged one."""
    for trial in itertools.count():
        stopped = shutil.copytree(killed, tmp_path / f"{trial}", copy_function=shutil.copy2)
        *_, before, newest = starter.script.saved(stopped)
        half = newest.read_bytes()[: newest.stat().st_size // 2]
        newest.write_bytes(half)
        if starter.kill(stopped, steps=0, writing=True) and newest.exists() and newest.read_bytes() == half:
            break  # else it came late, and the damaged one is replaced
    result = starter.finish(stopped, "--resume", "auto")
    assert "skipped" in result.stderr and newest.name in result.stderr
    assert f"resume: {before}" in result.stdout
    assert_equal_runs(starter.script.results(stopped), whole)


def test_a_full_disk_keeps_the_older_checkpoints(starter, whole, stopped):
    """A limit on the size of a file: half a checkpoint is written."""
    newest = starter.script.saved(stopped)[-1]
    content = newest.read_bytes()
    result = starter.run(stopped, "--resume", "auto", largest_file=len(content) // 2)
    assert_refused(result, "cannot write")
    assert starter.script.saved(stopped)[-1].read_bytes() == content
    assert not starter.script.unfinished(stopped)
    starter.finish(stopped, "--resume", "auto")
    assert_equal_runs(starter.script.results(stopped), whole)


def test_max_steps_ends_a_run_early(starter, tmp_path):
    starter.finish(tmp_path / "out", "--max_steps", 3)
    steps = [record["step"] for record in records(tmp_path / "out") if record["split"] == "train"]
    assert steps == [1, 2, 3]


def test_a_non_finite_loss_never_steps_and_ends_the_run(starter, tmp_path):
    """The first step makes the weights huge; those after it leave them alone."""
    status, words = starter.script.end_of_bad_steps
    for bad in (1, 4):
        result = starter.run(tmp_path / f"{bad}", *starter.script.non_finite.format(bad=bad).split())
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr[-3000:]
    if status:
        assert_refused(result, words)
    else:
        assert words in result.stdout
    assert "step 2: " in result.stdout
    after_none, after_three = (starter.script.last_weights(tmp_path / name) for name in ("1", "4"))
    assert_equal_weights(after_none, after_three)


# ---------------------------------------------------------------- refusals


def test_a_hostile_checkpoint_runs_no_code(starter, stopped, tmp_path):
    """As torch writes it, and as a bare pickle."""

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    newest = starter.script.saved(stopped)[-1]
    state = torch.load(newest, weights_only=True)
    torch.save({**state, "progress": {**state["progress"], "epoch": Hostile()}}, tmp_path / "saved.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Hostile()))
    for name, words in (("saved.pt", "holds more than plain values"), ("pickled.pt", "damaged")):
        assert_refused(starter.run(stopped, "--resume", tmp_path / name), name, words)
    shutil.copy(tmp_path / "saved.pt", newest)
    result = starter.finish(stopped, "--resume", "auto")
    assert "skipped" in result.stderr and "holds more than plain values" in result.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("folder", ["file", "/sys"])
def test_an_output_folder_that_cannot_be_is_refused(starter, tmp_path, folder):
    """Below a file, and on a file system that takes no folders, as root may write to all others."""
    if folder == "/sys" and not Path(folder).is_dir():
        pytest.skip("no /sys here")
    (tmp_path / "file").write_text("")
    result = starter.run(tmp_path / folder / "out")
    assert_refused(result, f"{folder}/out")


def test_a_run_is_not_written_over(starter, whole):
    status, words = starter.script.second_run
    result = starter.run(starter.folder / "whole")
    assert result.returncode == status and "Traceback" not in result.stderr
    assert words in result.stdout + result.stderr
    assert_equal_runs(starter.script.results(starter.folder / "whole"), whole)


def test_an_unknown_flag_is_refused(starter, tmp_path):
    for flag in starter.script.unknown:
        assert_refused(starter.run(tmp_path / "out", flag), flag.split("=")[0])
    assert not (tmp_path / "out").exists()


def test_missing_input_is_refused(starter, tmp_path):
    assert_refused(starter.run(tmp_path / "out", *starter.script.no_input.split()), f"{starter.data}/none")
    assert not (tmp_path / "out").exists()


def test_broken_input_is_refused(starter, tmp_path):
    data = shutil.copytree(starter.data, tmp_path / "data")
    path = data / starter.script.input_file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(Starter(starter.script, data, tmp_path).run(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
