"""Which part of a trained model minds which format: its weights rounded part by part, without training.

    python experiments/sensitivity.py --checkpoint results/classification/weights/fp32_baseline-seed0-....pt

In: weights/ of an fp32_baseline run of either task, and the prepared data it was trained on (--data, where
that has moved). Out, in --out: sensitivity.csv and sensitivity.json; the table is printed. Each row is the
validation split once more, in 32-bit arithmetic, with one part of the model rounded: its weights alone, or
also what goes into and comes out of its layers (`values`), which is what computing it in that format does.
8-bit formats have one scale a tensor, its largest magnitude at the format's largest number.
"""

import argparse
import csv
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.probes import group_parameters
from experiments.task import Batch, Task
from training_utils import (
    InputError,
    describe_run,
    pick_device,
    read_checkpoint,
    replacing,
    run_script,
    seed_everything,
    write_json,
)

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
SAMPLED = 4096  # logits of a batch whose change is measured
BEST = 5
SIZES = "num_layers hidden_size num_heads block_size eval_windows max_length".split()  # settings of a run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="weights of an fp32_baseline run")
    add("--data", type=Path, help="prepared data (as in the run)")
    add("--out", type=Path, help="folder (sensitivity/ beside the checkpoint's folder)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--threads", type=int, default=0, help="CPU threads (0 = PyTorch's choice)")
    args = parser.parse_args()
    args.out = args.out or args.checkpoint.resolve().parent.parent / "sensitivity"
    if args.out.is_file():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


def load_run(path: Path, data: Path | None) -> tuple[Task, nn.Module, dict[str, Any]]:
    """Task, trained model on the CPU, and what the checkpoint says of its run."""
    state = read_checkpoint(path)
    progress = state["progress"]
    if not {"task", "args"} <= progress.keys() or "model" not in state:
        raise InputError(f"{path}: not the weights of a run; name a file in weights/ of a results folder")
    if not isinstance(progress["args"], dict) or not isinstance(progress["args"].get("data"), str):
        raise InputError(f"{path}: does not say what its run was; use another file")
    settings = progress["args"] | {"data": Path(data or progress["args"]["data"])}
    if progress["task"] == "classification":
        from experiments.classification.run import make_task
    else:
        from experiments.language_modeling.run import make_task
    for name in SIZES:
        if name in settings and (type(settings[name]) is not int or settings[name] < 1):
            raise InputError(f"{path}: {name} of its run is {settings[name]!r:.40}; use another file")
    try:
        task = make_task(argparse.Namespace(**settings))
        model = task.make_model()
        model.load_state_dict(state["model"])
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: does not fit {settings['data']} ({reason}); name its own --data") from None
    return task, model.eval(), progress


# ---------------------------------------------------------------- rounding


def part_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers of each part, biases with their layers; `all` is the whole model."""
    owners = {
        id(p): module for module in model.modules() for p in module.parameters(recurse=False) if p.ndim > 0
    }
    parts = {}
    for name, parameters in group_parameters(model).items():
        modules = list({id(owners[id(p)]): owners[id(p)] for p in parameters}.values())
        if modules and name != "biases":
            parts[name] = modules
    return parts | {"all": list({id(m): m for modules in parts.values() for m in modules}.values())}


def round_to(values: Tensor, name: str) -> Tensor:
    """float32 values that the format holds. A magnitude that it does not have becomes infinite."""
    dtype = DTYPES[name]
    if not name.startswith("float8"):
        return values.to(dtype).float()
    scale = torch.finfo(dtype).max / values.abs().max().clamp(min=1e-12)
    return (values * scale).to(dtype).float() / scale


@contextmanager
def rounded(modules: list[nn.Module], name: str, values: bool) -> Iterator[None]:
    """Round the modules' weights, and with `values` their inputs and outputs; all is undone at the end."""
    kept = [(p, p.detach().clone()) for module in modules for p in module.parameters(recurse=False)]
    hooks = []

    def cast(value: Any) -> Any:
        return round_to(value, name) if isinstance(value, Tensor) and value.is_floating_point() else value

    with torch.no_grad():
        for p, original in kept:
            p.copy_(round_to(original, name))
    if values:
        for module in modules:
            hooks.append(module.register_forward_pre_hook(lambda _, inputs: tuple(map(cast, inputs))))
            hooks.append(module.register_forward_hook(lambda _, _inputs, output: cast(output)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for p, original in kept:
                p.copy_(original)


# ---------------------------------------------------------------- measuring


class Watch:
    """Predicts, and keeps the best outputs of each row and a sample of the logits, batch by batch."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.best: list[Tensor] = []
        self.sample: list[Tensor] = []

    def __call__(self, batch: Batch) -> Tensor:
        logits = self.model.head(self.model.body(*batch.to(self.device).inputs))
        self.best.append(logits.topk(min(BEST, logits.shape[-1]), dim=-1).indices.flatten(0, -2).cpu())
        flat = logits.reshape(-1)
        self.sample.append(flat[:: math.ceil(flat.numel() / SAMPLED)].double().cpu())
        return logits


def compare(watch: Watch, base: Watch) -> dict[str, float | None]:
    """`best_changed`, `top5_changed`: rows whose best output, or set of five best, is another one;
    `logit_change`: the root mean square of the change over that of the logits' spread.
    """
    best, base_best = torch.cat(watch.best), torch.cat(base.best)  # (rows, 5)
    sample, base_sample = torch.cat(watch.sample), torch.cat(base.sample)
    change = float((sample - base_sample).square().mean().sqrt() / base_sample.std().clamp(min=1e-12))
    same = best.sort(1).values == base_best.sort(1).values
    return {
        "best_changed": float((best[:, 0] != base_best[:, 0]).double().mean()),
        "top5_changed": float((~same.all(1)).double().mean()),
        "logit_change": change if math.isfinite(change) else None,
    }


@torch.no_grad()
def sensitivity_table(
    task: Task, model: nn.Module, device: torch.device, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """A row for the model as it is, then one for each part, format and kind of rounding."""
    base = Watch(model, device)
    metrics = _finite(task.validate(base))
    rows = [{"part": "none", "format": "float32", "rounded": "", **metrics}]
    columns = [
        *metrics,
        *(f"delta_{name}" for name in metrics),
        "best_changed",
        "top5_changed",
        "logit_change",
    ]
    say(_line(["part", "format", "rounded"], [*metrics, "best_changed", "logit_change"]))
    say(_line(["none", "float32", ""], [*metrics.values(), None, None]))
    for part, modules in part_modules(model).items():
        for name in DTYPES:
            for kind in ("weights", "values"):
                watch = Watch(model, device)
                with rounded(modules, name, kind == "values"):
                    found = _finite(task.validate(watch))
                deltas = {f"delta_{n}": _minus(found[n], metrics[n]) for n in metrics}
                values = found | deltas | compare(watch, base)
                row = {"part": part, "format": name, "rounded": kind}
                rows.append(row | {column: values[column] for column in columns})
                shown = [*found.values(), values["best_changed"], values["logit_change"]]
                say(_line([part, name, kind], shown))
    return rows


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: v if v is not None and math.isfinite(v) else None for name, v in values.items()}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _line(names: list[str], values: list[Any]) -> str:
    shown = ["-" if v is None else v if isinstance(v, str) else f"{v:.6f}" for v in values]
    return "".join(f"{n:12}" for n in names) + "".join(f"{v:>16}" for v in shown)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    lines = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def main() -> None:
    args = parse_args()
    seed_everything(0)
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")

    task, model, progress = load_run(args.checkpoint, args.data)
    rows = sensitivity_table(task, model.to(device), device)

    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "sensitivity.csv", rows)
    about = {"task": task.name, "checkpoint": str(args.checkpoint), "step": progress["step"]}
    write_json(args.out / "sensitivity.json", {**about, **describe_run(device), "rows": rows})
    print(f"{len(rows)} rows in {args.out}/sensitivity.csv and sensitivity.json")


if __name__ == "__main__":
    run_script(main)
