"""The benchmark: fair rows, the same function in every shape of our model, ratios, and one tiny run."""

import json

import numpy as np
import pytest
import torch
from conftest import CATEGORY, assert_refused, run_script

from category_classification import embedding_classifier
from category_classification.benchmark import PEERS, compare, draw_rows
from category_classification.benchmark_peers import BATCH, PADDED_LENGTH, MaterialisedTokens, pad_to
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig


@pytest.mark.parametrize(
    ("kind", "p50", "p90", "touched"), [("titles", 18, 32, 530), ("descriptions", 116, 194, 1800)]
)
def test_rows_resemble_the_measured_ones(kind, p50, p90, touched):
    split = draw_rows(64 * 40, kind, 151_669)
    assert np.percentile(split.lengths, [50, 90]) == pytest.approx([p50, p90], rel=0.06)
    assert split.lengths.max() <= PADDED_LENGTH
    batches = [split.tokens[split.offsets[i] : split.offsets[i + BATCH]] for i in range(0, 64 * 40, BATCH)]
    assert np.mean([len(np.unique(ids)) for ids in batches]) == pytest.approx(touched, rel=0.2)


def test_padding_and_materialised_attention_compute_the_same(monkeypatch):
    torch.manual_seed(0)
    model = EmbeddingClassifier(EncoderConfig(vocab_size=300, num_layers=2, gamma_init=0.5), 6).eval()
    batch = draw_rows(8, "titles", 300).batch(np.arange(8))
    ours = model(batch["input_ids"], batch["attention_mask"])
    padded = pad_to(batch, PADDED_LENGTH)
    monkeypatch.setattr(embedding_classifier, "lay_out", MaterialisedTokens)
    torch.testing.assert_close(model(padded["input_ids"], padded["attention_mask"]), ours)


def test_ratios_are_medians_of_pairs_and_above_one_where_ours_is_better():
    pairs = [((10.0, 100.0), (5.0, 150.0)), ((30.0, 100.0), (10.0, 150.0)), ((20.0, 100.0), (4.0, 150.0))]
    speed, memory = compare("train_titles", "padded_origin", pairs)
    assert (speed["ours"], speed["peer_value"], speed["ratio"], speed["repeats"]) == (20.0, 5.0, 3.0, 3)
    assert memory["ratio"] == 1.5


@pytest.mark.slow
def test_a_tiny_run(tmp_path):
    flags = "--case train_titles --repeats 1 --rows 70 --vocab_size 300 --num_layers 1".split()
    result = run_script(CATEGORY / "benchmark.py", *flags, "--json", tmp_path / "b.json")
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads((tmp_path / "b.json").read_text())
    assert {r["peer"] for r in records} == set(PEERS)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["case"] == "train_titles" for r in records)


@pytest.mark.slow
def test_a_wrong_case_is_refused():
    assert_refused(run_script(CATEGORY / "benchmark.py", "--case", "none"), "--case")
