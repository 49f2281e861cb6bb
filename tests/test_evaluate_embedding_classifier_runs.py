"""The evaluation script as a user runs it: numbers against the trainer's and scikit-learn's, files, refusals.

python -m pytest tests/test_evaluate_embedding_classifier_runs.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CATEGORY, assert_refused, make_tokenizer, run_main, run_script
from datasets import ClassLabel, load_from_disk
from sklearn.metrics import f1_score

from category_classification import evaluate_embedding_classifier
from category_classification.evaluation import evaluate, load_classifier
from category_classification.lspc import load_splits
from training_utils import World, autocast

FLAGS = "--device cpu --lang_min_samples 5 --resamples 50".split()
FILES = {"metrics.json", "report.md", "confusion_matrix.png", "reliability.png", "learning_curve.png"}


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A copy of the trained run, to write into."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluate") / "run")


def call(run, data, *flags):
    return run_main(
        evaluate_embedding_classifier.main, "--checkpoint", run / "best.pt", "--data", data, *FLAGS, *flags
    )


def test_it_agrees_with_the_trainer_and_leaves_all_files(run, tiny_data):
    script = CATEGORY / "evaluate_embedding_classifier.py"
    result = run_script(script, "--checkpoint", run / "best.pt", "--data", tiny_data, *FLAGS)
    assert result.returncode == 0, result.stderr[-3000:]
    out = run / "evaluation-test"
    assert {path.name for path in out.iterdir()} == FILES
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in FILES if name.endswith(".png"))
    assert not [path for path in run.iterdir() if "partial" in path.name]

    metrics = json.loads((out / "metrics.json").read_text())
    trained = json.loads((run / "summary.json").read_text())["test"]
    assert metrics["confusion"] == trained["confusion"]
    for language, scores in trained["languages"].items():
        assert metrics["languages"][language]["macro_f1"] == scores["macro_f1"]
        low, high = metrics["languages"][language]["macro_f1_interval"]
        assert low <= high
    assert set(metrics["classes"]) == {"Books", "Jewelry", "Shoes"}
    calibration = metrics["calibration"]
    assert calibration["temperature"] == torch.load(run / "best.pt")["progress"]["temperature"]
    assert sum(b["rows"] for b in calibration["reliability"]) == 90 == calibration["coverage"][0]["rows"]

    lines = result.stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        "all",
        *trained["languages"],
    ]
    assert {line.split("/")[-1] for line in lines[-5:]} == FILES
    report = (out / "report.md").read_text()
    assert "## Calibration" in report and all(f"({name})" in report for name in FILES if "png" in name)


def test_another_split_folder_and_length_and_a_second_time(run, tiny_data, tmp_path):
    out = tmp_path / "a" / "b"
    flags = ["--split", "validation", "--out", out, "--seq_len", 8, "--lang_top_k", 1, "--amp"]
    assert call(run, tiny_data, *flags).returncode == 0
    first = json.loads((out / "metrics.json").read_text())
    assert first["split"] == "validation" and list(first["languages"]) == ["en"]
    assert call(run, tiny_data, "--split", "validation", "--out", out).returncode == 0
    second = json.loads((out / "metrics.json").read_text())
    assert len(second["languages"]) > 1 and second["loss"] != first["loss"]


def test_a_run_without_metrics_has_no_learning_curve(run, tiny_data, tmp_path):
    (tmp_path / "best.pt").write_bytes((run / "best.pt").read_bytes())
    result = call(tmp_path, tiny_data, "--tokenizer", run / "tokenizer")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "evaluation-test").iterdir()} == FILES - {"learning_curve.png"}


def test_languages_on_their_sure_rows_equal_scikit_learn(run, tiny_data, tmp_path):
    dataset = load_from_disk(tiny_data)
    sure = np.random.default_rng(0).random(90).astype(np.float32)
    dataset["test"] = dataset["test"].add_column("language_probability", sure.tolist())
    dataset.save_to_disk(tmp_path / "data")
    assert call(run, tmp_path / "data", "--out", tmp_path / "out").returncode == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())

    classifier, cpu = load_classifier(run / "best.pt", torch.device("cpu")), torch.device("cpu")
    args = ["test"], dataset, classifier.tokenizer, classifier.seq_len, World()
    split = load_splits(str(tmp_path / "data"), *args)["test"]
    result = evaluate(classifier.model, split, cpu, lambda: autocast(cpu, False))
    for language, scores in metrics["languages_sure"].items():
        rows = (split.languages == split.language_names.index(language)) & (sure >= 0.8)
        assert scores["support"] == rows.sum()
        expected = f1_score(split.labels[rows], result.logits.argmax(1)[rows], average="macro")
        assert scores["macro_f1"] == pytest.approx(expected, abs=1e-12)
    assert "probability 0.8 or more" in (tmp_path / "out" / "report.md").read_text()


def test_bad_input_is_refused_and_nothing_is_written(run, tiny_data, tmp_path):
    out = tmp_path / "out"

    def refused(*words, data=tiny_data, folder=run, flags=()):
        assert_refused(call(folder, data, "--out", out, *flags), *words)
        assert not out.exists()

    refused("no such folder", data=tmp_path / "none")
    refused("no such checkpoint", folder=tmp_path)
    refused("no split named 'tset'", flags=["--split", "tset"])
    refused("--lang_top_k", flags=["--lang_top_k", -1])
    refused("not a positive number", flags=["--seq_len", 0])
    refused("--tokenizer", flags=["--tokenizer", tmp_path])
    other = make_tokenizer(tmp_path / "tokenizer")
    tokens = json.loads((other / "tokenizer.json").read_text())
    tokens["added_tokens"].append({**tokens["added_tokens"][0], "id": 300, "content": "<|more|>"})
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    refused("300 tokens", flags=["--tokenizer", other])
    dataset = load_from_disk(tiny_data)
    for name in dataset:
        dataset[name] = dataset[name].cast_column("label", ClassLabel(names=["Books", "Jewelry", "Boots"]))
    dataset.save_to_disk(tmp_path / "other")
    refused("Boots", "Shoes", data=tmp_path / "other")


def test_other_files_are_never_replaced(run, tiny_data, tmp_path):
    (tmp_path / "metrics.json").write_text('{"validation": {}}')
    assert_refused(call(run, tiny_data, "--out", tmp_path), "something other than an evaluation")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert_refused(call(run, tiny_data, "--out", tmp_path / "metrics.json"), "is a file")
    (tmp_path / "empty").mkdir()
    assert call(run, tiny_data, "--out", tmp_path / "empty").returncode == 0
