"""Made-up results of both tasks in the form that run.py writes, for the tests of the report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.dtype_configs import CONFIGS, DtypeConfig, get_config

DOCUMENTS, LABELS, STEPS = 80, 40, 200
RATES = {"classification": 2e-5, "language_modeling": 6e-4}
LOST = {2e-5: 0.85, 6e-4: 0.12}  # share of updates that bf16 weights lose
GROUPS = ("embeddings", "attention", "mlp", "head", "norms", "biases")
TENSORS = ("logits", "logit_gradients", "activations", "gradients", "weights")
KEEPS_LOST_BITS = ("bf16_kahan", "bf16_sr", "bf16_master")


def harm_of(config: DtypeConfig, rate: float) -> float:
    """How much worse than fp32 a configuration is here: where it loses updates, in proportion."""
    if config.parameters != "bfloat16" or config.name in KEEPS_LOST_BITS:
        return 0.0
    return 0.06 * LOST[rate]


def make_row(task: str, config: DtypeConfig, seed: int, rate: float, device: str = "cpu") -> dict[str, Any]:
    """A completed run; fp16_naive diverges, fp8 is not supported."""
    harm, half = harm_of(config, rate), config.compute != "float32"
    noise = np.random.default_rng([seed, len(config.name)]).normal(0, 0.0005)
    row = {
        "task": task, "config": config.name, "dtypes": asdict(config), "seed": seed, "learning_rate": rate,
        "status": "completed", "reason": None, "emulated": config.name == "amp_bf16_head_out32",
        "key": f"{task}{config.name}{seed}{rate}", "command": f"run.py --config {config.name} --seed {seed}",
        "device": device, "versions": {"torch": "2.13.0"}, "git_commit": "0123456789abcdef", "recipe": "spec",
        "pretrained": False, "max_steps": STEPS, "batch_size": 8, "gradient_accumulation_steps": 4,
        "model": {"name": "tiny-random", "parameters": 1_234_567}, "steps": STEPS,
        "data": {"fingerprint": f"of {task}", "train": 480, "validation": 80, "test": 80, "labels": 1000},
        "first_non_finite_step": None, "skipped_steps": 0, "head_flops_share": 0.001, "compile_seconds": 0.5,
        "metrics": None, "metrics_fp32": None, "predictions": None, "mfu": None,
    }  # fmt: skip
    if config.name == "fp8_tensorwise":
        return row | {"status": "unsupported", "reason": "fp8 needs <compute> capability 8.9"}
    if config.name == "fp16_naive":
        return row | {
            "status": "diverged",
            "reason": "the loss is nan",
            "steps": 2,
            "first_non_finite_step": 2,
        }
    start, end = (0.7, 0.1 + harm) if task == "classification" else (6.0, 3.0 + harm)
    curve = [
        {"step": step, "loss": loss + 0.01, "validation_loss": loss, "seconds": step / 10}
        for step in range(20, STEPS + 1, 20)
        for loss in [end + (start - end) * np.exp(-step / 40) + noise]
    ]
    speed = (2.0 + 0.1 * (config.parameters == "bfloat16")) * 50 if half else 50.0
    weights = 2.0 if config.parameters == "float32" else 1.0
    lost = LOST[rate] if harm else 0.0
    shares = {"lost": lost, "progress": 1 - lost, "decay_no_op": float(config.parameters == "bfloat16")}
    formats = {name: {"zero": 0.3, "subnormal": 0.5, "overflow": 0.0} for name in ("float16", "bfloat16")}
    return row | {
        "samples_per_second": speed + seed, "tokens_per_second": 64 * speed,
        "step_ms": {"median": 32_000 / (speed + seed), "p10": 31_000 / speed, "p90": 35_000 / speed},
        "peak_memory_gb": 2 * weights + 3, "train_seconds": 20.0,
        "memory": dict(weights=weights, gradients=weights, optimizer_state=1, activations_and_workspace=2),
        "curve": curve, "scale_history": [[1, 65536.0], [5, 32768.0]],
        "max_logit": [[1, 2.0], [STEPS, 9.0]], "gradient_norm": [[1, 1.0], [STEPS, None]],
        "lost_updates": [{"step": s, "lr": rate, "groups": dict.fromkeys(GROUPS, shares)} for s in (21, 100)],
        "underflow": {name: {"zeros": 0.1, "non_finite": 0.0, **formats} for name in TENSORS},
    }  # fmt: skip


def add_predictions(row: dict[str, Any], folder: Path, harm: float) -> None:
    """Predictions whose scores the row then holds: documents are shared, `harm` makes more of them wrong."""
    documents = np.random.default_rng(7)
    rng = np.random.default_rng([row["seed"], CONFIGS.index(get_config(row["config"])) // 2])
    if row["task"] == "language_modeling":
        losses = 3.0 + harm + documents.normal(0, 0.3, DOCUMENTS) + rng.normal(0, 0.002, DOCUMENTS)
        arrays = {"losses": losses.astype(np.float32)}
        mean = float(arrays["losses"].astype(np.float64).mean())
        metrics = {"loss": mean, "perplexity": float(np.exp(mean))}
    else:
        counts = documents.integers(1, 8, DOCUMENTS)
        gold = [np.sort(documents.choice(LABELS, count, replace=False)) for count in counts]
        top5, tp, fp = [], [], []
        for labels in gold:
            wrong = rng.random(5) < 0.2 + 4 * harm
            others = np.setdiff1d(np.arange(LABELS), labels)
            best = [others[i] if bad or i >= len(labels) else labels[i] for i, bad in enumerate(wrong)]
            top5.append(best)
            tp.append(len(set(best) & set(labels.tolist())))
            fp.append(5 - tp[-1])
        tp, fp = np.array(tp), np.array(fp)
        arrays = {
            "top5": np.array(top5, dtype=np.int32), "gold": np.concatenate(gold),
            "gold_offsets": np.cumsum([0, *counts]), "tp": tp, "fp": fp, "fn": counts - tp,
        }  # fmt: skip
        f1 = 2 * tp.sum() / (2 * tp + fp + counts - tp).sum()
        metrics = {"micro_f1_tuned": float(f1), "precision_at_5": float(tp.mean() / 5), "macro_f1": 0.2,
                   "ceilings": {"precision_at_5": 0.9}}  # fmt: skip
    name = f"predictions/{row['config']}-seed{row['seed']}-{row['learning_rate']:g}.npz"
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, **arrays)
    row |= {"predictions": name, "metrics": {"test": metrics}, "metrics_fp32": {"test": metrics}}


def write_results(folder: Path, task: str, seeds: int = 3, grid: bool = True, configs=CONFIGS) -> list[dict]:
    """results.jsonl of a sweep with three seeds at the task's own rate and, in `grid`, one at the other's."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for config in configs:
        for rate in RATES.values():
            if rate != RATES[task] and not grid:
                continue
            for seed in range(seeds if rate == RATES[task] else 1):
                row = make_row(task, config, seed, rate)
                if row["status"] == "completed":
                    add_predictions(row, folder, harm_of(config, rate))
                rows.append(row)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
