"""Channels to points: n-grams and LoRA backbones, absent channels, gradients, and a step cut into chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_naics import write_data
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel

from naics.config import compose
from naics.data.texts import CodeTexts, load_corpus
from naics.data.tokenization_cache import HashedNgrams, encode, no_tokens
from naics.inference import build_model, make_tokenizer
from naics.model.backbones import NgramBackbone, TransformerBackbone, groups, lora_targets
from naics.model.encoder import CHANNELS, TrainedWeights, as_query

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=300)
TINY = [
    "model=ngram", "model.ngram.buckets=509", "model.ngram.width=12", "model.dim=6",
    "model.moe.hidden_dim=8", "model.dropout=0.2", "training.trainer.precision=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("naics"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer) -> Path:
    """A BERT with random weights and its tokenizer."""
    import shutil

    folder = tmp_path_factory.mktemp("bert")
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertModel(BertConfig(**SMALL, **still)).save_pretrained(folder)
    return folder


def texts_and_model(data: Path, overrides: list[str]):
    config = compose("01_stage_easy", [*overrides, f"paths.data_dir={data}"])
    torch.manual_seed(1)
    texts = CodeTexts(load_corpus(data), make_tokenizer(config), Path(config.data.cache_dir))
    model = build_model(config, len(texts.corpus.taxonomy))
    if config.model.backbone == "ngram":
        model.encoder.backbone.fit_idf(texts.seen_texts())
    return config, texts, model


# ---------------------------------------------------------------- n-grams


def test_weights_of_n_grams_are_tf_idf_of_norm_one():
    hashed = HashedNgrams(997)
    tokens = encode(["dog dog cat", "", "cat bread"], hashed)
    backbone = NgramBackbone(997, 8, 4, 0.0)
    backbone.fit_idf(tokens)
    ids, weights, offsets = backbone.weigh(tokens)
    found = np.bincount(tokens.ids, minlength=997)
    expected = (1 + np.log(tokens.counts)) * np.log(1 + 2 / (1 + found[tokens.ids]))
    for start, end in ((0, tokens.offsets[1]), (tokens.offsets[2], tokens.offsets[3])):
        own = expected[start:end] / np.linalg.norm(expected[start:end])
        np.testing.assert_allclose(weights[start:end].numpy(), own, rtol=1e-5)
    vectors = backbone.table.weight.detach()
    whole = backbone(tokens, np.full(3, 2)).detach()
    first = sum(w * vectors[i] for i, w in zip(ids[: tokens.offsets[1]], weights, strict=False))
    torch.testing.assert_close(whole[0], first, rtol=1e-5, atol=1e-6)
    assert torch.equal(whole[1], torch.zeros(8))


def test_a_random_table_keeps_the_products_of_tf_idf():
    """Training starts at a lexical baseline: texts that share words are near."""
    torch.manual_seed(0)
    backbone = NgramBackbone(4999, 512, 4, 0.0)
    near, same, far = backbone(
        encode(["dog grooming", "dog grooming salon", "steel foundry"], HashedNgrams(4999)), np.zeros(3, int)
    )
    assert torch.dot(near, same) > 0.5 > 3 * abs(torch.dot(near, far))


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        (MPNetModel(MPNetConfig(**SMALL)), {"q", "v"}),
        (BertModel(BertConfig(**SMALL)), {"query", "value"}),
        (DistilBertModel(DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=8)), {"q_lin", "v_lin"}),
    ],
)
def test_lora_finds_queries_and_values_by_the_backbones_own_names(body, ends):
    found = lora_targets(body)
    assert {name.rpartition(".")[2] for name in found} == ends and len(found) == 4


def test_each_channel_has_an_adapter_and_all_of_them_learn(folder, tiny_tokenizer):
    from naics.data.tokenization_cache import SubwordTokenizer

    torch.manual_seed(0)
    backbone = TransformerBackbone(str(folder), CHANNELS, 8, 16, 0.0)
    tokens = encode(["novel author", "ring gold silver", "boot"], SubwordTokenizer(str(folder), 20))
    backbone.train()
    with torch.no_grad():  # LoRA's second factor starts at zero
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    outputs = [backbone(tokens, np.full(3, channel)) for channel in range(4)]
    for first, second in zip(outputs, outputs[1:], strict=False):
        assert not torch.allclose(first, second, atol=1e-3)
    sum(out[:, 0].sum() for out in outputs).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == ("lora_" in name), name


def test_padding_and_company_change_nothing(folder):
    from naics.data.tokenization_cache import SubwordTokenizer

    backbone = TransformerBackbone(str(folder), CHANNELS, 8, 16, 0.0).eval()
    tokens = encode(["novel author chapter story pages paperback", "ring"], SubwordTokenizer(str(folder), 60))
    together = backbone(tokens, np.zeros(2, int))
    for row in (0, 1):
        torch.testing.assert_close(
            backbone(tokens.take([row]), np.zeros(1, int))[0], together[row], rtol=1e-4, atol=1e-5
        )
    hidden = backbone.body(input_ids=torch.from_numpy(tokens.ids[: tokens.offsets[1]])[None].long())
    mean = hidden.last_hidden_state[0].mean(0)
    torch.testing.assert_close(together[0], mean / mean.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "distilbert"])
def test_attention_and_pooling_are_the_original_models(tmp_path, tiny_tokenizer, monkeypatch, kind):
    """Any architecture loads, and padding, adapters and half precision leave its vectors what they are."""
    import shutil

    from naics.data.tokenization_cache import SubwordTokenizer
    from naics.model import backbones

    calls, attend = [], backbones.attend
    monkeypatch.setattr(backbones, "attend", lambda *a, **k: calls.append(0) or attend(*a, **k))

    bodies = {
        "bert": lambda: BertModel(BertConfig(**SMALL)),
        "mpnet": lambda: MPNetModel(MPNetConfig(**SMALL)),
        "distilbert": lambda: DistilBertModel(
            DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=300)
        ),
    }
    torch.manual_seed(0)
    shutil.copytree(tiny_tokenizer, tmp_path, dirs_exist_ok=True)
    body = bodies[kind]().eval()
    body.save_pretrained(tmp_path)
    tokens = encode(
        ["novel author chapter story", "ring", "gold ring silver"], SubwordTokenizer(str(tmp_path), 60)
    )
    backbone = TransformerBackbone(str(tmp_path), CHANNELS, 8, 16, 0.0)
    backbone.train()  # the model's own dropout of 0.1 stays off
    found = backbone(tokens, np.zeros(3, int))
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(tokens, np.zeros(3, int))
    for row in range(3):
        ids = torch.from_numpy(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]])[None].long()
        mean = body(input_ids=ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(found[row], mean / mean.norm(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(half[row].float(), found[row], rtol=0.05, atol=0.02)
    assert bool(calls) == (kind != "mpnet")
    found[:, 0].sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters())


def test_dropout_is_loras_alone(folder):
    from naics.data.tokenization_cache import SubwordTokenizer

    tokens = encode(["novel author", "ring gold silver"], SubwordTokenizer(str(folder), 20))
    backbone = TransformerBackbone(str(folder), CHANNELS, 8, 16, 0.5)
    with torch.no_grad():  # LoRA's second factor starts at zero
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    first, second = (backbone.train()(tokens, np.zeros(2, int)) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)
    first, second = (backbone.eval()(tokens, np.zeros(2, int)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_loses_nothing_but_the_last_rounding(dtype):
    from naics.model.backbones import attend

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8).to(dtype).unbind(0)
    mask = torch.arange(9) < torch.tensor([[9], [5]])[:, :, None, None]  # (N, 1, 1, T)
    scores = (query.double() @ key.double().mT / 8**0.5).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ value.double()).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found, _ = attend(
            torch.nn.Module(), query, key, value, mask.expand(2, 1, 9, 9), scaling=8**-0.5, dropout=0.0
        )
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=1e-6)


def test_groups_are_of_like_length_and_hold_every_row():
    lengths = np.sort(np.random.default_rng(0).integers(1, 400, 500))
    found = groups(lengths, np.arange(500), budget=2000)
    assert np.array_equal(np.concatenate(found), np.arange(500))
    for rows in found:
        assert len(rows) * lengths[rows].max() <= 2000
        assert lengths[rows].max() <= 1.25 * lengths[rows].min() + 8


# ---------------------------------------------------------------- the whole encoder


def test_a_point_does_not_depend_on_absent_channels_or_other_rows(data):
    _, texts, model = texts_and_model(data, TINY)
    model.eval()
    channels = texts.channels(np.arange(23))
    points, routing = model.encoder(channels)
    assert points.shape == (23, 6) and routing.choices.shape == (23, 2)
    some = model.encoder([tokens.take([5, 2]) for tokens in channels])[0]
    torch.testing.assert_close(some, points[[5, 2]], rtol=1e-5, atol=1e-6)
    titles_only = model.encoder([channels[0], *(no_tokens(23) for _ in range(3))])[0]
    as_queries = model.encoder(as_query(channels[0]))[0]
    assert torch.equal(titles_only, as_queries)
    assert not torch.allclose(titles_only, points)


def test_no_rows_are_no_points(data, folder):
    for overrides in (TINY, [f"model.base_model_name={folder}", *TINY[3:]]):
        _, texts, model = texts_and_model(data, overrides)
        points, routing = model.encoder(texts.channels(np.zeros(0, dtype=np.int64)))
        assert points.shape == (0, 6) and routing.choices.shape == (0, 2)


def test_every_trained_parameter_gets_a_gradient(data, folder):
    for overrides in (TINY, [f"model.base_model_name={folder}", *TINY[3:]]):
        _, texts, model = texts_and_model(data, overrides)
        with torch.no_grad():  # what starts at zero would hide what lies behind it
            for parameter in model.parameters():
                if parameter.requires_grad and not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        points, routing = model.encoder(texts.channels(np.arange(23)))
        (points.square().sum() + routing.probabilities[:, 0].sum()).backward()
        for name, parameter in model.encoder.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_checkpoint_leaves_out_frozen_weights_and_restores_the_rest(data, folder):
    _, texts, model = texts_and_model(data, [f"model.base_model_name={folder}", *TINY[3:]])
    state = TrainedWeights(model).state_dict()
    assert not any("word_embeddings" in name for name in state) and "points" in state
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    changed = {name: value.clone() for name, value in TrainedWeights(model).state_dict().items()}
    _, _, other = texts_and_model(data, [f"model.base_model_name={folder}", *TINY[3:]])
    TrainedWeights(other).load_state_dict(changed)
    channels = texts.channels(np.arange(23))
    assert torch.equal(model.eval().encoder(channels)[0], other.eval().encoder(channels)[0])
    with pytest.raises(RuntimeError, match="another model"):
        TrainedWeights(other).load_state_dict({**changed, "more": torch.zeros(1)})


# ---------------------------------------------------------------- a step in chunks


def gradients(data: Path, overrides: list[str], budget: int) -> dict[str, torch.Tensor]:
    from naics.gradient_caching import backward, initial_points, own_chunks
    from naics.objective import Objective
    from naics.train import make_batches
    from naics.training import Run
    from training_utils import ALONE

    extra = ["data.batch_size=4", "data.queries=6", "data.val_split=0.3", f"model.token_budget={budget}"]
    config, texts, model = texts_and_model(data, [*overrides, *extra, "data.k_negatives=4"])
    train, validation = make_batches(config, texts, ALONE)
    device = torch.device("cpu")
    objective = Objective.of(config.loss, texts.corpus.taxonomy, model.encoder.geometry, device)
    progress = dict(epoch=0, batch=0, step=0, stale=0, best=None)
    run = Run(config, ALONE, device, model, texts, objective, train, validation, data, 0, progress)
    initial_points(run)
    torch.manual_seed(5)
    triplets, queries = train.batch(0, 0)
    values = backward(run, triplets, queries)
    assert np.isfinite(values["loss"])
    chunks = own_chunks(run, texts.channels(np.unique(triplets.negatives)))
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"chunks": torch.tensor(len(chunks)), "points": model.points.clone()}


@pytest.mark.parametrize("backbone", ["ngram", "transformer"])
def test_chunks_give_the_gradients_of_the_whole_step(data, folder, backbone):
    overrides = TINY if backbone == "ngram" else [f"model.base_model_name={folder}", *TINY[3:]]
    overrides = [*overrides, "model.dropout=0.0", "loss.listwise_weight=1"]
    whole = gradients(data, overrides, 10**9)
    parts = gradients(data, overrides, 60)
    assert whole.pop("chunks") == 1 and parts.pop("chunks") > 3
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=2e-4, atol=1e-6, msg=name)


def test_a_chunk_is_encoded_again_under_the_same_dropout(data):
    """Two runs of chunks agree to the bit; the second half replays the first half's masks."""
    first, second = (gradients(data, TINY, 60) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    smooth = gradients(data, [*TINY, "model.dropout=0.0"], 60)
    assert not torch.allclose(first["points"], smooth["points"])


# ---------------------------------------------------------------- texts


def test_examples_leave_out_the_steps_own_queries_and_all_held_out_entries(data):
    corpus = load_corpus(data)
    hashed = HashedNgrams(100_003)
    texts = CodeTexts(corpus, hashed, data / "wide_cache")
    index = corpus.index
    for code in range(23):
        own = [i for i in np.flatnonzero(index.rows == code) if index.roles[i] in ("examples", "train")]
        grams = set(texts.channels(np.array([code]))[3].ids.tolist())
        expected = set().union(*(hashed.encode_text(index.texts[i]) for i in own)) if own else set()
        assert grams == expected
        if len(own) > 1:
            left = set(texts.channels(np.array([code]), without=own[:1])[3].ids.tolist())
            assert left == set().union(*(hashed.encode_text(index.texts[i]) for i in own[1:]))
    held_out = np.isin(index.roles, ("validation", "test", "withheld"))
    asked = texts.training_queries(True, True)
    assert not held_out[asked.entries[asked.entries >= 0]].any()
    assert sorted(asked.entries[asked.entries >= 0]) == np.flatnonzero(~held_out).tolist()


def test_redirections_go_to_the_code_that_a_reference_names(data):
    texts = CodeTexts(load_corpus(data), HashedNgrams(997), data / "cache_of_references")
    taxonomy = texts.corpus.taxonomy
    found = texts.redirections()
    pairs = {
        (taxonomy.codes[refused], taxonomy.codes[target])
        for refused, target in zip(found.refused, found.targets, strict=True)
    }
    assert pairs == {("812910", "541940"), ("54194", "812910"), ("311812", "311811"), ("812921", "812922")}


def test_query_batches_are_laps_over_all_texts(data):
    texts = CodeTexts(load_corpus(data), HashedNgrams(997), data / "cache_of_queries")
    queries = texts.training_queries(True, True)
    rows = np.concatenate([queries.batch(3, 0, step, 5).entries for step in range(len(queries))])
    laps = rows.reshape(5, len(queries))
    for lap in laps:
        assert sorted(lap) == sorted(queries.entries)
    assert not np.array_equal(laps[0], laps[1])
    assert not np.array_equal(queries.batch(3, 1, 0, 5).entries, queries.batch(3, 0, 0, 5).entries)


def test_query_dropout_thins_each_text_but_for_its_first_token_anew_in_each_step(data):
    texts = CodeTexts(load_corpus(data), HashedNgrams(997), data / "cache_of_thinned")
    queries = texts.training_queries(True, True)
    whole, kept, count = queries.batch(3, 0, 0, 2000).tokens, 0, 0
    thin = queries.batch(3, 0, 0, 2000, dropout=0.3).tokens
    for row in range(2000):
        every, left = whole.take([row]), thin.take([row])
        assert left.ids[0] == every.ids[0]
        pairs = [set(zip(each.ids.tolist(), each.counts.tolist(), strict=True)) for each in (left, every)]
        assert pairs[0] <= pairs[1]
        kept, count = kept + len(left.ids) - 1, count + len(every.ids) - 1
    assert kept / count == pytest.approx(0.7, abs=0.01)
    again, other = (queries.batch(3, 0, step, 2000, 0.3).tokens for step in (0, 1))
    assert np.array_equal(again.ids, thin.ids) and len(other.ids) != len(thin.ids)


def test_arguments_of_train_are_the_published_commands():
    from naics.train import parse_args, settings

    args = parse_args(["-c", "02_stage_medium", "training.trainer.max_epochs=20"])
    assert settings(args).training.trainer.max_epochs == 20
