"""The benchmark of the data: a tree like the real one, contenders that agree, tiny runs, the JSON."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, run_script
from tiny_naics import write_data
from transformers import BertConfig, BertModel

from naics import benchmark_training as trainers
from naics import benchmark_triplets as contenders
from naics.benchmark import CASES, compare
from naics.data.distances import distance_matrix

SCRIPT = ROOT / "naics/benchmark.py"
KEYS = ["case", "metric", "ours", "peer", "peer_value", "ratio", "repeats"]
DATA_CASES = ("sample_triplets", "read_parquet")


def test_the_made_up_tree_has_the_size_and_shape_of_the_real_one():
    taxonomy = contenders.draw_taxonomy()
    assert np.bincount(taxonomy.levels).tolist() == [0, 0, 20, 96, 308, 689, 1012]
    below = taxonomy.parents >= 0
    assert (taxonomy.levels[below] == taxonomy.levels[taxonomy.parents[below]] + 1).all()
    children = np.bincount(taxonomy.parents[below], minlength=len(taxonomy.levels))
    assert (children[taxonomy.levels < 6] > 0).all()
    assert 500 < (children == 1).sum() < 900  # 690 are really alone
    same_sector = (distance_matrix(taxonomy, "corrected") < 20).mean()
    assert 0.05 < same_sector < 0.2  # really 0.12
    assert 4400 < sum(map(len, taxonomy.excluded_codes)) < 4540


def test_both_samplers_draw_the_same_hardness():
    args = argparse.Namespace(data_dir=None, rows=2**17)
    ours, peer = contenders.Matrix(args), contenders.PythonRows(args)
    for contender in (ours, peer):
        contender.run()
    assert args.rows == 2**17
    assert ours.result() == pytest.approx(peer.result(), rel=0.01)
    for example in list(peer.examples())[:200]:
        negatives = {row["negative"] for row in example["negatives"]}
        assert len(negatives) == 16 and not negatives & {example["anchor"], example["positive"]}


def test_ratios_are_medians_of_pairs_and_above_one_where_ours_is_better():
    answers = {
        "ours": [(10.0, 100.0, 7.0), (30.0, 100.0, 7.0), (20.0, 100.0, 7.0)],
        "peer": [(5.0, 150.0, 7.0), (10.0, 150.0, 7.0), (4.0, 150.0, 7.0)],
    }
    speed, memory, kept = compare("read_parquet", answers)
    assert (speed["ours"], speed["peer_value"], speed["ratio"], speed["repeats"]) == (20.0, 5.0, 3.0, 3)
    assert memory["ratio"] == 1.5 and (kept["metric"], kept["ratio"]) == ("rows_kept", 1.0)
    answers = {"ours": [(10.0, 0.0, 2.0)], "peer": [(5.0, 0.0, 1.0)]}  # memory is not known everywhere
    assert [r["metric"] for r in compare("sample_triplets", answers)] == ["rows_per_second", "mean_hardness"]


@pytest.mark.slow
@pytest.mark.parametrize("case", DATA_CASES)
def test_a_tiny_run(tmp_path, case):
    path = tmp_path / "b.json"
    rows = 2**17 if case == "sample_triplets" else 3000
    result = run_script(SCRIPT, "--case", case, "--repeats", 1, "--rows", rows, "--json", path)
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads(path.read_text())
    assert all(list(r) == KEYS and r["case"] == case and r["repeats"] == 1 for r in records)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["ratio"] > 0 for r in records)
    assert {r["peer"] for r in records} == set(CASES[case][1]) - {"ours"}
    agreement = [r["ratio"] for r in records if r["metric"] in ("mean_hardness", "rows_kept")]
    assert agreement == pytest.approx([1] * len(agreement), rel=0.01 if case == "sample_triplets" else 0)
    assert len(agreement) == len(CASES[case][1]) - 1


@pytest.mark.slow
def test_a_wrong_case_or_folder_is_refused(tmp_path):
    assert_refused(run_script(SCRIPT, "--case", "none"), "--case")
    result = run_script(SCRIPT, "--case", "read_parquet", "--rows", 9, "--data_dir", tmp_path)
    assert_refused(result, "naics_descriptions.parquet")
    result = run_script(SCRIPT, "--case", "train_step", "--data_dir", tmp_path, "--model", tmp_path)
    assert_refused(result, "naics_descriptions.parquet")


# ---------------------------------------------------------------- train_step


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_tokenizer) -> argparse.Namespace:
    """23 codes, and a BERT with random weights and the usual dropout."""
    data, model, cache = (tmp_path_factory.mktemp(name) for name in ("naics", "bert", "cache"))
    shutil.copytree(tiny_tokenizer, model, dirs_exist_ok=True)
    torch.manual_seed(0)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    BertModel(BertConfig(vocab_size=300, **shape)).save_pretrained(model)
    return argparse.Namespace(
        data_dir=write_data(data), model=str(model), folder=cache, rows=3 * 18, device="cpu"
    )


def build(contender: type, args: argparse.Namespace) -> Any:
    return contender(argparse.Namespace(**vars(args)))  # its own, as a process of its own has


def gradients(contender: trainers.Training) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of one batch of triplets, and what it says to each weight, without chance or balance."""
    run = contender.training
    run.amp, run.config.model.moe.load_balancing_coef = False, 0.0
    with torch.no_grad():  # what starts at zero would hide what lies behind it
        torch.manual_seed(3)
        for parameter in run.model.encoder.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    for module in run.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = contender.backward(run.train.triplets.batch(0, 0))
    return loss, {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def test_the_padded_shape_has_our_loss_and_gradients(tiny):
    ours, padded = (build(each, tiny) for each in (trainers.Training, trainers.PaddedTriplets))
    triplets = ours.training.train.triplets.batch(0, 0)
    assert len(triplets.anchors) == 3 and ours.codes(triplets) < padded.codes(triplets) == 54
    (loss, found), (expected, wanted) = gradients(ours), gradients(padded)
    assert loss > 0.1 and loss == pytest.approx(expected, abs=1e-4)
    assert found.keys() == wanted.keys() and len(found) > 40
    for name in found:
        scale = wanted[name].abs().max()
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_the_padded_shape_encodes_every_channel_of_every_code_at_full_length(tiny):
    padded, shapes = build(trainers.PaddedTriplets, tiny), []
    body = padded.training.model.encoder.backbone.body
    handle = body.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    padded.run()
    handle.remove()
    assert shapes == [(18, 512)] * 4 * 3 and padded.args.rows == 54


def test_sentence_transformers_trains_the_same_adapters_on_the_whole_text(tiny):
    peer, ours = (build(each, tiny) for each in (trainers.SentenceTransformers, trainers.Training))
    trained = sum(p.numel() for p in peer.model.parameters() if p.requires_grad)
    of_ours = ours.training.model.encoder.backbone.parameters()
    assert 4 * trained == sum(p.numel() for p in of_ours if p.requires_grad)  # a channel has its own
    taxonomy, index = peer.texts.corpus.taxonomy, peer.texts.corpus.index
    code = taxonomy.codes.index("812910")
    text = peer.text(code)
    assert taxonomy.titles[code] in text and taxonomy.descriptions[code] in text
    assert taxonomy.excluded[code] in text
    own = [(index.texts[row], index.roles[row]) for row in np.flatnonzero(index.rows == code)]
    assert {role for _, role in own} == {"examples", "train", "validation", "test", "withheld"}
    for entry, role in own:
        assert (entry in text) == (role in ("examples", "train"))
    before = [p.detach().clone() for p in peer.model.parameters() if p.requires_grad]
    peer.run()
    after = [p for p in peer.model.parameters() if p.requires_grad]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True) if b.any())
    codes = [trainers.distinct(ours.training.train.triplets.batch(0, step)) for step in range(trainers.STEPS)]
    assert peer.args.rows == sum(len(each) // 2 * 2 for each in codes)
    ours.run()
    assert ours.args.rows == sum(map(len, codes))


@pytest.mark.slow
def test_a_tiny_run_of_training(tiny, tmp_path):
    path = tmp_path / "b.json"
    given = ("--data_dir", tiny.data_dir, "--model", tiny.model, "--device", "cpu", "--rows", 36)
    result = run_script(SCRIPT, "--case", "train_step", "--repeats", 1, "--json", path, *given)
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads(path.read_text())
    assert all(list(r) == KEYS and r["case"] == "train_step" and r["repeats"] == 1 for r in records)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["ratio"] > 0 for r in records)
    speeds = {r["peer"]: r["ratio"] for r in records if r["metric"] == "codes_per_second"}
    assert speeds.keys() == {"padded_triplets", "sentence_transformers"} and speeds["padded_triplets"] > 1
    assert not Path(tiny.data_dir, "token_cache").exists()  # another tokenizer's may lie there
