"""The EURLEX57K imitation: equal bytes from a seed, the raw format and its dirt, a long tail to learn."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC

SCRIPTS, FILES = ROOT / "scripts", ("EURLEX57K.zip", "corpus.txt")
FIRST = ("type", "concepts")
SECOND = ("document_type", "eurovoc_concepts")
FIELDS = {"celex_id", "uri", "title", "header", "recitals", "main_body", "attachments"}


def write(folder: Path, seed: int = 0, hash_seed: str = "0") -> dict[str, str]:
    """Written by a process of its own; returns the digest of each file."""
    folder.mkdir()
    code = f"from sample_eurlex import *; print(write_eurlex(Path({str(folder)!r}), {seed}))"
    env = {"PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eurlex") / "a"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def documents(folder: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    with zipfile.ZipFile(folder / "EURLEX57K.zip") as archive:
        for name in archive.namelist():
            if name.startswith("dataset/") and name.count("/") == 2:
                row = json.loads(archive.read(name))
                assert name.endswith(f"/{row['celex_id']}.json")
                found[name.split("/")[1]].append(row)
    return found


def concepts(row: dict) -> list[str]:
    return row["concepts"] if "concepts" in row else row["eurovoc_concepts"]


def text(row: dict) -> str:
    return " ".join([row["header"], row.get("recitals") or "", *row["main_body"]])


def test_the_same_seed_gives_the_same_bytes_and_another_others(folder, tmp_path):
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    assert write(tmp_path / "again", hash_seed="7") == digests
    other = write(tmp_path / "other", seed=1)
    assert all(other[name] != digests[name] for name in FILES)


def test_sizes_fields_and_dirt(documents):
    rows = [row for split in documents.values() for row in split]
    assert [len(split) for split in documents.values()] == [480, 80, 80]
    assert len({row["celex_id"] for row in rows}) == len(rows)
    for row in rows:
        spelling = FIRST if "concepts" in row else SECOND
        assert set(row) <= FIELDS | set(spelling) and set(spelling) <= set(row)
        assert len(set(concepts(row))) == len(concepts(row)) >= 1 and row["header"].strip()
    assert 0.03 < np.mean(["eurovoc_concepts" in row for row in rows]) < 0.15
    assert 0.01 < np.mean([row["main_body"] == [] for row in rows]) < 0.08
    assert 10 < sum(len(row) < 9 for row in rows) < 40 and any(None in row.values() for row in rows)
    assert 4 < np.mean([len(concepts(row)) for row in rows]) < 5.5


def test_labels_have_a_long_tail_and_ids_that_are_no_numbers(documents, folder):
    seen = {split: Counter(c for row in rows for c in concepts(row)) for split, rows in documents.items()}
    with zipfile.ZipFile(folder / "EURLEX57K.zip") as archive:
        labels = json.loads(archive.read("dataset/EURLEX57K.json"))
    used = set().union(*seen.values())
    assert used < set(labels) and all(labels[c]["label"] for c in labels)
    assert [c for c in used if not c.isdigit()] == ["c_5a1f0c37"]
    counts = sorted(seen["train"].values(), reverse=True)
    assert counts[0] > 100 and counts[-1] <= 3 and sum(count <= 10 for count in counts) > 10
    assert {*seen["dev"], *seen["test"]} - set(seen["train"])  # zero-shot


def test_a_linear_model_learns_the_labels_but_not_perfectly(documents):
    binarizer = MultiLabelBinarizer().fit([concepts(row) for rows in documents.values() for row in rows])
    words = TfidfVectorizer(sublinear_tf=True)
    train = words.fit_transform([text(row) for row in documents["train"]])
    gold = binarizer.transform([concepts(row) for row in documents["train"]])
    seen = gold.any(0)
    model = OneVsRestClassifier(LinearSVC()).fit(train, gold[:, seen])
    scores = model.decision_function(words.transform([text(row) for row in documents["test"]]))
    truth = binarizer.transform([concepts(row) for row in documents["test"]])[:, seen]
    top = np.argsort(-scores, axis=1)[:, :3]
    precision = np.take_along_axis(truth, top, 1).mean()
    by_frequency = truth[:, np.argsort(-gold[:, seen].sum(0))[:3]].mean()
    assert 0.7 < precision < 0.99 and by_frequency < 0.4


def test_the_text_reads_like_the_documents(folder):
    lines = (folder / "corpus.txt").read_text().splitlines()
    assert 3e5 < sum(map(len, lines)) < 8e5 and "" in lines
    assert sum("concerning" in line for line in lines) > 300
