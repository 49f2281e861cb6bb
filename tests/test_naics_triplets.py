"""Triplets: counts against a loop over all, the real files' exact numbers, and what is written."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, one_thread
from tiny_census import make_taxonomy, real_taxonomy

from naics.data import census, triplets
from naics.data.distances import RULES, distance_matrix
from naics.data.triplets import Permutation, TripletLaw, TripletList, count_triplets, nth_bit, write_triplets
from training_utils import InputError

CODES = """11 111 1111 11111 111110 11112 111121 111122 1112 11121 111210 112 1121 11211 112110
31 311 3111 31111 311111 311119 321 3211 32111 321110 332 3321 33211 332111 332112 33212 332120
44 441 4411 44111 441110 457 4571 45711 457110 81 811 8111 81111 811110""".split()
EXCLUDED = {
    "111110": ["111121", "311111", "112110"],
    "321110": ["311119", "441110"],
    "332112": ["3321", "11"],
}
COLUMNS = ["anchor", "positive", "negative", "positive_distance", "negative_distance", "hardness"]


@pytest.fixture(scope="module")
def taxonomy() -> census.Taxonomy:
    return make_taxonomy(CODES, EXCLUDED)


@pytest.fixture(scope="module")
def real(real_data) -> census.Taxonomy:
    return real_taxonomy(real_data)


def difference_bucket(steps: float) -> int:
    for most, bucket in ((0.5, 7), (1, 6), (2, 5), (3, 4), (4, 3)):
        if steps <= most:
            return bucket
    return 2


def all_triplets(taxonomy: census.Taxonomy, rule: str) -> dict[tuple[int, int, int], int]:
    """Every triplet and its hardness, by three nested loops over the pairs of the rule."""
    halves = distance_matrix(taxonomy, rule).astype(int)
    distance = {(i, j): halves[i, j] / 2 for i in range(len(halves)) for j in np.flatnonzero(halves[i])}
    names = {(i, j) for i, named in enumerate(taxonomy.excluded_codes) for j in named}
    found = {}
    for a, p in distance:
        if distance[a, p] == 10:
            continue
        for n in range(len(halves)):
            if (a, n) not in distance or (p, n) not in distance or distance[a, n] <= distance[a, p]:
                continue
            if rule == "compat":
                excluded, other = (p, n) in names, distance[p, n] == 10
            else:
                excluded, other = (a, n) in names or (n, a) in names, distance[a, n] == 10
            bucket = difference_bucket(distance[a, n] - distance[a, p])
            found[a, p, n] = 8 if excluded else 1 if other else bucket
    return found


def read(out: Path) -> np.ndarray:
    files = sorted(out.glob("*.parquet"))
    return np.concatenate([np.stack([pq.read_table(f)[c].to_numpy() for c in COLUMNS], 1) for f in files])


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("rule", RULES)
def test_counts_are_those_of_a_loop_over_all(taxonomy, rule):
    expected = Counter(all_triplets(taxonomy, rule).values())
    found = count_triplets(taxonomy, rule)
    assert found == {hardness: expected[hardness] for hardness in range(1, 9)}
    assert min(found[hardness] for hardness in (1, 5, 6, 8)) > 0
    assert len(TripletList(TripletLaw.of(taxonomy, rule))) == sum(found.values())


@pytest.mark.real_data
def test_real_counts(real):
    start = time.process_time()
    compat, corrected = count_triplets(real, "compat"), count_triplets(real, "corrected")
    assert time.process_time() - start < 30  # 2 s on a free core
    numbers = [246_285_450, 379_255, 394_736, 826_540, 3_608_973, 12_166_986, 4_433, 124_842]
    assert list(compat.values()) == numbers and sum(numbers) == 263_791_215
    numbers = [889_408_991, 2_486_407, 2_293_153, 7_681_846, 25_117_193, 48_279_815, 73_628, 710_407]
    assert list(corrected.values()) == numbers and sum(numbers) == 976_051_440


# ---------------------------------------------------------------- order and numbering


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097, 65_537])
def test_the_order_is_a_permutation(size):
    found = Permutation(size, 1)(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))
    if size > 100:
        assert (found != Permutation(size, 2)(np.arange(size))).mean() > 0.9
        assert (found == Permutation(size, 1)(np.arange(size))).all()


def test_the_order_looks_random():
    size = 300_000
    found = Permutation(size, 5)(np.arange(size)) / size
    for stretch in np.split(found, 30):  # uniform in every stretch: 20 bins of 500 expected
        counts = np.histogram(stretch, 20, (0, 1))[0]
        assert ((counts - 500) ** 2 / 500).sum() < 60  # chi-square of 19 degrees: p = 4e-6
    for lag in (1, 2, 64, 1024, 4096):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 0.01


def test_big_sizes_stay_in_range_without_repeats():
    size = 976_051_440
    found = Permutation(size, 3)(np.arange(size - 200_000, size))
    assert found.min() >= 0 and found.max() < size and len(np.unique(found)) == 200_000


def test_nth_bit_by_hand():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 2**64, 500, dtype=np.uint64)
    words[:3] = 1, 2**63, 2**64 - 1
    for word in words:
        places = [place for place in range(64) if int(word) >> place & 1]
        found = nth_bit(np.full(len(places), word), np.arange(len(places), dtype=np.int16))
        assert found.tolist() == places


@pytest.mark.parametrize("rule", RULES)
def test_numbers_name_every_triplet_once(taxonomy, rule):
    law = TripletLaw.of(taxonomy, rule)
    listed = TripletList(law)
    anchors, positives, negatives = listed[np.arange(len(listed))]
    expected = all_triplets(taxonomy, rule)
    found = list(zip(anchors.tolist(), positives.tolist(), negatives.tolist(), strict=True))
    assert len(found) == len(expected) and set(found) == set(expected)
    hardness = law.hardness(anchors, positives, negatives)
    assert hardness.tolist() == [expected[triplet] for triplet in found]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("rule", RULES)
def test_all_triplets_are_written_once_and_shuffled(taxonomy, tmp_path, rule):
    done = write_triplets(taxonomy, tmp_path, rule, 7, row_group=300, groups_per_file=4)
    rows = read(tmp_path)
    expected = all_triplets(taxonomy, rule)
    assert done["rows"] == done["triplets"] == done["rows_written"] == len(rows) == len(expected)
    assert {tuple(row[:3]): row[5] for row in rows.tolist()} == expected
    halves = distance_matrix(taxonomy, rule)
    assert (rows[:, 3] == halves[rows[:, 0], rows[:, 1]]).all()
    assert (rows[:, 4] == halves[rows[:, 0], rows[:, 2]]).all() and (rows[:, 4] > rows[:, 3]).all()
    files = sorted(tmp_path.glob("*.parquet"))
    assert len(files) == done["files"] == -(-len(expected) // 1200)
    first = pq.read_metadata(files[0])
    assert first.num_rows == 1200 and [first.row_group(i).num_rows for i in range(4)] == [300] * 4
    assert first.row_group(0).column(0).compression == "ZSTD"
    assert [str(field.type) for field in pq.read_schema(files[0])] == ["int16"] * 3 + ["int8"] * 3
    middle = len(rows) // 2
    shares = [np.bincount(part[:, 5], minlength=9) / len(part) for part in (rows[:middle], rows[middle:])]
    assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_a_limit_writes_the_beginning_of_the_same_order(taxonomy, tmp_path):
    write_triplets(taxonomy, tmp_path / "all", "corrected", 1, row_group=256, groups_per_file=2)
    done = write_triplets(
        taxonomy, tmp_path / "some", "corrected", 1, limit=700, row_group=256, groups_per_file=2
    )
    write_triplets(taxonomy, tmp_path / "other", "corrected", 2, limit=700)
    some = read(tmp_path / "some")
    assert done["rows"] == len(some) == 700 and (some == read(tmp_path / "all")[:700]).all()
    assert (some != read(tmp_path / "other")).any(1).mean() > 0.9


def test_a_stopped_run_goes_on_without_the_finished_files(taxonomy, tmp_path, monkeypatch):
    size = {"row_group": 300, "groups_per_file": 2}
    write_triplets(taxonomy, tmp_path / "whole", "compat", 3, **size)
    columns, calls = triplets.triplet_columns, itertools.count()

    def stop_in_the_third_file(*args):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return columns(*args)

    monkeypatch.setattr(triplets, "triplet_columns", stop_in_the_third_file)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write_triplets(taxonomy, out, "compat", 3, **size)
    monkeypatch.undo()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert [path.name for path in sorted(finished)] == ["triplets-00000.parquet", "triplets-00001.parquet"]
    assert not list(out.glob(".*"))
    sorted(finished)[0].write_bytes(b"PAR1 damaged")
    done = write_triplets(taxonomy, out, "compat", 3, **size)
    assert done["rows_written"] == done["rows"] - 600
    assert sorted(finished)[1].stat().st_mtime_ns == finished[sorted(finished)[1]]
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert write_triplets(taxonomy, out, "compat", 3, **size)["rows_written"] == 0


def test_another_plan_is_refused(taxonomy, tmp_path):
    write_triplets(taxonomy, tmp_path, "compat", 3, limit=100)
    for rule, seed, limit, word in (
        ("corrected", 3, 100, "rule"),
        ("compat", 4, 100, "seed"),
        ("compat", 3, 9, "rows"),
    ):
        with pytest.raises(InputError, match=f"triplets.json: written with {word} .*remove the folder"):
            write_triplets(taxonomy, tmp_path, rule, seed, limit)
    with pytest.raises(InputError, match="law_crc32"):
        write_triplets(make_taxonomy(CODES, {"111110": ["111121"]}), tmp_path, "compat", 3, limit=100)
    (tmp_path / "triplets.json").write_text("{")
    with pytest.raises(InputError, match="triplets.json: damaged"):
        write_triplets(taxonomy, tmp_path, "compat", 3, limit=100)
    with pytest.raises(InputError, match="no triplets"):
        write_triplets(make_taxonomy(["11", "31"]), tmp_path / "none", "corrected")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(taxonomy, tmp_path):
    out, plan = tmp_path / "out", {"row_group": 20, "groups_per_file": 1}
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path\n"
        "import test_naics_triplets as tests\n"
        "taxonomy = tests.make_taxonomy(tests.CODES, tests.EXCLUDED)\n"
        f"tests.write_triplets(taxonomy, Path(sys.argv[1]), 'compat', 1, **{plan})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], cwd=ROOT, env=one_thread())
    deadline = time.monotonic() + 120
    while len(list(out.glob("triplets-*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("triplets-*.parquet")}
    files = json.loads((out / "triplets.json").read_text())["files"]
    assert 2 <= len(before) < files
    done = write_triplets(taxonomy, out, "compat", 1, **plan)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert len(list(out.glob("triplets-*.parquet"))) == files and len(read(out)) == done["rows"]
    assert len(np.unique(read(out)[:, :3], axis=0)) == done["rows"]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("rule", RULES)
def test_a_sample_of_the_real_triplets_follows_the_law(real, tmp_path, rule):
    rows = 400_000
    write_triplets(real, tmp_path, rule, 42, limit=rows)
    found = read(tmp_path)
    halves = distance_matrix(real, rule)
    anchors, positives, negatives = found[:, 0], found[:, 1], found[:, 2]
    assert (halves[anchors, positives] == found[:, 3]).all() and (
        halves[anchors, negatives] == found[:, 4]
    ).all()
    assert (found[:, 4] > found[:, 3]).all() and (halves[positives, negatives] > 0).all()
    assert (found[:, 3] > 0).all() and (found[:, 3] < 20).all()
    packed = (anchors.astype(np.int64) * 2125 + positives) * 2125 + negatives
    assert len(np.unique(packed)) == rows  # drawn without repeats
    counts = count_triplets(real, rule)
    total = sum(counts.values())
    for hardness, count in counts.items():
        share = count / total
        error = np.sqrt(share * (1 - share) / rows)
        assert abs((found[:, 5] == hardness).mean() - share) < 5 * error, hardness
    anchor_share = np.bincount(anchors, minlength=2125) / rows
    listed = TripletList(TripletLaw.of(real, rule))
    per_pair = np.diff(listed.ends, prepend=0)
    expected = np.bincount(listed.anchors, weights=per_pair, minlength=2125) / total
    assert np.abs(anchor_share - expected).max() < 5 * np.sqrt(expected.max() / rows)
