"""The sample data: same arguments same bytes, the raw formats, the dirt, and something worth learning."""

import csv
import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, assert_refused, run_main, run_script
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import AutoTokenizer

from category_classification.language_id import identify
from semantic_ids import prepare_items

SCRIPT = ROOT / "scripts" / "make_sample_data.py"
ROWS, ITEMS = 4_000, 1_000
LABEL_FILE = "WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz"
SIX = ("Automotive", "Baby", "Books", "Clothing", "Jewelry", "Shoes")
KEYS = set(
    "cluster_id url nodeId name title description brand manufacturer price priceCurrency sku mpn productID "
    "identifier gtin gtin8 gtin12 gtin13 gtin14".split()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("samples")
    result = run_script(SCRIPT, "--out", out, "--lspc_rows", ROWS, "--items", ITEMS)
    assert result.returncode == 0, result.stderr
    assert "lspcV2020.zip" in result.stdout and "meta_Video_Games.jsonl.gz" in result.stdout
    parts = {"lspc", "semantic_ids", "experiments", "naics"}
    assert {path.name for path in out.iterdir()} == parts  # nothing set aside is left
    return out / "lspc"


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[bytes]:
    with zipfile.ZipFile(folder / "lspcV2020.zip") as archive:
        names = archive.namelist()
        assert len(names) >= 3 and all(re.fullmatch(r"part-\d{5}\.json\.gz", name) for name in names)
        members = [gzip.decompress(archive.read(name)) for name in names]
    return [line for member in members for line in member.split(b"\n")]


@pytest.fixture(scope="module")
def labels(folder: Path) -> dict[int, str]:
    rows = [line.split("\t") for line in (folder / "PDC2020_map.tsv").read_text("utf-8").splitlines()]
    assert len({cluster for cluster, _ in rows}) == len(rows)
    return {int(cluster): label for cluster, label in rows}


@pytest.fixture(scope="module")
def offers(lines: list[bytes]) -> list[dict]:
    """The rows a reader can use."""
    return [row for line in lines if (row := parse(line)) and isinstance(row.get("cluster_id"), int)]


def parse(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def clean(row: dict) -> str:
    text = f"{row['title'] or row['name'] or ''} {row['description'] or ''}"
    return " ".join(html.unescape(html.unescape(text)).split())


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_same_arguments_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for part in ("lspc", "semantic_ids", "experiments", "naics"):  # each alone
        flags = ["--lspc_rows", ROWS, "--items", ITEMS, "--only", part]
        again = run_script(SCRIPT, "--out", tmp_path, *flags, env={"PYTHONHASHSEED": "7"})
        assert again.returncode == 0, again.stderr
    assert digests(tmp_path) == digests(folder.parent)


def test_offers_are_those_of_earlier_versions(lines: list[bytes]) -> None:
    """Published results rest on them."""
    assert hashlib.sha256(b"\n".join(lines)).hexdigest().startswith("8cea0e5bc1832c09")


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_and_the_next_succeeds(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--lspc_rows", "1000000"]
    process = subprocess.Popen(command)
    aside = tmp_path / ".lspc.partial"
    while not aside.is_dir() or not list(aside.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list((tmp_path / "lspc").iterdir())
    again = run_script(SCRIPT, "--out", tmp_path, "--lspc_rows", 200, "--seed", 1)
    assert again.returncode == 0, again.stderr
    assert not aside.exists()
    assert digests(tmp_path / "lspc")["lspcV2020.zip"] != digests(folder)["lspcV2020.zip"]


def test_rows_have_the_raw_format(lines: list[bytes], offers: list[dict]) -> None:
    assert sum(bool(line) for line in lines) == ROWS
    assert all(set(row) == KEYS for row in offers)
    null_titles = sum(row["title"] is None for row in offers) / len(offers)
    null_descriptions = sum(row["description"] is None for row in offers) / len(offers)
    assert 0.4 < null_titles < 0.8 and 0.15 < null_descriptions < 0.45


def test_label_files_agree(folder: Path, labels: dict[int, str]) -> None:
    with gzip.open(folder / LABEL_FILE, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    by_cluster = defaultdict(list)
    for row in rows:
        by_cluster[row["cluster_id"]].append(row["predicted_CategoryLabel_majority_voted"])
    assert {cluster: found[0] for cluster, found in by_cluster.items()} == labels
    assert any(len(found) > 1 and len(set(found)) == 1 for found in by_cluster.values())
    assert any(len(set(found)) > 1 for found in by_cluster.values())


def test_shares_of_classes(offers: list[dict], labels: dict[int, str]) -> None:
    found = Counter(labels.get(row["cluster_id"]) for row in offers)
    six = sum(found[name] for name in SIX)
    assert all(found[name] > 0.04 * six for name in SIX)
    assert 0.38 < found["Clothing"] / six < 0.5
    assert 0.01 < found[None] / len(offers) < 0.06  # clusters without a label
    others = set(found) - set(SIX) - {None}
    assert len(others) >= 4 and all("_" in name for name in others)
    assert 0.04 < sum(found[name] for name in others) / len(offers) < 0.12


def test_every_kind_of_dirt_is_there(lines: list[bytes], offers: list[dict]) -> None:
    whole = b"\n".join(lines)
    for entity in (b"&amp;", b"&quot;", b"&#39;", b"&eacute;", b"&amp;quot;"):
        assert entity in whole, entity
    assert lines.count(b"") > 6  # more than the ends of the members: blank lines
    assert any(b"\xff" in line for line in lines)  # not UTF-8
    assert any(line.startswith(b'{"cluster_id"') and not line.endswith(b"}") for line in lines)  # cut off
    assert any(line in (b"[]", b"null", b"42", b'"offer"') for line in lines)
    objects = [row for line in lines if (row := parse(line))]
    assert any("cluster_id" not in row or row["cluster_id"] is None for row in objects)
    assert any(not clean(row) for row in offers)
    assert any("\n" in (row["name"] or "") for row in offers)
    clusters_of_text = defaultdict(set)
    for row in offers:
        clusters_of_text[clean(row)].add(row["cluster_id"])
    repeated = [text for text, clusters in clusters_of_text.items() if text and len(clusters) > 1]
    assert len(repeated) > ROWS * 0.004


def test_languages_and_clusters(offers: list[dict]) -> None:
    described = [row for row in offers if row["description"]]
    codes, _ = identify([clean(row) for row in described])
    found = Counter(codes)
    assert 0.83 < found["en"] / len(described) < 0.93
    assert all(found[code] >= 5 for code in ("de", "fr", "es", "it", "nl", "pl", "ja", "zh", "ru"))
    languages = defaultdict(set)
    for row, code in zip(described, codes, strict=True):
        languages[row["cluster_id"]].add(code)
    several = [codes for codes in languages.values() if len(codes) > 1]
    assert len(several) > 50 and sum("en" in codes for codes in several) > 0.8 * len(several)
    sizes = Counter(Counter(row["cluster_id"] for row in offers).values())
    assert sizes[1] > 0.5 * sizes.total() and max(sizes) >= 10


def test_tokenizer_loads_and_ends_every_text(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert len(tokenizer) == 8_000 and tokenizer.padding_side == "right"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    text = "Gold shoes für Bébé, 靴 и 鞋 12V"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.pad_token_id and ids.count(tokenizer.pad_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text, truncation=True, max_length=4)["input_ids"] == ids[:3] + ids[-1:]
    batch = tokenizer([text, "ring"], padding=True)
    assert batch["attention_mask"][1][-1] == 0 and sum(batch["attention_mask"][0]) == len(ids)


def test_products_table(folder: Path) -> None:
    with (folder / "products.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300 and list(rows[0]) == ["title", "description", "category", "language"]
    assert {row["category"] for row in rows} == set(SIX)
    assert len({row["language"] for row in rows}) >= 9
    assert all(row["title"] for row in rows)


def test_a_linear_model_learns_much_but_not_all(offers: list[dict], labels: dict[int, str]) -> None:
    rows = [(row["cluster_id"], clean(row)) for row in offers if labels.get(row["cluster_id"]) in SIX]
    train = [(text, labels[cluster]) for cluster, text in rows if cluster % 5]
    seen = {text for text, _ in train}
    test = [(text, labels[cluster]) for cluster, text in rows if cluster % 5 == 0 and text not in seen]
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = LogisticRegression(C=10, max_iter=60, tol=1e-2)
    model.fit(features.fit_transform([text for text, _ in train]), [label for _, label in train])
    predicted = model.predict(features.transform([text for text, _ in test]))
    macro_f1 = f1_score([label for _, label in test], predicted, average="macro")
    assert 0.6 < macro_f1 < 0.97


@pytest.mark.slow
def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    assert_refused(run_script(SCRIPT, "--out", tmp_path, "--lspc_rows", -5), "--lspc_rows")
    assert_refused(run_script(SCRIPT, "--out", tmp_path, "--items", 99), "--items")
    assert_refused(run_script(SCRIPT, "--out", tmp_path, "--only", "nothing"), "--only")
    file = tmp_path / "file"
    file.touch()
    assert_refused(run_script(SCRIPT, "--out", file), "--out", str(file))
    assert list(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------- items


@pytest.fixture(scope="module")
def item_lines(folder: Path) -> list[bytes]:
    whole = (folder.parent / "semantic_ids/meta_Video_Games.jsonl.gz").read_bytes()
    return gzip.decompress(whole).splitlines()


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory) -> list[dict]:
    """The items as prepare_items.py reads them."""
    out = tmp_path_factory.mktemp("prepared") / "items.parquet"
    source = folder.parent / "semantic_ids/meta_Video_Games.jsonl.gz"
    assert run_main(prepare_items.main, "--input", source, "--output", out).returncode == 0
    return pq.read_table(out).to_pylist()


@pytest.fixture(scope="module")
def sequences(folder: Path) -> list[dict]:
    with (folder.parent / "semantic_ids/sequences.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_items_have_the_raw_format(item_lines: list[bytes], prepared: list[dict]) -> None:
    rows = [row for line in item_lines if (row := parse(line))]
    names = (
        "main_category title average_rating rating_number features description price images videos store "
        "categories details parent_asin bought_together"
    )
    assert all(list(row) == names.split() for row in rows)
    assert {type(row["details"]) for row in rows} == {dict, str}
    assert all(re.fullmatch(r"B0[0-9A-Z]{8}", row["parent_asin"]) for row in rows if row["parent_asin"])
    assert len(prepared) == len({row["parent_asin"] for row in prepared}) == ITEMS


def test_items_have_every_kind_of_dirt(item_lines: list[bytes], prepared: list[dict]) -> None:
    whole = b"\n".join(item_lines)
    for mark in (b"&amp;", b"&#39;", b"&amp;amp;", b"<br />", b"<p>", b'"from ', b'"description": []'):
        assert mark in whole, mark
    parsed = [parse(line) for line in item_lines]
    assert sum(row is None for row in parsed) >= 2  # cut off, not UTF-8, no object
    rows = [row for row in parsed if row]
    ids = Counter(row["parent_asin"] for row in rows)
    assert sum(ids[name] for name in (None, "")) >= 1
    assert sum(count > 1 for name, count in ids.items() if name) > ITEMS * 0.01
    assert len({name for name in ids if name}) > ITEMS  # some have no text at all
    assert sum(row["duplicate_of"] is not None for row in prepared) >= 3
    clean = " ".join(row["item_context"] for row in prepared)
    assert "&amp;" not in clean and "<p>" not in clean


def test_purchases_keep_together_what_belongs_together(prepared: list[dict], sequences: list[dict]) -> None:
    assert len(sequences) > ITEMS and all(len(row["history"]) >= 2 for row in sequences)
    assert all(len({*row["history"], row["target"]}) == len(row["history"]) + 1 for row in sequences)
    platforms = {row["parent_asin"]: row["platform"] for row in prepared}
    bought = [item for row in sequences for item in (*row["history"], row["target"])]
    assert 0 < sum(item not in platforms for item in bought) < 0.01 * len(bought)
    pairs = [
        (platforms.get(a), platforms.get(b))
        for row in sequences
        for a, b in pairwise([*row["history"], row["target"]])
    ]
    known = [pair for pair in pairs if all(pair)]
    counts = Counter(platform for pair in known for platform in pair)
    by_chance = sum((count / counts.total()) ** 2 for count in counts.values())
    assert sum(a == b for a, b in known) > 2.5 * by_chance * len(known)


def test_words_tell_what_an_item_is(prepared: list[dict]) -> None:
    """A neighbour in words is mostly of the same genre or kind, without these being named."""
    kinds = [row["genre"] or row["product_type"] for row in prepared]
    rows = [
        (f"{row['title']} {row['description'] or ''}", kind)
        for row, kind in zip(prepared, kinds, strict=True)
        if kind
    ]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform([text for text, _ in rows])
    nearest = (vectors @ vectors.T).toarray() - 2 * np.eye(len(rows))
    right = [rows[place][1] == rows[i][1] for i, place in enumerate(nearest.argmax(1))]
    assert 0.75 < np.mean(right) < 0.999


def test_the_tokenizer_of_the_acts_is_in_the_form_of_roberta(folder):
    from experiments.tokenization import load_tokenizer

    tokenizer = load_tokenizer(str(folder.parent / "experiments/tokenizer"))
    text = (folder.parent / "experiments/corpus.txt").read_text().splitlines()[0]
    ids = tokenizer.encode([text], max_length=64)[0].tolist()
    assert (ids[0], ids[-1], tokenizer.pad_id) == (0, 2, 1) and tokenizer.vocab_size == 2_000
    assert tokenizer.backend.decode(ids[1:-1]) == text
