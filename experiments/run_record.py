"""The result of one run: what identifies it, its row in results.jsonl, its predictions and weights."""

import argparse
import errno
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from experiments.costs import matmul_ceiling, mfu
from experiments.dtype_configs import DtypeConfig, get_config
from experiments.precision import TORCH_DTYPES, emulated, unsupported
from experiments.run_state import Run, prepare, weights_sha256
from experiments.task import Evaluation, Task
from experiments.training import evaluate_run, train
from training_utils import (
    InputError,
    World,
    describe_run,
    init_distributed,
    pick_device,
    replacing,
    save_checkpoint,
)

# What does not change a result: everything else is part of a run's key.
NOT_IN_KEY = "config seeds out resume shard save_every_steps list wandb data key name run_folder".split()
FINISHED = ("completed", "diverged", "unsupported")  # `oom` is tried again: there may be room next time
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
KEPT_SETTINGS = (  # beside the task's own facts: the report pairs runs that are alike in all of them
    "recipe", "max_steps", "batch_size", "gradient_accumulation_steps", "compile", "dropout", "weight_decay",
    "grad_clip", "warmup_ratio",
)  # fmt: skip
Row = dict[str, Any]


# ---------------------------------------------------------------- identity


def run_key(args: argparse.Namespace, config: DtypeConfig, fingerprint: str, world_size: int = 1) -> str:
    """A hash of the configuration, all settings, the data, the device and the code."""
    device = str(pick_device(args.device))
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    settings = {name: str(value) for name, value in vars(args).items() if name not in NOT_IN_KEY}
    identity = [asdict(config), settings, fingerprint, device, world_size, torch.__version__, code_version()]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def code_version() -> str:
    """A hash of what computes a result: the modules of this folder but those of the report."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    named = "adamw costs dtype_configs linear precision probes run_record run_state task training".split()
    files = [folder / f"{name}.py" for name in named]
    for path in [*files, *sorted(folder.glob("*/*.py"))]:
        if path.name != "prepare_data.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


# ---------------------------------------------------------------- results.jsonl


def read_rows(folder: Path) -> list[Row]:
    """Whole lines alone; a kill may have cut the last one."""
    path = folder / "results.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.append(row)
    return rows


def finished_keys(folder: Path) -> dict[str, str]:
    """Key -> status of the runs that need not be run again; the last row of a key counts."""
    last = {row["key"]: row["status"] for row in read_rows(folder) if "key" in row}
    return {key: status for key, status in last.items() if status in FINISHED}


def append_row(folder: Path, row: Row) -> None:
    """One whole line, also where several shards write at once; a line cut by a kill is taken off first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("ab+") as file:
        _lock(file, wait=True)
        end = file.seek(0, 2)
        file.seek(0)
        content = file.read() if end else b""
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write((json.dumps(_finite(row), ensure_ascii=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Hold `file` for this process until it is closed. True where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


# ---------------------------------------------------------------- one run


MakeTask = Callable[[argparse.Namespace], Task]


def run_one(make_task: MakeTask, args: argparse.Namespace) -> Row:
    """Train and evaluate one configuration with one seed in this process; append its row."""
    world = init_distributed()
    device = pick_device(args.device, world.local_rank)
    if args.threads:
        torch.set_num_threads(args.threads)
    config = get_config(args.config)
    task = make_task(args)
    args.key = run_key(args, config, task.facts["data"]["fingerprint"], world.size)
    args.name = f"{config.name}-seed{args.seed}-{args.key}"
    args.run_folder = args.out / "runs" / args.name
    row = base_row(task, config, args, world, device)
    reason, held = unsupported(config, device, args.emulate), None
    if reason:
        row |= {"status": "unsupported", "reason": reason}
        print(f"{config.name}: unsupported: {reason}", flush=True)
    else:
        held = _claim(args, world)
        try:
            row |= _train_and_evaluate(task, config, args, world, device)
        except (MemoryError, RuntimeError) as error:
            if world.size > 1 or not _is_out_of_memory(error):
                raise
            row |= {"status": "oom", "reason": " ".join(str(error).split())[:200]}
            print(f"{config.name} seed {args.seed}  out of memory: {row['reason'][:100]}", flush=True)
    if world.is_main:
        append_row(args.out, row)
        for path in args.run_folder.glob("checkpoint-*.pt"):
            path.unlink()
    if held:
        held.close()
    return row


def _claim(args: argparse.Namespace, world: World) -> BinaryIO | None:
    """Two processes must not write one run's checkpoints: the run is this one's until the file is closed."""
    if not world.is_main:
        return None
    args.run_folder.parent.mkdir(parents=True, exist_ok=True)
    file = (args.run_folder.parent / f".{args.name}.lock").open("ab")
    if not _lock(file, wait=False):
        raise InputError(f"{args.run_folder}: another process is at this run; wait, or name another --out")
    return file


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(s in text for s in OUT_OF_MEMORY)


def base_row(
    task: Task, config: DtypeConfig, args: argparse.Namespace, world: World, device: torch.device
) -> Row:
    """What is known before the first step."""
    return {
        "task": task.name,
        "config": config.name,
        "dtypes": asdict(config),
        "seed": args.seed,
        "learning_rate": args.learning_rate,
        "status": "completed",
        "reason": None,
        "emulated": emulated(config, device),
        "key": args.key,
        **describe_run(device),
        "code_version": code_version(),
        "world_size": world.size,
        **{name: getattr(args, name) for name in KEPT_SETTINGS},
        **task.facts,
        "head_flops_share": task.head_flops_share,
        "flops_per_sample": task.flops_per_sample,
        "metrics": None,
        "metrics_fp32": None,
        "predictions": None,
        "weights": None,
    }


def _train_and_evaluate(
    task: Task, config: DtypeConfig, args: argparse.Namespace, world: World, device: torch.device
) -> Row:
    run = Run(task, config, args, world, device)
    prepare(run)
    train(run)
    found = measurements(run)
    parameters = sum(p.numel() for p in run.model.parameters())
    found["model"] = task.facts["model"] | {
        "parameters": parameters,
        "initial_sha256": run.initial_sha256,
        "final_sha256": weights_sha256(run.model),
    }
    reason = run.progress["reason"]
    native, upcast = evaluate_run(run)
    if world.is_main and native is None and reason is None:
        reason = "weights are not finite"
    found |= {"status": "diverged" if reason else "completed", "reason": reason}
    if native is not None and upcast is not None:
        found |= _keep(run, native, upcast)
    run.world.gather(None)  # nobody leaves before rank 0 is done
    run.log.finish({name: value for name, value in found.items() if name not in ("curve", "underflow")})
    if world.is_main and native is not None:
        shown = {name: native.metrics["test"][name] for name in task.headline}
        run.say(f"{found['status']}  test  " + "  ".join(f"{k} {_show(v)}" for k, v in shown.items()))
    return found


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _keep(run: Run, native: Evaluation, upcast: Evaluation) -> Row:
    """Save predictions, and the baseline's weights, which sensitivity.py rounds part by part."""
    args = run.args
    found: Row = {"metrics": native.metrics, "metrics_fp32": upcast.metrics}
    for name in ("documents", "windows"):
        if count := native.metrics["test"].get(f"non_finite_{name}"):
            found |= {"status": "diverged", "reason": f"logits of {count} test {name} are not finite"}
    predictions = Path("predictions") / f"{args.name}.npz"
    (args.out / "predictions").mkdir(parents=True, exist_ok=True)
    with replacing(args.out / predictions) as file:
        np.savez_compressed(file, **native.predictions)
    found["predictions"] = str(predictions)
    if run.config.name == "fp32_baseline" and not run.progress["reason"]:
        weights = Path("weights") / f"{args.name}.pt"
        (args.out / "weights").mkdir(parents=True, exist_ok=True)
        plain = {n: str(value) if isinstance(value, Path) else value for n, value in vars(args).items()}
        progress = {"step": run.progress["step"], "task": run.task.name, "args": plain}
        save_checkpoint(args.out / weights, progress, model=run.model)
        found["weights"] = str(weights)
    return found


def measurements(run: Run) -> dict[str, Any]:
    """The fields of the result row that the steps gave."""
    progress, timing, memory = run.progress, dict(run.progress["timing"]), run.progress["memory"] or {}
    timed = timing.pop("timed_steps")
    speed = timing["samples_per_second"]
    rows = max(1, progress["step"]) * run.rows
    ceiling, share = None, None
    if run.device.type == "cuda" and speed:
        ceiling = matmul_ceiling(run.device, TORCH_DTYPES[run.config.compute])
        try:
            # what was computed: batches are padded to their longest document, not to the full length
            length = run.task.facts.get("max_length") or run.task.facts["block_size"]
            computed = run.task.flops_per_sample * progress["padded_tokens"] / (rows * length)
            share = mfu(computed, speed / run.world.size, ceiling)
        except ValueError as error:
            run.say(f"mfu: {error}")
    kept = "curve lost_updates scale_history max_logit gradient_norm dtype_table skipped_steps"
    return {
        **{name: progress[name] for name in kept.split()},
        "first_non_finite_step": progress["first_non_finite_step"],
        "underflow": progress["underflow"].get("start", progress["underflow"].get("end", {})),
        "underflow_end": progress["underflow"].get("end", {}),
        "steps": progress["step"],
        "train_seconds": round(progress["train_seconds"], 3),
        **timing,
        "timed_steps": timed,
        "tokens_per_second": speed and speed * progress["tokens"] / rows,
        "padding_share": 1 - progress["tokens"] / max(1, progress["padded_tokens"]),
        "peak_memory_gb": memory.get("peak_memory_gb"),
        "reserved_memory_gb": memory.get("reserved_gb"),
        "memory": memory.get("memory"),
        "mfu": share,
        "ceiling_tflops": ceiling and ceiling / 1e12,
    }
