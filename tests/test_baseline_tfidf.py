"""The TF-IDF row of the dtype study: scikit-learn's own scores, one row a setting, bad input."""

import json

import numpy as np
import pytest
from conftest import assert_refused, run_main
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

from experiments import baseline_tfidf, report
from experiments.report_data import load_predictions, read_results, score_parts

TOPICS = ("wine", "steel", "milk", "trade", "fish", "court")  # the last is in no training document
COUNTS = {"train": 60, "validation": 30, "test": 31}


def draw_split(split, seed):
    """Texts with one to three topics each; a topic is named and tells on itself."""
    rng = np.random.default_rng(seed)
    documents = []
    for number in range(COUNTS[split]):
        usable = len(TOPICS) - (split == "train")
        labels = np.sort(rng.choice(usable, rng.integers(1, 4), replace=False))
        words = [TOPICS[label] for label in labels] * 2 + [f"w{i}" for i in rng.integers(50, size=12)]
        documents.append((f"{split}{number}", " ".join(rng.permutation(words)), labels.tolist()))
    return documents


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in the form that prepare_data.py writes."""
    folder = tmp_path_factory.mktemp("tfidf") / "data"
    folder.mkdir()
    for seed, split in enumerate(COUNTS):
        documents = draw_split(split, seed)
        labels = [labels for _, _, labels in documents]
        arrays = {
            "tokens": np.ones(len(documents), np.uint16), "offsets": np.arange(len(documents) + 1),
            "labels": np.concatenate(labels).astype(np.int32),
            "label_offsets": np.cumsum([0, *map(len, labels)]),
        }  # fmt: skip
        for name, array in arrays.items():
            np.save(folder / f"{split}.{name}.npy", array)
        lines = [json.dumps({"celex_id": name, "text": text}) + "\n" for name, text, _ in documents]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    splits = {split: {"documents": count} for split, count in COUNTS.items()}
    metadata = {"fingerprint": "abc", "labels": len(TOPICS), "max_length": 16, "splits": splits}
    metadata["tokenizer"] = {"name": "none", "pad_id": 1, "vocab_size": 2}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def call(prepared, out, *flags):
    return run_main(baseline_tfidf.main, "--data", prepared, "--out", out, "--threads", 1, *flags)


def test_the_row_holds_the_scores_of_scikit_learn(prepared, tmp_path):
    result = call(prepared, tmp_path)
    assert result.returncode == 0, result.stderr
    (row,) = read_results([tmp_path])
    assert (row["task"], row["config"], row["status"]) == ("classification", "tfidf_linear", "completed")
    assert row["data"] == {"fingerprint": "abc", **COUNTS, "labels": len(TOPICS)}

    splits = {split: draw_split(split, seed) for seed, split in enumerate(COUNTS)}
    words = TfidfVectorizer(sublinear_tf=True).fit([text for _, text, _ in splits["train"]])
    matrix = {split: words.transform([text for _, text, _ in rows]) for split, rows in splits.items()}
    truth = {
        split: np.array([[i in labels for i in range(6)] for _, _, labels in rows])
        for split, rows in splits.items()
    }
    scores = np.full((COUNTS["test"], 6), -10.0)
    for label in range(5):
        model = LinearSVC(random_state=0).fit(matrix["train"], truth["train"][:, label])
        scores[:, label] = model.decision_function(matrix["test"])
    found = row["metrics"]["test"]
    assert found["micro_f1"] == pytest.approx(f1_score(truth["test"], scores > 0, average="micro"), abs=0.01)
    assert found["macro_f1"] == pytest.approx(f1_score(truth["test"], scores > 0, average="macro"), abs=0.01)
    first = np.take_along_axis(truth["test"], scores.argmax(1)[:, None], 1).mean()
    assert found["precision_at_1"] == pytest.approx(first) and first > 0.9
    assert found["micro_f1_tuned"] > 0.6


def test_its_predictions_give_its_scores(prepared, tmp_path):
    assert call(prepared, tmp_path).returncode == 0
    (row,) = read_results([tmp_path])
    for name, parts in score_parts("classification", load_predictions(row)).items():
        above, below = parts.sum(0)
        assert above / below == pytest.approx(row["metrics"]["test"][name], abs=1e-12)


def test_a_finished_row_is_not_made_again_and_alone_is_no_report(prepared, tmp_path):
    assert call(prepared, tmp_path).returncode == 0
    again = call(prepared, tmp_path)
    assert again.returncode == 0 and "completed already" in again.stdout
    assert len(read_results([tmp_path])) == 1
    assert call(prepared, tmp_path, "--c", 0.5).returncode == 0
    assert len(read_results([tmp_path])) == 2
    assert_refused(run_main(report.main, "--results", tmp_path, "--out", tmp_path / "r"), "baselines alone")


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0c"])
def test_lines_end_at_newlines_alone(tmp_path, separator):
    """As prepare_data.py writes them."""
    text = f"Article 1{separator}Fish"
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8")
    assert baseline_tfidf.read_texts(tmp_path, "train", 1) == [text]


def test_bad_input_ends_in_one_line(prepared, tmp_path):
    assert_refused(call(tmp_path / "none", tmp_path), "no prepared data")
    assert_refused(call(prepared, tmp_path, "--c", 0), "--c")
    texts = prepared / "test.jsonl"
    whole = texts.read_text()
    try:
        for content, words in (("", "0 texts, not 31"), ("{broken\n", "test.jsonl")):
            texts.write_text(content)
            assert_refused(call(prepared, tmp_path), words)
    finally:
        texts.write_text(whole)
    assert not list(tmp_path.rglob("results.jsonl"))
