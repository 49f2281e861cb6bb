"""What only a GPU runs: fp16 with its loss scale, packed attention's kernel, all number formats, resume.

python -m pytest -m gpu
"""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from contracts import SCRIPTS, Script

from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.row_adamw import RowAdamW
from experiments.benchmark_shapes import records
from experiments.dtype_configs import CONFIGS
from semantic_ids.rqvae import RQVAE
from training_utils import optimizer_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
AMP = {"classifier": ["--amp"], "rqvae": ["--amp"], "naics": []}  # naics has it by default


def start(script: Script, data: Path, out: Path, *more: str) -> subprocess.Popen:
    arguments = script.arguments(
        data, out, "--device", "cuda", *AMP.get(script.name.split("-")[0], []), *more
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, ROOT / script.path, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def finish(*call: object) -> str:
    process = start(*call)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    return printed


def final_weights(script: Script, out: Path) -> torch.Tensor:
    """Of all files that a finished run leaves, in one line."""
    files = [path for pattern in script.weights for path in sorted(out.glob(pattern))]
    models = [torch.load(path, weights_only=True, map_location="cpu")["model"] for path in files]
    return torch.cat([value.double().flatten() for model in models for value in model.values()])


@pytest.mark.parametrize("script", SCRIPTS, ids=attrgetter("name"))
def test_a_killed_run_goes_on_from_its_checkpoint(script, tmp_path):
    """No further from a whole run than a second whole run is: atomic additions come in any order."""
    (tmp_path / "data").mkdir()
    script.make_data(tmp_path / "data")
    first, second, out = (tmp_path / name for name in ("first", "second", "killed"))
    for folder in (first, second):
        finish(script, tmp_path / "data", folder)
    process, end = start(script, tmp_path / "data", out), time.monotonic() + 120
    stamps = set()
    while len(stamps) < 12 and process.poll() is None and time.monotonic() < end:
        stamps.add(script.stamp(out))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    newest = torch.load(script.saved(out)[-1], weights_only=True, map_location="cpu")
    if script.name.startswith(tuple(AMP)):
        assert newest["scaler"]["scale"] >= 1
    assert "resume: " in finish(script, tmp_path / "data", out, "--resume", "auto")
    whole, again, resumed = (final_weights(script, folder) for folder in (first, second, out))
    assert float((resumed - whole).norm()) <= 3 * float((again - whole).norm()) + 1e-6 * float(whole.norm())


def draw_texts() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    lengths = torch.randint(1, 90, (64,))
    mask = torch.arange(90) < lengths[:, None]
    return torch.randint(500, mask.shape), mask.long()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packed_attention_is_padded_attention(dtype):
    """Logits and gradients under autocast beside float64 on the CPU, which pads."""
    ids, mask = draw_texts()
    config = EncoderConfig(vocab_size=500, num_layers=3, gamma_init=0.5, max_drop_path=0.0)
    exact = EmbeddingClassifier(config, 5, dropout=0.0).double()
    packed = EmbeddingClassifier(config, 5, dropout=0.0).cuda()
    packed.load_state_dict(exact.state_dict())
    scores = exact(ids, mask)
    weights = torch.randn_like(scores)
    (scores * weights).sum().backward()
    with torch.autocast("cuda", dtype=dtype):
        found = packed(ids.cuda(), mask.cuda())
    (found.double() * weights.cuda()).sum().backward()
    tolerance = 5e-3 if dtype is torch.float16 else 3e-2
    assert float((found.double().cpu() - scores).norm() / scores.norm()) < tolerance
    for (name, a), b in zip(exact.named_parameters(), packed.parameters(), strict=True):
        assert float((b.grad.double().cpu() - a.grad).norm() / a.grad.norm()) < 4 * tolerance, name


def test_row_updates_are_those_of_the_cpu():
    """Under fp16 with a loss scale; a step that overflows is left out by both halves."""
    weights = {}
    for name in ("cpu", "cuda"):
        torch.manual_seed(0)
        table = torch.nn.Embedding(50, 8, sparse=True).to(name)
        layer = torch.nn.Linear(8, 1).to(name)
        parameters = [*table.parameters(), *layer.parameters()]
        optimizer = RowAdamW(parameters, lr=0.01, fused=True)
        optimizer.follow(table)
        scaler = torch.amp.GradScaler("cuda", enabled=name == "cuda", init_scale=2.0**10)
        for step in range(12):
            rows = torch.arange(step, step + 20, device=name) % 50
            if name == "cuda" and step == 5:  # one more than the CPU's, which overflows and must not count
                scaler.scale(layer(table(rows)).square().mean() * float("inf")).backward()
                assert not optimizer_step(optimizer, scaler, parameters)[1]
            scaler.scale(layer(table(rows)).square().mean()).backward()
            optimizer_step(optimizer, scaler, parameters)
        optimizer.catch_up()
        weights[name] = [p.detach().cpu() for p in parameters]
    for a, b in zip(weights["cpu"], weights["cuda"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_number_format_trains():
    sizes = Namespace(num_layers=1, hidden_size=64, steps=1, compile=False, device="cuda")
    found = list(records(Namespace(task="all", shape="8x4", config="all", **vars(sizes))))
    assert len(found) == 2 * len(CONFIGS)
    for row in found:
        missing = row["status"] == "unsupported" and row["reason"].startswith("needs ")  # a package
        naive = row["status"] == "diverged" and row["config"] == "fp16_naive"
        assert missing or naive or (row["status"] == "completed" and row["mfu"] > 0), row


def test_codes_are_those_of_the_cpu():
    torch.manual_seed(0)
    items = torch.randn(3000, 64)
    model = RQVAE(64, (48,), 32, codebook_size=64)
    model.fit_input_scale(items)
    model.initialize_codebooks(items, seed=0)
    with torch.no_grad():
        expected, found = model(items).codes, model.cuda()(items.cuda()).codes.cpu()
    assert float((expected == found).all(1).float().mean()) > 0.999
