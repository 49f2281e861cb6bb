"""The v1 model: exact size, each part against a direct float64 formula, padding and position invariances."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from category_classification.embedding_classifier import (
    Attention,
    EmbeddingClassifier,
    EncoderConfig,
    RotaryEmbedding,
    SwiGLU,
    drop_path,
    rotate,
)
from category_classification.token_layout import LONGEST_FP32_ATTENTION, PackedTokens, PaddedTokens, lay_out

SMALL = EncoderConfig(
    vocab_size=50, hidden_size=48, num_layers=3, num_attention_heads=6, num_key_value_heads=2, gamma_init=0.5
)


def ids_and_mask(batch: int = 4, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (batch, length), generator=generator)
    lengths = torch.tensor([length, 1, 4, 6])[:batch]
    return ids, torch.arange(length) < lengths[:, None]


def test_exact_parameter_counts():
    with torch.device("meta"):
        assert sum(p.numel() for p in EmbeddingClassifier(EncoderConfig(), 6).parameters()) == 80_034_054
        larger = EmbeddingClassifier(EncoderConfig(vocab_size=151_936), 6)
        assert sum(p.numel() for p in larger.encoder.parameters()) + 150_150 == 80_136_582


def test_state_dict_reads_like_the_diagram():
    keys = list(EmbeddingClassifier(SMALL, 3).state_dict())
    assert keys[:2] == ["encoder.embeddings.weight", "encoder.embedding_norm.weight"]
    block = [key.removeprefix("encoder.blocks.0.") for key in keys if ".blocks.0." in key]
    assert sorted(block) == sorted(
        ["gamma_attn", "gamma_mlp", "attention_norm.weight", "mlp_norm.weight"]
        + [f"attention.{name}_proj.weight" for name in "qkvo"]
        + [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    )
    assert keys[-5] == "encoder.final_norm.weight"
    assert keys[-4:] == ["head.dense.weight", "head.dense.bias", "head.output.weight", "head.output.bias"]


def test_every_parameter_gets_a_gradient():
    model = EmbeddingClassifier(SMALL, 3)
    ids, mask = ids_and_mask()
    model(ids, mask).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_whole_model_equals_a_plain_float64_formula():
    torch.manual_seed(1)
    model = EmbeddingClassifier(SMALL, 3).double().eval()
    ids, mask = ids_and_mask()
    state = model.state_dict()

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def turn(x):  # (T, heads, 8): pair (i, i + 4) turned by position * theta^(-2i/8)
        out = x.clone()
        for t in range(x.shape[0]):
            for i in range(4):
                angle = torch.tensor(t * 1e6 ** (-2 * i / 8), dtype=torch.float64)
                a, b = x[t, :, i], x[t, :, i + 4]
                out[t, :, i] = a * angle.cos() - b * angle.sin()
                out[t, :, i + 4] = b * angle.cos() + a * angle.sin()
        return out

    rows = []
    for row, keep in zip(ids, mask, strict=True):
        x = state["encoder.embeddings.weight"][row[keep]] * math.sqrt(48)
        x = norm(x, state["encoder.embedding_norm.weight"])
        for n in range(3):
            part = {k.split(f"blocks.{n}.")[1]: v for k, v in state.items() if f"blocks.{n}." in k}
            h = norm(x, part["attention_norm.weight"])
            q = turn((h @ part["attention.q_proj.weight"].T).view(-1, 6, 8))
            k = turn((h @ part["attention.k_proj.weight"].T).view(-1, 2, 8))
            v = (h @ part["attention.v_proj.weight"].T).view(-1, 2, 8)
            heads = [(q[:, i] @ k[:, i // 3].T / math.sqrt(8)).softmax(-1) @ v[:, i // 3] for i in range(6)]
            x = x + part["gamma_attn"] * (torch.cat(heads, -1) @ part["attention.o_proj.weight"].T)
            h = norm(x, part["mlp_norm.weight"])
            gate, up = h @ part["mlp.gate_proj.weight"].T, h @ part["mlp.up_proj.weight"].T
            x = x + part["gamma_mlp"] * ((gate * gate.sigmoid() * up) @ part["mlp.down_proj.weight"].T)
        pooled = norm(x, state["encoder.final_norm.weight"]).mean(0)
        h = F.gelu(pooled @ state["head.dense.weight"].T + state["head.dense.bias"])
        rows.append(h @ state["head.output.weight"].T + state["head.output.bias"])
    # the angles are float32 by design, hence no tighter tolerance
    torch.testing.assert_close(model(ids, mask), torch.stack(rows), atol=1e-8, rtol=1e-7)


def test_padding_and_batch_mates_do_not_matter():
    model = EmbeddingClassifier(SMALL, 3).eval()
    ids, mask = ids_and_mask()
    together = model(ids, mask)
    wider = model(F.pad(ids, (0, 5), value=7), F.pad(mask, (0, 5)))
    torch.testing.assert_close(together, wider)
    for row in range(4):
        length = int(mask[row].sum())
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_word_order_matters():
    model = EmbeddingClassifier(SMALL, 3).double().eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    mask = torch.ones_like(ids)
    assert (model(ids, mask) - model(ids.flip(1), mask)).abs().max() > 1e-8


def test_a_silenced_token_adds_nothing_of_its_own():
    model = EmbeddingClassifier(SMALL, 3).eval()
    seen = torch.ones(50, dtype=torch.bool)
    seen[[7, 8]] = False
    model.encoder.silence_unseen(seen)
    ids, mask = torch.tensor([[3, 7, 5], [3, 8, 5]]), torch.ones(2, 3)
    logits = model(ids, mask)
    # Not to the bit: some kernels sum the last row of a matrix product in another order.
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(logits).all()


def test_rope_scores_depend_on_distance_alone():
    rope = RotaryEmbedding(64, 1e6)
    q, k = torch.randn(2, 1, 12, 3, 64).unbind(0)
    near, far = rope(torch.arange(12)), rope(torch.arange(12) + 37)
    scores = [torch.einsum("bthd,bshd->bhts", rotate(q, *a), rotate(k, *a)) for a in (near, far)]
    torch.testing.assert_close(*scores, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [5, LONGEST_FP32_ATTENTION + 3])
@pytest.mark.parametrize("padded", [False, True])
def test_cpu_attention_paths_agree(length, padded):
    """Training in bfloat16 takes another path than inference and float32; all compute the same function."""
    torch.manual_seed(0)
    mask = torch.ones(2, length, dtype=torch.bool)
    if padded:
        mask[1, length // 2 :] = False
    tokens = PaddedTokens(mask)
    q, k, v = torch.randn(2, length, 6, 16), torch.randn(2, length, 2, 16), torch.randn(2, length, 2, 16)
    exact = tokens.attend(q.double(), k.double(), v.double())
    for dtype, grad in (
        (torch.float32, True),
        (torch.float32, False),
        (torch.bfloat16, True),
        (torch.bfloat16, False),
    ):
        out = tokens.attend(q.clone().requires_grad_(grad), k.clone().requires_grad_(grad), v.to(dtype))
        assert out.dtype is dtype
        error = (out.double() - exact)[mask].norm() / exact[mask].norm()
        assert error < (1e-5 if dtype is torch.float32 else 1e-2)


def test_packed_layout_agrees_with_the_padded_one(monkeypatch):
    """Packing, per-row factors and pooling; CUDA's kernel is stood in for by a loop over texts."""

    def varlen(q, k, v, starts, _starts, _longest, _longest_k, enable_gqa):
        parts = []
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            one = PaddedTokens(torch.ones(1, b - a))
            parts.append(one.attend(q[None, a:b], k[None, a:b], v[None, a:b])[0])
        return torch.cat(parts)

    monkeypatch.setattr("category_classification.token_layout.varlen_attn", varlen)
    monkeypatch.setattr("category_classification.token_layout.row_groups", lambda mask: [])
    torch.manual_seed(0)
    model = EmbeddingClassifier(SMALL, 3).eval()
    ids, mask = ids_and_mask()
    padded = model(ids, mask)
    monkeypatch.setattr("category_classification.embedding_classifier.lay_out", PackedTokens)
    torch.testing.assert_close(model(ids, mask), padded)
    packed = PackedTokens(mask)
    factors = packed.per_row(torch.arange(4.0)).squeeze(1)
    assert factors.tolist() == [float(i) for i in range(4) for _ in range(int(mask[i].sum()))]


@pytest.mark.parametrize("ordered", [True, False])
def test_packing_on_a_cpu_gives_the_padded_answers_and_gradients(monkeypatch, ordered):
    """37 texts, so that the last group of rows is short; in float64."""
    torch.manual_seed(0)
    model = EmbeddingClassifier(SMALL, 3).double().eval()
    lengths = torch.randint(1, 40, (37,))
    lengths = lengths.sort().values if ordered else lengths
    mask = torch.arange(40) < lengths[:, None]
    ids = torch.randint(SMALL.vocab_size, mask.shape)
    found = {}
    for layout in (PaddedTokens, PackedTokens):
        monkeypatch.setattr("category_classification.embedding_classifier.lay_out", layout)
        model.zero_grad()
        logits = model(ids, mask)
        logits.logsumexp(1).sum().backward()
        found[layout] = [logits, *(p.grad.clone() for p in model.parameters())]
    for padded, packed in zip(*found.values(), strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-9, rtol=1e-9)


def test_a_cpu_packs_where_padding_would_be_a_tenth():
    mask = torch.ones(4, 10)
    assert isinstance(lay_out(mask), PaddedTokens)
    mask[0, 4:] = 0
    assert isinstance(lay_out(mask), PackedTokens)


def test_drop_path_drops_whole_texts_and_keeps_the_mean():
    torch.manual_seed(0)
    factors = drop_path(0.25, PaddedTokens(torch.ones(20_000, 1)), torch.zeros(1)).flatten()
    assert sorted(factors.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert factors.mean() == pytest.approx(1, abs=0.02)
    rates = EmbeddingClassifier(SMALL, 3).encoder.drop_path_rates
    assert rates == pytest.approx([0, 0.05, 0.1])


def test_parts_against_direct_formulas():
    torch.manual_seed(0)
    mlp, x = SwiGLU(8, 32).double(), torch.randn(5, 8).double()
    gate = mlp.gate_proj(x)
    torch.testing.assert_close(mlp(x), mlp.down_proj(gate / (1 + (-gate).exp()) * mlp.up_proj(x)))
    attention = Attention(EncoderConfig())
    assert (attention.k_proj.weight.shape, attention.q_proj.weight.shape) == ((128, 384), (384, 384))
    norm = nn.RMSNorm(8, eps=1e-6).double()
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())


def test_bfloat16_training_step_stays_near_float32():
    torch.manual_seed(0)
    model = EmbeddingClassifier(SMALL, 3).eval()
    ids, mask = ids_and_mask()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(ids, mask).float()
    exact = model(ids, mask)
    assert (low - exact).norm() / exact.norm() < 2e-2
