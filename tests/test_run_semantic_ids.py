"""run_semantic_ids.sh: all files, stages skipped and repeated as they should be, kills, bad flags."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, assert_refused, make_texts, make_tokenizer, one_thread

SCRIPT = ROOT / "scripts/run_semantic_ids.sh"
STAGES = ["prepare", "tokenize", "embed", "train", "export", "evaluate"]
TRAIN = (
    "--encoder_hidden_dims 32,16 --codebook_embedding_dim 8 --codebook_size 16 --batch_size 64 "
    "--max_steps 30 --max_lr 3e-3 --warmup_steps 5 --steps_per_val_log 10 --save_every_steps 10 --device cpu"
)
ENV = one_thread() | {"PYTHON": sys.executable}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny random encoder."""
    from transformers import BertConfig, BertModel

    folder = make_tokenizer(tmp_path_factory.mktemp("models") / "bert")
    torch.manual_seed(0)
    config = dict(num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=300, hidden_size=24, **config)).save_pretrained(folder)
    return folder


def write_items(folder: Path, first_title: str = "An item") -> Path:
    """A raw catalogue of 120 items, and purchases of them."""
    titles = [first_title, *make_texts(119, seed=3)[0]]
    items = [{"parent_asin": f"B{n:03}", "title": title} for n, title in enumerate(titles)]
    (folder / "meta.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    bought = [{"history": [f"B{n:03}", f"B{n + 1:03}"], "target": f"B{n + 2:03}"} for n in range(100)]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bought))
    return folder


def command(folder: Path, model: Path, *flags: object) -> list[str]:
    files = ["--input", folder / "meta.jsonl", "--sequences", folder / "sequences.jsonl"]
    places = ["--data_dir", folder, "--checkpoint_dir", folder / "rqvae", "--train_flags", TRAIN]
    sizes = "--category Toys --pooling mean --dim 16 --max_length 32".split()
    given = [*files, *places, "--model", model, "--instruction", "", *sizes, *flags]
    return ["bash", *map(str, [SCRIPT, *given])]


def run(*args: object, cwd: Path | None = None) -> tuple[subprocess.CompletedProcess, list[str]]:
    """What it gave, and the stages that it did not skip."""
    result = subprocess.run(command(*args), capture_output=True, text=True, env=ENV, cwd=cwd)
    return result, [stage for stage in STAGES if f"\n{stage} ...\n" in f"\n{result.stdout}"]


def exported(folder: Path) -> dict:
    return json.loads((folder / "output/Toys_semantic_ids.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bert) -> Path:
    folder = write_items(tmp_path_factory.mktemp("finished"))
    result, ran = run(folder, bert)
    assert result.returncode == 0, result.stderr[-3000:]
    assert ran == STAGES
    return folder


@pytest.mark.slow
def test_all_files_are_there(finished):
    names = {path.name for path in (finished / "output").iterdir()}
    assert {
        "Toys_items_updated.parquet", "Toys_tokenized.npz", "Toys_tokenized.ragged.npz",
        "Toys_items_with_embeddings.parquet", "Toys_semantic_ids.parquet", "Toys_semantic_ids.trie.npz",
    } <= names  # fmt: skip
    assert (finished / "rqvae/final_model.pth").is_file()
    methods = json.loads((finished / "output/Toys_evaluation/metrics.json").read_text())["methods"]
    assert methods[0]["name"] == "these IDs" and "adjacency" in methods[0]
    assert (finished / "output/Toys_evaluation/ids.html").is_file()
    ids = pq.read_table(finished / "output/Toys_semantic_ids.parquet").column("semantic_id").to_pylist()
    assert len(set(ids)) == 120


@pytest.mark.slow
def test_only_what_depends_on_a_change_runs_again(tmp_path, bert):
    folder = write_items(tmp_path)

    def ran(*flags):
        result, stages = run(folder, bert, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        return stages

    assert ran() == STAGES
    assert ran() == []
    assert ran("--evaluate_flags", "--seed 1") == ["evaluate"]
    (folder / "output/Toys_semantic_ids.trie.npz").unlink()
    assert ran("--evaluate_flags", "--seed 1") == ["export"]  # what it makes is the same
    os.utime(folder / "meta.jsonl")
    assert ran("--evaluate_flags", "--seed 1") == []  # contents count, not times
    before = (folder / "rqvae/best_model.pth").read_bytes()
    write_items(folder, first_title="Another item")
    assert ran("--evaluate_flags", "--seed 1") == STAGES
    (aside,) = folder.glob("rqvae-before-*")  # the run on other items is kept
    assert (aside / "best_model.pth").read_bytes() == before
    # A trained model gives IDs to new items
    given = ["--checkpoint", aside / "best_model.pth"]
    assert ran(*given) == ["export", "evaluate"]


@pytest.mark.slow
def test_a_kill_in_any_stage_costs_only_that_stage(finished, tmp_path, bert):
    folder = write_items(tmp_path)
    for number, stage in enumerate(STAGES):
        process = subprocess.Popen(
            command(folder, bert), stdout=subprocess.PIPE, text=True, env=ENV, start_new_session=True
        )
        seen, sign = [], "step 10 " if stage == "train" else f"{stage} ..."
        for line in process.stdout:
            seen.append(line)
            if line.startswith(sign):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        skipped = [name for name in STAGES if f"{name}: nothing has changed\n" in seen]
        assert skipped == STAGES[: max(0, number - 1)]  # all but the one that was killed before
    result, ran = run(folder, bert)
    assert result.returncode == 0, result.stderr[-3000:]
    assert ran == ["evaluate"]
    assert not list(folder.glob("rqvae-before-*"))
    assert exported(folder) == exported(finished)


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on(finished, tmp_path, bert):
    folder = write_items(tmp_path)
    process = subprocess.Popen(
        command(folder, bert), stdout=subprocess.PIPE, text=True, env=ENV, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("step 20 "):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    result, ran = run(folder, bert)
    assert result.returncode == 0, result.stderr[-3000:]
    assert ran == STAGES[3:] and "resume: " in result.stdout and "from the beginning" not in result.stdout
    assert exported(folder) == exported(finished)


@pytest.mark.slow
def test_bad_flags_are_refused(tmp_path, bert):
    folder = write_items(tmp_path)

    def refused(*words, flags):
        result, ran = run(folder, bert, *flags)
        assert_refused(result, *words)
        return ran

    assert refused("--dimension", flags=["--dimension", "16"]) == []
    assert refused("--category needs a value", flags=["--category"]) == []
    assert refused("--dim", flags=["--dim", "many"]) == []
    assert refused("none.jsonl", "no such file", flags=["--input", "none.jsonl"]) == []
    assert refused("none.jsonl", "no such file", flags=["--sequences", "none.jsonl"]) == []
    assert refused("cannot be written", flags=["--data_dir", folder / "meta.jsonl"]) == []
    assert not (folder / "output").exists()
    # A stage's own refusal ends the run with its line and status
    assert refused("--id_column", flags=["--prepare_flags", "--id_column sku"]) == ["prepare"]
    assert refused("no model folder", flags=["--model", folder]) == ["prepare", "tokenize"]


def test_two_runs_at_once_are_refused(tmp_path, bert):
    folder = write_items(tmp_path)
    stages = folder / "output/.Toys-stages"
    stages.mkdir(parents=True)
    with (stages / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result, ran = run(folder, bert)
    assert_refused(result, "another run")
    assert ran == []


def test_help_lists_the_flags():
    result = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "--STAGE_flags" in result.stdout and "set -euo" not in result.stdout
