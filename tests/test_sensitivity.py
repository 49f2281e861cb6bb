"""sensitivity.py: rounding of one part alone, undone at the end; the script on both tasks' own weights."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_refused, make_texts, run_main
from torch import nn

from experiments import sensitivity
from experiments.sensitivity import DTYPES, part_modules, round_to, rounded, sensitivity_table
from experiments.task import Batch


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Embedding(30, 16), nn.LayerNorm(16))
        self.body.add_module("attention", nn.Linear(16, 16))
        self.head = nn.Linear(16, 40)


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch((torch.randint(30, (8,), generator=generator),), (), 8, 8, 8) for _ in range(3)]


def make_task() -> SimpleNamespace:
    def validate(predict) -> dict[str, float]:
        return {"loss": float(torch.cat([predict(batch) for batch in batches()]).square().mean())}

    return SimpleNamespace(name="toy", validate=validate)


def logits(model: nn.Module) -> torch.Tensor:
    return torch.cat([model.head(model.body(*batch.inputs)) for batch in batches()]).detach()


@pytest.mark.parametrize("name", DTYPES)
def test_rounded_values_are_the_nearest_of_the_format(name):
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 0.02
    found = round_to(values, name)
    if name.startswith("float8"):  # a grid of our own: mantissa bits, least exponent and scale by hand
        bits, least, largest = (3, -6, 448.0) if name == "float8_e4m3" else (2, -14, 57344.0)
        scale = largest / float(values.abs().max())
        scaled = values.double() * scale
        step = 2.0 ** (scaled.abs().log2().floor().clamp(min=least) - bits)
        expected = (scaled / step).round() * step / scale
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    else:
        assert torch.equal(found, values.to(DTYPES[name]).float())
    assert found.dtype == torch.float32 and not torch.equal(found, values)
    assert torch.equal(round_to(torch.zeros(3), name), torch.zeros(3))


def test_a_part_alone_is_rounded_and_comes_back_to_the_bit():
    model = Model()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    parts = part_modules(model)
    assert parts["head"] == [model.head] and parts["attention"] == [model.body.attention]
    assert list(parts) == ["embeddings", "norms", "attention", "head", "all"] and len(parts["all"]) == 4
    with pytest.raises(KeyError), rounded(parts["head"], "bfloat16", True):
        for name, p in model.state_dict().items():
            changed = name.startswith("head")
            assert torch.equal(p, before[name].to(torch.bfloat16).float() if changed else before[name])
        assert len(model.head._forward_hooks) == len(model.head._forward_pre_hooks) == 1
        raise KeyError  # undone after an error too
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not model.head._forward_hooks and not model.head._forward_pre_hooks


def test_values_are_rounded_on_both_sides_of_a_layer():
    model, half = Model(), torch.bfloat16
    hidden = model.body(batches()[0].inputs[0])
    weight, bias = (p.to(half).double() for p in (model.head.weight, model.head.bias))
    with torch.no_grad(), rounded([model.head], "bfloat16", True):
        found = model.head(hidden)
    exact = hidden.to(half).double() @ weight.t() + bias
    torch.testing.assert_close(found.double(), exact.to(half).double(), rtol=2**-8, atol=0)
    assert torch.equal(found, found.to(half).float())
    with torch.no_grad(), rounded([model.head], "bfloat16", False):
        found = model.head(hidden)
    torch.testing.assert_close(found.double(), hidden.double() @ weight.t() + bias, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, found.to(half).float())


def test_the_table_has_a_row_a_part_format_and_kind_and_says_what_changed():
    model, lines = Model(), []
    base = logits(model)
    rows = sensitivity_table(make_task(), model, torch.device("cpu"), lines.append)
    assert len(rows) == 1 + 5 * len(DTYPES) * 2 == len(lines) - 1
    assert rows[0]["loss"] == pytest.approx(float(base.square().mean()))
    assert torch.equal(logits(model), base)
    found = {(row["part"], row["format"], row["rounded"]): row for row in rows}
    row = found["head", "float8_e5m2", "weights"]
    with rounded([model.head], "float8_e5m2", False):
        other = logits(model)
    assert row["delta_loss"] == pytest.approx(float(other.square().mean()) - rows[0]["loss"], rel=1e-4)
    assert row["best_changed"] == float((other.argmax(1) != base.argmax(1)).double().mean()) > 0
    sets = [
        set(a.tolist()) != set(b.tolist()) for a, b in zip(other.topk(5)[1], base.topk(5)[1], strict=True)
    ]
    assert row["top5_changed"] == np.mean(sets)
    change = float((other - base).double().square().mean().sqrt() / base.double().std())
    assert row["logit_change"] == pytest.approx(change, rel=1e-6)
    wider = [found["all", name, "values"]["logit_change"] for name in ("float16", "bfloat16", "float8_e5m2")]
    assert wider[0] < wider[1] < wider[2]


def test_weights_that_the_format_holds_change_nothing():
    model = Model()
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16).float()
    rows = sensitivity_table(make_task(), model, torch.device("cpu"), lambda line: None)
    for row in rows[1:]:
        if row["rounded"] == "weights" and row["format"] == "bfloat16":
            assert row["delta_loss"] == row["best_changed"] == row["logit_change"] == 0.0


def test_what_overflows_is_no_number():
    model = Model()
    model.head.weight.data[0, 0] = 1e5
    rows = sensitivity_table(make_task(), model, torch.device("cpu"), lambda line: None)
    row = next(r for r in rows if (r["part"], r["format"], r["rounded"]) == ("head", "float16", "weights"))
    assert row["logit_change"] is None and row["loss"] is None and row["delta_loss"] is None


# ---------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_tokenizer) -> dict[str, SimpleNamespace]:
    """Both tasks: prepared data, an fp32 run of a few steps, and the path of its weights."""
    from experiments.classification import prepare_data as prepare_documents
    from experiments.classification import run as classify
    from experiments.language_modeling import prepare_data as prepare_text
    from experiments.language_modeling import run as model_language

    folder = tmp_path_factory.mktemp("sensitivity")
    texts = make_texts(300, 0)[0]
    (folder / "book.txt").write_text("\n".join(texts * 5))
    rows = [
        {"celex_id": f"3{n}", "title": "", "text": text, "eurovoc_concepts": [str(n % 7), str(20 + n % 5)]}
        for n, text in enumerate(texts)
    ]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = "--max_steps 6 --eval_steps 3 --batch_size 4 --gradient_accumulation_steps 1 --device cpu".split()
    sizes = "--num_layers 1 --hidden_size 16 --num_heads 2 --block_size 16 --eval_windows 8".split()
    encoder = "--encoder tiny-random --max_length 16 --learning_rate 1e-3".split()
    tasks = {
        "classification": (prepare_documents, classify, "documents.jsonl", ["--allow_partial"], encoder),
        "language_modeling": (prepare_text, model_language, "book.txt", [], sizes),
    }
    found = {}
    for name, (prepare, run, source, flags, settings) in tasks.items():
        data, out = folder / f"{name}-data", folder / name
        inputs = ["--input", folder / source, "--tokenizer", tiny_tokenizer, "--out", data, *flags]
        for main, args in (
            (prepare.main, inputs),
            (run.main, ["--data", data, "--out", out, *small, *settings]),
        ):
            result = run_main(main, *args)
            assert result.returncode == 0, result.stderr[-2000:]
        found[name] = SimpleNamespace(data=data, out=out, weights=next((out / "weights").glob("*.pt")))
    return found


@pytest.mark.parametrize("task", ["classification", "language_modeling"])
def test_the_script_writes_its_table(task, results, tmp_path):
    run = results[task]
    result = run_main(sensitivity.main, "--checkpoint", run.weights, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    out = run.out / "sensitivity"
    stored = json.loads((out / "sensitivity.json").read_text())
    assert stored["task"] == task and stored["step"] == 6
    with open(out / "sensitivity.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(stored["rows"]) == 1 + 8 * len({row["part"] for row in stored["rows"][1:]})
    parts = {"embeddings", "norms", "attention", "mlp", "head", "all"}
    assert {row["part"] for row in stored["rows"][1:]} == parts
    # the first row is the run's own last point
    row = json.loads((run.out / "results.jsonl").read_text().splitlines()[-1])
    assert stored["rows"][0]["loss"] == pytest.approx(row["curve"][-1]["validation_loss"], rel=1e-6)
    assert float(lines[0]["loss"]) == stored["rows"][0]["loss"]


def test_data_elsewhere_and_output_are_flags(results, tmp_path):
    run = results["language_modeling"]
    moved = tmp_path / "moved"
    run.data.rename(moved)
    try:
        assert_refused(run_main(sensitivity.main, "--checkpoint", run.weights), "--data")
        flags = ["--data", moved, "--out", tmp_path / "out", "--device", "cpu"]
        result = run_main(sensitivity.main, "--checkpoint", run.weights, *flags)
        assert result.returncode == 0 and (tmp_path / "out" / "sensitivity.csv").exists()
    finally:
        moved.rename(run.data)


def test_what_is_no_weights_of_a_run_is_refused(results, tmp_path):
    assert_refused(run_main(sensitivity.main, "--checkpoint", tmp_path / "none.pt"), "none.pt", "no such")
    other = tmp_path / "other.pt"
    torch.save({"progress": {"step": 1}, "model": {}}, other)
    assert_refused(run_main(sensitivity.main, "--checkpoint", other), "other.pt", "weights/")
    other.write_bytes(results["language_modeling"].weights.read_bytes()[:900])
    assert_refused(run_main(sensitivity.main, "--checkpoint", other), "other.pt", "damaged")
    flags = ["--data", results["classification"].data]
    weights = results["language_modeling"].weights
    assert_refused(run_main(sensitivity.main, "--checkpoint", weights, *flags), "another task")
    (tmp_path / "file").write_text("")
    flags = ["--out", tmp_path / "file"]
    assert_refused(run_main(sensitivity.main, "--checkpoint", weights, *flags), "--out", "is a file")
