"""train_rqvae.py as a user runs it; test_contracts.py has what all training scripts promise."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, assert_refused, assert_same_weights, records, run_main, run_script
from tiny_items import SMALL, clusters, write_embeddings

from semantic_ids.train_rqvae import main

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
