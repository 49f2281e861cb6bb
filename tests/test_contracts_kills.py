"""What every training script promises of kills and of ranks; see test_contracts.py."""

import random
import signal
import time
from operator import attrgetter
from pathlib import Path

import pytest
from conftest import ROOT, torchrun
from contracts import SCRIPTS, Starter, assert_equal_runs, assert_equal_weights

pytestmark = pytest.mark.slow
KILLS, IN_A_CHECKPOINT = 8, 3  # at least


@pytest.fixture(scope="module", params=SCRIPTS, ids=attrgetter("name"))
def starter(request, tmp_path_factory) -> Starter:
    return Starter.of(request.param, tmp_path_factory)


def test_kills_at_random_moments_change_nothing(starter, tmp_path, record_property):
    """SIGKILL at random steps and, every other time, while a checkpoint is being written; --resume auto."""
    out, generator, kills, in_a_checkpoint = tmp_path / "killed", random.Random(0), 0, 0
    while kills < KILLS or in_a_checkpoint < IN_A_CHECKPOINT:
        steps, delay = generator.randint(1, 3), generator.uniform(0, 0.05)
        writing = kills % 2 == 1
        in_a_checkpoint += starter.kill(out, steps, 0 if writing else delay, writing)
        kills += 1
    starter.finish(out, "--resume", "auto")
    starter.finish(tmp_path / "whole")
    assert_equal_runs(starter.script.results(out), starter.script.results(tmp_path / "whole"))
    record_property("kills", kills)
    record_property("in_a_checkpoint", in_a_checkpoint)


def test_two_ranks_equal_one_process_of_twice_the_batch(starter, tmp_path):
    script, flags = starter.script, starter.script.ranks.split()
    starter.finish(tmp_path / "one", *flags, *script.two_batches.split())
    result = torchrun(ROOT / script.path, *script.arguments(starter.data, tmp_path / "two", *flags))
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (script.results(tmp_path / name) for name in ("one", "two"))
    for first, second in zip(one["weights"], two["weights"], strict=True):
        assert_equal_weights(first, second, rtol=script.rounding)
    for first, second in zip(one["records"], two["records"], strict=True):  # rank 0 alone writes
        assert (first["split"], first["step"]) == (second["split"], second["step"])
        for name in (name for name in first if "loss" in name):
            assert first[name] == pytest.approx(second[name], rel=1e-4, abs=1e-6), (name, first, second)


def test_killed_ranks_go_on_to_the_bit(starter, tmp_path):
    def train(name: str, *more: str) -> Path:
        ranks = starter.start_ranks(tmp_path / name, *more)
        assert [rank.wait().returncode for rank in ranks] == [0, 0]
        return tmp_path / name

    out = tmp_path / "killed"
    ranks = starter.start_ranks(out)
    for _ in range(5):
        stamp = starter.script.stamp(out)
        while ranks[0].runs and starter.script.stamp(out) == stamp:
            time.sleep(0.001)
    for rank in ranks:
        rank.signal(signal.SIGKILL)
    assert [rank.wait().returncode for rank in ranks] == [-signal.SIGKILL] * 2
    results = [starter.script.results(train(*how)) for how in (("killed", "--resume", "auto"), ("whole",))]
    assert_equal_runs(*results)
