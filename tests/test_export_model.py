"""Exported folders where the repository is out of reach, ONNX against torch, pruned vocabularies, refusals.

python -m pytest tests/test_export_model.py
"""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASS_WORDS, assert_refused, make_dataset, make_texts, run_main
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.nn import functional as F

from category_classification import export_model, predict_categories
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.embedding_classifier_v2 import EmbeddingClassifierV2
from category_classification.embedding_classifier_v3 import EmbeddingClassifierV3
from category_classification.evaluation import load_classifier
from category_classification.lspc import load_tokenizer, tokenize
from training_utils import save_checkpoint

TEXTS = ["leather boot", "the new silver ring with gold stone for 12", "新しい novel", "a", "boot " * 40]
LABELS = [2, 1, 0, 0, 2]
NOVEL = [
    "Ünïcödé ☃ — 100% ✓",
    "\t\x00\x1f\n  ",
    "𝔘𝔫𝔦 👩‍👩‍👧‍👦",
    "ўзбекча მოგესალმებით ไทย",
    "<|endoftext|> <|im",
    "~" * 200,
]

# Runs under `python -I` in an empty folder: loads each folder of its command, saves what it got.
STRANGER = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("category_classification", "training_utils"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

texts, labels, folders = map(json.loads, sys.argv[1:])
results = []
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    load = AutoModelForSequenceClassification.from_pretrained
    model, info = load(folder, trust_remote_code=True, output_loading_info=True)
    assert not model.training and not any(map(len, (info["missing_keys"], info["unexpected_keys"]))), info
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model(**batch, labels=torch.tensor(labels))
        half = load(folder, trust_remote_code=True, dtype=torch.bfloat16)(**batch)
    model.train()(**batch, labels=torch.tensor(labels)).loss.backward()
    silent = [name for name, p in model.model.named_parameters() if p.grad is None]
    model.eval().save_pretrained("again")
    with torch.inference_mode():
        again = load("again", trust_remote_code=True)(batch["input_ids"], batch["attention_mask"])
    classify = pipeline("text-classification", folder, trust_remote_code=True, device="cpu")
    results.append({
        **batch, "logits": out.logits, "loss": out.loss, "half": half.logits.float(), "again": again.logits,
        "silent": silent, "config": model.config.to_dict(), "texts": classify(texts, truncation=True),
        "batched": classify(texts, truncation=True, batch_size=3, padding=True, top_k=None),
    })
torch.save(results, "results.pt")
"""


def export(run: Path, out: Path, *flags: object) -> subprocess.CompletedProcess:
    result = run_main(export_model.main, "--checkpoint", run / "best.pt", "--out", out, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not list(out.parent.glob(".*partial"))
    return result


def make_run(
    folder: Path, model: nn.Module, tokenizer: Path, seq_len: int = 24, temperature: float = 1.5, **head
) -> Path:
    """A checkpoint of random weights, every one of which matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    names = sorted(CLASS_WORDS)
    head = {"num_classes": len(names), **head}
    progress = {
        "model": type(model).__name__,
        "model_settings": {"config": asdict(model.encoder.config), **head},
        "class_names": names,
        "settings": {"seq_len": seq_len},
        "temperature": temperature,
    }
    folder.mkdir()
    save_checkpoint(folder / "best.pt", progress, model=model)
    shutil.copytree(tokenizer, folder / "tokenizer")
    return folder


def small_config(vocab_size: int = 300) -> EncoderConfig:
    return EncoderConfig(vocab_size=vocab_size, hidden_size=48, num_layers=2, sparse_embedding_gradient=True)


@pytest.fixture(scope="module")
def v2_run(tmp_path_factory, tiny_tokenizer) -> Path:
    model = EmbeddingClassifierV2(small_config(), 3, bottleneck=20, residual=False)
    folder = tmp_path_factory.mktemp("v2") / "run"
    return make_run(folder, model, tiny_tokenizer, bottleneck=20, residual=False)


@pytest.fixture(scope="module")
def v3_run(tmp_path_factory, tiny_tokenizer) -> Path:
    model = EmbeddingClassifierV3(small_config(), 3, bottleneck=20, contrastive_dim=8)
    folder = tmp_path_factory.mktemp("v3") / "run"
    return make_run(folder, model, tiny_tokenizer, bottleneck=20, contrastive_dim=8)


@pytest.fixture(scope="module")
def pruned_run(tmp_path_factory, tiny_run, tiny_data) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "folder"
    export(tiny_run, out, "--prune_vocabulary", tiny_data)
    return out


def logits_of(run: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return load_classifier(run / "best.pt", torch.device("cpu")).model(ids, mask)


# ---------------------------------------------------------------- transformers


@pytest.mark.slow
def test_exported_folders_work_without_the_repository(tiny_run, v2_run, v3_run, pruned_run, tmp_path):
    runs, folders = [tiny_run, v2_run, v3_run], [tmp_path / name for name in ("one", "two.2", "three")]
    for run, folder in zip(runs, folders, strict=True):
        export(run, folder)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask()}
    runs, folders = [*runs, pruned_run], [*folders, pruned_run]
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-I",
        "-c",
        STRANGER,
        *map(json.dumps, (TEXTS, LABELS, list(map(str, folders)))),
    ]
    result = subprocess.run(
        command, cwd=elsewhere, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for run, found in zip(runs, torch.load(elsewhere / "results.pt"), strict=True):
        classifier = load_classifier(run / "best.pt", torch.device("cpu"))
        ids = tokenize(classifier.tokenizer, TEXTS, classifier.seq_len)
        assert [row[row_mask.bool()].tolist() for row, row_mask in zip(*both(found), strict=True)] == ids
        expected = logits_of(run, *both(found))
        # Another process, another number of threads: the same function, not the same bits.
        torch.testing.assert_close(found["logits"], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(found["again"], found["logits"])
        torch.testing.assert_close(found["loss"], F.cross_entropy(expected, torch.tensor(LABELS)))
        assert (found["half"] - expected).abs().max() < 0.05 * expected.abs().max()
        assert all(name.startswith("projection.") for name in found["silent"])
        assert found["config"]["calibration_temperature"] == classifier.temperature
        assert found["config"]["seq_len"] == classifier.seq_len
        assert found["config"]["id2label"] == dict(enumerate(classifier.class_names))
        chances = expected.softmax(1)
        for row, single, ranked in zip(chances, found["texts"], found["batched"], strict=True):
            assert single["label"] == ranked[0]["label"] == classifier.class_names[int(row.argmax())]
            assert single["score"] == pytest.approx(float(row.max()), abs=1e-5)
            assert len(ranked) == len(classifier.class_names)


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def both(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["input_ids"], batch["attention_mask"]


def test_card_tells_the_run(tiny_run, pruned_run):
    card = (pruned_run / "README.md").read_text()
    scores = torch.load(tiny_run / "best.pt")["progress"]["validation"]
    for word in (*CLASS_WORDS, f"macro_f1 | {scores['macro_f1']:.4f}", "pruned", "24 tokens"):
        assert word in card
    assert "onnx" not in card and "samples_per_second" not in card


# ---------------------------------------------------------------- ONNX


@pytest.mark.slow
@pytest.mark.parametrize("run", ["tiny_run", "v2_run", "v3_run"])
def test_onnx_gives_the_same_logits(request, tmp_path, run):
    import onnxruntime

    run = request.getfixturevalue(run)
    result = export(
        run, tmp_path / "out", "--onnx", "--prune_vocabulary", request.getfixturevalue("tiny_data")
    )
    assert "largest difference" in result.stdout
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        (name, "tensor(int64)", ["batch", "tokens"]) for name in ("input_ids", "attention_mask")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 3])]
    classifier = load_classifier(tmp_path / "out" / "best.pt", torch.device("cpu"))
    for texts in ([TEXTS[0]], [""], TEXTS, TEXTS * 9):
        batch = classifier.tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        found = session.run(None, {name: batch[name].numpy() for name in ("input_ids", "attention_mask")})[0]
        expected = logits_of(tmp_path / "out", *both(batch)).numpy()
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.slow
def test_onnx_that_differs_is_refused(v2_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_model, "MAX_DIFFERENCE", 1e-12)
    out = tmp_path / "out"
    result = run_main(export_model.main, "--checkpoint", v2_run / "best.pt", "--out", out, "--onnx")
    assert_refused(result, "--onnx", "differ")
    assert not list(tmp_path.iterdir())


def test_missing_onnx_names_the_extra(v2_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_model, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    out = tmp_path / "out"
    result = run_main(export_model.main, "--checkpoint", v2_run / "best.pt", "--out", out, "--onnx")
    assert_refused(result, "no_such_package", "--extras onnx")
    assert not out.exists()


# ---------------------------------------------------------------- a smaller vocabulary


def assert_same_model(run: Path, pruned: Path, texts: list[str]) -> int:
    """Texts whose tokens all stay get the same logits, others are spelled out; returns how many stay."""
    full, small = (load_classifier(folder / "best.pt", torch.device("cpu")) for folder in (run, pruned))
    stay, whole = set(small.tokenizer.get_vocab()), []
    for text in texts:
        names = [
            c.tokenizer.convert_ids_to_tokens(tokenize(c.tokenizer, [text], 10**6)[0]) for c in (full, small)
        ]
        assert len(names[1]) >= len(names[0])
        if stay.issuperset(names[0]):
            assert names[0] == names[1], text
            whole.append(text)
        decoded = small.tokenizer.decode(small.tokenizer(text)["input_ids"])
        assert decoded == full.tokenizer.decode(full.tokenizer(text)["input_ids"])
    logits = []
    for classifier in (full, small):
        classifier.tokenizer.pad_token = "<|endoftext|>"
        batch = classifier.tokenizer(whole, max_length=24, truncation=True, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits.append(classifier.model(*both(batch)))
    assert torch.equal(*logits)
    return len(whole)


def test_pruned_model_answers_as_before(tiny_run, tiny_data, pruned_run):
    texts = make_texts(600, 0)[0]  # the train split's
    assert assert_same_model(tiny_run, pruned_run, [*texts, *NOVEL]) >= len(texts)


def test_silenced_embeddings_tell_the_unused_tokens(tiny_run, pruned_run, tmp_path):
    result = export(tiny_run, tmp_path / "out", "--prune_vocabulary", "auto")
    assert "300 -> " in result.stdout
    for file in ("tokenizer.json", "config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (pruned_run / file).read_bytes()


def test_pruned_checkpoint_predicts_the_same_table(tiny_run, pruned_run, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in make_texts(50, 0)[0]))
    tables = []
    for run in (tiny_run, pruned_run):
        flags = (
            "--checkpoint",
            run / "best.pt",
            "--input",
            source,
            "--output",
            tmp_path / "out.csv",
            "--no-amp",
        )
        result = run_main(predict_categories.main, *flags)
        assert result.returncode == 0, result.stderr
        tables.append((tmp_path / "out.csv").read_text())
    assert tables[0] == tables[1]


def random_bpe(seed: int, merges: int, ignore_merges: bool) -> Tokenizer:
    """Random merges, also several that make the same token and some of no use."""
    rng = random.Random(seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names, pairs, letters = list(alphabet), [], list("abc")
    for _ in range(merges):
        pair = rng.choice(letters), rng.choice(letters)
        if pair not in pairs:
            pairs.append(pair)
            letters.append("".join(pair))
            if letters[-1] not in names:
                names.append(letters[-1])
    rng.shuffle(names)
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    merges=st.integers(0, 30),
    ignore_merges=st.booleans(),
    shown=st.lists(st.text("abc", max_size=12), max_size=4),
    texts=st.lists(st.text("abc", max_size=16) | st.text(max_size=6), min_size=1, max_size=20),
)
def test_pruned_tokenizer_takes_the_same_steps(seed, merges, ignore_merges, shown, texts):
    full = random_bpe(seed, merges, ignore_merges)
    used = np.zeros(full.get_vocab_size(), dtype=bool)
    for text in shown:
        used[full.encode(text).ids] = True
    spec = json.loads(full.to_str())
    kept = export_model.prune_tokenizer(spec, used)
    small = Tokenizer.from_str(json.dumps(spec))
    assert [small.id_to_token(i) for i in range(len(kept))] == [full.id_to_token(i) for i in kept]
    assert set(np.flatnonzero(used)) <= set(kept) and len(kept) >= 258
    stay = set(small.get_vocab())
    for text in [*shown, *texts]:
        before, after = full.encode(text), small.encode(text)
        if stay.issuperset(before.tokens):
            assert before.tokens == after.tokens
        assert small.decode(after.ids) == full.decode(before.ids) == text


def test_post_processors_are_renumbered():
    special = {"</s>": {"id": "</s>", "ids": [9], "tokens": ["</s>"]}}
    parts = [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "special_tokens": special}]
    parts.append({"type": "RobertaProcessing", "sep": ["</s>", 9], "cls": ["<s>", 7]})
    export_model.renumber({"type": "Sequence", "processors": parts}, {7: 0, 9: 1})
    assert special["</s>"]["ids"] == [1] and parts[2]["sep"] == ["</s>", 1] and parts[2]["cls"] == ["<s>", 0]
    export_model.renumber(None, {})


@pytest.mark.slow
@pytest.mark.real_data
def test_qwen_vocabulary_on_real_titles(real_data, tmp_path):
    source, tokenizer = real_data / "tokenizers" / "qwen", tmp_path / "qwen"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copy(source / "tokenizer_config.json", tokenizer)
    with gzip.open(real_data / "lspc" / "wdc2017_titles.jsonl.gz", "rt") as file:
        titles = [json.loads(line)["title"] for line in file]
    shown, others = titles[::4], titles[1::20]
    model = EmbeddingClassifier(small_config(151_669), 3)
    run = make_run(tmp_path / "run", model, tokenizer, seq_len=256)
    data = make_real_dataset(tmp_path / "data", shown)
    result = export(run, tmp_path / "out", "--prune_vocabulary", data)
    assert "tokens 151,669 -> " in result.stdout
    assert len(load_tokenizer(str(tmp_path / "out" / "tokenizer"))) < 15_000
    assert assert_same_model(run, tmp_path / "out", shown) == len(shown)
    assert len(NOVEL) + len(others) > assert_same_model(run, tmp_path / "out", [*others, *NOVEL]) > 50


def make_real_dataset(folder: Path, texts: list[str]) -> Path:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features(text=Value("string"), label=ClassLabel(names=sorted(CLASS_WORDS)))
    rows = Dataset.from_dict({"text": texts, "label": [0] * len(texts)}, features=features)
    DatasetDict(train=rows).save_to_disk(str(folder))
    return folder


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint", "nothing.pt"], ["nothing.pt", "no such"]),
        (["--checkpoint", "text.pt"], ["text.pt", "damaged"]),
        (["--checkpoint", "other.pt"], ["other.pt", "not a checkpoint"]),
        (["--tokenizer", "empty"], ["--tokenizer", "empty"]),
        (["--out", "full"], ["--out", "full", "exists"]),
        (["--out", "text.pt"], ["--out", "text.pt", "exists"]),
        (["--out", "text.pt/out"], ["--out", "cannot be written"]),
        (["--prune_vocabulary", "nowhere"], ["nowhere", "no such folder"]),
        (["--prune_vocabulary", "empty"], ["empty", "not a dataset"]),
        (["--prune_vocabulary", "auto"], ["auto", "name the dataset"]),
        (["--prune_vocabulary", "classes"], ["classes", "Books, Jewelry, Shoes", "Cars"]),
    ],
)
def test_bad_input_is_refused(v2_run, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/kept.txt").write_text("mine")
    Path("text.pt").write_text("text")
    torch.save({"weights": torch.zeros(3)}, "other.pt")
    if "classes" in flags:
        monkeypatch.setitem(CLASS_WORDS, "Cars", "wheel motor")
        make_dataset(Path("classes"), train=20, other=5)
    before = sorted(path for path in tmp_path.rglob("*") if ".tokens" not in str(path))
    defaults = ["--checkpoint", v2_run / "best.pt", "--out", "new"]
    assert_refused(run_main(export_model.main, *defaults, *flags), *words)
    assert sorted(path for path in tmp_path.rglob("*") if ".tokens" not in str(path)) == before


def test_other_tokenizers_are_refused(tiny_tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "boot": 1, "ring": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<unk>").save_pretrained(tmp_path / "words")
    run = make_run(tmp_path / "run", EmbeddingClassifier(small_config(3), 3), tmp_path / "words")
    call = "--checkpoint", run / "best.pt", "--out", tmp_path / "out"
    data = make_dataset(tmp_path / "data", train=20, other=5)
    assert_refused(run_main(export_model.main, *call, "--prune_vocabulary", data), "byte-level BPE")
    assert_refused(run_main(export_model.main, *call, "--tokenizer", tiny_tokenizer), "3 tokens", "300")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_filled(v2_run, tmp_path):
    (tmp_path / "out").mkdir()
    export(v2_run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
