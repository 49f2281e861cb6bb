"""Resumes of a classifier: from before an evaluation, into another folder, from further back."""

import json

import pytest
import torch
from conftest import assert_refused, assert_same_weights, records, run_main

from category_classification import train_embedding_classifier as script
from category_classification import training

pytestmark = pytest.mark.slow
SMALL = "--hidden_size 192 --num_layers 1 --batch_size 32 --seq_len 16 --device cpu --lr 2e-3"


@pytest.fixture(scope="session")
def train(tiny_data, tiny_tokenizer):
    def run(out, *flags):
        data = ["--data", tiny_data, "--tokenizer", tiny_tokenizer, "--out", out]
        return run_main(script.main, *data, *SMALL.split(), *flags)

    return run


def finished(result):
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def without_times(out):
    return [{k: v for k, v in record.items() if k != "samples_per_second"} for record in records(out)]


def step_of(path):
    return torch.load(path, weights_only=True)["progress"]["step"]


@pytest.mark.parametrize(
    "flags", [("--epochs", 2), ("--max_steps", 12)], ids=["at an epoch's end", "within one"]
)
def test_a_run_killed_in_its_last_evaluation_makes_up_for_it(train, tmp_path, monkeypatch, flags):
    flags = [*flags, "--save_every_steps", 1]
    finished(train(tmp_path / "whole", *flags))
    last = json.loads((tmp_path / "whole/summary.json").read_text())["steps"]
    end_epoch = training.end_epoch

    def killed(run, validation):
        if run.progress["step"] == last:
            raise KeyboardInterrupt
        end_epoch(run, validation)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "end_epoch", killed)
        train(tmp_path / "part", *flags)
    assert step_of(tmp_path / "part/checkpoint-last.pt") == last
    finished(train(tmp_path / "part", *flags, "--resume", "auto"))
    assert_same_weights(tmp_path / "whole/best.pt", tmp_path / "part/best.pt")
    assert without_times(tmp_path / "part") == without_times(tmp_path / "whole")


def test_a_finished_run_within_an_epoch_keeps_its_record(train, tmp_path):
    flags = [tmp_path / "out", "--max_steps", 4]
    finished(train(*flags))
    before = without_times(tmp_path / "out")
    finished(train(*flags, "--resume", "auto"))
    assert without_times(tmp_path / "out") == before
    assert [record["split"] for record in before].count("validation") == 1


def test_a_resume_into_another_folder_has_a_best_of_its_own(train, tmp_path):
    """The rate is so low that no later epoch beats the score that came with the checkpoint."""
    finished(train(tmp_path / "first", "--epochs", 2))
    path = tmp_path / "first/checkpoint-epoch2.pt"
    flags = ["--epochs", 3, "--lr", 1e-12, "--resume", path]
    finished(train(tmp_path / "second", *flags))
    assert step_of(tmp_path / "second/best.pt") > step_of(path)


def test_a_resume_from_further_back_sets_aside_what_came_after(train, tmp_path):
    out = tmp_path / "out"
    finished(train(out, "--epochs", 3))
    content = (out / "checkpoint-epoch3.pt").read_bytes()
    said = finished(train(out, "--epochs", 2, "--resume", out / "checkpoint-epoch1.pt"))
    assert "is now" in said and "abandoned-checkpoint-epoch3.pt" in said
    assert (out / "abandoned-checkpoint-epoch3.pt").read_bytes() == content
    last = step_of(out / "checkpoint-last.pt")
    assert last == step_of(out / "checkpoint-epoch2.pt") and step_of(out / "best.pt") <= last
    assert f"step {last}\n" in finished(train(out, "--epochs", 2, "--resume", "auto"))


@pytest.mark.parametrize("updates", [("dense", "rows"), ("rows", "dense")], ids=" to ".join)
def test_another_optimizer_is_refused(train, tmp_path, updates):
    flags = [tmp_path / "out", "--max_steps", 3, "--embedding_update"]
    finished(train(*flags, updates[0]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    result = train(*flags, updates[1], "--resume", "auto")
    assert_refused(result, f"--embedding_update {updates[0]}")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before
