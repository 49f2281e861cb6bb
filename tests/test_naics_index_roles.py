"""Roles of index entries: shares, few entries, seeds, and nothing held out in a training text."""

from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest

from naics.index_roles import (
    SHARES,
    assign_roles,
    count_within,
    draw_roles,
    near_matches,
    normalize,
    trigrams,
)

WORDS = "oak ash elm fir pine beech board plank beam mill sawing works shop repair making selling".split()


def make_entries(codes: int, per_code: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Entries of few words, so that many are alike."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(codes * per_code)]
    return [f"{100_000 + place % codes}" for place in range(len(texts))], texts


grams = cache(trigrams)


def jaccard(a: str, b: str) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def test_shares_over_many_codes_and_within_each():
    codes, texts = (
        [f"{place % 200}" for place in range(8_000)],
        [f"{place:09d}" * 3 for place in range(8_000)],
    )
    roles, audit = assign_roles(codes, texts, [], seed=1)
    assert sum(audit[role] for role in (*SHARES, "withheld")) == 8_000
    drawn = Counter(roles)
    for role, share in SHARES.items():
        assert drawn[role] + drawn["withheld"] >= 8_000 * share * 0.98 and drawn[role] <= 8_000 * share * 1.02
    for code in ("0", "77"):  # 40 entries each
        one = Counter(role for role, of in zip(roles, codes, strict=True) if of == code)
        assert abs(one["examples"] - 12) <= 1 and abs(one["train"] - 14) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 320])
def test_an_entry_trains_before_any_is_held_out(count):
    totals = Counter()
    for seed in range(400):
        roles = draw_roles(count, np.random.default_rng(seed))
        assert len(roles) == count and set(roles) & {"examples", "train"}
        totals.update(roles.tolist())
    if count > 1:
        for role, share in SHARES.items():
            assert totals[role] / (400 * count) == pytest.approx(share, abs=0.05), role
    else:
        assert totals["examples"] / 400 == pytest.approx(0.30 / 0.65, abs=0.07) and len(totals) == 2


def test_roles_depend_on_the_seed_and_not_on_other_codes():
    codes, texts = make_entries(30, 20)
    first, second = assign_roles(codes, texts, [], 1)[0], assign_roles(codes, texts, [], 1)[0]
    assert first == second and first != assign_roles(codes, texts, [], 2)[0]
    alone = [place for place, code in enumerate(codes) if code == "100003"]
    roles, _ = assign_roles(["100003"] * 20, [texts[place] for place in alone], [], 1)
    same = [(a, first[b]) for a, b in zip(roles, alone, strict=True) if "withheld" not in (a, first[b])]
    assert len(same) > 10 and all(a == b for a, b in same)


def test_nothing_held_out_is_told_by_a_training_text():
    codes, texts = make_entries(40, 25)
    others = [text.upper() for text in make_entries(1, 60, seed=5)[1]] + [texts[7] + "!", texts[8]]
    roles, audit = assign_roles(codes, texts, others, seed=3)
    known = others + [text for text, role in zip(texts, roles, strict=True) if role in ("train", "examples")]
    told = {"exact": 0, "near": 0}
    for text, role in zip(texts, roles, strict=True):
        if role in ("validation", "test", "withheld"):
            near = max(jaccard(text, other) for other in known) >= 0.9
            assert near == (role == "withheld"), text
            exact = normalize(text) in {normalize(other) for other in known}
            told["exact" if exact else "near"] += near
    assert told == {"exact": audit["withheld_exact"], "near": audit["withheld_near"]}
    assert min(told.values()) > 5  # both kinds were there to be found


@pytest.mark.parametrize("least", [0.5, 0.7, 0.9, 1.0])
def test_near_matches_are_those_of_all_pairs(least):
    _, texts = make_entries(1, 260, seed=2)
    queries, texts = [*texts[:130], "", "a", "ab"], [*texts[130:], "ab", "Äb c"]
    expected = [max(jaccard(query, text) for text in texts) >= least for query in queries]
    assert near_matches(queries, texts, least) == expected
    assert 0 < sum(expected) < len(expected)


def test_no_text_at_all():
    assert near_matches(["a b"], []) == [False] and near_matches([], ["a"]) == []
    assert assign_roles([], [], ["a"], 0)[0] == []


def test_normalized_texts_lose_case_and_marks():
    assert normalize("  Bells, (hand)\t& CHURCH-bells’ ") == "bells hand church bells"
    assert jaccard("Bells, hand", "bells hand") == 1 and jaccard("bells", "wheat") == 0


def test_entries_inside_longer_texts_are_counted():
    queries = ["hand bells", "bells hand", "bell", "church bells", ""]
    texts = ["making hand bells to order", "hand of bells", "church bells"]
    assert count_within(queries, texts) == 2
    naive = sum(any(f" {q} " in f" {t} " for t in texts) for q in queries if q)
    assert naive == 2


@pytest.mark.real_data
def test_real_entries_take_seconds(real_data):
    import time

    from naics.data.workbooks import read_census

    census = read_census(real_data / "naics" / "2022", 2022)
    codes, texts = zip(*census.entries, strict=True)
    start = time.process_time()
    roles, audit = assign_roles(list(codes), list(texts), census.titles + census.descriptions, 42)
    assert time.process_time() - start < 20  # 2 s on a free core
    by_code = defaultdict(set)
    for code, role in zip(codes, roles, strict=True):
        by_code[code].add(role)
    assert all(found & {"train", "examples"} for found in by_code.values())
    assert audit["validation"] > 3_500 and audit["test"] > 2_600 and audit["withheld"] < 1_000
