"""train_rqvae.py as a user runs it; test_contracts.py has what all training scripts promise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import (
    ROOT,
    assert_refused,
    assert_same_weights,
    records,
    run_main,
    run_script,
    torchrun,
)
from tiny_items import SMALL, clusters, write_embeddings

from semantic_ids.train_rqvae import main
from semantic_ids.training import save_step

SCRIPT = ROOT / "semantic_ids/train_rqvae.py"


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("embeddings") / "items.parquet", clusters())


@pytest.fixture
def base(embeddings) -> list[str]:
    return ["--embeddings_path", str(embeddings), *SMALL.split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", ["--input_noise 0.3", "--use_ema_vq --no-use_rotation_trick", "--amp --input_scale raw"]
)
def test_a_run_leaves_all_it_promises_and_learns(base, tmp_path, flags):
    out = tmp_path / "out"
    flags = ["--num_epochs", "30", "--save_every_steps", "50", *flags.split()]
    result = run_script(SCRIPT, *base, "--checkpoint_dir", out, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    names = {path.name for path in out.iterdir()}
    assert names >= {"best_model.pth", "final_model.pth", "config.json", "metrics.jsonl", "summary.json"}
    assert {"learning_curve.png", "checkpoint_step_150.pth"} <= names
    train = [r for r in records(out) if r["split"] == "train"]
    validation = [r for r in records(out) if r["split"] == "validation"]
    assert {
        "loss/total", "loss/reconstruction", "loss/vq", "loss/commitment_level_2", "metrics/learning_rate",
        "metrics/gradient_norm", "metrics/gradient_norm_clipped", "metrics/batch_time_ms",
        "metrics/samples_per_second", "metrics/unique_ids_proportion_train",
        "metrics/codebook_usage_train_level_0", "epoch", "step",
    } <= train[0].keys()  # fmt: skip
    assert ("loss/codebook_level_0" in train[0]) == ("--use_ema_vq" not in flags)
    assert {"loss/validation", "metrics/avg_residual_norm", "metrics/unique_ids_proportion"} <= validation[
        0
    ].keys()
    assert train[-1]["loss/reconstruction"] < 0.9 * train[0]["loss/reconstruction"]
    summary = json.loads((out / "summary.json").read_text())
    assert {"command", "seed", "versions", "device", "data_fingerprint", "wall_seconds"} <= summary.keys()
    # What the summary says of all items is what the best model gives
    assert summary["all_items"]["metrics/codebook_usage_level_0"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("ema", [[], ["--use_ema_vq"]])
def test_accumulation_equals_the_large_batch(base, tmp_path, ema):
    """540 items, of which 486 train: the last group of an epoch is shorter."""
    flags = [*base, *ema, *"--max_steps 6 --input_noise 0.3".split()]
    many, large = tmp_path / "many", tmp_path / "large"
    small = "--batch_size", 70, "--gradient_accumulation_steps", 3
    assert run_script(SCRIPT, *flags, *small, "--checkpoint_dir", many).returncode == 0
    assert run_script(SCRIPT, *flags, "--batch_size", 210, "--checkpoint_dir", large).returncode == 0
    assert_same_weights(many / "final_model.pth", large / "final_model.pth", rtol=1e-3)


@pytest.mark.slow
def test_a_rank_without_rows_counts_nothing(base, tmp_path):
    """Of 541 items 487 train: in batches of 162 one is left, and the second rank takes part without any."""
    path = write_embeddings(tmp_path / "items.parquet", clusters(541))
    flags = [*base, "--use_ema_vq", "--embeddings_path", path, "--num_epochs", 3]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_script(SCRIPT, *flags, "--batch_size", 162, "--checkpoint_dir", one).returncode == 0
    result = torchrun(SCRIPT, *flags, "--batch_size", 81, "--checkpoint_dir", two)
    assert result.returncode == 0, result.stderr[-2000:]
    assert_same_weights(one / "final_model.pth", two / "final_model.pth", rtol=1e-3)


# ---------------------------------------------------------------- resume


def trained(base, out, *flags):
    """A run in this process; what it printed."""
    result = run_main(main, *base, "--checkpoint_dir", out, *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


STEPS = "--max_steps", 40, "--save_every_steps", 10, "--keep_last", 0


@pytest.fixture(scope="module")
def whole(embeddings, tmp_path_factory) -> Path:
    """A finished run of 40 steps, with its checkpoints."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trained(["--embeddings_path", embeddings, *SMALL.split()], out, *STEPS)
    return out


def test_resume_is_exact_after_steps_that_were_left_out(base, tmp_path):
    """One item so large that the loss of its batch is infinite: a step of each epoch is left out."""
    vectors = clusters()
    vectors[7] = 3e25
    path = write_embeddings(tmp_path / "items.parquet", vectors)
    flags = *STEPS, "--input_scale", "raw", "--no-use_kmeans_init", "--embeddings_path", path
    flags = *flags, "--steps_per_val_log", 1000, "--val_split", 0
    with pytest.MonkeyPatch.context() as patch:  # validation would refuse the infinite loss
        patch.setattr("semantic_ids.training.validate", lambda *_: None)
        patch.setattr("semantic_ids.train_rqvae.finish", lambda run, *_: save_step(run))
        assert "non-finite loss" in trained(base, tmp_path / "whole", *flags)
        middle = tmp_path / "whole/checkpoint_step_20.pth"
        said = trained(base, tmp_path / "resumed", *flags, "--resume", middle)
    assert "not exact" not in said
    assert_same_weights(*(tmp_path / f"{name}/checkpoint_step_40.pth" for name in ("whole", "resumed")))


def test_resume_before_the_newest_checkpoint_sets_later_ones_aside(base, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    newest = (out / "checkpoint_step_40.pth").read_bytes()
    (out / "abandoned-checkpoint_step_40.pth").write_text("of an earlier time")
    flags = *STEPS, "--keep_last", 2, "--save_every_steps", 5, "--max_steps", 30
    said = trained(base, out, *flags, "--resume", out / "checkpoint_step_20.pth")
    assert "abandoned-checkpoint_step_30.pth" in said and "abandoned1-checkpoint_step_40.pth" in said
    assert {path.name for path in out.glob("*checkpoint*")} == {
        "checkpoint_step_25.pth", "checkpoint_step_30.pth", "abandoned-checkpoint_step_30.pth",
        "abandoned-checkpoint_step_40.pth", "abandoned1-checkpoint_step_40.pth",
    }  # fmt: skip
    assert (out / "abandoned1-checkpoint_step_40.pth").read_bytes() == newest
    assert "checkpoint_step_30.pth, epoch" in trained(base, out, *flags, "--resume", "auto")
    # Another run's folder is not touched
    before = {path.name for path in whole.iterdir()}
    said = trained(base, tmp_path / "other", *STEPS, "--resume", whole / "checkpoint_step_20.pth")
    assert "abandoned" not in said and {path.name for path in whole.iterdir()} == before


def unbeatable(checkpoint: Path, copy: Path) -> Path:
    """The checkpoint with a best value that no model reaches."""
    state = torch.load(checkpoint, weights_only=True)
    state["progress"]["best"] = -1e9
    torch.save(state, copy)
    return copy


def test_a_best_value_without_its_model_does_not_count(base, whole, tmp_path):
    """In a new folder, also where no step is left, and where an abandoned run wrote the best model later."""
    checkpoint = unbeatable(whole / "checkpoint_step_20.pth", tmp_path / "checkpoint_step_20.pth")
    trained(base, tmp_path / "new", *STEPS, "--resume", checkpoint)
    assert step_of(tmp_path / "new/best_model.pth") > 20
    trained(base, tmp_path / "end", *STEPS, "--resume", whole / "checkpoint_step_40.pth")
    assert step_of(tmp_path / "end/best_model.pth") == 40
    back = shutil.copytree(whole, tmp_path / "back")
    assert step_of(back / "best_model.pth") == 40
    trained(base, back, *STEPS, "--max_steps", 30, "--resume", shutil.copy(checkpoint, back))
    assert step_of(back / "best_model.pth") == 30


def test_a_best_value_of_another_metric_does_not_count(base, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    flags = "--best_metric", "reconstruction_cosine", "--max_steps", 50
    said = trained(base, out, *STEPS, *flags, "--resume", "auto")
    assert "not exact, --best_metric was val_loss, is reconstruction_cosine" in said
    best = torch.load(out / "best_model.pth", weights_only=True)["progress"]
    assert best["best"] == best["validation"]["metrics/reconstruction_cosine"] and best["step"] == 50


def test_changed_moving_averages_are_not_exact(base, tmp_path):
    flags = "--use_ema_vq", "--max_steps", 4
    trained(base, tmp_path / "run", *flags)
    said = trained(
        base, tmp_path / "run", *flags, "--resume", "auto", "--ema_decay", 0.9, "--ema_epsilon", 0.1
    )
    assert "not exact, --ema_decay was 0.99, is 0.9" in said and "--ema_epsilon was 1e-05, is 0.1" in said


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["progress"]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1000, 540, 100, 7])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_epoch_ends_at_any_batch_size_and_reset_interval(base, tmp_path, batch_size, every):
    """The public trainer restarts its loader at each reset and never ends an epoch of three batches."""
    flags = ["--batch_size", batch_size, "--steps_per_codebook_reset", every, "--num_epochs", "1"]
    result = run_script(SCRIPT, *base, "--checkpoint_dir", tmp_path / "out", *flags, timeout=60)
    assert result.returncode == 0, result.stderr[-2000:]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["steps"] == -(-540 // batch_size)


@pytest.mark.slow
def test_a_plateau_ends_the_run(base, tmp_path):
    flags = "--num_epochs 100000 --patience 3 --steps_per_val_log 5 --max_lr 1e-7 --min_lr 1e-8".split()
    result = run_script(SCRIPT, *base, "--checkpoint_dir", tmp_path / "out", *flags, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / "out/summary.json").read_text())["steps"] < 5_000


def test_bad_embeddings_are_named(base, tmp_path):
    vectors = clusters(50)

    def refused(*words, vectors=vectors, ids=None, path=None):
        path = path or write_embeddings(tmp_path / "bad.parquet", vectors, ids)
        out = tmp_path / "out"
        result = run_main(main, *base, "--embeddings_path", path, "--checkpoint_dir", out)
        assert_refused(result, *words)
        assert not out.exists()

    bad = vectors.copy()
    bad[7, 3] = np.nan
    refused("row 8 (B00007)", "not finite", vectors=bad)
    bad = vectors.copy()
    bad[7] = 0
    refused("row 8 (B00007)", "all zero", vectors=bad)
    refused("--item_embedding_dim 20", vectors=vectors[:, :20])
    refused("row 50: item A stands in row 1 too", ids=["A", *map(str, range(48)), "A"])
    doubles = pa.table({"parent_asin": ["a", "b"], "embedding": [[1.0] * 24, [1.0] * 23 + [1e300]]})
    pq.write_table(doubles, tmp_path / "doubles.parquet")  # float32 holds none of 1e300
    refused("row 2 (b)", "not finite", path=tmp_path / "doubles.parquet")
    pq.write_table(pa.table({"parent_asin": ["a"]}), tmp_path / "column.parquet")
    refused("no column 'embedding'", path=tmp_path / "column.parquet")
    ragged = pa.table({"parent_asin": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    refused("row 2: embedding has 1 numbers", path=tmp_path / "ragged.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["few", "equal"])
def test_few_items_and_equal_items_train(base, tmp_path, rows):
    """Fewer items than codes, or all alike: nothing to learn, but a run that ends."""
    vectors = clusters(9) if rows == "few" else np.repeat(clusters(1), 300, axis=0)
    path = write_embeddings(tmp_path / "items.parquet", vectors)
    out = tmp_path / "out"
    result = run_script(SCRIPT, *base, "--embeddings_path", path, "--checkpoint_dir", out, "--num_epochs", 5)
    assert result.returncode == 0, result.stderr[-2000:]


def test_bad_flags_are_refused(base, tmp_path):
    for flags in (
        "--codebook_size 1", "--batch_size 0", "--val_split 1", "--max_lr nan", "--min_lr 1", "--ema_decay 1",
        "--encoder_hidden_dims 0", "--encoder_hidden_dims x", "--scheduler_type step", "--best_metric none",
        "--codebook_size 65536 --codebook_quantization_levels 4", "--device cuda", "--resume none.pth",
        "--seed 3000000000",
    ):  # fmt: skip
        result = run_main(main, *base, "--checkpoint_dir", tmp_path / "out", *flags.split())
        assert_refused(result, "no such" if "resume" in flags else flags.split()[0].split("_")[0])
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_wandb_offline_gets_the_records_and_the_artifact(base, tmp_path):
    pytest.importorskip("wandb")
    out = tmp_path / "out"
    flags = ["--checkpoint_dir", out, "--num_epochs", 4, "--wandb"]
    result = run_script(
        SCRIPT, *base, *flags, env={"WANDB_MODE": "offline", "WANDB_SILENT": "true"}, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (record,) = out.glob("wandb/offline-run-*/*.wandb")
    written = record.read_bytes()
    assert b"rqvae-best-Video_Games" in written and b"metrics/codebook_usage_train_level_2" in written
