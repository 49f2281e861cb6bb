"""The whole way of real items: the real Qwen3 tokenizer with a tiny random Qwen3, and without any model."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, one_thread

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
ENV = one_thread() | {"PYTHON": sys.executable}
TRAIN = "--batch_size 1024 --max_lr 1e-3 --max_steps 40 --warmup_steps 10 --steps_per_val_log 20 --device cpu"


@pytest.fixture(scope="module")
def qwen(real_data, tmp_path_factory) -> Path:
    """Qwen3 in shape and vocabulary, in size a hundred-thousandth."""
    from transformers import Qwen3Config, Qwen3Model

    folder, source = tmp_path_factory.mktemp("qwen"), real_data / "tokenizers/qwen"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copy(source / "tokenizer_config.json", folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_669, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(folder)
    return folder


def assert_one_id_an_item(path: Path, items: int) -> None:
    table = pq.read_table(path).to_pylist()
    assert len(table) == items == len({row["semantic_id"] for row in table})
    assert len({row["parent_asin"] for row in table}) == items


def test_the_published_pipeline_with_the_real_tokenizer(real_data, qwen, tmp_path):
    source = real_data / "semantic_ids/Industrial_and_Scientific.item.json.gz"
    flags = ["--input", source, "--category", "Industrial", "--data_dir", tmp_path, "--model", qwen]
    flags += ["--checkpoint_dir", tmp_path / "rqvae", "--dim", 64, "--max_length", 128]
    flags += ["--train_flags", TRAIN]
    command = ["bash", ROOT / "scripts/run_semantic_ids.sh", *flags]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENV)
    assert result.returncode == 0, result.stderr[-3000:]

    output = tmp_path / "output"
    tokens = output / "Industrial_tokenized.ragged.npz"
    items = pq.read_table(output / "Industrial_items_updated.parquet").num_rows
    with np.load(tokens, allow_pickle=False) as file:
        last = file["ids"][file["offsets"][1:] - 1]
        longest = np.diff(file["offsets"]).max()
    assert longest == 128 and (last == 151_643).all()  # <|endoftext|> ends each text, cut ones too
    assert_one_id_an_item(output / "Industrial_semantic_ids.parquet", items)
    methods = json.loads((output / "Industrial_evaluation/metrics.json").read_text())["methods"]
    ours, chance = methods[0], next(method for method in methods if method["name"] == "random")
    assert ours["prefix_agreement"][0] > 5 * chance["prefix_agreement"][0]


def test_real_items_without_a_model(real_data, tmp_path):
    source = real_data / "semantic_ids/Industrial_and_Scientific.item.json.gz"
    items, vectors = tmp_path / "items.parquet", tmp_path / "vectors.parquet"
    rqvae, ids = tmp_path / "rqvae", tmp_path / "ids.parquet"

    def script(name: str, *args: object) -> None:
        command = [sys.executable, ROOT / f"semantic_ids/{name}.py", *args]
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=dict(os.environ))
        assert result.returncode == 0, result.stderr[-3000:]

    script("prepare_items", "--input", source, "--output", items)
    script("embed_items_tfidf", "--items", items, "--output", vectors, "--dim", 256)
    train = ["--item_embedding_dim", 256, "--checkpoint_dir", rqvae, *TRAIN.split()]
    script("train_rqvae", "--embeddings_path", vectors, *train)
    best = rqvae / "best_model.pth"
    script("export_semantic_ids", "--embeddings", vectors, "--checkpoint", best, "--output", ids)
    assert_one_id_an_item(ids, pq.read_table(items).num_rows)
