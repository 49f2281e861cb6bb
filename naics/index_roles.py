"""One role for each index entry: what trains, what is text of its code, what is held out; and a leak audit.

An entry of the validation or test role that says the same as any training text, or nearly so (character
trigrams of Jaccard .9 or more), is withheld: the search would be asked for what it has read.
"""

import hashlib
import json
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

SHARES = {"examples": 0.30, "train": 0.35, "validation": 0.20, "test": 0.15}
HELD_OUT = ("validation", "test")
NEAR = 0.9
ROUNDING = 1e-9


def assign_roles(
    codes: list[str], texts: list[str], training_texts: list[str], seed: int
) -> tuple[list[str], dict]:
    """A role for each entry (code, text), and counts. A code's roles do not depend on the other codes."""
    places = defaultdict(list)
    for place, code in enumerate(codes):
        places[code].append(place)
    drawn = np.empty(len(codes), dtype=object)
    for code, members in places.items():
        drawn[members] = draw_roles(len(members), np.random.default_rng([seed, zlib.crc32(code.encode())]))

    known = [text for text, role in zip(texts, drawn, strict=True) if role not in HELD_OUT] + training_texts
    held_out = [place for place, role in enumerate(drawn) if role in HELD_OUT]
    exact = {normalize(text) for text in known}
    near = near_matches([texts[place] for place in held_out], known)
    audit = {"withheld_exact": 0, "withheld_near": 0}
    for place, leaks in zip(held_out, near, strict=True):
        if leaks:
            audit["withheld_exact" if normalize(texts[place]) in exact else "withheld_near"] += 1
            drawn[place] = "withheld"
    asked = [normalize(texts[place]) for place in held_out if drawn[place] != "withheld"]
    audit["held_out_within_a_training_text"] = count_within(asked, [normalize(text) for text in known])
    counts = Counter(drawn)
    return drawn.tolist(), {role: counts[role] for role in (*SHARES, "withheld")} | audit


def draw_roles(count: int, rng: np.random.Generator) -> np.ndarray:
    """Roles in the ratio of SHARES, as near as `count` entries allow; the first is never held out."""
    ends = np.cumsum(list(SHARES.values()))
    offset = rng.random() * (ends[1] if count == 1 else 1)
    quantiles = (np.arange(count) + offset) / count
    roles = np.array(list(SHARES))[np.searchsorted(ends[:-1], quantiles, side="right")]
    return rng.permutation(roles)


def roles_fingerprint(codes: Sequence[str], texts: Sequence[str], roles: Sequence[str]) -> str:
    """Of which entries are read, asked and held out, in whatever order they stand."""
    entries = sorted(zip(texts, codes, map(str, roles), strict=True))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]


def normalize(text: str) -> str:
    """Lower case, words and numbers only, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def trigrams(text: str) -> frozenset[str]:
    text = f" {normalize(text)} "
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))


def near_matches(queries: Sequence[str], texts: Sequence[str], least: float = NEAR) -> list[bool]:
    """For each query, whether any text has trigrams of Jaccard `least` or more with it.

    Two such sets share one of the rarest few trigrams of each (prefix filter), so only those are indexed.
    """
    sets = list({trigrams(text) for text in texts})
    asked = [trigrams(query) for query in queries]
    counts = Counter(gram for grams in (*sets, *asked) for gram in grams)

    def rarest(grams: frozenset[str]) -> list[str]:
        kept = len(grams) - math.ceil(least * len(grams) - ROUNDING) + 1
        return sorted(grams, key=lambda gram: (counts[gram], gram))[:kept]

    sizes, index = [len(grams) for grams in sets], defaultdict(list)
    for place, grams in enumerate(sets):
        for gram in rarest(grams):
            index[gram].append(place)

    def matches(grams: frozenset[str]) -> bool:
        size = len(grams)
        for place in {place for gram in rarest(grams) for place in index[gram]}:
            if (
                least * size - ROUNDING <= sizes[place] <= size / least + ROUNDING
            ):  # else even a subset is too unlike
                shared = len(grams & sets[place])
                if shared >= least * (size + sizes[place] - shared) - ROUNDING:
                    return True
        return False

    return [matches(grams) for grams in asked]


def count_within(queries: Sequence[str], texts: Sequence[str]) -> int:
    """How many queries stand word by word inside a longer text; both normalized."""
    holders = defaultdict(set)
    for place, text in enumerate(texts):
        for word in text.split():
            holders[word].add(place)
    count = 0
    for query in queries:
        places = set.intersection(*(holders[word] for word in query.split())) if query else ()
        count += any(f" {query} " in f" {texts[place]} " for place in places)
    return count
