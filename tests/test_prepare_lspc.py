"""The prepared dataset against a second, plain reading of the same raw files; kills, damage and bad input.

python -m pytest tests/test_prepare_lspc.py -m "not slow"
"""

import csv
import gzip
import html
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CATEGORY, ROOT, run_main
from datasets import DatasetDict, load_from_disk

from category_classification import lspc_raw, prepare_lspc, shards
from category_classification.lspc_raw import SIX_CLASSES, clean_text, normalise_class
from category_classification.row_keys import fold
from training_utils import InputError

SCRIPT = CATEGORY / "prepare_lspc.py"
DATA = Path(os.environ.get("REAL_DATA_DIR", ROOT.parent / "shared" / "data"))
LABEL_KEY = "predicted_CategoryLabel_majority_voted"
OTHER_CLASSES = ["Computers_and_Accessories", "Home_and_Garden"]
WORDS = (
    "boot ring lamp brush novel tyre jacket cradle laptop vase cable scarf sandal pearl poem wheel".split()
)


# ---------------------------------------------------------------- raw files


def offer(
    cluster: object, title: str | None, description: str | None = None, name: str | None = None
) -> dict:
    nulls = dict.fromkeys(["brand", "price", "sku", "gtin13", "identifier"])
    return {"cluster_id": cluster, "name": name, "title": title, "description": description, **nulls}


def make_lines(
    members: int, offers: int, seed: int, clusters: int = 400, shared: int = 3000
) -> list[list[bytes]]:
    """Raw lines a member: a tenth of broken ones, entities, shared texts, clusters spread over members."""
    rng = random.Random(seed)
    lines = []
    for _ in range(members):
        member = []
        for _ in range(offers):
            cluster = rng.randrange(clusters)
            title = " ".join(rng.choices(WORDS, k=rng.randint(2, 5))) + f" {rng.randrange(10**6)}"
            kind = rng.random()
            if kind < 0.02:
                member.append(json.dumps(offer(cluster, title)).encode()[:-9])
            elif kind < 0.03:
                member.append(rng.choice([b"[1, 2]", b'"offer"', b"7", b"null"]))
            elif kind < 0.04:
                member.append(json.dumps(offer(rng.choice([None, "n/a", 1.5, True]), title)).encode())
            elif kind < 0.05:
                member.append(json.dumps(offer(cluster, rng.choice([None, "", " \t ", "&nbsp;"]))).encode())
            elif kind < 0.10:
                member.append(json.dumps(offer(10**9 + cluster, title)).encode())
            elif kind < 0.20:  # a text that stands under many clusters
                member.append(
                    json.dumps(
                        offer(cluster, None, None, f"Shared  {rng.randrange(shared)} &amp;amp; co")
                    ).encode()
                )
            else:
                member.append(
                    json.dumps(offer(cluster, title, f"Tom &amp; J&eacute;r&#244;me\n{title}")).encode()
                )
        lines.append(member)
    return lines


def make_labels(clusters: int = 400) -> dict[int, str]:
    names = SIX_CLASSES + OTHER_CLASSES
    return {cluster: names[cluster % len(names)] for cluster in range(clusters)}


def write_zip(path: Path, lines: list[list[bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, member in enumerate(lines):
            archive.writestr(
                f"part-{index:03d}.json.gz", gzip.compress(b"\n".join(member) + b"\n", 1, mtime=0)
            )
        archive.writestr("readme.txt", "not a member")
    return path


def write_labels(path: Path, labels: dict[int, str]) -> Path:
    if path.suffix == ".tsv":
        path.write_text("".join(f"{cluster}\t{name}\n" for cluster, name in labels.items()))
    else:
        lines = (json.dumps({"cluster_id": cluster, LABEL_KEY: name}) for cluster, name in labels.items())
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A folder with a small corpus."""
    folder = tmp_path_factory.mktemp("raw")
    write_zip(folder / "lspc.zip", make_lines(members=3, offers=1500, seed=0))
    write_labels(folder / "map.tsv", make_labels())
    write_labels(folder / "votes.json.gz", make_labels())
    return folder


def expected_rows(
    lines: list[list[bytes]], labels: dict[int, str], classes: list[str]
) -> tuple[Counter, Counter]:
    """Kept (text, class, cluster) and reasons, read line by line in the plainest way."""
    kept, reasons = Counter(), Counter()
    for line in (line for member in lines for line in member):
        try:
            record = json.loads(line)
        except ValueError:
            # A line whose cluster is not kept is dropped by its id, whether or not the rest is sound.
            found = re.match(rb'\{"cluster_id": (\d+),', line)
            name = labels.get(int(found[1])) if found else "unknown"
            reasons["bad_json" if name in [*classes, "unknown"] else "class_not_selected"] += 1
            continue
        if not isinstance(record, dict):
            reasons["not_object"] += 1
        elif type(record["cluster_id"]) is not int:
            reasons["no_cluster_id"] += 1
        elif record["cluster_id"] not in labels:
            reasons["unlabelled_cluster"] += 1
        elif labels[record["cluster_id"]] not in classes:
            reasons["class_not_selected"] += 1
        else:
            text = f"{record['title'] or record['name'] or ''} {record['description'] or ''}"
            text = " ".join(html.unescape(html.unescape(text)).split())
            if text:
                kept[text, labels[record["cluster_id"]], record["cluster_id"]] += 1
            else:
                reasons["no_text"] += 1
    return kept, reasons


# ---------------------------------------------------------------- running it


def run(*arguments: object, workers: int = 1) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the script, run in this process."""
    result = run_main(prepare_lspc.main, *arguments, "--workers", workers)
    return result.returncode, result.stdout, result.stderr


def prepare(out: Path, *arguments: object, workers: int = 1) -> DatasetDict:
    status, _, err = run(*arguments, "--out", out, workers=workers)
    assert status == 0, err
    return load_from_disk(out)


def corpus(raw: Path, labels: str = "map.tsv") -> list[object]:
    return ["--zip", raw / "lspc.zip", "--labels", raw / labels]


def report(out: Path) -> dict:
    return json.loads((out / "prepare.json").read_text())


def triples(dataset) -> Counter:
    names = dataset.features["label"].names
    return Counter((row["text"], names[row["label"]], row["cluster"]) for row in dataset)


def contents(out: Path) -> dict[str, bytes]:
    """All files of a dataset but for the report's clock and command line."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    kept = {key: value for key, value in report(out).items() if key not in ("wall_seconds", "command")}
    return files | {"prepare.json": json.dumps(kept).encode()}


def sides_of(dataset: DatasetDict, key) -> dict:
    """Which of train, validation and test each value of `key(row)` occurs in."""
    found: dict = {}
    for split in ("train", "validation", "test"):
        for row in dataset[split]:
            found.setdefault(key(row), set()).add(split)
    return found


# ---------------------------------------------------------------- the corpus


def test_dataset_equals_a_plain_reading(raw, tmp_path) -> None:
    dataset = prepare(tmp_path / "out", *corpus(raw))
    kept, reasons = expected_rows(make_lines(3, 1500, 0), make_labels(), SIX_CLASSES)
    assert triples(dataset["full"]) == kept
    assert report(tmp_path / "out")["reasons"] == dict(reasons)
    assert dataset["train"].features["label"].num_classes == 6
    assert dataset["train"].features["label"].names == SIX_CLASSES
    assert {name: column.dtype for name, column in dataset["full"].features.items()} == {
        "text": "string",
        "label": "int64",
        "cluster": "int64",
    }
    assert list(dataset) == ["full", "train", "validation", "test"]
    assert not (tmp_path / "out.partial").exists()


def test_splits_are_whole_disjoint_and_of_the_right_size(raw, tmp_path) -> None:
    dataset = prepare(tmp_path / "out", *corpus(raw))
    parts = [triples(dataset[split]) for split in ("train", "validation", "test")]
    assert sum(parts, Counter()) == triples(dataset["full"])
    assert all(len(sides) == 1 for sides in sides_of(dataset, lambda row: row["cluster"]).values())
    rows = len(dataset["full"])
    assert 0.02 * rows < len(dataset["validation"]) < 0.08 * rows
    assert 0.05 * rows < len(dataset["test"]) < 0.15 * rows
    counts = report(tmp_path / "out")["splits"]
    for split in dataset:
        names = dataset[split].features["label"].names
        assert counts[split]["rows"] == len(dataset[split])
        assert counts[split]["classes"] == {
            n: dataset[split]["label"][:].count(i) for i, n in enumerate(names)
        }


def test_equal_texts_of_different_clusters_stay_together(tmp_path) -> None:
    """900 clusters in pairs of one text, written differently; drawn alone, some 200 pairs would be torn."""
    rows = [offer(2 * n, f"Boot no {n}") for n in range(450)] + [
        offer(2 * n + 1, f"BOOT,  no {n}!") for n in range(450)
    ]
    write_zip(tmp_path / "lspc.zip", [[json.dumps(row).encode() for row in rows]])
    write_labels(tmp_path / "map.tsv", {cluster: SIX_CLASSES[cluster // 2 % 6] for cluster in range(900)})
    dataset = prepare(tmp_path / "out", *corpus(tmp_path))
    texts = sides_of(dataset, lambda row: fold(row["text"]))
    assert len(texts) == 450 and all(len(sides) == 1 for sides in texts.values())
    assert report(tmp_path / "out")["notes"]["rows_in_joined_groups"] == 900
    assert len(dataset["test"]) > 60


def test_common_texts_do_not_chain_all_clusters_together(tmp_path) -> None:
    """Thirty texts stand under all clusters: joined by them, every row would be in one group."""
    write_zip(tmp_path / "lspc.zip", make_lines(members=2, offers=3000, seed=6, shared=30))
    write_labels(tmp_path / "map.tsv", make_labels())
    dataset = prepare(tmp_path / "out", *corpus(tmp_path))
    notes = report(tmp_path / "out")["notes"]
    assert notes["largest_group_rows"] < 100 and 30 < notes["rows_left_out_of_splits"] < 200
    assert sum(len(dataset[split]) for split in dataset) - len(dataset["full"]) == (
        len(dataset["full"]) - notes["rows_left_out_of_splits"]
    )
    assert all(len(sides) == 1 for sides in sides_of(dataset, lambda row: fold(row["text"])).values())
    assert all(len(sides) == 1 for sides in sides_of(dataset, lambda row: row["cluster"]).values())
    assert 0.08 < len(dataset["test"]) / len(dataset["full"]) < 0.11


def test_both_label_files_and_any_number_of_workers_give_the_same_bytes(raw, tmp_path) -> None:
    prepare(tmp_path / "one", *corpus(raw), "--add_language")
    prepare(tmp_path / "two", *corpus(raw), "--add_language", workers=3)
    votes = prepare(tmp_path / "votes", *corpus(raw, "votes.json.gz"), "--add_language", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for split in votes:
        assert triples(votes[split]) == triples(load_from_disk(tmp_path / "one")[split])


def test_seed_and_order_of_the_rows(raw, tmp_path) -> None:
    lines = make_lines(3, 1500, 0)
    mixed = [line for member in lines for line in member]
    random.Random(5).shuffle(mixed)
    write_zip(tmp_path / "lspc.zip", [mixed[:10], mixed[10:]])
    write_labels(tmp_path / "map.tsv", make_labels())
    here = prepare(tmp_path / "a", *corpus(raw))
    there = prepare(tmp_path / "b", *corpus(tmp_path))
    other = prepare(tmp_path / "c", *corpus(raw), "--seed", 7)
    for split in here:
        assert triples(here[split]) == triples(there[split])
    assert triples(here["full"]) == triples(other["full"])
    assert triples(here["test"]) != triples(other["test"])


def test_classes_24_and_a_file_of_names(raw, tmp_path) -> None:
    everything = prepare(tmp_path / "all", *corpus(raw), "--classes", 24)
    assert everything["full"].features["label"].names == sorted(SIX_CLASSES + OTHER_CLASSES)
    (tmp_path / "names.txt").write_text("# two of them\ncomputers & accessories\n\nShoes\n")
    two = prepare(tmp_path / "two", *corpus(raw), "--classes", tmp_path / "names.txt")
    assert two["full"].features["label"].names == ["Shoes", "computers_and_accessories"]
    kept, _ = expected_rows(make_lines(3, 1500, 0), make_labels(), ["Shoes", "Computers_and_Accessories"])
    assert len(two["full"]) == kept.total()
    assert normalise_class("Computers & Accessories") == "Computers_and_Accessories"
    assert normalise_class("CDs and  Vinyl ") == "CDs_and_Vinyl"


def test_clusters_with_two_labels_and_unreadable_label_lines(tmp_path) -> None:
    write_zip(tmp_path / "lspc.zip", [[json.dumps(offer(n, f"Boot {n}")).encode() for n in range(300)]])
    lines = [f"{n}\t{SIX_CLASSES[n % 6]}" for n in range(300)] + ["6\tBaby", "7\tBaby", "x\tBaby", "9"]
    (tmp_path / "map.tsv").write_text("\n".join(lines))
    dataset = prepare(tmp_path / "out", *corpus(tmp_path))
    assert len(dataset["full"]) == 299 and 6 not in dataset["full"]["cluster"][:]
    assert report(tmp_path / "out")["reasons"] == {"cluster_with_two_labels": 1}
    assert report(tmp_path / "out")["notes"]["unreadable_label_lines"] == 2


def test_label_map_across_the_parts_it_is_packed_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lspc_raw, "LABELS_AT_ONCE", 7)
    rng = random.Random(0)
    pairs = [(rng.randrange(120), rng.choice(["Baby", "Books", "Toys & Games"])) for _ in range(200)]
    (tmp_path / "map.tsv").write_text("".join(f"{cluster}\t{name}\n" for cluster, name in pairs))
    names, packed, _ = lspc_raw.read_labels(tmp_path / "map.tsv", ["Books", "Toys_and_Games"])
    found = lspc_raw.LabelMap(packed).lookup(list(range(-1, 125)) + [2**62])
    for cluster, code in zip([*range(-1, 125), 2**62], found, strict=True):
        of_cluster = {normalise_class(name) for other, name in pairs if other == cluster}
        if not of_cluster:
            assert code == lspc_raw.UNLABELLED
        elif of_cluster == {"Baby"}:
            assert code == lspc_raw.NOT_SELECTED
        elif len(of_cluster) > 1:
            assert code == lspc_raw.TWO_LABELS
        else:
            assert {names[code]} == of_cluster


def test_full_only_and_its_name(raw, tmp_path) -> None:
    dataset = prepare(tmp_path / "out", *corpus(raw), "--full_only", "--full_split_name", "everything")
    assert list(dataset) == ["everything"]
    assert (
        triples(dataset["everything"]) == expected_rows(make_lines(3, 1500, 0), make_labels(), SIX_CLASSES)[0]
    )


def test_limit_members_then_all_reuses_nothing_wrongly(raw, tmp_path) -> None:
    lines, labels = make_lines(3, 1500, 0), make_labels()
    first = prepare(tmp_path / "out", *corpus(raw), "--limit_members", 1)
    assert triples(first["full"]) == expected_rows(lines[:1], labels, SIX_CLASSES)[0]


def test_language_columns(raw, tmp_path) -> None:
    dataset = prepare(tmp_path / "out", *corpus(raw), "--add_language")
    assert dataset["full"].features["language"].dtype == "string"
    assert dataset["full"].features["language_probability"].dtype == "float32"
    from category_classification.language_id import identify

    codes, probabilities = identify(dataset["test"]["text"][:])
    assert dataset["test"]["language"][:] == codes
    assert dataset["test"]["language_probability"][:] == probabilities.tolist()
    assert report(tmp_path / "out")["splits"]["test"]["languages"] == dict(Counter(codes))


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("caf&eacute; &#x27;x&#39;", "café 'x'"),
        (" a\u00a0 b\r\n\tc ", "a b c"),
        ("A&B;C & D", "A&B;C & D"),
        ("bad \ud800 pair", "bad ? pair"),
        ("nul\0byte", "nul byte"),
        ("&nbsp;", ""),
    ],
)
def test_clean_text(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_texts_that_are_no_strings(tmp_path) -> None:
    rows = [offer(n, f"Boot {n}") for n in range(60)] + [
        offer(0, 4711, None),
        offer(1, ["list"], "described"),
        offer(2, None, None, "name"),
        offer("3", "string id"),
        offer(4.0, "float id"),
        offer(5, "inner", '{"cluster_id": 999}'),
    ]
    write_zip(tmp_path / "lspc.zip", [[json.dumps(row).encode() for row in rows]])
    write_labels(tmp_path / "map.tsv", {n: SIX_CLASSES[n % 6] for n in range(60)})
    dataset = prepare(tmp_path / "out", *corpus(tmp_path), "--full_only")
    found = set(zip(dataset["full"]["cluster"][:], dataset["full"]["text"][:], strict=True))
    assert {
        (0, "4711"),
        (1, "described"),
        (2, "name"),
        (3, "string id"),
        (4, "float id"),
        (5, 'inner {"cluster_id": 999}'),
    } <= found


def test_rejected_rows_are_kept_with_their_place(raw, tmp_path) -> None:
    prepare(tmp_path / "out", *corpus(raw))
    lines = make_lines(3, 1500, 0)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = report(tmp_path / "out")["reasons"]
    assert Counter(row["reason"] for row in rejected) == {
        name: count
        for name, count in reasons.items()
        if name not in ("unlabelled_cluster", "class_not_selected")
    }
    for row in rejected:
        member = int(row["file"].removeprefix("part-").removesuffix(".json.gz"))
        assert lines[member][row["line"] - 1].decode().startswith(row["text"])


def test_endless_line_is_rejected_and_the_next_is_read(tmp_path) -> None:
    rows = [json.dumps(offer(n, f"Boot {n}")).encode() for n in range(60)]
    rows.insert(30, json.dumps(offer(1, "x" * 20_000_000)).encode())
    write_zip(tmp_path / "lspc.zip", [rows])
    write_labels(tmp_path / "map.tsv", {n: SIX_CLASSES[n % 6] for n in range(60)})
    dataset = prepare(tmp_path / "out", *corpus(tmp_path), "--full_only")
    assert len(dataset["full"]) == 60
    assert report(tmp_path / "out")["reasons"] == {"line_too_long": 1}
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert row["line"] == 31


# ---------------------------------------------------------------- damage, kills, memory


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_member_is_read_up_to_the_damage(tmp_path, damage: str) -> None:
    rows = [[json.dumps(offer(n, f"Boot {n} of member {m}")).encode() for n in range(2000)] for m in range(2)]
    packed = bytearray(gzip.compress(b"\n".join(rows[1])))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    else:
        packed = bytearray(b"plain text")
    with zipfile.ZipFile(tmp_path / "lspc.zip", "w") as archive:
        archive.writestr("a.json.gz", gzip.compress(b"\n".join(rows[0])))
        archive.writestr("b.json.gz", bytes(packed))
    write_labels(tmp_path / "map.tsv", {n: SIX_CLASSES[n % 6] for n in range(2000)})
    status, out, err = run(*corpus(tmp_path), "--out", tmp_path / "out")
    assert status == 0, err
    assert "damaged_member" in out
    texts = load_from_disk(tmp_path / "out")["full"]["text"][:]
    assert texts[:2000] == [f"Boot {n} of member 0" for n in range(2000)]
    assert texts[2000:] == [f"Boot {n} of member 1" for n in range(len(texts) - 2000)]
    assert report(tmp_path / "out")["reasons"]["damaged_member"] == 1
    last = json.loads((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()[-1])
    assert last["file"] == "b.json.gz" and "b.json.gz" in last["text"]


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_bytes(tmp_path) -> None:
    write_zip(tmp_path / "lspc.zip", make_lines(members=18, offers=2000, seed=1, clusters=3000))
    write_labels(tmp_path / "map.tsv", make_labels(3000))
    prepare(tmp_path / "whole", *corpus(tmp_path), "--add_language")

    out, partial = tmp_path / "out", tmp_path / "out.partial"
    rng = random.Random(0)
    kept: dict[str, int] = {}
    # Three kills while shards are made, each after some more of them; the last while the dataset is written.
    for shards_before in (0, 6, 12, None):
        process = start(*corpus(tmp_path), "--add_language", "--workers", 2, "--out", out)
        while process.poll() is None:
            made = len(list(partial.glob("shards/*[0-9].json")))
            if made > shards_before if shards_before is not None else (partial / "dataset" / "full").exists():
                break
            time.sleep(0.003)
        time.sleep(rng.random() * (0.1 if shards_before is not None else 0.02))
        process.kill()
        process.communicate()
        if out.exists():
            break  # it was quicker; what is there must be whole all the same
        shards_now = {path.name: path.stat().st_mtime_ns for path in partial.glob("shards/*[0-9].json")}
        assert kept.items() <= shards_now.items()  # no finished shard is made again
        kept = shards_now
    assert len(kept) > 6
    prepare(out, *corpus(tmp_path), "--add_language")
    assert contents(out) == contents(tmp_path / "whole")
    assert not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_a_stopped_run(tmp_path, how: signal.Signals) -> None:
    write_zip(tmp_path / "lspc.zip", make_lines(members=8, offers=4000, seed=1))
    write_labels(tmp_path / "map.tsv", make_labels())
    out = tmp_path / "out"
    process = start(*corpus(tmp_path), "--add_language", "--workers", "2", "--out", out)
    while process.poll() is None and not list(tmp_path.glob("out.partial/shards/*.json")):
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(how)
    _, err = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in err and "the same command goes on" in err
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    assert not out.exists()
    prepare(out, *corpus(tmp_path), "--add_language")


PEAK = """
import re, runpy, sys
import category_classification.dataset_files, category_classification.prepare_lspc

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

open("/proc/self/clear_refs", "w").write("5")  # the peak from here on, without that of the imports
before = kilobytes("VmRSS")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("peak", (kilobytes("VmHWM") - before) // 1024, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_zip(tmp_path) -> None:
    """Five times the offers in members five times as long: a peak above the libraries that hardly grows."""
    peaks = {}
    for size in (8_000, 40_000):
        lines = make_lines(members=2, offers=size, seed=2, clusters=size // 4)
        write_zip(tmp_path / "lspc.zip", lines)
        write_labels(tmp_path / "map.tsv", make_labels(size // 4))
        out = tmp_path / f"out{size}"
        command = [sys.executable, "-c", PEAK, SCRIPT, *corpus(tmp_path), "--workers", 1, "--out", out]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        peaks[size] = int(re.search(r"peak (\d+)", result.stderr)[1])
        with zipfile.ZipFile(tmp_path / "lspc.zip") as archive:
            unpacked = sum(
                len(gzip.decompress(archive.read(m))) for m in archive.namelist() if m.endswith("gz")
            )
    print(f"peak MB above the libraries by offers a member: {peaks}; {unpacked >> 20} MB unpacked")
    assert unpacked > 12 * 2**20
    assert peaks[40_000] < peaks[8_000] + 20


def test_full_disk_is_one_line_and_leaves_no_dataset(raw, tmp_path) -> None:
    command = f"ulimit -f 40; exec {sys.executable} {SCRIPT} " + " ".join(map(str, corpus(raw)))
    result = subprocess.run(
        ["bash", "-c", f"{command} --workers 1 --out {tmp_path}/out"], capture_output=True, text=True
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.fullmatch(r"error: cannot write .*: File too large\n", result.stderr)
    assert not (tmp_path / "out").exists()
    prepare(tmp_path / "out", *corpus(raw))


# ---------------------------------------------------------------- OUT and the folder beside it


def test_the_same_command_again_does_nothing(raw, tmp_path) -> None:
    prepare(tmp_path / "out", *corpus(raw))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    status, out, _ = run(*corpus(raw), "--out", tmp_path / "out")
    assert status == 0 and "up to date" in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    "change", [["--seed", 1], ["--add_language"], ["--classes", 24], ["--test_size", 0.2]]
)
def test_other_arguments_never_write_over_a_dataset(raw, tmp_path, change: list) -> None:
    prepare(tmp_path / "out", *corpus(raw))
    before = contents(tmp_path / "out")
    status, _, err = run(*corpus(raw), *change, "--out", tmp_path / "out")
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert contents(tmp_path / "out") == before and not (tmp_path / "out.partial").exists()


def test_foreign_folders_and_files_are_left_alone(raw, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    (tmp_path / "b").write_text("mine")
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "thesis.txt").write_text("mine")
    for name in "abc":
        status, _, err = run(*corpus(raw), "--out", tmp_path / name)
        assert status == 2 and err.count("\n") == 1
    assert (tmp_path / "a" / "thesis.txt").read_text() == (tmp_path / "b").read_text() == "mine"
    assert (tmp_path / "c.partial" / "thesis.txt").read_text() == "mine"
    (tmp_path / "d").mkdir()
    prepare(tmp_path / "d", *corpus(raw))  # an empty folder is no obstacle


def test_unfinished_work_is_kept_for_another_seed_and_discarded_for_other_classes(
    raw, tmp_path, monkeypatch
) -> None:
    def stop(*_: object) -> None:
        raise InputError("stopped on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(prepare_lspc, "build_dataset", stop)
        assert run(*corpus(raw), "--out", tmp_path / "out")[0] == 2
    assert len(list((tmp_path / "out.partial" / "shards").glob("*.parquet"))) == 3
    with monkeypatch.context() as patch:
        patch.setattr(prepare_lspc, "build_dataset", stop)
        err = run(*corpus(raw), "--seed", 3, "--out", tmp_path / "out")[2]
        assert "3 of 3 shards were there already" in err and "discarded" not in err
    status, _, err = run(*corpus(raw), "--classes", 24, "--out", tmp_path / "out")
    assert status == 0 and "discarded" in err and "already" not in err
    prepare(tmp_path / "fresh", *corpus(raw), "--classes", 24)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_two_runs_do_not_share_a_folder(raw, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "LOCK_SECONDS", 0.2)
    lock = shards.claim_folder(tmp_path / "out.partial", "one")
    status, _, err = run(*corpus(raw), "--out", tmp_path / "out")
    assert status == 2 and "another run" in err
    lock.close()


# ---------------------------------------------------------------- tables


def table_rows(count: int = 240) -> list[dict]:
    """Rows whose titles have no word in common, so that each is a group of its own."""
    rng = random.Random(4)
    made = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(3 * count)]
    return [
        {
            "title": " ".join(made[3 * row : 3 * row + 3]),
            "description": f"Price, {row} &euro;" if row % 3 else "",
            "category": ["Shoes", "Jewelry & Co", "Books"][row % 3],
            "lang": ["de-AT", "EN", ""][row % 3],
            "shop": f"shop {row % 40}",
        }
        for row in range(count)
    ]


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".csv" in path.name:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path, *more: object) -> list[object]:
    return ["--table", path, "--text_column", "title", "--label_column", "category", *more]


def test_every_table_form_gives_the_same_dataset(tmp_path) -> None:
    rows = table_rows()
    results = []
    for name in ("t.csv", "t.csv.gz", "t.jsonl", "t.parquet"):
        path = write_table(tmp_path / name, rows)
        more = ["--text_column", "description", "--language_column", "lang"]
        dataset = prepare(tmp_path / f"out-{name}", *table(path, *more), workers=2)
        results.append({split: dataset[split].to_list() for split in dataset})
    assert results[0] == results[1] == results[2] == results[3]
    dataset = load_from_disk(tmp_path / "out-t.csv")
    assert dataset["full"].features["label"].names == ["Books", "Jewelry & Co", "Shoes"]
    assert dataset["full"]["text"][:2] == [rows[0]["title"], rows[1]["title"] + " Price, 1 €"]
    assert dataset["full"]["language"][:3] == ["de", "en", "und"]
    assert "language_probability" not in dataset["full"].features
    assert dataset["full"]["cluster"][:] == list(range(240))
    assert dataset["full"]["label"][:3] == [2, 1, 0]  # Shoes, Jewelry & Co, Books
    assert results[0]["full"][0] in results[0]["train"] + results[0]["validation"] + results[0]["test"]


def test_comma_separated_text_columns_and_numbers_as_labels(tmp_path) -> None:
    rows = [row | {"category": row_number % 2} for row_number, row in enumerate(table_rows())]
    rows[0]["category"] = None
    path = write_table(tmp_path / "t.parquet", rows)
    dataset = prepare(
        tmp_path / "out", "--table", path, "--text_column", "shop,title", "--label_column", "category"
    )
    assert dataset["full"].features["label"].names == ["0", "1"]
    assert dataset["full"][0]["text"] == f"{rows[1]['shop']} {rows[1]['title']}"
    assert report(tmp_path / "out")["reasons"] == {"no_label": 1}


def test_group_column_keeps_groups_together(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", table_rows())
    dataset = prepare(tmp_path / "out", *table(path, "--group_column", "shop"))
    assert len(set(dataset["full"]["cluster"][:])) == 40
    assert all(len(sides) == 1 for sides in sides_of(dataset, lambda row: row["cluster"]).values())
    numbered = [row | {"shop": row_number % 40 - 3} for row_number, row in enumerate(table_rows())]
    dataset = prepare(
        tmp_path / "n", *table(write_table(tmp_path / "n.jsonl", numbered), "--group_column", "shop")
    )
    assert dataset["full"]["cluster"][:4] == [-3, -2, -1, 0]


def test_no_near_duplicate_crosses_the_split(tmp_path) -> None:
    """Each title comes in six dresses; the dresses of a title must all stand on one side."""
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfglmnprstvz" for b in "aeiou"]
    rows = []
    for family in range(150):
        words = ["".join(rng.choices(syllables, k=3)) for _ in range(rng.randint(6, 14))]
        shuffled, changed = rng.sample(words, len(words)), words[:2] + ["other"] + words[3:]
        for dress in (
            " ".join(words) + " 10 cm",
            " ".join(words).upper() + " 250 cm",
            ", ".join(shuffled) + " 10 cm",
            " ".join(changed) + " 10 cm",
            " ".join(words[1:]) + " 10 cm",
            " ".join([*words, "extra"]) + " 10 cm",
        ):
            rows.append({"title": dress, "category": f"class {family % 3}", "family": family})
    rng.shuffle(rows)
    path = write_table(tmp_path / "t.jsonl", rows)
    dataset = prepare(tmp_path / "out", *table(path))
    family = {clean_text(row["title"]): row["family"] for row in rows}
    sides = sides_of(dataset, lambda row: family[row["text"]])
    assert len(sides) == 150 and all(len(found) == 1 for found in sides.values())
    assert len({found for sides_found in sides.values() for found in sides_found}) == 3
    clusters = Counter((row["cluster"], family[row["text"]]) for row in dataset["full"])
    assert len(clusters) == 150 and set(clusters.values()) == {6}


def test_selected_classes_of_a_table(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", table_rows())
    (tmp_path / "names").write_text("Jewelry_and_Co\nBooks\n")
    dataset = prepare(tmp_path / "out", *table(path, "--classes", tmp_path / "names"))
    assert dataset["full"].features["label"].names == ["Books", "Jewelry_and_Co"]
    assert len(dataset["full"]) == 160 and report(tmp_path / "out")["reasons"] == {"class_not_selected": 80}


def test_bad_rows_of_a_table_are_rejected_with_their_line(tmp_path) -> None:
    rows = [json.dumps(row) for row in table_rows()]
    rows[5:5] = [
        "{broken",
        "[]",
        json.dumps({"title": "  ", "category": "Shoes"}),
        json.dumps({"title": "Boot"}),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join([*rows, "{last"]))
    prepare(tmp_path / "out", *table(tmp_path / "t.jsonl"))
    assert report(tmp_path / "out")["reasons"] == {
        "bad_json": 2,
        "not_object": 1,
        "no_text": 1,
        "no_label": 1,
    }
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert sorted((row["line"], row["reason"]) for row in rejected) == [
        (6, "bad_json"),
        (7, "not_object"),
        (8, "no_text"),
        (9, "no_label"),
        (245, "bad_json"),
    ]


# ---------------------------------------------------------------- bad input


def bad_inputs(raw: Path, here: Path) -> dict[str, tuple[list, list[str]]]:
    """Arguments without --out, and words that the message must hold."""
    good_zip, good_labels = raw / "lspc.zip", raw / "map.tsv"

    def put(name: str, content: bytes) -> Path:
        (here / name).write_bytes(content)
        return here / name

    def zipped(name: str, members: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(here / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return here / name

    rows = write_table(here / "t.csv", table_rows())
    few = write_table(here / "few.csv", table_rows()[:5])
    unlabelled = gzip.compress(json.dumps(offer(5 * 10**8, "x")).encode())
    labels = ["--labels", good_labels]
    return {
        "nothing": ([], ["--zip", "--table"]),
        "both": (["--zip", good_zip, *labels, "--table", rows], ["--zip", "--table"]),
        "no labels": (["--zip", good_zip], ["--labels"]),
        "zip missing": (["--zip", here / "absent.zip", *labels], ["absent.zip", "no such file"]),
        "zip folder": (["--zip", here, *labels], [str(here), "folder"]),
        "zip empty": (["--zip", put("empty.zip", b""), *labels], ["empty.zip", "download"]),
        "zip text": (["--zip", put("text.zip", b"<html>404</html>"), *labels], ["text.zip", "zip"]),
        "zip cut": (["--zip", put("cut.zip", good_zip.read_bytes()[:9000]), *labels], ["cut.zip", "wget -c"]),
        "zip no member": (["--zip", zipped("no.zip", {"a.txt": b"a"}), *labels], ["no.zip", ".json.gz"]),
        "zip no row": (
            ["--zip", zipped("row.zip", {"a.json.gz": unlabelled}), *labels],
            ["row.zip", "unlabelled_cluster 1"],
        ),
        "zip empty member": (
            ["--zip", zipped("void.zip", {"a.json.gz": gzip.compress(b"")}), *labels],
            ["void.zip", "nothing left"],
        ),
        "labels missing": (["--zip", good_zip, "--labels", here / "absent"], ["absent", "no such"]),
        "labels empty": (["--zip", good_zip, "--labels", put("none.tsv", b"")], ["none.tsv", "empty"]),
        "labels form": (
            ["--zip", good_zip, "--labels", put("x.csv", b"a,b\n1,2\n")],
            ["x.csv", "line 1", "TAB"],
        ),
        "labels blank": (
            ["--zip", good_zip, "--labels", put("b.json", b"{}\n{}\n")],
            ["b.json", "no cluster"],
        ),
        "labels cut": (
            ["--zip", good_zip, "--labels", put("cut.gz", (raw / "votes.json.gz").read_bytes()[:300])],
            ["cut.gz", "after line", "gzip"],
        ),
        "labels of others": (
            ["--zip", good_zip, "--labels", put("o.tsv", b"1\tToys\n")],
            ["o.tsv", "Automotive", "Toys"],
        ),
        "class unknown": (
            ["--zip", good_zip, *labels, "--classes", put("names", b"Shoes\nShoez\n")],
            ["map.tsv", "'Shoez'", "Shoes"],
        ),
        "class file missing": (["--zip", good_zip, *labels, "--classes", "7"], ["--classes 7"]),
        "class file empty": (["--zip", good_zip, *labels, "--classes", put("blank", b"\n#\n")], ["blank"]),
        "table missing": (table(here / "absent.csv"), ["absent.csv", "no such file"]),
        "table form": (table(put("t.xlsx", b"PK")), ["t.xlsx", ".csv"]),
        "table empty": (table(put("empty.csv", b"")), ["empty.csv", "empty"]),
        "table without rows": (table(put("head.csv", b"title,category\n")), ["head.csv", "no row in it"]),
        "table no column": (
            ["--table", rows, "--text_column", "titel", "--label_column", "category"],
            ["'titel'", "'title'"],
        ),
        "table no label column": (
            ["--table", rows, "--text_column", "title", "--label_column", "c"],
            ["'c'", "'shop'"],
        ),
        "table no text": (["--table", rows, "--label_column", "category"], ["--text_column"]),
        "table few": (table(few), ["class", "group", "--full_only"]),
        "table latin-1": (
            table(put("l.csv", "title,category\ncafé,a\n".encode("latin-1"))),
            ["l.csv", "line 2", "UTF-8"],
        ),
        "table json array": (table(put("a.json", b'[{"title": 1}]')), ["a.json", "jq"]),
        "table all rejected": (table(put("r.jsonl", b"{\n{\n")), ["r.jsonl", "bad_json 2"]),
        "table many classes": (
            table(write_table(here / "many.csv", [{"title": f"t{n}", "category": n} for n in range(10_001)])),
            ["many.csv", "'category'", "10000"],
        ),
        "table class unseen": (
            table(rows, "--classes", put("unseen", b"Books\nBoats\n")),
            ["t.csv", "'Boats'"],
        ),
        "sizes": ([*table(rows), "--val_size", 0.6, "--test_size", 0.5], ["--val_size"]),
        "negative size": ([*table(rows), "--val_size", "nan"], ["--val_size"]),
        "workers": ([*table(rows), "--limit_members", 2], ["--limit_members"]),
        "two languages": ([*table(rows), "--add_language", "--language_column", "lang"], ["--add_language"]),
        "split name": ([*table(rows), "--full_split_name", "train"], ["--full_split_name"]),
        "split path": ([*table(rows), "--full_split_name", "../up"], ["--full_split_name"]),
    }


def test_bad_input_is_one_line_and_nothing_is_left(raw, tmp_path) -> None:
    for case, (arguments, words) in bad_inputs(raw, tmp_path).items():
        out = tmp_path / "outputs" / case.replace(" ", "_")
        status, printed, err = run(*arguments, "--out", out)
        assert status == 2, (case, status, printed, err)
        assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 500, (case, err)
        for word in words:
            assert str(word) in err, (case, word, err)
        assert not out.exists(), case
        if "--zip" not in arguments:
            assert not out.with_name(out.name + ".partial").exists(), case


def test_unusable_out(raw, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300), Path("/proc/nothing/out")):
        status, _, err = run(*corpus(raw), "--out", out)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err


def test_mutilated_files_never_end_in_a_traceback(raw, tmp_path) -> None:
    """A hundred inputs with bytes flipped, cut out or put in: a dataset that loads, or one line of error."""
    rng = random.Random(0)
    small = tmp_path / "small"
    small.mkdir()
    write_zip(small / "lspc.zip", make_lines(1, 300, 3))
    sources = {
        "lspc.zip": lambda path: ["--zip", path, "--labels", raw / "map.tsv", "--full_only"],
        "map.tsv": lambda path: ["--zip", small / "lspc.zip", "--labels", path, "--full_only"],
        "votes.json.gz": lambda path: ["--zip", small / "lspc.zip", "--labels", path, "--full_only"],
        "t.csv": lambda path: table(path),
        "t.csv.gz": lambda path: table(path, "--group_column", "shop"),
        "t.jsonl": lambda path: table(path, "--language_column", "lang"),
        "t.parquet": lambda path: table(path),
    }
    for name in sources:
        if name.startswith("t."):
            write_table(small / name, table_rows(90))
    write_labels(small / "map.tsv", make_labels())
    write_labels(small / "votes.json.gz", make_labels())

    endings = Counter()
    for number in range(105):
        name = list(sources)[number % len(sources)]
        data = bytearray((small / name).read_bytes())
        for _ in range(rng.choice([1, 1, 5, 50])):
            place = rng.randrange(len(data))
            change = rng.randrange(4)
            if change == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif change == 1:
                data[place : place + rng.randrange(200)] = b""
            elif change == 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 20))
            else:
                data[place:place] = rng.choice([b"\0", b'"', b"\n", b"\r", b",", b"\xff", b"{", b"\t"])
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(bytes(data))
        status, _, err = run(*sources[name](folder / name), "--out", folder / "out")
        endings[status] += 1
        if status == 0:
            assert len(load_from_disk(folder / "out")["full"]) > 0
        else:
            assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, (name, err)
            assert not (folder / "out").exists()
    assert endings[0] > 10 and endings[2] > 10, endings


# ---------------------------------------------------------------- real data


@pytest.mark.real_data
def test_real_titles_leave_no_near_duplicate_on_the_other_side(tmp_path) -> None:
    path = DATA / "lspc" / "wdc2017_titles.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: set REAL_DATA_DIR")
    dataset = prepare(tmp_path / "out", *table(path, "--add_language"), workers=2)
    assert len(dataset["full"]) == 12_550 and dataset["full"].features["label"].num_classes == 4
    assert 0.08 < len(dataset["test"]) / 12_550 < 0.12

    from scipy.sparse import csr_matrix

    words: dict[str, int] = {}

    def matrix(rows) -> csr_matrix:
        sets = [set(re.sub(r"\d+", "0", fold(row["text"])).split()) for row in rows]
        sets = [
            found if len(found) > 2 else {fold(row["text"])} for found, row in zip(sets, rows, strict=True)
        ]
        columns = [words.setdefault(word, len(words)) for row in sets for word in row]
        ends = [0]
        for row in sets:
            ends.append(ends[-1] + len(row))
        return csr_matrix(([1] * len(columns), columns, ends), shape=(len(sets), 100_000))

    held_out = matrix([row for split in ("validation", "test") for row in dataset[split]])
    train = matrix(dataset["train"])
    shared = (held_out @ train.T).tocoo()
    sizes = held_out.getnnz(1)[shared.row] + train.getnnz(1)[shared.col] - shared.data
    similarity = shared.data / sizes
    assert (similarity >= 0.9).sum() == 0
    assert (similarity >= 0.8).sum() <= 10  # of some 30,000 pairs that similar


@pytest.mark.real_data
def test_the_published_example_record(tmp_path) -> None:
    path = DATA / "lspc" / "lspcV2020_example_record.json"
    if not path.exists():
        pytest.skip(f"{path} is absent: set REAL_DATA_DIR")
    record = json.loads(path.read_text())
    write_zip(tmp_path / "lspc.zip", [[json.dumps(record).encode()]])
    write_labels(tmp_path / "map.tsv", {record["cluster_id"]: "Grocery_and_Gourmet_Food"})
    dataset = prepare(tmp_path / "out", *corpus(tmp_path), "--classes", 24, "--full_only")
    (row,) = dataset["full"]
    assert row["text"] == f"{record['name']} {record['description']}" and row["cluster"] == 7112528
