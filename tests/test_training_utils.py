"""training_utils: schedules, clipping, AMP objects, checkpoints that survive damage, the run log."""

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    accumulate,
    autocast,
    clip_gradients,
    get_rng_state,
    latest_checkpoint,
    load_checkpoint,
    make_grad_scaler,
    make_lr_scheduler,
    optimizer_step,
    pick_device,
    read_checkpoint,
    replacing,
    save_checkpoint,
    seed_everything,
    set_rng_state,
    warmup_cosine,
)

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_rng_state_round_trip_through_a_file(tmp_path):
    seed_everything(3)
    draw()
    torch.save(get_rng_state(), tmp_path / "rng.pt")
    expected = draw()
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == expected


def test_warmup_cosine_has_its_known_values():
    assert warmup_cosine(0, 10, 110) == pytest.approx(0.1)
    assert warmup_cosine(9, 10, 110) == 1.0
    assert warmup_cosine(10, 10, 110) == 1.0
    assert warmup_cosine(60, 10, 110, 0.2) == pytest.approx(0.6)
    assert warmup_cosine(110, 10, 110, 0.2) == pytest.approx(0.2)
    assert warmup_cosine(500, 10, 110, 0.2) == pytest.approx(0.2)
    assert warmup_cosine(0, 0, 100) == 1.0


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_scheduler_state_resumes_on_the_same_curve(kind):
    def make():
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.5)
        return optimizer, make_lr_scheduler(optimizer, kind, 4, 30, 0.1)

    optimizer, scheduler = make()
    curve = []
    for _ in range(30):
        curve.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    other_optimizer, other = make()
    other.load_state_dict({**scheduler.state_dict(), "last_epoch": 11})
    other_optimizer.step()
    other.step()
    assert other_optimizer.param_groups[0]["lr"] == curve[12]


def test_accumulate_keeps_the_short_tail():
    assert list(accumulate(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_clip_counts_sparse_and_dense_gradients_alike():
    torch.manual_seed(0)
    ids = torch.tensor([1, 3, 3, 1, 0])
    norms, grads = [], []
    for sparse in (False, True):
        torch.manual_seed(1)
        table, dense = nn.Embedding(5, 4, sparse=sparse), nn.Linear(4, 2)
        dense(table(ids)).square().sum().mul(100).backward()
        parameters = [*table.parameters(), *dense.parameters()]
        norms.append(float(clip_gradients(parameters, 0.5)))
        grads.append([p.grad.to_dense() for p in parameters])
    direct = math.sqrt(sum(float(g.double().square().sum()) for g in grads[0]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert direct == pytest.approx(0.5, rel=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_gradient_never_steps(value):
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.tensor([1.0, value, 1.0])
    _, stepped = optimizer_step(optimizer, make_grad_scaler(CPU, True), [weight], max_grad_norm=1.0)
    assert not stepped
    assert torch.equal(weight, torch.ones(3))
    assert weight.grad is None


def test_cpu_amp_is_bfloat16_without_a_scaler():
    with autocast(CPU, True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with autocast(CPU, False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
    assert not make_grad_scaler(CPU, True).is_enabled()


def test_an_unusable_device_is_an_input_error():
    with pytest.raises(InputError, match="--device warp"):
        pick_device("warp")


# ---------------------------------------------------------------- checkpoints


def write(path, step, **parts):
    save_checkpoint(path, {"step": step, "epoch": 0}, **parts)


def test_checkpoint_restores_parts_and_generators(tmp_path):
    seed_everything(0)
    model = nn.Linear(3, 3)
    write(tmp_path / "checkpoint-last.pt", 5, model=model)
    expected, weights = draw(), model.weight.clone()
    nn.init.zeros_(model.weight)
    progress = load_checkpoint(tmp_path / "checkpoint-last.pt", model=model)
    assert progress["step"] == 5
    assert torch.equal(model.weight, weights)
    assert draw() == expected


def test_another_models_checkpoint_is_refused(tmp_path):
    write(tmp_path / "a.pt", 1, model=nn.Linear(3, 3))
    with pytest.raises(InputError, match="model does not fit"):
        load_checkpoint(tmp_path / "a.pt", model=nn.Linear(4, 3))
    with pytest.raises(InputError, match="optimizer does not fit"):
        load_checkpoint(tmp_path / "a.pt", optimizer=torch.optim.AdamW(nn.Linear(3, 3).parameters()))


def test_auto_takes_the_furthest_sound_checkpoint(tmp_path):
    model = nn.Linear(64, 64)
    for step, name in ((1, "epoch1"), (2, "previous"), (3, "last")):
        write(tmp_path / f"checkpoint-{name}.pt", step, model=model)
    assert latest_checkpoint(tmp_path).name == "checkpoint-last.pt"

    last = tmp_path / "checkpoint-last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="checkpoint-last"):
        assert latest_checkpoint(tmp_path).name == "checkpoint-previous.pt"

    previous = tmp_path / "checkpoint-previous.pt"  # one flipped bit inside a tensor
    content = bytearray(previous.read_bytes())
    content[content.index(model.weight.detach().numpy().tobytes()[:64]) + 10] ^= 1
    previous.write_bytes(content)
    with pytest.warns(UserWarning, match="checkpoint-previous"):
        assert latest_checkpoint(tmp_path).name == "checkpoint-epoch1.pt"

    (tmp_path / "checkpoint-epoch1.pt").write_bytes(b"")
    with pytest.warns(UserWarning):
        assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_kill_between_renames_leaves_a_sound_checkpoint(tmp_path, monkeypatch, renames):
    """Also where the one to be replaced is damaged."""
    last, previous = tmp_path / "checkpoint-last.pt", tmp_path / "checkpoint-previous.pt"
    write(previous, 1)
    last.write_bytes(previous.read_bytes()[:-100])

    class KilledError(BaseException):
        pass

    rename, done = os.replace, []

    def killed(*names):
        if len(done) == renames:
            raise KilledError
        rename(*names)
        done.append(names)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KilledError) if renames < 3 else nullcontext():
        write(last, 2, keep=previous)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = latest_checkpoint(tmp_path)
    assert read_checkpoint(found)["progress"]["step"] == (1 if renames < 2 else 2)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_hostile_checkpoint_runs_no_code(tmp_path):
    trace = tmp_path / "it_ran"
    torch.save({"progress": {"step": 1}, "model": Hostile(str(trace))}, tmp_path / "checkpoint-last.pt")
    (tmp_path / "checkpoint-plain.pt").write_bytes(pickle.dumps({"progress": Hostile(str(trace))}))
    for name in ("last", "plain"):
        with pytest.raises(InputError, match="checkpoint"):
            read_checkpoint(tmp_path / f"checkpoint-{name}.pt")
    with pytest.warns(UserWarning):
        assert latest_checkpoint(tmp_path) is None
    assert not trace.exists()


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    for path, reason in ((tmp_path / "none.pt", "no such"), (tmp_path / "list.pt", "not a checkpoint")):
        with pytest.raises(InputError, match=reason):
            read_checkpoint(path)


FILL_THE_DISK = """
import resource, sys, torch
from pathlib import Path
from training_utils import run_script, save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
path = Path({path!r})
run_script(lambda: save_checkpoint(path, {{"step": 2}}, model=torch.nn.Linear(1000, 1000)))
"""


@pytest.mark.parametrize("limit", [5_000, 500_000, 4_000_000])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, limit):
    path = tmp_path / "checkpoint-last.pt"
    write(path, 1, model=nn.Linear(4, 4))
    before = path.read_bytes()
    code = FILL_THE_DISK.format(limit=limit, path=str(path))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert str(path) in result.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_replacing_keeps_the_old_file_on_any_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_checkpoint_is_a_zip_with_checksums(tmp_path):
    write(tmp_path / "a.pt", 1, model=nn.Linear(4, 4))
    assert zipfile.ZipFile(tmp_path / "a.pt").testzip() is None


# ---------------------------------------------------------------- log, signals, ranks


def test_run_log_rewinds_to_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, {"lr": 1})
    for step in (10, 20, 30):
        log.log("train", step, 1, loss=0.5)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"split": "train", "st\n')
    log.log("validation", 20, 2, macro_f1=0.5)
    log.rewind(20, epochs=1)
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["split"], record["step"]) for record in kept] == [("train", 10), ("train", 20)]


def test_stop_signal_remembers_which():
    stop = StopSignal()
    assert not stop
    signal.raise_signal(signal.SIGTERM)
    assert stop
    assert stop.exit_status == 143


def test_a_world_of_one_does_nothing():
    world = World()
    assert world.is_main and world.gather(3) == [3]
    model = nn.Linear(1, 1)
    assert world.wrap(model) is model
