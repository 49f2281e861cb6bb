"""The token cache and the batches: ids as the tokenizer gives them, orders that resume and share exactly."""

import os
import shutil
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import make_dataset

from category_classification import lspc
from category_classification.batches import TrainingBatches, evaluation_batches, on_device
from category_classification.lspc import Split, load_tokenizer
from training_utils import InputError, World


def load_splits(data, tokenizer, seq_len, names, world):
    return lspc.load_splits(data, names, lspc.open_dataset(data, names), tokenizer, seq_len, world)


NAMES = ["train", "validation", "test"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer(str(tiny_tokenizer))


@pytest.fixture(scope="module")
def splits(tiny_data, tokenizer):
    return load_splits(str(tiny_data), tokenizer, 24, NAMES, World())


def fake_split(rows: int, seed: int = 0, mean: float = 3.0) -> Split:
    lengths = np.random.default_rng(seed).lognormal(mean, 0.45, rows).astype(np.int64).clip(1, 256)
    offsets = np.concatenate(([0], lengths.cumsum()))
    tokens = np.arange(offsets[-1], dtype=np.uint32)
    zeros = np.zeros(rows, dtype=np.int64)
    return Split("train", tokens, offsets, zeros, zeros, zeros, zeros > 0, ["a"], ["en"], "f")


def test_cached_ids_are_the_tokenizers(tiny_data, tokenizer, splits):
    from datasets import load_from_disk

    rows = load_from_disk(str(tiny_data))["train"]
    split = splits["train"]
    batch = split.batch(np.arange(40))
    for row in range(40):
        ids = tokenizer(rows[row]["text"], truncation=True, max_length=24)["input_ids"]
        assert batch["input_ids"][row][batch["attention_mask"][row]].tolist() == ids
        assert batch["labels"][row] == rows[row]["label"]
        assert split.language_names[batch["languages"][row]] == rows[row]["language"]


def test_seen_tokens_are_those_of_the_split(splits):
    for split in splits.values():
        assert np.flatnonzero(split.seen).tolist() == np.unique(split.tokens).tolist()


def test_samples_are_nested_and_hold_whole_rows(splits):
    train = splits["train"]
    small, large = train.sample(20, seed=3), train.sample(60, seed=3)
    assert (len(small), len(large)) == (20, 60) and train.sample(None, seed=3) is train
    texts = [
        {split.tokens[a:b].tobytes() for a, b in pairwise(split.offsets)} for split in (small, large, train)
    ]
    assert texts[0] < texts[1] < texts[2]
    rows = np.sort(np.random.default_rng(3).permutation(len(train))[:20])
    for own, row in enumerate(rows):
        assert (
            small.tokens[slice(*small.offsets[own : own + 2])]
            == train.tokens[slice(*train.offsets[row : row + 2])]
        ).all()
    assert (small.labels == train.labels[rows]).all() and (small.clusters == train.clusters[rows]).all()
    assert (np.flatnonzero(small.seen) == np.unique(small.tokens)).all()
    assert small.fingerprint != large.fingerprint != train.fingerprint


def test_truncation_keeps_the_closing_token(splits, tokenizer):
    split = splits["train"]
    assert split.lengths.max() == 24
    assert (split.tokens[split.offsets[1:] - 1] == tokenizer.pad_token_id).all()


def test_a_real_token_equal_to_the_pad_id_stays_unmasked(splits, tokenizer):
    """Qwen3's closing token is its pad token: the mask must come from lengths."""
    split = splits["train"]
    batch = split.batch(np.arange(30))
    assert batch["attention_mask"].sum() == split.lengths[:30].sum()
    last = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"].gather(1, last[:, None]) == tokenizer.pad_token_id).all()


def test_the_cache_is_used_and_renewed(tmp_path, tokenizer):
    data = make_dataset(tmp_path / "d", train=50, other=12)
    load_splits(str(data), tokenizer, 24, NAMES, World())
    with mock.patch.object(lspc, "_write_cache", side_effect=AssertionError("tokenized again")):
        load_splits(str(data), tokenizer, 24, NAMES, World())
        with pytest.raises(AssertionError):
            load_splits(str(data), tokenizer, 16, NAMES, World())
    shutil.rmtree(data / "test")
    shutil.copytree(data / "validation", data / "test")
    changed = load_splits(str(data), tokenizer, 24, NAMES, World())
    assert changed["test"].tokens.tolist() == changed["validation"].tokens.tolist()


def test_a_cache_does_not_depend_on_what_was_tokenized_before(tmp_path, tiny_tokenizer):
    data = make_dataset(tmp_path / "data", train=20, other=10)
    load_splits(str(data), load_tokenizer(str(tiny_tokenizer)), 16, NAMES, World())
    load_splits(str(data), load_tokenizer(str(tiny_tokenizer)), 16, NAMES[1:], World())
    assert len(list(data.glob(".tokens-*"))) == 3


def test_a_killed_tokenization_leaves_no_cache(tmp_path, tokenizer):
    data = make_dataset(tmp_path / "d", train=50, other=12)
    with mock.patch.object(lspc, "tokenize", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        load_splits(str(data), tokenizer, 24, NAMES, World())
    assert not [f for f in data.glob(".tokens-*") if not f.name.endswith(".partial")]
    assert len(load_splits(str(data), tokenizer, 24, NAMES, World())["train"]) == 50


def test_two_runs_may_make_the_cache_at_once(tmp_path, tokenizer):
    data = make_dataset(tmp_path / "d", train=50, other=12)
    tokenize, inner = lspc.tokenize, []

    def while_another_run_does_the_same(*args):
        if not inner:
            inner.append(True)
            with mock.patch.object(lspc.os, "getpid", return_value=os.getppid()):
                load_splits(str(data), tokenizer, 24, NAMES, World())
        return tokenize(*args)

    with mock.patch.object(lspc, "tokenize", side_effect=while_another_run_does_the_same):
        splits = load_splits(str(data), tokenizer, 24, NAMES, World())
    assert len(splits["train"]) == 50 and not list(data.glob("*.partial"))


@pytest.mark.parametrize("rows", [1, 63, 64, 1000, 7001])
def test_an_epoch_holds_every_row_once(rows):
    loader = TrainingBatches(fake_split(rows), 64, seed=1, world=World())
    order = loader.order(3)
    assert sorted(np.concatenate(order).tolist()) == list(range(rows))
    assert len(order) == len(loader)
    assert max(map(len, order)) <= 64


def test_order_is_a_function_of_seed_and_epoch():
    split = fake_split(3000)

    def flat(seed, epoch):
        return np.concatenate(TrainingBatches(split, 32, seed, World()).order(epoch)).tolist()

    np.random.seed(5)
    first = flat(1, 0)
    np.random.rand()
    assert flat(1, 0) == first
    assert flat(1, 1) != first and flat(2, 0) != first


def test_skipping_by_index_continues_exactly():
    loader = TrainingBatches(fake_split(2000), 32, 0, World())
    whole = [b["rows"].tolist() for b in loader.epoch(2)]
    assert [b["rows"].tolist() for b in loader.epoch(2, start=23)] == whole[23:]


@pytest.mark.parametrize("mean", [3.0, 4.7])  # titles; titles with descriptions
def test_padding_waste_in_a_large_window_is_at_most_three_percent(mean):
    split = fake_split(60_000, mean=mean)
    loader = TrainingBatches(split, 64, 0, World(), length_window=200)
    padded = sum(len(rows) * split.lengths[rows].max() for rows in loader.order(0))
    assert padded / split.offsets[-1] <= 1.03


def test_batches_are_shuffled_across_lengths():
    split = fake_split(20_000)
    means = [
        split.lengths[rows].mean()
        for rows in TrainingBatches(split, 64, 0, World(), length_window=200).order(0)
    ]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.15


@pytest.mark.parametrize("rows", [1000, 1025, 641])
def test_ranks_share_each_batch_without_overlap(rows):
    split = fake_split(rows)
    one = TrainingBatches(split, 64, 7, World())
    ranks = [TrainingBatches(split, 32, 7, World(rank, 2)) for rank in range(2)]
    for whole, *shares in zip(one.epoch(0), *(r.epoch(0) for r in ranks), strict=True):
        own = [s["rows"].tolist() if s["weight"] else [] for s in shares]
        assert sorted(sum(own, [])) == sorted(whole["rows"].tolist())
        assert sum(s["weight"] for s in shares) == whole["weight"] == shares[0]["global_rows"]
        assert all(len(s["rows"]) for s in shares)


@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_visits_every_row_once(size):
    split = fake_split(2000, mean=4.0)
    seen = []
    for rank in range(size):
        for batch in evaluation_batches(split, World(rank, size), max_tokens=512):
            assert batch["input_ids"].numel() <= 512 or len(batch["rows"]) == 1
            seen += batch["rows"].tolist()
    assert sorted(seen) == list(range(2000))


def test_bad_datasets_are_named(tmp_path, tiny_data, tokenizer):
    from datasets import Dataset, DatasetDict

    def load(folder, names=NAMES):
        return load_splits(str(folder), tokenizer, 24, names, World())

    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a dataset"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="no split named 'trian'"):
        load(tiny_data, ["trian"])
    rows = {"words": ["a"], "label": [0]}
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "columns"))
    with pytest.raises(InputError, match="no column 'text'"):
        load(tmp_path / "columns", ["train"])
    rows = {"text": ["a"], "label": [0]}
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "labels"))
    with pytest.raises(InputError, match="ClassLabel"):
        load(tmp_path / "labels", ["train"])


def test_bad_tokenizers_are_named(tmp_path):
    with pytest.raises(InputError, match="--tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.real_data
def test_real_qwen_tokenizer(real_data, tmp_path):
    import gzip

    folder = tmp_path / "qwen"
    folder.mkdir()
    source = real_data / "tokenizers" / "qwen"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copy(source / "tokenizer_config.json", folder)
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer) == 151_669
    assert lspc.tokenize(tokenizer, ["hello world", ""], 8) == [[14990, 1879, 151643], [151643]]
    assert lspc.tokenize(tokenizer, ["a b c d e f"], 4)[0][-1] == tokenizer.pad_token_id == 151643


def test_batch_has_the_shapes_it_says(splits):
    batch = splits["train"].batch(np.array([5, 1, 9]))
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].dtype is torch.int64 and batch["attention_mask"].dtype is torch.bool
    assert batch["labels"].shape == batch["languages"].shape == (3,)


def test_batches_for_a_gpu_are_made_one_ahead(monkeypatch):
    """In order, one more than was asked for, and an error of the maker reaches the loop."""
    monkeypatch.setattr("category_classification.batches.to_device", lambda batch, device: batch)
    made = []

    def make(count, fails=False):
        for number in range(count):
            made.append(number)
            yield {"number": number}
        if fails:
            raise ValueError("damaged")

    gpu = torch.device("cuda")
    assert [batch["number"] for batch in on_device(make(5), gpu)] == list(range(5))
    made.clear()
    for batch in on_device(make(100), gpu):
        if batch["number"] == 3:
            break
    assert len(made) <= 6
    with pytest.raises(ValueError, match="damaged"):
        list(on_device(make(2, fails=True), gpu))
