"""The linear baseline as a user runs it: results on disk, the same twice, and one line for bad input."""

import argparse
import json
import random

import numpy as np
import pytest
from conftest import CATEGORY, run_main, run_script

from category_classification import baseline_linear

datasets = pytest.importorskip("datasets")

NAMES = ["Books", "Jewelry", "Shoes"]
WORDS = ["novel paperback edition", "watch silver steel", "sneaker leather sole"]


def make_rows(rows, seed):
    """Titles of three class words among noise; a tenth of the labels is wrong."""
    rng = random.Random(seed)
    found = {"text": [], "label": [], "cluster": [], "language": []}
    for i in range(rows):
        label = rng.randrange(3)
        noise = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(3)]
        words = [rng.choice(WORDS[label].split()), *noise]
        found["text"].append(" ".join(rng.sample(words, len(words))))
        found["label"].append(label if rng.random() < 0.9 else rng.randrange(3))
        found["cluster"].append(i // 2)
        found["language"].append(rng.choice(["en", "en", "de", None]))
    return found


def make_splits(change=lambda splits: None):
    splits = {
        name: make_rows(rows, seed)
        for seed, (name, rows) in enumerate({"train": 300, "validation": 60, "test": 90, "full": 450}.items())
    }
    change(splits)
    return splits


def save(splits, folder):
    kinds = {"label": datasets.ClassLabel(names=NAMES), "cluster": datasets.Value("int64")}
    datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                columns,
                features=datasets.Features({c: kinds.get(c, datasets.Value("string")) for c in columns}),
            )
            for name, columns in splits.items()
        }
    ).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save(make_splits(), tmp_path_factory.mktemp("data") / "splits")


def run(*arguments):
    """Exit status, standard output and standard error of the script, run in this process."""
    result = run_main(baseline_linear.main, "--max_features", 9999, *arguments)
    return result.returncode, result.stdout, result.stderr


def test_command_line_writes_every_result(data, tmp_path):
    flags = ["--data", data, "--out", tmp_path / "out", "--lang_min_samples", "5", "--max_features", "9999"]
    done = run_script(CATEGORY / "baseline_linear.py", *flags)
    assert done.returncode == 0, done.stderr
    names = ["confusion.png", "metrics.json", "report.md", "summary.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["test"]["support"] == 90 and metrics["validation"]["support"] == 60
    assert metrics["test"]["clusters"] == 45 and set(metrics["test"]["languages"]) == {"en", "de", "und"}
    assert 0.75 < metrics["test"]["macro_f1"] < 1
    low, high = metrics["test"]["macro_f1_interval"]
    assert low < metrics["test"]["macro_f1"] < high
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["test_macro_f1"] == metrics["test"]["macro_f1"] and summary["train_rows"] == 300
    assert summary["train_rows_per_second"] > 0 and "scikit-learn" in summary["versions"]
    assert f"{metrics['test']['macro_f1']:.4f}" in done.stdout
    assert done.stderr == ""


def test_two_runs_are_equal_and_a_third_into_the_same_folder_is_refused(data, tmp_path):
    for name in ("one", "two"):
        assert run("--data", data, "--out", tmp_path / name, "--resamples", 20)[0] == 0
    metrics = [(tmp_path / name / "metrics.json").read_bytes() for name in ("one", "two")]
    assert metrics[0] == metrics[1]
    status, _, error = run("--data", data, "--out", tmp_path / "one", "--C", 1)
    assert status == 2 and "former run" in error and error.count("\n") == 1
    assert (tmp_path / "one/metrics.json").read_bytes() == metrics[0]


@pytest.mark.parametrize("features", ["word", "both"])
def test_other_features_learn_too(data, tmp_path, features):
    assert (
        run("--data", data, "--out", tmp_path / "o", "--features", features, "--max_features", 4096)[0] == 0
    )
    assert json.loads((tmp_path / "o/summary.json").read_text())["test_accuracy"] > 0.75


def test_the_model_equals_an_exact_vocabulary_with_lbfgs_where_saga_may_converge(data, monkeypatch):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(baseline_linear, "TOLERANCE", 1e-5)
    monkeypatch.setattr(baseline_linear, "MAX_EPOCHS", 3000)
    splits = datasets.load_from_disk(str(data))
    train, test = (baseline_linear.read_rows(splits[name], 3, name) for name in ("train", "test"))
    args = argparse.Namespace(features="char", max_features=2**16, C=20.0, seed=0, data=data)
    features, classifier = baseline_linear.fit(train, args)
    exact = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    reference = LogisticRegression(C=20, max_iter=1000).fit(exact.fit_transform(train.texts), train.labels)
    ours = classifier.predict_proba(features.transform(test.texts))
    theirs = reference.predict_proba(exact.transform(test.texts))
    assert np.abs(ours - theirs).max() < 0.06 and np.abs(ours - theirs).mean() < 0.006  # hash collisions


def test_max_rows_are_nested_and_random(data, tmp_path, monkeypatch):
    seen, fit = [], baseline_linear.fit
    monkeypatch.setattr(baseline_linear, "fit", lambda rows, args: seen.append(rows.texts) or fit(rows, args))
    for rows in (20, 100):
        assert (
            run("--data", data, "--out", tmp_path / str(rows), "--max_rows", rows, "--resamples", 9)[0] == 0
        )
    assert [len(texts) for texts in seen] == [20, 100] and set(seen[0]) < set(seen[1])
    assert seen[0] != make_rows(300, 0)["text"][:20]


def test_title_and_description_without_cluster_and_language(tmp_path):
    def change(splits):
        for columns in splits.values():
            columns["title"] = [text.split()[0] for text in columns["text"]]
            columns["description"] = [" ".join(text.split()[1:]) or None for text in columns.pop("text")]
            columns["description"][0] = None
            del columns["cluster"], columns["language"]

    folder = save(make_splits(change), tmp_path / "data")
    status, _, error = run("--data", folder, "--out", tmp_path / "out", "--lang_min_samples", 1)
    assert status == 0, error
    test = json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    assert test["clusters"] == 90 and "en" in test["languages"] and test["macro_f1"] > 0.75


def test_full_is_trained_on_only_by_name(data, tmp_path):
    def without_train(splits):
        del splits["train"]

    folder = save(make_splits(without_train), tmp_path / "data")
    status, _, error = run("--data", folder, "--out", tmp_path / "out")
    assert status == 2 and "--train_split" in error and not (tmp_path / "out").exists()
    status, out, _ = run("--data", folder, "--out", tmp_path / "out", "--train_split", "full")
    assert status == 0 and "no measurement" in out


def put(column, row, value, split="test"):
    def change(splits):
        splits[split][column][row] = value

    return change


def drop(column, split="validation"):
    def change(splits):
        del splits[split][column]

    return change


def one_class(splits):
    splits["train"]["label"] = [1] * 300


def empty(splits):
    splits["test"] = {column: [] for column in splits["test"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("text", 7, None), "test: row 7 has no text"),
        (put("label", 3, None), "test: row 3 has no label"),
        (put("label", 3, -1), "test: row 3 has label -1"),
        (put("cluster", 5, None, "train"), "train: row 5 has no cluster"),
        (drop("text"), "validation: no column 'text' or 'title'"),
        (drop("label"), "split 'validation' needs rows and a ClassLabel"),
        (empty, "empty split"),
        (one_class, "all of one class"),
        (lambda splits: splits.pop("test"), "no split 'test'"),
    ],
)
def test_bad_data_is_one_line_and_writes_nothing(tmp_path, change, named):
    folder = save(make_splits(change), tmp_path / "data")
    status, _, error = run("--data", folder, "--out", tmp_path / "out")
    assert (status, error.count("\n")) == (2, 1)
    assert named in error and str(folder) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "--C 0",
        "--C nan",
        "--max_rows -1",
        "--max_features 0",
        "--max_features 9999999999",
        "--seed -1",
        "--resamples 0",
        "--lang_top_k -1",
        "--data nowhere",
        "--train_split none",
    ],
)
def test_bad_flags_are_one_line(data, tmp_path, arguments):
    status, _, error = run("--data", data, "--out", tmp_path / "out", *arguments.split())
    assert (status, error.count("\n")) == (2, 1) and error.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_dataset_dict_and_an_out_that_is_a_file(data, tmp_path):
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/dataset_dict.json").write_text("{")
    datasets.Dataset.from_dict(make_rows(5, 0)).save_to_disk(str(tmp_path / "single"))
    (tmp_path / "file").write_text("kept")
    for folder in ("junk", "single"):
        status, _, error = run("--data", tmp_path / folder, "--out", tmp_path / "out")
        assert (status, error.count("\n")) == (2, 1) and folder in error
    status, _, error = run("--data", data, "--out", tmp_path / "file")
    assert status == 2 and "is a file" in error and (tmp_path / "file").read_text() == "kept"
