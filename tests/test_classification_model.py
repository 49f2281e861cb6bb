"""RoBERTa with a linear head, its loss, and the batches it reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_main
from tiny_experiments import as_hub, make_documents, make_tokenizer, write_jsonl
from torch.nn import functional as F

from experiments.classification import prepare_data
from experiments.classification.data import EurLex, load_eurlex
from experiments.classification.model import (
    DocumentClassifier,
    binary_cross_entropy,
    encoder_config,
    head_flops_share,
    make_classifier,
    pretrained,
)
from experiments.run_state import parameter_groups, total_steps, weights_sha256
from experiments.training import stream_seed

TOKENIZER = {"vocab_size": 400, "pad_id": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("eurlex")
    splits = {split: [as_hub(d) for d in ds] for split, ds in make_documents().items()}
    for number, document in enumerate(splits["train"]):  # lengths that differ
        document["text"] = document["text"][: 20 + 4 * number]
    base = ["--input", write_jsonl(root / "raw", splits), "--tokenizer", make_tokenizer(root / "tokenizer")]
    result = run_main(prepare_data.main, *base, "--out", root / "data", "--allow_partial", "--max_length", 40)
    assert result.returncode == 0, result.stderr
    return root / "data"


@pytest.fixture
def data(folder) -> EurLex:
    return load_eurlex(folder, 40)


def classifier(dropout: float = 0.0, labels: int = 9) -> DocumentClassifier:
    torch.manual_seed(0)
    config = encoder_config("tiny-random", TOKENIZER, 64, dropout)
    return make_classifier("tiny-random", config, labels, dropout)


def test_the_spec_model_has_127_million_parameters():
    """RoBERTa-base without its pooler, and one layer of 4,271 outputs; counted without allocating them."""
    from transformers import AutoModel, RobertaConfig

    with torch.device("meta"):
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        encoder = AutoModel.from_config(config)
        encoder.pooler = None
        model = DocumentClassifier(encoder, 768, 4271)
    encoder_parameters = (
        50265 * 768 + 514 * 768 + 768 + 2 * 768 + 12 * (4 * 768**2 + 2 * 768 * 3072 + 13 * 768)
    )
    assert sum(p.numel() for p in model.head.parameters()) == 769 * 4271
    assert sum(p.numel() for p in model.parameters()) == encoder_parameters + 769 * 4271 == 127_339_439


def test_shapes_and_a_gradient_to_every_parameter():
    model = classifier()
    ids = torch.randint(3, 400, (5, 32))
    mask = torch.arange(32) < torch.tensor([[32], [7], [20], [1], [32]])
    ids[~mask] = 1
    assert model.body(ids, mask).shape == (5, 128)
    logits = model(ids, mask)
    assert logits.shape == (5, 9) and logits.dtype == torch.float32
    binary_cross_entropy(logits, torch.tensor([0, 3]), torch.tensor([2, 8])).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_padding_changes_nothing():
    model = classifier().eval()
    ids = torch.randint(3, 400, (2, 30))
    padded = F.pad(ids, (0, 18), value=1)
    mask = F.pad(torch.ones(2, 30, dtype=torch.bool), (0, 18))
    torch.testing.assert_close(model(ids, None), model(padded, mask), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(ids, None), model(ids, torch.ones_like(ids)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_heavy_padding_is_finite_in_every_format(dtype):
    model = classifier().to(dtype)
    ids = torch.ones(3, 64, dtype=torch.long)
    mask = torch.zeros(3, 64, dtype=torch.bool)
    ids[:, 0], mask[:, 0] = 5, True
    logits = model(ids, mask)
    logits.float().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_loss_is_that_of_dense_targets():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 50, generator=generator, dtype=torch.float64) * 4
    dense = torch.rand(6, 50, generator=generator) < 0.1
    rows, labels = dense.nonzero(as_tuple=True)
    z, y = logits.numpy(), dense.numpy().astype(float)
    expected = np.mean(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y)
    assert float(binary_cross_entropy(logits, rows, labels)) == pytest.approx(expected, rel=1e-12)
    assert binary_cross_entropy(logits.bfloat16(), rows, labels).dtype == torch.bfloat16


def test_a_prior_bias_predicts_the_frequency_of_each_label():
    model = classifier()
    documents = np.array([0, 1, 5, 50, 99, 100, 3, 7, 20])
    model.set_bias_to_prior(documents, 100)
    np.testing.assert_allclose(
        torch.sigmoid(model.head.bias.detach()).numpy(), (documents + 0.5) / 101, rtol=1e-5
    )


def test_head_share_of_the_spec_model():
    """0.007 % of the multiplications of a document, as the study's plan says."""
    assert head_flops_share(512, 768, 12, 3072, 4271) == pytest.approx(6.8e-5, rel=0.02)


def test_encoders_from_folders(tmp_path):
    """A folder with config.json alone has random weights; one with float16 weights is read as float32."""
    from transformers import RobertaConfig, RobertaModel

    sizes = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
    config = RobertaConfig(vocab_size=400, max_position_embeddings=66, type_vocab_size=1, **sizes)
    config.save_pretrained(tmp_path / "scratch")
    assert not pretrained(str(tmp_path / "scratch"))
    RobertaModel(config).half().save_pretrained(tmp_path / "trained")
    assert pretrained(str(tmp_path / "trained"))
    for name in ("scratch", "trained"):
        found = encoder_config(str(tmp_path / name), TOKENIZER, 64, 0.1)
        model = make_classifier(str(tmp_path / name), found, 7, 0.1)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert len(model.body.transformer.encoder.layer) == 4 and model.body.transformer.pooler is None
        assert model.body.transformer.config.attention_probs_dropout_prob == 0.1


def test_groups_and_seeds_and_steps():
    model = classifier()
    groups = parameter_groups(model, 0.01)
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    assert {group["name"] for group in groups} == {"body", "head"}
    assert stream_seed(0, 1, 2, 3) != stream_seed(0, 1, 3, 2) and 0 <= stream_seed(7, 9) < 2**63
    before = weights_sha256(model)
    with torch.no_grad():
        model.head.bias[3] += 1e-6
    assert weights_sha256(model) != before

    class Args:
        max_steps, max_epochs = None, 10

    assert total_steps(Args, 45_000, 32) == 14_063  # 10 epochs
    Args.max_steps = 5000
    assert total_steps(Args, 45_000, 32) == 5000


# ---------------------------------------------------------------- batches


def test_a_batch_is_its_documents(data, folder):
    documents = np.array([59, 0, 17])
    batch = data.batch("train", documents)
    ids, mask = batch.inputs
    split = data.splits["train"]
    lengths = np.diff(split.offsets)[documents]
    assert ids.shape == (3, -(-lengths.max() // 16) * 16) or ids.shape == (3, 40)
    for row, document in enumerate(documents):
        text = split.tokens[split.offsets[document] : split.offsets[document + 1]]
        assert ids[row, : len(text)].tolist() == text.tolist()
        assert (ids[row, len(text) :] == 1).all() and mask[row].sum() == len(text)
    dense = np.zeros((3, data.num_labels), dtype=bool)
    dense[batch.targets[0].numpy(), batch.targets[1].numpy()] = True
    for row, document in enumerate(documents):
        expected = split.labels[split.label_offsets[document] : split.label_offsets[document + 1]]
        assert np.flatnonzero(dense[row]).tolist() == expected.tolist()
    assert batch.samples == 3 and batch.tokens == lengths.sum()
    assert isinstance(split.tokens, np.memmap)


def test_full_batches_have_no_mask_and_cut_texts_keep_their_end(folder):
    data = load_eurlex(folder, 12)
    longest = np.argsort(np.diff(data.splits["train"].offsets))[-3:]
    ids, mask = data.batch("train", longest).inputs
    assert ids.shape == (3, 12) and mask is None
    assert (ids[:, 0] == 0).all() and (ids[:, -1] == 2).all()  # <s> ... </s>
    assert data.batch("train", longest, pad_to=12).inputs[0].shape == (3, 12)


def test_evaluation_reads_every_document_once_in_order(data):
    seen = np.concatenate([documents for documents, _ in data.evaluation_batches("test", 7)])
    assert seen.tolist() == list(range(20))
    gold = np.concatenate([b.targets[1].numpy() for _, b in data.evaluation_batches("test", 7)])
    np.testing.assert_array_equal(gold, data.splits["test"].labels)


def test_training_documents_of_each_label(data, folder):
    label_map = json.loads((folder / "label_map.json").read_text())
    counts = {label: 0 for label in label_map}
    for document in make_documents()["train"]:
        for label in document["concepts"]:
            counts[label] += 1
    assert data.train_documents.tolist() == [counts[label] for label in label_map]
