"""tokenize_items.py and embed_items.py: the published keys, embeddings as one by one, and restarts."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import (
    ROOT,
    assert_refused,
    make_texts,
    make_tokenizer,
    one_thread,
    run_main,
    run_script,
    torchrun,
)

from semantic_ids import embed_items, tokenize_items
from semantic_ids.tokenize_items import TASK, ragged_path

SCRIPT = ROOT / "semantic_ids/embed_items.py"


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """A tiny random Qwen3 with a tokenizer of its own: the last real token equals the pad token."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    folder = make_tokenizer(tmp_path_factory.mktemp("models") / "qwen")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 0
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = make_tokenizer(tmp_path_factory.mktemp("models") / "bert")
    torch.manual_seed(0)
    config = dict(num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    BertModel(BertConfig(vocab_size=300, hidden_size=24, **config)).save_pretrained(folder)
    return folder


def write_items(path, texts, ids=None):
    ids = ids or [f"B{number:03}" for number in range(len(texts))]
    pq.write_table(pa.table({"parent_asin": ids, "item_context": texts, "title": texts}), path)
    return path


@pytest.fixture
def texts():
    return [*make_texts(40, seed=1)[0], "same", "same", "x " * 200]


@pytest.fixture
def items(tmp_path, texts):
    return write_items(tmp_path / "items.parquet", texts)


def tokenize(items, model, *flags, max_length=48):
    output = items.with_name("tokens.npz")
    flags = ["--input", items, "--output", output, "--model", model, "--max_length", max_length, *flags]
    return run_main(tokenize_items.main, *flags)


def embed_flags(items, model, output, *flags):
    tokens = items.with_name("tokens.npz")
    base = ["--tokenized", tokens, "--items", items, "--output", output, "--model", model, "--device", "cpu"]
    return [*map(str, [*base, *flags])]


def embed(items, model, output, *flags):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return run_main(embed_items.main, *embed_flags(items, model, output, *flags))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def vectors(path):
    return np.array(pq.read_table(path).column("embedding").to_pylist(), dtype=np.float32)


def test_tokens_have_the_published_keys(items, qwen, texts):
    result = tokenize(items, qwen)
    assert result.returncode == 0, result.stderr
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(qwen)(
        [f"Instruct: {TASK}\nQuery: {text}" for text in texts],
        truncation=True, max_length=48, padding="max_length", return_tensors="np",
    )  # fmt: skip
    with np.load(items.with_name("tokens.npz"), allow_pickle=False) as found:
        assert {"input_ids", "attention_mask", "max_length", "n_items"} <= set(found)
        assert (found["input_ids"] == expected["input_ids"]).all()
        assert (found["attention_mask"] == expected["attention_mask"]).all()
        assert int(found["n_items"]) == len(texts) and int(found["max_length"]) == 48
        assert found["item_ids"].tolist()[:2] == ["B000", "B001"] and len(found["text_hashes"]) == len(texts)


def test_num_rows_names_its_own_file(tmp_path, texts, qwen):
    (tmp_path / "output").mkdir()
    write_items(tmp_path / "output/Toys_items_updated.parquet", texts)
    flags = ["--data_dir", tmp_path, "--category", "Toys", "--model", qwen, "--num_rows", 5]
    assert run_main(tokenize_items.main, *flags).returncode == 0
    assert int(np.load(tmp_path / "output/Toys_tokenized_5.npz")["n_items"]) == 5


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_equal_one_text_at_a_time(items, texts, qwen, bert, tmp_path, pooling):
    from transformers import AutoModel, AutoTokenizer

    folder = qwen if pooling == "last" else bert
    assert tokenize(items, folder, "--instruction", "").returncode == 0
    result = embed(
        items, folder, tmp_path / "out.parquet", "--dim", 16, "--pooling", pooling, "--batch_tokens", 200
    )
    assert result.returncode == 0, result.stderr
    assert "42 distinct texts, 42 embedded now" in result.stdout
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = vectors(tmp_path / "out.parquet")
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            batch = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
            hidden = model(**batch).last_hidden_state[0]
        expected = (hidden[-1] if pooling == "last" else hidden.mean(0))[:16]
        np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert table.column_names == ["parent_asin", "item_context", "title", "embedding"]


def test_only_a_model_that_looks_back_goes_without_a_mask(qwen, bert):
    from transformers import AutoModel

    assert [embed_items.is_causal(AutoModel.from_pretrained(folder)) for folder in (qwen, bert)] == [
        True,
        False,
    ]


def test_only_new_texts_are_embedded_again(items, texts, qwen, tmp_path):
    assert tokenize(items, qwen).returncode == 0
    assert embed(items, qwen, tmp_path / "out.parquet", "--dim", 16).returncode == 0
    before = vectors(tmp_path / "out.parquet")
    write_items(items, ["another text", *texts[1:], "one more"])
    assert tokenize(items, qwen).returncode == 0
    result = embed(items, qwen, tmp_path / "out.parquet", "--dim", 16)
    assert " 2 embedded now" in result.stdout, result.stderr
    assert (vectors(tmp_path / "out.parquet")[1:-1] == before[1:]).all()
    result = embed(items, qwen, tmp_path / "out.parquet", "--dim", 8)  # other settings, other vectors
    assert " 43 embedded now" in result.stdout


def test_a_damaged_shard_is_made_again(items, qwen, tmp_path):
    assert tokenize(items, qwen).returncode == 0
    assert embed(items, qwen, tmp_path / "out.parquet", "--dim", 16).returncode == 0
    before = vectors(tmp_path / "out.parquet")
    (shard,) = tmp_path.glob(".out-*/*.npz")
    shard.write_bytes(shard.read_bytes()[:500])
    assert embed(items, qwen, tmp_path / "out.parquet", "--dim", 16).returncode == 0
    assert (vectors(tmp_path / "out.parquet") == before).all()


@pytest.mark.slow
def test_kills_lose_at_most_a_shard(qwen, tmp_path, monkeypatch):
    items = write_items(tmp_path / "items.parquet", make_texts(3000, seed=2)[0])
    assert tokenize(items, qwen).returncode == 0
    flags = ["--dim", "16", "--batch_tokens", "100"]
    command = [sys.executable, str(SCRIPT), *embed_flags(items, qwen, tmp_path / "killed.parquet", *flags)]
    kills = 0
    for _ in range(8):
        shards = len(list(tmp_path.glob(".killed-*/*.npz")))
        process = subprocess.Popen(command, env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(tmp_path.glob(".killed-*/*.npz"))) < shards + 2:
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed.parquet").exists() or process.returncode == 0
        if process.returncode == 0:
            break
    result = run_script(SCRIPT, *command[2:])
    assert result.returncode == 0 and kills >= 2, result.stderr
    assert embed(items, qwen, tmp_path / "whole.parquet", *flags).returncode == 0
    assert (vectors(tmp_path / "whole.parquet") == vectors(tmp_path / "killed.parquet")).all()


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(items, qwen, tmp_path):
    assert tokenize(items, qwen).returncode == 0
    assert embed(items, qwen, tmp_path / "one.parquet", "--dim", 16, "--batch_tokens", 300).returncode == 0
    flags = embed_flags(items, qwen, tmp_path / "two.parquet", "--dim", 16, "--batch_tokens", 300)
    result = torchrun(SCRIPT, *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "42 embedded now" in result.stdout
    np.testing.assert_allclose(
        vectors(tmp_path / "two.parquet"), vectors(tmp_path / "one.parquet"), atol=1e-6
    )


def test_bad_input_is_named(items, texts, qwen, bert, tmp_path):
    output = tmp_path / "out.parquet"
    assert_refused(embed(items, qwen, output), "tokens.ragged.npz: no such file")
    assert_refused(tokenize(items.with_name("none.parquet"), qwen), "no such file")
    assert_refused(tokenize(items, tmp_path), "--model", "is no model folder")
    assert tokenize(items, qwen).returncode == 0
    assert_refused(embed(items, qwen, output, "--dim", 64), "--dim 64", "gives 32 numbers")
    assert_refused(embed(items, tmp_path, output), "is no model folder")
    assert_refused(embed(items, qwen, output, "--dim", 0), "--dim")

    good = shutil.copy(items, tmp_path / "good.parquet")
    write_items(items, texts[::-1], [f"B{n:03}" for n in range(len(texts))][::-1])
    assert_refused(embed(items, qwen, output, "--dim", 16), "row 1: is item B042, tokenized was B000")
    write_items(items, [texts[0], "changed", *texts[2:]])
    assert_refused(embed(items, qwen, output, "--dim", 16), "row 2: the text of B001 has changed")
    write_items(items, texts[:-1])
    assert_refused(embed(items, qwen, output, "--dim", 16), "has 42 items, tokenized were 43")
    shutil.copy(good, items)
    ragged = ragged_path(items.with_name("tokens.npz"))
    whole = ragged.read_bytes()
    ragged.write_bytes(whole[: len(whole) // 2])
    assert_refused(embed(items, qwen, output, "--dim", 16), "is damaged")
    ragged.write_bytes(whole)
    items.write_bytes(items.read_bytes()[:300])
    assert_refused(embed(items, qwen, output, "--dim", 16), "not a whole Parquet file")
    assert_refused(tokenize(items, qwen), "not a whole Parquet file")
    assert not output.exists()

    write_items(items, ["a", " "])
    assert_refused(tokenize(items, qwen), "row 2: has no parent_asin or no item_context")
    write_items(items, ["a", "b"], ["1", "1"])
    assert_refused(tokenize(items, qwen), "row 2: item 1 stands there twice")


def test_texts_longer_than_the_models_positions_are_refused(texts, tmp_path):
    """BERT's table of 40 positions takes 40 tokens; RoBERTa's loses two, as padding has number 1."""
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    items = write_items(tmp_path / "items.parquet", texts)
    size = dict(vocab_size=300, hidden_size=24, num_hidden_layers=1, num_attention_heads=4,
                intermediate_size=32, max_position_embeddings=40)  # fmt: skip
    models = BertModel(BertConfig(**size)), RobertaModel(RobertaConfig(**size, pad_token_id=1))
    for model, places in zip(models, (40, 38), strict=True):
        folder = make_tokenizer(tmp_path / type(model).__name__)
        model.save_pretrained(folder)
        flags = items, folder, tmp_path / "out.parquet", "--dim", 16, "--pooling", "mean"
        assert tokenize(items, folder, max_length=places + 1).returncode == 0
        refusal = embed(*flags)
        assert_refused(
            refusal, f"reads {places} tokens", f"{places + 1}; tokenize with --max_length {places}"
        )
        assert tokenize(items, folder, max_length=places).returncode == 0
        assert embed(*flags).returncode == 0


def test_every_reader_takes_the_embeddings(items, qwen, tmp_path):
    import datasets
    import pandas

    assert tokenize(items, qwen).returncode == 0
    path = tmp_path / "out.parquet"
    assert embed(items, qwen, path, "--dim", 16).returncode == 0
    expected = vectors(path)
    assert (np.stack(pandas.read_parquet(path)["embedding"].to_list()) == expected).all()
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert (np.array(rows["embedding"], dtype=np.float32) == expected).all()
    assert json.dumps(rows.features["embedding"].length) == "16"
