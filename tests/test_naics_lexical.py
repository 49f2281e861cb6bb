"""naics/lexical.py: BM25 and trigrams against direct formulas, what a code's text holds, and real figures.

python -m pytest tests/test_naics_lexical.py
"""

import math
import time
from collections import Counter

import numpy as np
import pytest
from tiny_naics import ENTRIES, REFERENCES, ROLES, write_data

from naics import lexical, metrics, structure_metrics
from naics.data.census import load_index, load_references, load_taxonomy, preprocess
from naics.data.distances import distance_matrix, tree_distances
from naics.evaluate import entries_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_data(tmp_path_factory.mktemp("naics"))
    return load_taxonomy(folder), load_index(folder), load_references(folder)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("bakeries", "bakery"),
        ("machines", "machine"),
        ("boxes", "boxe"),  # the s-stemmer's own answer
        ("shoes", "shoe"),
        ("cars", "car"),
        ("glass", "glass"),
        ("apparatus", "apparatus"),
        ("gas", "gas"),  # too short
        ("s", "s"),
    ],
)
def test_plurals(word, singular):
    assert lexical.stem(word) == singular


def test_words_of_an_exception_are_other_words():
    text = "Pet Care (except Veterinary, lab) services; except cats; Dogs' homes"
    assert lexical.words(text) == [
        *("pet", "care", "except", "veterinary", "lab", "service", "except", "cat", "dog", "home")
    ]
    assert lexical.marked_words(text) == [
        *("pet", "care", "!veterinary", "!lab", "service", "!cat", "dog", "home")
    ]


def test_pairs_and_grams():
    assert lexical.marked_pairs("Pet food") == ["pet", "food", "pet food"]
    assert lexical.character_grams("a pets") == [" a ", " pet", "pet "]
    assert lexical.character_grams("(except ox)") == ["! ox "]
    assert lexical.character_grams("") == lexical.marked_pairs("") == []


# ---------------------------------------------------------------- scorers


def test_bm25_is_the_formula():
    documents = [["pets and pets", "dogs"], ["a dog eats dog food"], [""], ["cat food for cats"]]
    texts = ["dog dog pets", "food", "unicorn cat", "unicorn", ""]
    k1, b = 1.2, 0.6
    bags = [Counter(word for line in lines for word in lexical.words(line)) for lines in documents]
    lengths = [sum(bag.values()) for bag in bags]
    mean = sum(lengths) / 4
    expected = np.zeros((5, 4))
    for row, text in enumerate(texts):
        for word in lexical.words(text):
            holding = sum(word in bag for bag in bags)
            if not holding:
                continue
            idf = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
            for column, bag in enumerate(bags):
                tf = bag[word]
                expected[row, column] += idf * tf / (tf + k1 * (1 - b + b * lengths[column] / mean))
    found = lexical.BM25(documents, lexical.words, k1, b).scores(texts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[:3].max(axis=1).min() > 0 and (expected[3:] == 0).all()


def test_trigrams_are_a_cosine_of_counts():
    documents, text = [["banana boat"], ["bandana", "ban the ban"]], "ban banana"

    def counts(text: str) -> Counter:
        return Counter(f" {word} "[i : i + 3] for word in text.split() for i in range(len(word)))

    asked = counts(text)
    for lines, score in zip(
        documents, lexical.HashedTrigrams(documents, 2**20).scores([text])[0], strict=True
    ):
        held = counts(" ".join(lines))
        norm = math.sqrt(sum(n * n for n in asked.values()) * sum(n * n for n in held.values()))
        assert score == pytest.approx(sum(asked[gram] * held[gram] for gram in asked) / norm)


def test_a_code_s_text_holds_what_it_may(tiny):
    taxonomy, index, references = tiny
    place = {taxonomy.codes[row]: column for column, row in enumerate(taxonomy.leaves)}
    documents = lexical.code_documents(taxonomy, index, references=references)
    assert len(documents) == len(taxonomy.leaves)
    for code, entries in ENTRIES.items():
        held = documents[place[code]]
        assert held[0] == taxonomy.titles[taxonomy.row(code)]
        for entry, role in zip(index.texts, index.roles, strict=True):
            if entry in entries:
                assert (entry in held) == (role in ("examples", "train")), (entry, role)
    # "54194" refers to 812910, and 812910 to 541940: the text goes to the destination alone.
    for origin, activity, targets, _ in REFERENCES:
        assert activity in documents[place[targets[0]]] and origin != targets[0]
        assert sum(activity in held for held in documents) == 1
    titles = lexical.code_documents(taxonomy, index, (), descriptions=False)
    assert titles == [[taxonomy.titles[row]] for row in taxonomy.leaves]
    assert [len(held) for held in lexical.code_documents(taxonomy, index, ())] == [2] * len(titles)
    everything = {text for held in lexical.code_documents(taxonomy, index, ROLES) for text in held}
    assert set(index.texts) <= everything


def test_the_lexical_half_is_the_sum_of_its_parts(tiny):
    taxonomy, index, references = tiny
    scores = lexical.Lexical(taxonomy, index, references).scores(
        ["dog grooming", "qqqq", "veterinary clinic"]
    )
    documents = lexical.code_documents(taxonomy, index, references=references)
    by_hand = np.zeros((2, len(documents)))
    for analyzer in (lexical.marked_pairs, lexical.character_grams):
        part = lexical.BM25(documents, analyzer, b=0.3).scores(["dog grooming", "veterinary clinic"])
        by_hand += part / part.max(axis=1, keepdims=True)
    np.testing.assert_allclose(scores[[0, 2]], by_hand, rtol=1e-5)
    assert (scores[1] == 0).all()
    best = [taxonomy.codes[taxonomy.leaves[column]] for column in scores[[0, 2]].argmax(axis=1)]
    assert best == ["812910", "541940"]  # "pet care (except veterinary)" is not what the second asks for
    assert lexical.Lexical(taxonomy, index, references).scores([]).shape == (0, len(documents))


# ---------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    preprocess(real_data / "naics" / "2022", out)
    return load_taxonomy(out), load_index(out), load_references(out), out


def measure(real: tuple, scorer) -> tuple[float, float]:
    """MRR and hits@10 on the validation entries."""
    taxonomy, index = real[:2]
    texts, targets = entries_of(taxonomy, index, "validation")
    better, ties = metrics.rank_bounds(scorer.scores(texts), targets)
    return metrics.reciprocal_rank(better, ties).mean(), metrics.hits_at(better, ties, 10).mean()


@pytest.mark.slow
@pytest.mark.real_data
def test_known_baselines_are_met(real):
    """Known figures of a like split of these entries, MRR and hits@10, within .025.

    Title and description have no such figure: .596 was with the illustrative examples in the description.
    """
    taxonomy, index = real[:2]
    titles = lexical.code_documents(taxonomy, index, (), descriptions=False)
    examples, seen = (
        lexical.code_documents(taxonomy, index, roles) for roles in (("examples",), lexical.SEEN)
    )
    for scorer, mrr, hits in (
        (lexical.BM25(titles, lexical.words), 0.392, 0.558),
        (lexical.BM25(examples, lexical.words), 0.718, 0.898),
        (lexical.BM25(seen, lexical.word_pairs), 0.771, 0.922),
        (lexical.HashedTrigrams(examples), 0.632, 0.816),
    ):
        assert measure(real, scorer) == pytest.approx((mrr, hits), abs=0.025)


@pytest.mark.real_data
def test_the_lexical_half_beats_them(real):
    half = lexical.Lexical(*real[:3])
    mrr, hits = measure(real, half)
    assert mrr > 0.81 and hits > 0.935
    half.scores(["warm up"])
    times = []
    for text in entries_of(real[0], real[1], "validation")[0][:50]:
        start = time.perf_counter()
        half.scores([text])
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.02


@pytest.mark.real_data
def test_exact_tree_ceilings(real):
    """Known figures, from one random order of the ties: hence the width of what is let through."""
    taxonomy = real[0]
    tree = tree_distances(taxonomy)
    found = structure_metrics.structure_measures(tree, tree, taxonomy.levels, taxonomy.parents)
    assert found["spearman"] == found["parent@1_in_level"] == pytest.approx(1)
    assert found["parent@1"] == pytest.approx(0.617, abs=0.004)
    assert found["parent@5"] == pytest.approx(0.988, abs=0.004)
    assert found["map_ancestors"] == pytest.approx(0.614, abs=0.004)
    assert found["sector_auc"] == pytest.approx(0.861, abs=0.0005)
    steps = distance_matrix(taxonomy, "corrected") / 2
    found = structure_metrics.structure_measures(steps, tree, taxonomy.levels, taxonomy.parents)
    assert found["map_ancestors"] == pytest.approx(0.704, abs=0.004)
    assert found["sector_auc"] == 1
