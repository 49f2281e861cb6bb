"""naics/train.py as a user runs it; test_contracts.py has what all training scripts promise."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, assert_same_weights, one_thread, records, run_main, torchrun
from tiny_naics import write_data

from naics import cli
from naics.data.census import load_index, load_taxonomy
from naics.data.triplets import write_triplets
from naics.inference import load_model
from naics.train import main

SCRIPT = ROOT / "naics" / "train.py"
STAGES = ("01_stage_easy", "02_stage_medium", "03_stage_hard")
TINY = (
    "model=ngram model.ngram.buckets=509 model.ngram.width=16 model.dim=8 model.moe.hidden_dim=16 "
    "training.learning_rate=2e-3 training.warmup_steps=4 training.trainer.max_epochs=3 "
    "training.trainer.limit_train_batches=12 training.trainer.log_every_n_steps=1 data.batch_size=1 "
    "data.queries=6 data.k_negatives=4 data.val_split=0.3 training.keep_last=0"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("naics"))


@pytest.fixture
def flags(data, tmp_path):
    """The arguments of a stage whose folders lie under `tmp_path`/name."""

    def make(name: str, stage: str = STAGES[0], *more: str) -> list[str]:
        return ["-c", stage, *more, *TINY, f"paths.data_dir={data}", *folders(tmp_path / name)]

    return make


def folders(base: Path) -> list[str]:
    return [f"paths.checkpoint_dir={base}/checkpoints", f"paths.output_dir={base}/outputs"]


def train(arguments: list[str]) -> subprocess.CompletedProcess:
    result = run_main(main, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def checkpoint(base: Path, name: str, stage: str = STAGES[0]) -> Path:
    return base / "checkpoints" / stage / name


def launch(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=one_thread()
    )


# ---------------------------------------------------------------- outputs


def test_a_run_learns_and_leaves_its_files(flags, tmp_path, data):
    result = train([*flags("run"), "training.trainer.max_epochs=10"])
    for words in ("triplets", "fall back", "pairs, 0 of them in training"):
        assert words in result.stdout
    outputs = tmp_path / "run/outputs/01_stage_easy"
    found = {path.name for path in outputs.iterdir()}
    assert found == {"config.json", "metrics.jsonl", "summary.json", "learning_curve.png"}
    kept = {path.name for path in checkpoint(tmp_path / "run", "").iterdir()}
    assert {"best.pt", "checkpoint-last.pt", "checkpoint-epoch10.pt"} <= kept
    rows = records(outputs)
    training = [row for row in rows if row["split"] == "train"]
    terms = {"loss", "triplet", "query", "redirect", "stress", "balance", "lr", "samples_per_second"}
    assert terms | {"step", "epoch", "fallback_rate", "gradient_norm"} <= set().union(*training)
    assert np.mean([row["loss"] for row in training[-10:]]) < 0.7 * training[0]["loss"]
    summary = json.loads((outputs / "summary.json").read_text())
    assert {"command", "seed", "versions", "device", "data_fingerprint", "wall_seconds"} <= summary.keys()
    validation = [row for row in rows if row["split"] == "validation"]
    assert summary["validation"]["loss"] == min(row["loss"] for row in validation)
    assert sum(validation[0]["expert_usage"]) == 2 * 23

    model = load_model(checkpoint(tmp_path / "run", "best.pt"), data, "cpu")
    assert model.codes.shape == (23, 8) and model.router.shape == (23, 4)
    distances = model.distances(model.encode_queries(["animal hospital", "beauty parlor"]))
    assert distances.shape == (2, 23) and np.isfinite(distances).all()
    leaves = model.taxonomy.leaves
    best = [model.taxonomy.codes[leaves[row]] for row in distances[:, leaves].argmin(1)]
    assert best == ["541940", "812112"]

    # look_up is the mean of the distances to a code and to the nearest of its entries
    texts = ["dog kennels", "photo lab"]
    asked, (points, codes) = model.encode_queries(texts), model.entries
    found, to_codes, to_entries = model.look_up(texts), model.distances(asked), model.distances(asked, points)
    for column, row in enumerate(leaves):
        own = to_entries[:, codes == row]
        nearest = own.min(1) if own.shape[1] else to_codes[:, row]
        np.testing.assert_allclose(found[:, column], (to_codes[:, row] + nearest) / 2, rtol=1e-5)
    index = load_index(data)
    assert len(codes) == np.isin(index.roles, ("examples", "train")).sum()  # nothing that is held out


def test_stages_chain(flags, tmp_path):
    for stage in STAGES:
        result = train(flags("run", stage))
        started = "starts from" in result.stdout
        assert started == (stage != STAGES[0])
    summary = json.loads((tmp_path / "run/outputs/03_stage_hard/summary.json").read_text())
    assert summary["stages"] == list(STAGES)
    alone = train(flags("alone", STAGES[1]))
    assert "starts from the beginning" in alone.stdout
    given = train(
        [*flags("given", STAGES[2]), "--from", str(checkpoint(tmp_path / "run", "best.pt"))],
    )
    assert "01_stage_easy" in given.stdout


def test_a_stage_goes_on_from_the_weights_of_the_one_before(flags, tmp_path):
    train(flags("run"))
    frozen = ["training.learning_rate=1e-11", "training.trainer.limit_train_batches=1"]
    train([*flags("run", STAGES[1]), *frozen, "training.trainer.max_epochs=1"])
    first, second = (
        torch.load(checkpoint(tmp_path / "run", "best.pt", stage), weights_only=True)["model"]
        for stage in STAGES[:2]
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["euclidean", "sphere"])
def test_other_geometries_train(flags, kind, tmp_path, data):
    train([*flags("run"), f"loss={kind}", "model.moe.enabled=false"])
    model = load_model(checkpoint(tmp_path / "run", "best.pt"), data, "cpu")
    assert model.geometry.kind == kind and model.router is None
    if kind == "sphere":
        np.testing.assert_allclose(np.linalg.norm(model.codes, axis=1), 1, rtol=1e-4)


def test_written_triplets_train_as_well(flags, tmp_path, data):
    folder = tmp_path / "triplets"
    write_triplets(load_taxonomy(data), folder, "corrected", 0, row_group=100)
    result = train([*flags("run", STAGES[2]), "data.backend=parquet", f"data.triplets_path={folder}"])
    assert "best of 03_stage_hard" in result.stdout


def test_early_stop(flags, tmp_path):
    still = ["training.learning_rate=1e-11", "training.trainer.patience=1", "training.trainer.max_epochs=50"]
    train([*flags("run"), *still])
    epochs = list(checkpoint(tmp_path / "run", "").glob("checkpoint-epoch*.pt"))
    assert len(epochs) < 10


# ---------------------------------------------------------------- stop and resume


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES[1:])
def test_resume_in_the_middle_of_an_epoch_is_exact(flags, tmp_path, stage):
    settings = ["model.dropout=0.2", "training.save_every_steps=7", "model.token_budget=1500"]
    settings += ["training.trainer.max_epochs=8", "training.trainer.patience=0"]
    train([*flags("whole", stage), *settings])
    out = tmp_path / "stopped"
    process = launch([*flags("stopped", stage), *settings])
    for line in process.stdout:
        if " step 15/" in line:
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait() == 143 and "stopped after step" in output
    stored = torch.load(checkpoint(out, "checkpoint-last.pt", stage), weights_only=True)["progress"]
    assert 15 <= stored["step"] < stored["total_steps"]
    result = train([*flags("stopped", stage), *settings, "--resume", "auto"])
    assert "not exact" not in result.stdout
    for name in ("best.pt", "checkpoint-epoch8.pt"):
        assert_same_weights(checkpoint(tmp_path / "whole", name, stage), checkpoint(out, name, stage))
    kept = [
        [(row["split"], row["step"], row["loss"]) for row in records(tmp_path / name / "outputs" / stage)]
        for name in ("whole", "stopped")
    ]
    assert kept[0] == kept[1]


# ---------------------------------------------------------------- ranks


@pytest.mark.slow
def test_two_ranks_are_one_process_with_twice_the_batch_in_chunks(flags, tmp_path):
    """Triplets, queries and expert balance alike."""
    settings = ["model.dropout=0.0", "training.trainer.max_epochs=2", "loss.listwise_weight=1"]
    settings += ["training.trainer.precision=32", "model.token_budget=150"]
    result = torchrun(SCRIPT, *flags("two"), *settings)
    assert result.returncode == 0, result.stderr[-3000:]
    train([*flags("one"), *settings, "data.batch_size=2", "data.queries=12"])
    two, one = (records(tmp_path / f"{name}/outputs/01_stage_easy") for name in ("two", "one"))
    for a, b in zip(two, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), (a, b)
    assert_same_weights(
        checkpoint(tmp_path / "two", "checkpoint-epoch2.pt"),
        checkpoint(tmp_path / "one", "checkpoint-epoch2.pt"),
        rtol=1e-3,
    )


# ---------------------------------------------------------------- bad input


def test_bad_arguments_are_refused(flags, tmp_path, data):
    for more, words in (
        (["model.dimension=3"], ("model.dimension", "did you mean model.dim?")),
        (["--max_steps", "-1"], ("--max_steps",)),
        (["--from", str(tmp_path / "nothing.pt")], ("nothing.pt", "no such checkpoint")),
        (["--resume", str(tmp_path / "nothing.pt")], ("nothing.pt",)),
        (["--device", "cuda:9"], ("--device",)),
        (["model=default", "model.base_model_name=/nowhere"], ("/nowhere", "model.base_model_name")),
        (["data.backend=parquet", f"data.triplets_path={tmp_path}"], ("triplets",)),
        (["curriculum.positive_levels=[7]"], ("positive_levels",)),
        (["curriculum.buckets={1: 0.5}"], ("shares sum to",)),
        (["curriculum.positive_distance_max=0.1"], ("no pair",)),
        (["model.ngram.buckets=many"], ("many",)),
    ):
        assert_refused(run_main(main, *flags("bad"), *more), *words)
    assert not (tmp_path / "bad").exists()
    assert_refused(run_main(main, *flags("bad", "04_stage")), "04_stage", "no such curriculum")


def test_a_run_is_not_mixed_up_with_another(flags, tmp_path):
    train(flags("run"))
    best = checkpoint(tmp_path / "run", "checkpoint-last.pt")
    assert_refused(run_main(main, *flags("new", STAGES[1]), "--resume", str(best)), "--from")
    wide = run_main(main, *flags("run"), "model.dim=9", "--resume", "auto")
    assert_refused(wide, "does not fit this run")
    other = run_main(main, *flags("run"), "data.batch_size=2", "--resume", "auto")
    assert other.returncode == 0 and "not exact, data.batch_size was 1, is 2" in other.stdout


def test_damaged_data_is_refused(flags, tmp_path):
    data = write_data(tmp_path / "data")
    arguments = [*flags("run"), f"paths.data_dir={data}"]
    train([*arguments, "training.trainer.max_epochs=1"])
    for path in sorted(data.glob("*.parquet")) + sorted((data / "token_cache").glob("*.safetensors")):
        content = path.read_bytes()
        path.write_bytes(content[:-7])
        assert_refused(run_main(main, *arguments, "--resume", "auto"), path.name)
        path.write_bytes(content)


def test_a_loss_that_is_not_finite_never_reaches_the_weights(flags, tmp_path, monkeypatch):
    from naics.objective import Objective

    calls, contrast = [], Objective.contrast

    def broken(self, everything, triplets):
        calls.append(1)
        return contrast(self, everything, triplets) * (float("nan") if len(calls) in (3, 4) else 1.0)

    monkeypatch.setattr(Objective, "contrast", broken)
    result = train([*flags("run"), "training.trainer.max_epochs=1"])
    assert result.stdout.count("non-finite loss, weights left alone; anchors") == 2
    weights = torch.load(checkpoint(tmp_path / "run", "best.pt"), weights_only=True)["model"]
    assert all(bool(value.isfinite().all()) for value in weights.values())


# ---------------------------------------------------------------- the command line


def test_the_command_line_dispatches(flags, tmp_path):
    assert "naics-gemini search" in run_main(cli.dispatch).stdout
    assert_refused(run_main(cli.dispatch, "serch"), "no such command", "search")
    result = run_main(cli.dispatch, "train", *flags("run"), "training.trainer.max_epochs=1")
    assert result.returncode == 0, result.stderr[-2000:]
    assert checkpoint(tmp_path / "run", "best.pt").is_file()
    result = run_main(cli.dispatch, "data", "preprocess", "--data_dir", tmp_path / "none")
    assert_refused(result, "2-6 digit_2022_Codes.xlsx")
