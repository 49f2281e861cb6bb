"""The decoder, its windows and prepare_data.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_main
from tiny_experiments import make_text, make_tokenizer
from torch.nn import functional as F

from experiments.dtype_configs import get_config
from experiments.language_modeling import prepare_data
from experiments.language_modeling.data import load_text
from experiments.language_modeling.model import GPT, GPTConfig, cross_entropy, head_flops_share
from experiments.language_modeling.run import evaluate, summary, window_losses
from experiments.run_record import _keep
from experiments.task import Evaluation
from experiments.tokenization import load_tokenizer
from training_utils import InputError

TINY = GPTConfig(vocab_size=448, block_size=16, num_layers=2, hidden_size=32, num_heads=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("lm") / "tokenizer")


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def run(source: object, *arguments: object, out: str = "out"):
        base = ["--input", source, "--out", tmp_path / out, "--tokenizer", tokenizer]
        return run_main(prepare_data.main, *base, *arguments), tmp_path / out

    return run


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(TINY)


# ---------------------------------------------------------------- model


def test_parameters_of_gpt2_small():
    with torch.device("meta"):
        gpt = GPT(GPTConfig(vocab_size=50304))
    body = 50304 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    assert sum(p.numel() for p in gpt.body.parameters()) == body == 124_475_904
    assert [tuple(p.shape) for p in gpt.head.parameters()] == [(50304, 768)]
    assert head_flops_share(gpt.config) == pytest.approx(0.29, abs=0.005)


def test_shapes_and_a_gradient_to_every_parameter():
    gpt, ids = model(), torch.randint(448, (3, 17))
    assert gpt.body(ids[:, :-1]).shape == (3, 16, 32)
    logits = gpt(ids[:, :-1])
    assert logits.shape == (3, 16, 448)
    cross_entropy(logits, ids[:, 1:]).backward()
    for name, p in gpt.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_no_position_sees_the_next_ones():
    gpt, ids = model().eval(), torch.randint(448, (2, 16))
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 448
    a, b = gpt(ids), gpt(changed)
    torch.testing.assert_close(a[:, :9], b[:, :9])
    assert not torch.allclose(a[:, 9], b[:, 9])
    torch.testing.assert_close(gpt(ids[:, :5]), a[:, :5], rtol=1e-4, atol=1e-5)


def test_attention_is_its_formula():
    gpt = model().double().eval()
    x = torch.randn(2, 16, 32, dtype=torch.float64)
    attention = gpt.body.blocks[0].attention
    query, key, value = attention.qkv(x).split(32, dim=-1)
    mixed = []
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / 4
        scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf)
        mixed.append(scores.softmax(-1) @ value[..., part])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(mixed, -1)))


def test_initial_loss_and_residual_scale():
    gpt, ids = model().eval().requires_grad_(False), torch.randint(448, (16, 17))
    assert float(cross_entropy(gpt(ids[:, :-1]), ids[:, 1:])) == pytest.approx(np.log(448), abs=0.05)
    assert float(gpt.body.blocks[0].mlp.out.weight.std()) == pytest.approx(0.02 / 2, rel=0.1)
    assert float(gpt.body.blocks[0].mlp.up.weight.std()) == pytest.approx(0.02, rel=0.1)


# ---------------------------------------------------------------- data


def test_a_text_file_is_cut_in_three(tmp_path, prepare, tokenizer):
    text = make_text(tmp_path / "text.txt")
    result, folder = prepare(text)
    assert result.returncode == 0, result.stderr
    splits = [np.load(folder / f"{name}.tokens.npy") for name in ("train", "validation", "test")]
    whole = np.concatenate(splits)
    backend = load_tokenizer(str(tokenizer)).backend
    assert whole.tolist() == backend.encode(text.read_text(), add_special_tokens=False).ids
    assert backend.decode(whole.tolist()) == text.read_text()
    assert [round(len(s) / len(whole), 2) for s in splits] == [0.9, 0.05, 0.05]
    assert whole.dtype == np.uint16
    assert json.loads((folder / "metadata.json").read_text())["tokens"]["train"] == len(splits[0])


def test_pieces_join_to_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_data, "PIECE", 10)
    path = tmp_path / "text.txt"
    for text in ("a\n" * 50, "no line break at all, and long", "\n\n\n" * 9 + "x", "é\n" * 30):
        path.write_text(text)
        parts = list(prepare_data.pieces(path))
        assert "".join(parts) == text
        assert all(part.endswith("\n") for part in parts[:-1])
    path.write_bytes("é\n".encode() * 30_000 + b"\xe9\n")
    with pytest.raises(InputError, match="line 30001: not UTF-8"):
        list(prepare_data.pieces(path))


def test_a_folder_with_and_without_training_text(tmp_path, prepare):
    folder = tmp_path / "texts"
    folder.mkdir()
    make_text(folder / "wiki.valid.txt")
    make_text(folder / "wiki.test.txt", words=4000)
    (folder / "README.md").write_text("not a text")
    result, out = prepare(folder)
    assert result.returncode == 0, result.stderr
    sizes = json.loads(result.stdout[: result.stdout.index("}") + 1])
    assert sizes["train"] == pytest.approx(9 * sizes["validation"], rel=0.01)
    make_text(folder / "wiki.train.txt", words=30_000)
    result, out = prepare(folder, out="with_train")
    more = json.loads(result.stdout[: result.stdout.index("}") + 1])
    assert more["train"] > 2 * more["validation"] and more["test"] == sizes["test"]


def test_bad_texts(tmp_path, prepare):
    assert_refused(prepare(tmp_path / "none.txt")[0], "none.txt", "no such file")
    assert_refused(prepare("nobody/nothing")[0], "nobody/nothing", "hub")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert_refused(prepare(tmp_path / "empty.txt")[0], "empty.txt", "an empty text")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    assert_refused(prepare(tmp_path / "latin.txt")[0], "latin.txt, line 3", "not UTF-8")
    (tmp_path / "short.txt").write_text("a b")
    assert_refused(prepare(tmp_path / "short.txt")[0], "no text for the split")
    (tmp_path / "folder").mkdir()
    assert_refused(prepare(tmp_path / "folder")[0], "named after train")


def test_windows_by_seed_and_step(tmp_path, prepare):
    _, folder = prepare(make_text(tmp_path / "text.txt"))
    text = load_text(folder, 16)
    assert text.vocab_size % 64 == 0 and 400 <= text.vocab_size + 64
    starts = text.step_starts(0, 3, 100)
    np.testing.assert_array_equal(starts, text.step_starts(0, 3, 100))
    assert not np.array_equal(starts, text.step_starts(0, 4, 100))
    assert not np.array_equal(starts, text.step_starts(1, 3, 100))
    last = len(text.splits["train"]) - 17
    batch = text.batch("train", np.array([0, last]))
    (ids,), (targets,) = batch.inputs, batch.targets
    assert ids.shape == targets.shape == (2, 16)
    assert targets[1, -1] == text.splits["train"][-1]
    torch.testing.assert_close(ids[:, 1:], targets[:, :-1])
    windows = list(text.evaluation_batches("test", 4, windows=7))
    assert [b.samples for b in windows] == [4, 3]
    everything = torch.cat([b.inputs[0].flatten() for b in text.evaluation_batches("test", 4, 10**6)])
    np.testing.assert_array_equal(everything.numpy(), text.splits["test"][: len(everything)])


def test_evaluation_is_the_mean_over_windows(tmp_path, prepare):
    _, folder = prepare(make_text(tmp_path / "text.txt"))
    text, gpt = load_text(folder, 16), model().eval()
    with torch.no_grad():
        losses = window_losses(text, lambda batch: gpt(*batch.inputs), "test", 9)
        found = evaluate(text, lambda batch: gpt(*batch.inputs).bfloat16(), 9)
        for number, batch in enumerate(text.evaluation_batches("test", 1, 9)):
            expected = F.cross_entropy(gpt(*batch.inputs)[0].double(), batch.targets[0][0])
            assert losses[number] == pytest.approx(float(expected), rel=1e-5)
    assert len(losses) == 9
    assert found.metrics["test"]["loss"] == pytest.approx(losses.mean(), abs=0.02)
    assert found.metrics["test"]["perplexity"] == pytest.approx(np.exp(found.metrics["test"]["loss"]))
    assert summary(np.array([1.0, np.nan])) == {
        "loss": None, "perplexity": None, "windows": 2, "non_finite_windows": 1,
    }  # fmt: skip


def test_test_logits_that_are_not_finite_make_a_run_diverged(tmp_path):
    losses = np.array([np.nan, 3.0])
    found = Evaluation({"test": summary(losses)}, {"losses": losses})
    run = SimpleNamespace(
        args=SimpleNamespace(out=tmp_path, name="run"),
        config=get_config("bf16_pure"),
        progress={"reason": None},
    )
    row = _keep(run, found, found)
    assert row["status"] == "diverged" and row["reason"] == "logits of 1 test windows are not finite"


def test_ids_outside_the_vocabulary(tmp_path, prepare):
    _, folder = prepare(make_text(tmp_path / "text.txt"))
    tokens = np.load(folder / "test.tokens.npy")
    tokens[5] = 60_000
    np.save(folder / "test.tokens.npy", tokens)
    from training_utils import InputError

    with pytest.raises(InputError, match="token 5: id 60000"):
        load_text(folder, 16)


@pytest.mark.real_data
def test_real_text_with_robertas_tokenizer(real_data, tmp_path):
    out = tmp_path / "out"
    base = ["--tokenizer", real_data / "tokenizers" / "roberta", "--out", out]
    result = run_main(prepare_data.main, "--input", real_data / "lm" / "tinyshakespeare.txt", *base)
    assert result.returncode == 0, result.stderr
    sizes = json.loads(result.stdout[: result.stdout.index("}") + 1])
    assert 330_000 < sum(sizes.values()) < 345_000  # 338,025 with GPT-2's merges
    assert load_text(out, 1024).vocab_size == 50_304
