"""naics/train.py as a user runs it; test_contracts.py has what all training scripts promise."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, assert_refused, assert_same_weights, one_thread, records, run_main, torchrun
from tiny_naics import write_data

from naics import cli, evaluate
from naics.data.census import load_index, load_taxonomy
from naics.data.texts import CodeTexts, load_corpus
from naics.data.triplets import write_triplets
from naics.inference import load_model
from naics.train import main
from training_utils import InputError

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


def test_the_project_name_reaches_wandb(flags, monkeypatch):
    seen = []

    def init(**_):
        seen.append(os.environ.get("WANDB_PROJECT"))
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setenv("WANDB_PROJECT", "")  # so that it is put back afterwards
    monkeypatch.delenv("WANDB_PROJECT")
    once = ["--max_steps", "1", "project_name=codes", "--wandb"]
    train([*flags("run"), *once])
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train([*flags("other"), *once])
    assert seen == ["codes", "mine"]


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


def rates(base: Path) -> dict[int, float]:
    rows = records(base / "outputs" / STAGES[0])
    return {row["step"]: row["lr"] for row in rows if row["split"] == "train"}


def resume_after_one_epoch(flags, base: Path, *changed: str) -> subprocess.CompletedProcess:
    """A run of two epochs whose second is done again, with settings `changed`."""
    if not base.exists():
        train([*flags(base.name), "training.trainer.max_epochs=2"])
    for path in checkpoint(base, "").glob("checkpoint-*.pt"):
        if path.name != "checkpoint-epoch1.pt":
            path.unlink()
    return train([*flags(base.name), "training.trainer.max_epochs=2", *changed, "--resume", "auto"])


def test_the_rates_of_the_command_rule_a_resume(flags, tmp_path):
    resume_after_one_epoch(flags, tmp_path / "run")
    before = rates(tmp_path / "run")
    resume_after_one_epoch(
        flags, tmp_path / "run", "training.learning_rate=2e-5", "training.weight_decay=0.5"
    )
    after = rates(tmp_path / "run")
    assert after.keys() == before.keys()
    for step in list(before)[len(before) // 2 :]:
        assert after[step] == pytest.approx(before[step] / 100)
    stored = torch.load(checkpoint(tmp_path / "run", "checkpoint-last.pt"), weights_only=True)
    assert [group["weight_decay"] for group in stored["optimizer"]["param_groups"]] == [0.5, 0.0]


def test_a_resume_knows_that_the_schedule_waits_for_a_step_left_out(flags, tmp_path, monkeypatch):
    from naics import training

    real = training.backward

    def broken(run, triplets, queries):
        values = real(run, triplets, queries)
        return values | ({"loss": float("nan")} if run.progress["step"] in (4, 5) else {})

    monkeypatch.setattr(training, "backward", broken)
    train([*flags("run"), "training.trainer.max_epochs=2"])
    last = checkpoint(tmp_path / "run", "checkpoint-epoch2.pt")
    whole = last.rename(tmp_path / "whole.pt")
    resume_after_one_epoch(flags, tmp_path / "run")
    assert_same_weights(whole, last)


def test_a_resume_from_further_back_or_elsewhere_is_a_run_of_its_own(flags, tmp_path):
    out, epochs = tmp_path / "run", "training.trainer.max_epochs=3"
    train([*flags("run"), epochs])
    start = checkpoint(out, "checkpoint-epoch2.pt")
    result = train([*flags("run"), epochs, "training.learning_rate=1e-12", "--resume", str(start)])
    assert "abandoned-checkpoint-epoch3.pt" in result.stdout
    steps = {
        name: torch.load(checkpoint(out, name), weights_only=True)["progress"]["step"]
        for name in ("checkpoint-last.pt", "checkpoint-epoch3.pt", "best.pt")
    }
    assert steps["checkpoint-last.pt"] == steps["checkpoint-epoch3.pt"] >= steps["best.pt"]
    train([*flags("other"), epochs, "training.learning_rate=1e-12", "--resume", str(start)])
    assert checkpoint(tmp_path / "other", "best.pt").is_file()


def test_data_that_hold_out_other_entries_are_refused(flags, tmp_path):
    data = write_data(tmp_path / "data")
    first = [*flags("run"), f"paths.data_dir={data}", "training.trainer.max_epochs=1"]
    train(first)
    best = checkpoint(tmp_path / "run", "best.pt")
    load_model(best, data, "cpu")

    path = data / "naics_index.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.take(list(range(len(whole)))[::-1]), path)
    load_model(best, data, "cpu")  # another order is no other role
    swap = {"train": "test", "test": "train"}
    roles = pa.array([swap.get(role, role) for role in whole["role"].to_pylist()])
    pq.write_table(whole.set_column(whole.column_names.index("role"), "role", roles), path)
    words = ("best.pt", "other roles of the index entries")
    assert_refused(run_main(evaluate.main, "--checkpoint", best, "--data_dir", data), *words)
    assert not (best.parent / "test_log.jsonl").exists()
    second = [*flags("run", STAGES[1]), f"paths.data_dir={data}"]
    assert_refused(run_main(main, *second), *words)

    # A resume goes on and says so; what two sets of roles have trained then fits neither.
    result = train([*first, "training.trainer.max_epochs=2", "--resume", "auto"])
    assert "not exact, roles was" in result.stdout
    mixed = checkpoint(tmp_path / "run", "checkpoint-last.pt")
    for table in (pq.read_table(path), whole):
        pq.write_table(table, path)
        with pytest.raises(InputError, match="other roles"):
            load_model(mixed, data, "cpu")


def rewrite(path: Path, target: Path, **changed) -> Path:
    """A checkpoint with another progress; None takes a value out."""
    state = torch.load(path, weights_only=True)
    progress = {name: value for name, value in (state["progress"] | changed).items() if value is not None}
    torch.save(state | {"progress": progress}, target)
    return target


def test_a_checkpoint_without_roles_is_taken_and_named(flags, tmp_path, data, capsys):
    train([*flags("run"), "training.trainer.max_epochs=1"])
    best = checkpoint(tmp_path / "run", "best.pt")
    load_model(best, data, "cpu")
    assert capsys.readouterr().err == ""
    rewrite(best, best, roles=None)
    load_model(best, data, "cpu")
    assert capsys.readouterr().err.count("\n") == 1
    result = train([*flags("run", STAGES[1]), "training.trainer.max_epochs=1"])
    assert "best.pt: does not say which index entries" in result.stderr
    after = torch.load(checkpoint(tmp_path / "run", "best.pt", STAGES[1]), weights_only=True)
    assert after["progress"]["roles"] is None  # nor does it know of the stage before


def test_codes_lie_where_the_weights_of_a_checkpoint_put_them(flags, tmp_path, data):
    """In mid-epoch too, where the points that it holds are those of the training's steps."""
    exact = ["training.trainer.precision=32", "training.trainer.max_epochs=1", "model.dropout=0.5"]
    train([*flags("run"), *exact, "training.save_every_steps=7"])
    folder = checkpoint(tmp_path / "run", "")
    whole, middle = folder / "checkpoint-epoch1.pt", folder / "checkpoint-previous.pt"
    assert torch.load(middle, weights_only=True)["progress"]["batch"] == 7
    model = load_model(middle, data, "cpu")
    stored = torch.load(middle, weights_only=True)["model"]["points"].numpy()
    assert np.abs(model.codes - stored).max() > 0.01  # or the test would show nothing
    texts = CodeTexts(load_corpus(data), model.tokenizer, tmp_path / "cache")
    with torch.no_grad():
        points = model.model.encoder(texts.channels(np.arange(23)))[0].numpy()
    np.testing.assert_allclose(model.codes, points, atol=1e-5)
    # As a validation of the same weights finds them
    ended, again = load_model(whole, data, "cpu"), rewrite(whole, tmp_path / "again.pt", batch=7)
    np.testing.assert_allclose(load_model(again, data, "cpu").codes, ended.codes, atol=1e-5)


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
