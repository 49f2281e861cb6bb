"""v2's and v3's heads: exact sizes, the formula in float64, and the published commands."""

import re
import shlex
from importlib import import_module

import pytest
import torch
from conftest import CATEGORY, assert_refused, run_main, run_script
from torch.nn import functional as F

from category_classification.embedding_classifier import EncoderConfig
from category_classification.embedding_classifier_v2 import EmbeddingClassifierV2, ResidualHead
from category_classification.embedding_classifier_v3 import EmbeddingClassifierV3


def size(model_class, **head):
    with torch.device("meta"):
        return sum(p.numel() for p in model_class(EncoderConfig(), 6, **head).parameters())


@pytest.mark.parametrize(("bottleneck", "count"), [(384, 80_182_662), (768, 80_477_958), (1024, 80_674_822)])
def test_v2_has_the_published_sizes(bottleneck, count):
    assert size(EmbeddingClassifierV2, bottleneck=bottleneck) == count


def test_v3_has_the_published_size():
    assert size(EmbeddingClassifierV3, bottleneck=512, contrastive_dim=256) == 80_445_830


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("residual", [True, False])
def test_v2_head_follows_the_formula(residual):
    torch.manual_seed(0)
    head = ResidualHead(12, 5, 7, dropout=0.3, residual=residual).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(4, 12, dtype=torch.float64)
    r = rms(x) * head.input_norm.weight
    h = F.gelu(r @ head.down.weight.T + head.down.bias) @ head.up.weight.T + head.up.bias
    h = h + r if residual else h
    expected = rms(h) * head.output_norm.weight @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(x), expected, atol=1e-12, rtol=0)


def test_v3_projects_to_unit_vectors_in_training_alone():
    model = EmbeddingClassifierV3(EncoderConfig(vocab_size=50, num_layers=1), 4, contrastive_dim=16)
    ids = torch.randint(50, (3, 5))
    logits, vectors = model(ids, torch.ones_like(ids))
    assert logits.shape == (3, 4) and vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert model.eval()(ids, torch.ones_like(ids)).shape == (3, 4)


@pytest.mark.real_data
def test_every_published_command_parses(real_data, tmp_path, monkeypatch):
    """As the specification prints them; each gets as far as looking for its data."""
    spec = real_data.parent / "specs/embedding_classifier_experiments.md"
    if not spec.is_file():
        pytest.skip("no specification beside the real data")
    text = spec.read_text().replace("\\\n", " ")
    commands = re.findall(r"poetry run python (category_classification/train_\S+\.py[^`\n]*)", text)
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    for command in commands:
        script, *flags = shlex.split(command)
        module = import_module(script.removesuffix(".py").replace("/", "."))
        assert_refused(run_main(module.main, *flags), "./lspc_dataset_full: no such folder")


@pytest.mark.real_data
@pytest.mark.slow
def test_every_published_command_runs(real_data, tiny_data, tiny_tokenizer, tmp_path):
    """Unchanged but for data, tokenizer, out folder and --max_steps; a --resume finds a former run."""
    spec = real_data.parent / "specs/embedding_classifier_experiments.md"
    if not spec.is_file():
        pytest.skip("no specification beside the real data")
    text = spec.read_text().replace("\\\n", " ")
    for number, command in enumerate(
        re.findall(r"poetry run python (category_classification/train_\S+\.py[^`\n]*)", text)
    ):
        script, *flags = shlex.split(command)
        out = tmp_path / str(number)
        changed = ["--data", tiny_data, "--out", out, "--tokenizer", tiny_tokenizer, "--device", "cpu"]
        if "--resume" in flags:
            first = [*flags, *changed, "--max_steps", 1, "--resume", "auto", "--num_layers", 2]
            assert run_script(CATEGORY.parent / script, *first).returncode == 0
            changed += ["--resume", out / "checkpoint-last.pt"]
        result = run_script(CATEGORY.parent / script, *flags, *changed, "--max_steps", 3, "--num_layers", 2)
        assert result.returncode == 0, result.stderr[-2000:]
        assert (out / "summary.json").exists()
