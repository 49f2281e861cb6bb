"""Groups and sides against direct definitions: near-duplicates, connected components, shares of classes.

python -m pytest tests/test_grouped_split.py
"""

import random

import numpy as np
import pytest

from category_classification import grouped_split
from category_classification.grouped_split import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    draw_sides,
    group_rows,
    leave_out_crossing,
    sort_keys,
)
from category_classification.row_keys import fold, near_duplicate_keys, text_keys

WORDS = [
    f"{a}{b}" for a in "ba ke li mo nu pra sti vel zo thu".split() for b in "ron da mi xel po gar su".split()
]


def share_a_key(left: str, right: str) -> bool:
    keys = near_duplicate_keys([left, right])
    return bool(set(keys[0].tolist()) & set(keys[1].tolist()))


@pytest.mark.parametrize(
    "left, right",
    [
        ("Nike  Air Max", "nike air-max!"),
        ("ＡＢＣ shoe", "abc SHOE"),
        ("Straße", "STRASSE"),
        ("Ring “Aurora”", "ring 'aurora'"),
        ("foo\u00a0bar", "foo bar"),
        ("Café", "Cafe\u0301"),
    ],
)
def test_equal_after_folding(left: str, right: str) -> None:
    assert text_keys([left])[0] == text_keys([right])[0]


@pytest.mark.parametrize(
    "left, right", [("a b", "ab"), ("कि", "की"), ("!!!", "???"), ("C++", "C"), ("x 1", "x 2")]
)
def test_folding_keeps_different_texts_apart(left: str, right: str) -> None:
    if (left, right) == ("C++", "C"):  # punctuation is what folding forgets
        assert fold(left) == fold(right)
    else:
        assert text_keys([left])[0] != text_keys([right])[0]


def test_the_promised_near_duplicates_always_share_a_key() -> None:
    rng = random.Random(0)
    for _ in range(80):
        words = rng.sample(WORDS, rng.randint(5, 40))
        text = " ".join(words)
        shuffled = " ".join(rng.sample(words, len(words))).upper()
        spot = rng.randrange(len(words))
        other = rng.choice([word for word in WORDS if word not in words])
        assert share_a_key(text, shuffled)
        assert share_a_key(text + " 12 cm", text + " 9999 cm")
        assert share_a_key(text, " ".join(words[:spot] + words[spot + 1 :]))
        assert share_a_key(text, " ".join(words[:spot] + [other] + words[spot:]))
        assert share_a_key(text, " ".join(words[:spot] + [other] + words[spot + 1 :]))


def test_most_pairs_of_high_similarity_share_a_key_and_few_of_low() -> None:
    rng = random.Random(1)

    def found(size: int, changed: int) -> float:
        hits = 0
        for _ in range(120):
            words = rng.sample(WORDS, size)
            others = rng.sample([word for word in WORDS if word not in words], changed)
            hits += share_a_key(" ".join(words), " ".join(words[changed:] + others))
        return hits / 120

    assert found(40, 2) > 0.99  # similarity .90
    assert found(36, 4) > 0.85  # similarity .80
    assert found(30, 15) < 0.02  # similarity .33


def test_short_texts_that_differ_in_a_word_or_a_number_stay_apart() -> None:
    assert not share_a_key("black leather boots", "brown leather boots")
    assert not share_a_key("Part 4711-08", "Part 4712-15")
    assert share_a_key("black leather boots size 42", "Black boots, leather, size 41")
    assert share_a_key("black leather boots 42", "new black leather boots 41")


def test_scripts_without_spaces() -> None:
    title = "ナイキ エアマックス 九十 メンズ ランニングシューズ 黒色 新品 送料無料"
    assert share_a_key(title, title.replace("黒色", "白色"))
    assert not share_a_key(title, "腕時計 レディース クオーツ 防水 革ベルト 贈り物 箱付き 保証書")


def test_keys_depend_on_the_text_alone() -> None:
    texts = ["one two three four five six", "", "seven", "one two three four five six seven eight nine ten"]
    batch = near_duplicate_keys(texts)
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(batch[row], near_duplicate_keys([text])[0])


@pytest.mark.parametrize("keys_per_slice", [7, 2**23])
def test_group_rows_are_the_connected_components(tmp_path, monkeypatch, keys_per_slice: int) -> None:
    monkeypatch.setattr(grouped_split, "KEYS_PER_SLICE", keys_per_slice)
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 260, size=(200, 2)).astype(np.uint64)
    keys[150:, 1] = np.arange(1000, 1050)  # some rows with one key of their own
    files = [tmp_path / f"{part}.npy" for part in range(3)]
    for path, part in zip(files, np.split(keys, [0, 120]), strict=True):
        np.save(path, part)

    parent = list(range(200))

    def find(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    for left in range(200):
        for right in range(left):
            if set(keys[left].tolist()) & set(keys[right].tolist()):
                low, high = sorted((find(left), find(right)))
                parent[high] = low
    expected = [find(row) for row in range(200)]
    assert group_rows(sort_keys(files, tmp_path), 200).tolist() == expected
    assert 1 < len(set(expected)) < 200


def test_common_keys_join_nothing_and_their_rows_are_left_out(tmp_path) -> None:
    """Row n has the key of its pair, and every third row one common key besides."""
    rows = np.arange(300, dtype=np.uint64)
    keys = np.stack([rows // np.uint64(2) + np.uint64(1000), rows + np.uint64(5000)], axis=1)
    keys[::3, 1] = 7
    np.save(tmp_path / "keys.npy", keys)
    runs = sort_keys([tmp_path / "keys.npy"], tmp_path)
    assert np.bincount(group_rows(runs, 300)).max() == 200
    limited = group_rows(runs, 300, max_shared=16)
    np.testing.assert_array_equal(limited, np.arange(300) // 2 * 2)
    assert np.bincount(group_rows(runs, 300, max_shared=100)).max() == 200

    sides = np.repeat(np.random.default_rng(0).integers(0, 3, size=150), 2).astype(np.int8)
    before = sides.copy()
    leave_out_crossing(runs, sides)
    common = np.arange(300) % 3 == 0
    np.testing.assert_array_equal(sides == LEFT_OUT, common & (before != TRAIN))
    np.testing.assert_array_equal(sides[sides != LEFT_OUT], before[sides != LEFT_OUT])


def test_a_key_that_a_row_has_many_times_counts_once(tmp_path) -> None:
    """Two short texts of the same words: most of their keys are copies of the one that they share."""
    keys = near_duplicate_keys(["black leather boots", "boots leather black", "a steel watch"])
    np.save(tmp_path / "keys.npy", keys)
    assert (keys[0] == keys[1]).sum() > 8
    runs = sort_keys([tmp_path / "keys.npy"], tmp_path)
    assert group_rows(runs, 3, max_shared=2).tolist() == [0, 0, 2]
    assert group_rows(runs, 3, max_shared=1).tolist() == [0, 1, 2]


def test_a_long_chain_is_one_group(tmp_path) -> None:
    chain = np.arange(5000, dtype=np.uint64)
    np.save(tmp_path / "keys.npy", np.stack([chain, chain + np.uint64(1)], axis=1))
    assert not group_rows(sort_keys([tmp_path / "keys.npy"], tmp_path), 5000).any()


def test_sides_keep_the_shares_of_every_class() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, size=20_000).astype(np.uint64)
    sizes = rng.integers(1, 9, size=20_000)
    classes = rng.choice(3, p=[0.9, 0.09, 0.01], size=20_000)
    sides = draw_sides(hashes, sizes, classes, 0.05, 0.10, seed=42)
    for label in range(3):
        of_class = classes == label
        rows = sizes[of_class].sum()
        assert abs(sizes[of_class & (sides == TEST)].sum() - 0.10 * rows) <= 2
        assert abs(sizes[of_class & (sides == VALIDATION)].sum() - 0.05 * rows) <= 2

    order = rng.permutation(20_000)
    np.testing.assert_array_equal(
        draw_sides(hashes[order], sizes[order], classes[order], 0.05, 0.1, 42), sides[order]
    )
    assert (draw_sides(hashes, sizes, classes, 0.05, 0.10, seed=43) != sides).mean() > 0.1


def test_a_giant_group_goes_to_train_and_small_classes_reach_every_side() -> None:
    sizes = np.array([900] + [1] * 100 + [4, 2, 3])
    classes = np.array([0] * 101 + [1] * 3)
    for seed in range(20):
        sides = draw_sides(np.arange(104, dtype=np.uint64) * np.uint64(977), sizes, classes, 0.05, 0.10, seed)
        assert sides[0] == TRAIN
        assert set(sides[classes == 1].tolist()) == {TRAIN, VALIDATION, TEST}
        assert (sides[classes == 0] == TEST).sum() == 10  # a tenth of the rows that can move
        assert (sides[classes == 0] == VALIDATION).sum() == 5
