"""The semantic IDs' benchmark: rows like real ones, a tiny run of each case, the JSON's form, the limits."""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, run_script

from semantic_ids.benchmark import CASES, compare, embed_limit, matrix_product, packaged_model, rqvae_limit
from semantic_ids.benchmark_peers import MAX_LENGTH, Embedding, draw_items, draw_texts
from semantic_ids.embed_items import side_by_side

SCRIPT = ROOT / "semantic_ids/benchmark.py"
KEYS = ["case", "metric", "ours", "peer", "peer_value", "ratio", "repeats"]


def test_texts_have_the_lengths_and_the_spread_of_real_ones():
    from semantic_ids.tokenize_items import load_tokenizer

    tokenizer = load_tokenizer(packaged_model())
    texts = draw_texts(2000, tokenizer)
    lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
    assert np.median(lengths) == pytest.approx(110, rel=0.1)
    assert np.log(lengths).std() == pytest.approx(0.8, rel=0.1)
    assert 0.1 < (lengths > MAX_LENGTH).mean() < 0.2
    a_character = (lengths / [len(text) for text in texts])[lengths > 20]
    assert a_character.std() / a_character.mean() == pytest.approx(0.15, abs=0.02)


def test_items_have_length_one():
    torch.testing.assert_close(draw_items(50).norm(dim=1), torch.ones(50))


def test_ratios_are_medians_of_pairs_and_above_one_where_ours_is_better():
    vectors = np.eye(3, dtype=np.float32)
    answers = {
        "ours": [(10.0, 100.0, vectors), (30.0, 100.0, vectors), (20.0, 100.0, vectors)],
        "peer": [(5.0, 150.0, vectors), (10.0, 150.0, vectors), (4.0, 150.0, vectors)],
    }
    speed, memory, cosine = compare("embed", answers)
    assert (speed["ours"], speed["peer_value"], speed["ratio"], speed["repeats"]) == (20.0, 5.0, 3.0, 3)
    assert memory["ratio"] == 1.5 and cosine["ours"] == 1.0
    answers = {"ours": [(10.0, 0.0, 2.0)], "scikit_learn": [(5.0, 0.0, 1.0)]}
    assert [r["metric"] for r in compare("kmeans_init", answers)] == ["rows_per_second", "inertia"]
    assert compare("kmeans_init", answers)[1]["ratio"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_tiny_run(tmp_path, case):
    if case == "embed_compiled" and not shutil.which("g++"):
        pytest.skip("no compiler here")
    # 256 codes of 300 items would be a draw of lots
    rows = 12 if case.startswith("embed") else 3000 if case == "kmeans_init" else 300
    path = tmp_path / "b.json"
    flags = ["--case", case, "--repeats", 1, "--rows", rows, "--device", "cpu", "--json", path]
    result = run_script(SCRIPT, *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads(path.read_text())
    assert all(list(r) == KEYS and r["case"] == case and r["repeats"] == 1 for r in records)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["ratio"] > 0 for r in records)
    assert {r["peer"] for r in records} == set(CASES[case][1]) - {"ours"}
    agreement = [r["ratio"] for r in records if r["metric"] in ("lowest_cosine", "inertia", "unique_share")]
    least = {
        "embed": 0.9999, "embed_compiled": 0.9999, "embed_bf16": 0.999, "kmeans_init": 0.97, "unique_1m": 1,
    }.get(case)  # fmt: skip
    assert not agreement if least is None else min(agreement) >= least


def test_batches_side_by_side_change_nothing():
    args = argparse.Namespace(model=packaged_model(), rows=20, device="cpu")
    contender, before, found = Embedding(args), torch.get_num_threads(), []
    contender.flags.batch_tokens = 300
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            contender.run()
            found.append(contender.result())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.abs(found[0] - found[1]).max() < 1e-6


def test_a_failure_among_batches_side_by_side_ends_them():
    before = torch.get_num_threads()

    def fail(_number):
        raise ValueError

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError), side_by_side(torch.device("cpu")) as apply:
            list(apply(fail, range(1000)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_limits_run_on_any_device(capsys):
    args, cpu = argparse.Namespace(rows=300, device="cpu", repeats=1), torch.device("cpu")
    limit = matrix_product(cpu, torch.float32, size=64)
    found = rqvae_limit(args, cpu, limit, compiled=False)
    assert list(found) == KEYS and found["ratio"] > 0
    sizes = dict(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    assert embed_limit(args, cpu, limit, compiled=False, **sizes)["ratio"] > 0
    printed = capsys.readouterr().out
    assert "66,097 items, 20,000 epochs" in printed and "tokens/s" in printed


@pytest.mark.slow
def test_a_wrong_case_or_model_is_refused(tmp_path):
    assert_refused(run_script(SCRIPT, "--case", "none"), "--case")
    result = run_script(SCRIPT, "--case", "embed", "--rows", 2, "--model", tmp_path / "none")
    assert result.returncode == 2 and "contender ours ended" in result.stderr
