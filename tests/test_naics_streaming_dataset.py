"""The triplet samplers against loops over all triplets of a small tree; resume, shards, split, bad files."""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from naics.data.census import Taxonomy, load_taxonomy, preprocess
from naics.data.streaming_dataset import (
    Curriculum,
    MatrixTriplets,
    ParquetTriplets,
    TripletBatch,
    audit_line,
    shared_pairs,
)
from naics.data.triplets import write_triplets
from training_utils import InputError

EASY = Curriculum((6,), 2.0, {1: 0.875, 2: 0.125})
MEDIUM = Curriculum((5, 6), 3.0, {1: 0.50, 2: 0.25, 5: 0.15, 6: 0.10})
HARD = Curriculum((2, 3, 4, 5, 6), None, {1: 0.4, 2: 0.2, 3: 0.1, 4: 0.1, 5: 0.1, 6: 0.05, 8: 0.05})
EVEN = Curriculum((2, 3, 4, 5, 6), None, {bucket: 1 / 8 for bucket in range(1, 9)})


def grow(branches: tuple[int, ...], sectors: int = 3) -> Taxonomy:
    """A tree with so many children below levels 2, 3, 4 and 5, and random exclusions."""
    codes = [str(11 + sector) for sector in range(sectors)]
    for level, count in enumerate(branches, 2):
        codes += [code + str(child) for code in codes if len(code) == level for child in range(count)]
    codes.sort()
    rows = {code: row for row, code in enumerate(codes)}
    rng = np.random.default_rng(0)
    excluded = [tuple(sorted({*rng.integers(len(codes), size=rng.integers(4)).tolist()})) for _ in codes]
    return Taxonomy(
        tuple(codes),
        np.array([len(code) for code in codes], dtype=np.int8),
        np.array([rows.get(code[:-1], -1) for code in codes], dtype=np.int16),
        *[("",) * len(codes)] * 4,
        excluded_codes=tuple(
            tuple(other for other in named if other != row) for row, named in enumerate(excluded)
        ),
    )


TREE = grow((2, 3, 2, 2))  # 135 codes


def steps(taxonomy: Taxonomy) -> np.ndarray:
    """(n, n) distances, from the codes' digits."""
    n = len(taxonomy.codes)
    out = np.zeros((n, n))
    for i, j in product(range(n), repeat=2):
        a, b = taxonomy.codes[i], taxonomy.codes[j]
        shared = next((k for k in range(min(len(a), len(b)), 1, -1) if a[:k] == b[:k]), 0)
        lineal = shared in (len(a), len(b))
        out[i, j] = 10 if not shared else len(a) + len(b) - 2 * shared - 0.5 * lineal
    np.fill_diagonal(out, 0)
    return out


STEPS = steps(TREE)


def hardness(taxonomy: Taxonomy, distances: np.ndarray, anchor: int, positive: int, negative: int) -> int:
    """0 where it is no triplet."""
    difference = distances[anchor, negative] - distances[anchor, positive]
    if difference <= 0:
        return 0
    if negative in taxonomy.excluded_codes[anchor] or anchor in taxonomy.excluded_codes[negative]:
        return 8
    if distances[anchor, negative] == 10:
        return 1
    for bucket, most in ((7, 0.5), (6, 1), (5, 2), (4, 3), (3, 4)):
        if difference <= most:
            return bucket
    return 2


def all_hardness(
    taxonomy: Taxonomy = TREE, distances: np.ndarray = STEPS
) -> dict[tuple[int, int], np.ndarray]:
    """(anchor, positive) -> (n,) hardness of every code as its negative."""
    pairs = zip(*np.nonzero((distances > 0) & (distances < 10)), strict=True)
    return {
        (a, p): np.array([hardness(taxonomy, distances, a, p, n) for n in range(len(distances))])
        for a, p in ((int(a), int(p)) for a, p in pairs)
    }


@pytest.fixture(scope="module")
def oracle() -> dict[tuple[int, int], np.ndarray]:
    return all_hardness()


def admitted(curriculum: Curriculum) -> set[tuple[int, int]]:
    limit = curriculum.positive_distance_max or 9
    return {
        (a, p)
        for a, p in product(range(len(TREE)), repeat=2)
        if a != p
        and STEPS[a, p] <= limit
        and max(len(TREE.codes[a]), len(TREE.codes[p])) in curriculum.positive_levels
    }


def whole(curriculum: Curriculum, batch_size: int = 32, seed: int = 0, **kwargs) -> MatrixTriplets:
    """A sampler of all pairs: nothing held out."""
    return MatrixTriplets(TREE, curriculum, batch_size, seed, validation_share=0, **kwargs)


def pairs_of(batch: TripletBatch) -> list[tuple[int, int]]:
    return list(zip(batch.anchors.tolist(), batch.positives.tolist(), strict=True))


def assert_same(first: TripletBatch, second: TripletBatch) -> None:
    for name in ("anchors", "positives", "negatives", "hardness"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def join(batches: list[TripletBatch]) -> TripletBatch:
    names = ("anchors", "positives", "negatives", "hardness")
    return TripletBatch(*(np.concatenate([getattr(batch, name) for batch in batches]) for name in names))


def allocate(requests: np.ndarray, sizes: list[int]) -> list[int]:
    """Negatives of each hardness, slot by slot: the one asked for, else the next easier, else a harder."""
    taken = [0] * 9
    for bucket in range(8, 0, -1):
        for _ in range(requests[bucket]):
            for other in (*range(bucket, 0, -1), *range(bucket + 1, 9)):
                if taken[other] < sizes[other]:
                    taken[other] += 1
                    break
    return taken


# ---------------------------------------------------------------- the curriculum


@pytest.mark.parametrize(
    ("curriculum", "expected"),
    [
        (EASY, {1: 14, 2: 2}),
        (MEDIUM, {1: 8, 2: 4, 5: 2, 6: 2}),  # 16 * .1 is 1 and a rest, which goes to 6 and 5
        (HARD, {1: 6, 2: 3, 3: 1, 4: 2, 5: 2, 6: 1, 8: 1}),
        (Curriculum((6,), 2.0, {1: 0.0, 2: 1.0}, 5), {2: 5}),
        (Curriculum((6,), 2.0, {8: 0.71, 2: 0.29}, 100), {8: 71, 2: 29}),  # 100 * .29 is below 29 in floats
    ],
)
def test_shares_become_whole_numbers(curriculum, expected):
    assert {b: c for b, c in enumerate(curriculum.requests.tolist()) if c} == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"positive_levels": ()}, "levels"),
        ({"positive_levels": (6, 7)}, "levels"),
        ({"buckets": {9: 1.0}}, "hardness 1 to 8"),
        ({"buckets": {1: 1.5, 2: -0.5}}, "shares"),
        ({"buckets": {1: 0.5}}, "sum to 0.5"),
        ({"buckets": {}}, "sum to 0"),
        ({"k_negatives": 0}, "k_negatives"),
    ],
)
def test_a_wrong_curriculum_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        Curriculum(**{"positive_levels": (6,), "positive_distance_max": 2.0, "buckets": {1: 1.0}} | changes)


# ---------------------------------------------------------------- the law


def test_feasible_triplets_are_counted_exactly(oracle):
    audit = whole(EVEN, max_fallback=1).audit()
    counts = np.bincount(np.concatenate(list(oracle.values())), minlength=9)
    assert audit["triplets"] == {bucket: int(counts[bucket]) for bucket in range(1, 9)}
    assert (counts[1:] > 0).all()  # the tree shows every hardness
    assert audit["pairs"] == audit["pairs_admitted"] == len(oracle)


@pytest.mark.parametrize("curriculum", [EASY, MEDIUM, HARD, EVEN], ids=["easy", "medium", "hard", "even"])
@pytest.mark.parametrize("max_fallback", [0, 0.25, 1])
def test_a_lap_is_every_pair_once_with_negatives_by_the_law(oracle, curriculum, max_fallback):
    sampler = whole(curriculum, max_fallback=max_fallback)
    requests, slots = curriculum.requests, curriculum.k_negatives
    sizes = {pair: np.bincount(oracle[pair], minlength=9).tolist() for pair in admitted(curriculum)}
    short = {pair: sum(max(0, r - s) for r, s in zip(requests, sizes[pair], strict=True)) for pair in sizes}
    least = max(max_fallback * slots, min(short.values()))
    usable = {pair for pair in sizes if short[pair] <= least}
    batches = join([sampler.batch(3, step) for step in range(sampler.steps_per_epoch)])
    count = len(sampler.table)
    assert sorted(pairs_of(batches)[:count]) == sorted(usable)
    assert (
        len(set(pairs_of(batches)[count:])) == len(batches.anchors) - count < 32
    )  # the next lap's first pairs
    for row, pair in enumerate(pairs_of(batches)):
        negatives, found = batches.negatives[row], batches.hardness[row]
        assert len(set(negatives.tolist())) == slots and not {*pair} & {*negatives.tolist()}
        np.testing.assert_array_equal(found, oracle[pair][negatives])
        assert np.bincount(found, minlength=9).tolist() == allocate(requests, sizes[pair])
    falling_back = sum(short[pair] for pair in usable)
    assert curriculum.count_fallbacks(batches.hardness[:count]) == falling_back
    audit = sampler.audit()
    assert audit["fallback_rate"] == pytest.approx(falling_back / (slots * count))
    assert audit["fallback_rate_of_admitted"] == pytest.approx(sum(short.values()) / (slots * len(sizes)))
    assert audit["pairs_admitted"] == len(sizes) and audit["anchors"] == len({a for a, _ in usable})
    assert f"{count:,} of {len(sizes):,} admitted pairs" in audit_line(audit)


def test_negatives_are_drawn_evenly_and_without_order(oracle):
    """7 of some 90 codes of other sectors: each as often as another, and each two as often together."""
    curriculum = Curriculum((2, 3, 4, 5, 6), None, {1: 1.0}, 7)
    sampler = whole(curriculum, batch_size=len(oracle))
    batches = join([sampler.batch(epoch, 0) for epoch in range(60)])
    anchor = TREE.codes.index("11")
    drawn = batches.negatives[batches.anchors == anchor]
    together = np.zeros((len(TREE), len(TREE)))
    for row in drawn:
        together[np.ix_(row, row)] += 1
    codes = np.flatnonzero([hardness(TREE, STEPS, anchor, 1, n) == 1 for n in range(len(TREE))])
    assert set(drawn.reshape(-1).tolist()) == set(codes.tolist()) and len(drawn) == 60 * 44
    assert stats.chisquare(together.diagonal()[codes]).pvalue > 1e-3
    first, second = np.triu_indices(len(codes), 1)
    assert stats.chisquare(together[codes[first], codes[second]]).pvalue > 1e-3


def test_pairs_come_in_a_new_order_every_lap_and_epoch():
    sampler = whole(EASY, batch_size=1)
    count = len(sampler.table)
    orders = [
        [pairs_of(sampler.batch(epoch, lap * count + step))[0] for step in range(count)]
        for epoch, lap in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_where_the_easiest_are_used_up_harder_ones_follow_in_order(oracle):
    curriculum = Curriculum((2, 3, 4, 5, 6), None, {1: 1.0}, 95)
    batch = whole(curriculum, batch_size=len(oracle), max_fallback=1).batch(0, 0)
    ends = set()
    for row, pair in enumerate(pairs_of(batch)):
        sizes = np.bincount(oracle[pair], minlength=9).tolist()
        if sum(sizes[1:]) >= 95:
            found = np.bincount(batch.hardness[row], minlength=9).tolist()
            assert found == allocate(curriculum.requests, sizes)
            ends.add(max(batch.hardness[row].tolist()))
    assert len(ends) > 2


def test_with_fewer_candidates_than_negatives_all_are_drawn_and_some_repeat():
    taxonomy = grow((1, 2, 1, 1), sectors=2)
    sampler = MatrixTriplets(taxonomy, HARD, 50, seed=0, validation_share=0, max_fallback=1)
    oracle = all_hardness(taxonomy, steps(taxonomy))
    batch = join([sampler.batch(epoch, 0) for epoch in range(80)])
    repeated: dict[tuple[int, int], set[int]] = {}
    for row, pair in enumerate(pairs_of(batch)):
        candidates, negatives = np.flatnonzero(oracle[pair]), batch.negatives[row]
        assert len(candidates) < 16
        assert set(negatives.tolist()) == set(candidates.tolist())
        np.testing.assert_array_equal(batch.hardness[row], oracle[pair][negatives])
        repeated.setdefault(pair, set()).update(np.flatnonzero(np.bincount(negatives) > 1).tolist())
    for pair, codes in repeated.items():  # any of the commonest hardness
        sizes = np.bincount(oracle[pair], minlength=9)[1:]
        assert codes == set(np.flatnonzero(oracle[pair] == sizes.argmax() + 1).tolist())


def test_a_curriculum_without_pairs_is_refused():
    with pytest.raises(InputError, match="no pair of codes of the train split"):
        whole(Curriculum((6,), 0.25, {1: 1.0}))
    alone = grow((1, 1, 1, 1), sectors=1)  # the farthest code of each anchor has no negative, the others do
    assert all(
        pair[1] != 4 or pair[0] != 0 for pair in pairs_of(MatrixTriplets(alone, EVEN, 9, 0).batch(0, 0))
    )


# ---------------------------------------------------------------- resume, ranks, splits


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    sampler, again = whole(HARD, max_fallback=0.25), whole(HARD, max_fallback=0.25)
    places = [(0, 0), (0, 1), (1, 0), (2, 40), (0, 400)]
    first = {place: sampler.batch(*place) for place in places}
    for place in reversed(places):
        assert_same(first[place], again.batch(*place))
    other = whole(HARD, seed=1, max_fallback=0.25).batch(0, 0)
    different = [*first.values(), other]
    assert len({batch.negatives.tobytes() for batch in different}) == len(different)


@pytest.mark.parametrize("curriculum", [EASY, Curriculum((5, 6), None, {1: 1.0}, 5)])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_draw_what_one_process_would(curriculum, world_size):
    ranks = [whole(curriculum, 12, rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = whole(curriculum, 12 * world_size)
    assert {rank.steps_per_epoch for rank in ranks} == {alone.steps_per_epoch}
    for step in (0, 1, alone.steps_per_epoch - 1, alone.steps_per_epoch + 3):  # across laps too
        assert_same(join([rank.batch(2, step) for rank in ranks]), alone.batch(2, step))


def test_a_pair_is_held_out_whole_and_from_every_curriculum():
    train = MatrixTriplets(TREE, HARD, 8, seed=0, max_fallback=1)
    validation = MatrixTriplets(TREE, HARD, 8, seed=1, split="validation", max_fallback=1)
    easy_validation = MatrixTriplets(TREE, EASY, 8, seed=2, split="validation", max_fallback=1)
    sides = [
        set(zip(s.table.anchors.tolist(), s.table.positives.tolist(), strict=True))
        for s in (train, validation)
    ]
    for side in sides:
        assert {(p, a) for a, p in side} == side
    assert sides[0] | sides[1] == admitted(HARD)
    assert (
        shared_pairs(train.table, validation.table) == shared_pairs(train.table, easy_validation.table) == 0
    )
    assert 0.04 < len(sides[1]) / len(admitted(HARD)) < 0.06
    leaky = MatrixTriplets(TREE, HARD, 8, seed=1, split="validation", split_seed=1, max_fallback=1)
    assert shared_pairs(train.table, leaky.table) > 0.8 * len(leaky.table)
    with pytest.raises(InputError, match="must be train or validation"):
        MatrixTriplets(TREE, HARD, 8, seed=0, split="test")


# ---------------------------------------------------------------- written triplets


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("triplets")
    write_triplets(TREE, folder, "corrected", seed=3, row_group=40_000, groups_per_file=4)
    return folder


def stream(folder: Path, curriculum: Curriculum = MEDIUM, batch_size: int = 16, **kwargs) -> ParquetTriplets:
    return ParquetTriplets(
        folder, TREE, curriculum, batch_size, **{"seed": 0, "validation_share": 0} | kwargs
    )


def numbered(rows: dict[str, np.ndarray]) -> np.ndarray:
    """A number a row that says all its columns."""
    out = np.zeros(len(rows["anchor"]), dtype=np.int64)
    for name, base in zip(rows, (200, 200, 200, 21, 21, 9), strict=True):
        out = out * base + rows[name]
    return out


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_shards_are_disjoint_and_together_all_wanted_rows(written, oracle, world_size):
    ranks = [stream(written, rank=rank, world_size=world_size) for rank in range(world_size)]
    found = np.concatenate([numbered(rows) for rank in ranks for rows in rank.rows(0)])
    expected = []
    for a, p in admitted(MEDIUM):
        negatives = np.flatnonzero(np.isin(oracle[a, p], [1, 2, 5, 6]))
        columns = (a, p, negatives, 2 * STEPS[a, p], 2 * STEPS[a, negatives], oracle[a, p][negatives])
        names = ("anchor", "positive", "negative", "positive_distance", "negative_distance", "hardness")
        rows = [np.broadcast_to(np.asarray(column, dtype=np.int64), negatives.shape) for column in columns]
        expected.append(numbered(dict(zip(names, rows, strict=True))))
    assert len(ranks[0].groups) > 10
    np.testing.assert_array_equal(np.sort(found), np.sort(np.concatenate(expected)))


def test_a_chunk_is_the_same_for_any_number_of_processes(written):
    alone, second = stream(written), stream(written, rank=1, world_size=3)
    for number in range(second.chunks):
        for name, column in second.chunk(4, number).items():
            np.testing.assert_array_equal(column, alone.chunk(4, 3 * number + 1)[name])


def test_rows_are_shuffled_and_resume_where_they_stopped(written):
    sampler = stream(written)
    rows = [numbered(chunk) for chunk in sampler.rows(0)]
    resumed = [numbered(chunk) for chunk in stream(written).rows(0, start=5)]
    assert len(resumed) == len(rows) - 5
    assert all(np.array_equal(a, b) for a, b in zip(rows[5:], resumed, strict=True))
    file = pq.read_table(sampler.paths[0])
    in_file = numbered({name: file[name].to_numpy() for name in file.column_names})
    place = {number: at for at, number in enumerate(in_file.tolist())}
    for chunk in rows:
        places = [place[number] for number in chunk.tolist() if number in place]
        if places:
            assert abs(stats.spearmanr(places, range(len(places))).statistic) < 0.05
    again = [numbered(chunk) for chunk in sampler.rows(1)]  # each group in another place, and order
    places = {np.sort(chunk).tobytes(): number for number, chunk in enumerate(rows)}
    found = [places[np.sort(chunk).tobytes()] for chunk in again]
    assert sorted(found) == list(range(len(rows))) != found
    assert not any(np.array_equal(chunk, rows[number]) for chunk, number in zip(again, found, strict=True))


@pytest.mark.parametrize("curriculum", [MEDIUM, HARD])
def test_all_rows_together_say_what_the_matrix_says(written, curriculum):
    """Then batches have the matrix's law, to the last detail."""
    kwargs = {"max_fallback": 0.25, "validation_share": 0.05}
    table = stream(written, curriculum, window_groups=99, **kwargs).window(0, 0)
    matrix = MatrixTriplets(TREE, curriculum, 8, seed=0, **kwargs).table
    for name in (
        "order",
        "starts",
        "anchors",
        "positives",
        "cells",
        "hardness",
        "first",
        "span",
        "repeat_from",
    ):
        np.testing.assert_array_equal(getattr(table, name), getattr(matrix, name), err_msg=name)
    assert table.audit() == matrix.audit()


def test_batches_of_a_window_keep_the_law(written, oracle):
    sampler = stream(written, HARD, max_fallback=0.25, window_groups=1)
    batches = join([sampler.batch(0, step) for step in range(2 * sampler.steps_per_window)])
    for row, pair in enumerate(pairs_of(batches)):
        negatives = batches.negatives[row]
        assert len(set(negatives.tolist())) == 16
        np.testing.assert_array_equal(batches.hardness[row], oracle[pair][negatives])
        assert batches.hardness[row].min() > 0
    assert HARD.count_fallbacks(batches.hardness) <= 4 * len(batches.anchors)
    seen = stream(written, HARD, max_fallback=0.25, window_groups=1).window(0, 0)
    whole_table = MatrixTriplets(TREE, HARD, 8, 0, validation_share=0, max_fallback=1).table
    assert len(seen) > 0.5 * len(whole(HARD, max_fallback=0.25).table)
    assert (seen.size <= whole_table.size).all()
    assert sampler.audit()["row_groups"] == len(sampler.groups)


def test_stream_batches_resume_and_are_of_the_same_number_on_every_rank(written):
    ranks = [stream(written, rank=rank, world_size=5, window_groups=1) for rank in range(5)]
    total = ranks[0].steps_per_epoch
    assert {rank.steps_per_epoch for rank in ranks} == {total}
    assert len({rank.chunks for rank in ranks}) == 2  # so that some begin again
    for rank in ranks:
        again = stream(written, rank=rank.rank, world_size=5, window_groups=1)
        for step in (total - 1, 0, rank.steps_per_window, total // 2):
            assert_same(rank.batch(1, step), again.batch(1, step))
    assert len({rank.batch(0, 0).negatives.tobytes() for rank in ranks}) == 5


def test_an_epoch_of_batches_reads_every_row_group_of_a_rank_once(written, monkeypatch):
    sampler = stream(written, rank=1, world_size=2, window_groups=3)
    read, original = [], sampler._read
    monkeypatch.setattr(sampler, "_read", lambda *group: read.append(group) or original(*group))
    for step in range(0, sampler.steps_per_epoch, sampler.steps_per_window // 2):
        sampler.batch(0, step)
    assert len(read) == len(set(read)) == sampler.chunks
    served = sampler.steps_per_window * sampler.batch_size * MEDIUM.k_negatives
    assert served == pytest.approx(3 * 40_000, rel=0.1)


def test_row_groups_that_statistics_rule_out_are_not_read(written, tmp_path):
    table = pa.concat_tables([pq.read_table(path) for path in sorted(written.glob("*.parquet"))])
    table = table.sort_by([("hardness", "ascending")])
    pq.write_table(table, tmp_path / "sorted.parquet", row_group_size=10_000)
    sampler = stream(tmp_path, Curriculum((6,), None, {5: 1.0}))
    present = sum((table["hardness"].to_numpy() == 5).tolist())
    assert len(sampler.groups) <= present // 10_000 + 2
    found = np.concatenate([chunk["hardness"] for chunk in sampler.rows(0)])
    deep = (table["hardness"].to_numpy() == 5) & (
        np.maximum(TREE.levels[table["anchor"].to_numpy()], TREE.levels[table["positive"].to_numpy()]) == 6
    )
    assert len(found) == deep.sum() and (found == 5).all()


def test_memory_is_bounded_by_a_row_group(written):
    sampler = stream(written)
    before, most = pa.total_allocated_bytes(), 0
    for _ in sampler.rows(0):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 3 * 40_000 * 9  # nine bytes a row, and what decoding needs


# ---------------------------------------------------------------- damaged input


def rewrite(written: Path, folder: Path, change) -> Path:
    path = folder / "triplets.parquet"
    pq.write_table(change(pq.read_table(sorted(written.glob("*.parquet"))[0])), path)
    return path


def test_a_truncated_file_is_one_line_that_names_it(written, tmp_path):
    source = sorted(written.glob("*.parquet"))[0].read_bytes()
    path = tmp_path / "triplets-00000.parquet"
    path.write_bytes(source[: len(source) // 2])
    with pytest.raises(InputError, match=r"triplets-00000\.parquet: not a whole Parquet file") as error:
        stream(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_row_group_is_named_when_it_is_read(written, tmp_path):
    source = sorted(written.glob("*.parquet"))[0]
    content = bytearray(source.read_bytes())
    start = pq.read_metadata(source).row_group(1).column(0).data_page_offset
    content[start : start + 3000] = bytes(3000)
    (tmp_path / "triplets-00000.parquet").write_bytes(content)
    sampler = stream(tmp_path)
    with pytest.raises(InputError, match=r"triplets-00000\.parquet: row group 1 cannot be read") as error:
        list(sampler.rows(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["hardness"]), "no column hardness"),
        (
            lambda t: t.set_column(2, "negative", t["negative"].cast(pa.string())),
            "negative is no whole number",
        ),
        (
            lambda t: t.set_column(0, "anchor", pa.array([None] * len(t), pa.int16())),
            "row group 0 cannot be read",
        ),
        (
            lambda t: t.set_column(1, "positive", pa.array([135] * len(t), pa.int16())),
            "positive 135, out of range",
        ),
        (lambda t: t.set_column(5, "hardness", pa.array([0] * len(t), pa.int8())), "hold triplets of this"),
        (lambda t: t.set_column(4, "negative_distance", pa.array([-1] * len(t), pa.int8())), "out of range"),
        (lambda t: t.slice(0, 0), "0 row groups"),
    ],
)
def test_other_files_are_refused(written, tmp_path, change, words):
    path = rewrite(written, tmp_path, change)
    with pytest.raises(InputError, match=words) as error:
        list(stream(tmp_path).rows(0))
    assert "\n" not in str(error.value) and (
        path.name in str(error.value) or "row groups" in words or "hold" in words
    )


def test_triplets_of_another_rule_or_taxonomy_are_refused_for_batches(tmp_path):
    write_triplets(TREE, tmp_path, "compat", row_group=40_000)
    sampler = stream(tmp_path)
    assert sum(len(rows["anchor"]) for rows in sampler.rows(0)) > 0  # rows come as they are written
    with pytest.raises(InputError, match="excludes other codes than this taxonomy") as error:
        sampler.batch(0, 0)
    assert "remove the folder and write the triplets again" in str(error.value)
    assert "matrix" not in str(error.value)  # which knows that rule no more than the files' reader does


def test_an_empty_folder_and_too_many_processes_are_refused(written, tmp_path):
    with pytest.raises(InputError, match="no Parquet files"):
        stream(tmp_path)
    with pytest.raises(InputError, match="fewer than the 99 processes"):
        stream(written, world_size=99)


# ---------------------------------------------------------------- the real taxonomy


@pytest.fixture(scope="module")
def real_taxonomy(real_data, tmp_path_factory) -> Taxonomy:
    folder = tmp_path_factory.mktemp("naics")
    preprocess(real_data / "naics" / "2022", folder, 2022)
    return load_taxonomy(folder)


@pytest.mark.real_data
def test_published_counts_of_the_real_taxonomy(real_taxonomy):
    everything = Curriculum((2, 3, 4, 5, 6), None, {1: 1.0})
    sampler = MatrixTriplets(real_taxonomy, everything, 32, 0, validation_share=0, max_fallback=1)
    audit = sampler.audit()
    assert audit["pairs"] == 2 * 272_103 and audit["anchors"] == 2125
    assert list(audit["triplets"].values()) == [
        889_408_991, 2_486_407, 2_293_153, 7_681_846, 25_117_193, 48_279_815, 73_628, 710_407,
    ]  # fmt: skip
    assert sum(audit["triplets"].values()) == 976_051_440
    state = sum(value.nbytes for value in vars(sampler.table).values() if isinstance(value, np.ndarray))
    assert state < 100e6


@pytest.mark.real_data
def test_stages_of_the_real_taxonomy(real_taxonomy):
    easy = MatrixTriplets(real_taxonomy, EASY, 32, 0, validation_share=0, max_fallback=1)
    # both orders of 1,012 parents, 1,012 grandparents and 609 sibling pairs: the bound 2.0 is inclusive
    assert easy.audit()["pairs"] == 2 * 2633
    hard = MatrixTriplets(real_taxonomy, HARD, 32, 0, validation_share=0)
    audit = hard.audit()
    assert (
        audit["fallback_rate_of_admitted"] == pytest.approx(0.506, abs=0.001) and audit["fallback_rate"] == 0
    )
    batch = hard.batch(0, 0)
    assert HARD.count_fallbacks(batch.hardness) == 0
    assert ((batch.hardness == 8).sum(1) == 1).all()
