"""The mechanics that the train scripts share: the batch loop, checkpoints and resume.

A script owns the story (model, loss, epochs) and hands `compute_loss(model, batch, args) -> (loss, parts)` to
`train_one_epoch`; nothing here knows which version it trains.
"""

import argparse
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from category_classification.batches import TrainingBatches, on_device
from category_classification.evaluation import Evaluation, evaluate, score
from category_classification.lspc import Split
from category_classification.metrics import add_language_bias, fit_language_bias, fit_temperature
from category_classification.row_adamw import RowAdamW
from category_classification.step_means import Interval
from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    accumulate,
    autocast,
    describe_run,
    latest_checkpoint,
    leave_later_ones,
    load_checkpoint,
    make_grad_scaler,
    make_lr_scheduler,
    optimizer_step,
    save_checkpoint,
)

ComputeLoss = Callable[[nn.Module, dict[str, Any], argparse.Namespace], tuple[Tensor, dict[str, Tensor]]]

# A resume with another value of one of these is allowed, but is not the run that was stopped.
EXACT_SETTINGS = (
    "batch_size grad_accum seed seq_len lr weight_decay max_grad_norm lr_schedule lr_warmup_steps "
    "lr_min_scale amp amp_dtype embedding_update embedding_dropout token_dropout max_drop_path "
    "classifier_dropout train_split max_rows length_window label_smoothing focal_gamma "
    "contrastive_weight contrastive_temp contrastive_positives language_alpha language_weights "
    "finetune_languages kl_teacher kl_weight"
).split()


@dataclass
class Run:
    """What belongs to one training run, and where it has got to (`progress` travels in the checkpoint)."""

    args: argparse.Namespace
    world: World
    device: torch.device
    model: nn.Module
    loader: TrainingBatches
    progress: dict[str, Any]
    log: RunLog | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        args = self.args
        steps_per_epoch = math.ceil(len(self.loader) / args.grad_accum)
        self.total_steps = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
        if args.lr_warmup_steps is None:
            args.lr_warmup_steps = self.total_steps // 20
        sparse = args.embedding_update == "rows"
        fused = self.device.type in ("cpu", "cuda")
        adamw = RowAdamW if sparse else torch.optim.AdamW
        self.optimizer = adamw(
            self.model.parameters(), lr=args.lr, weight_decay=args.weight_decay, fused=fused
        )
        if sparse:
            self.optimizer.follow(self.model.encoder.embeddings)
        self.scheduler = make_lr_scheduler(
            self.optimizer, args.lr_schedule, args.lr_warmup_steps, self.total_steps, args.lr_min_scale
        )
        self.scaler = make_grad_scaler(self.device, args.amp, args.amp_dtype)
        self.wrapped = self.model  # in DDP once training starts
        self.bad_steps = 0

    @property
    def parts(self) -> dict[str, Any]:
        return dict(model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, scaler=self.scaler)

    @property
    def bar_off(self) -> bool | None:
        return None if self.world.is_main else True  # None: tqdm shows a bar on a terminal only

    @property
    def finished(self) -> bool:
        progress = self.progress  # a kill may have come between the last step and its evaluation
        steps_done = progress["step"] >= self.total_steps and progress["evaluated_step"] == progress["step"]
        return progress["epoch"] >= self.args.epochs or steps_done

    def autocast(self) -> AbstractContextManager:
        return autocast(self.device, self.args.amp, self.args.amp_dtype)

    def say(self, line: str) -> None:
        if self.world.is_main:
            tqdm.write(line)


def start_run(
    args: argparse.Namespace,
    world: World,
    device: torch.device,
    model: nn.Module,
    train: Split,
    info: dict[str, Any],
    tokenizer: Any,
    rows: Any = None,
) -> Run:
    """Optimizer, schedule, log; and the state of the checkpoint that `--resume` names. `rows`: an epoch's."""
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if not args.resume and any(out.glob("checkpoint-*.pt")):
        raise InputError(
            f"--out {out}: already holds a run; add --resume auto to go on, or name another folder"
        )
    loader = TrainingBatches(
        train, args.batch_size, args.seed, world, args.token_dropout, rows, args.length_window
    )
    progress = {
        **info,
        "epoch": 0,
        "batch": 0,
        "step": 0,
        "evaluated_step": 0,
        "best_macro_f1": -1.0,
        "data_fingerprint": train.fingerprint,
        "world_size": world.size,
    }
    path = latest_checkpoint(out) if args.resume == "auto" else args.resume
    run = Run(args, world, device, model, loader, progress)
    if path:
        _resume(run, Path(path))
    elif args.resume:
        run.say(f"resume: no checkpoint in {out}, starting from the beginning")
    progress["settings"] = {name: getattr(args, name, None) for name in EXACT_SETTINGS}
    progress["total_steps"] = run.total_steps
    run.log = RunLog(out, vars(args) | describe_run(device), args.wandb, world.is_main)
    evaluated = progress["batch"] > 0 and progress["evaluated_step"] == progress["step"]  # by --max_steps
    run.log.rewind(progress["step"], progress["epoch"] + evaluated)
    if world.is_main:
        tokenizer.save_pretrained(out / "tokenizer")  # best.pt and these files are all that prediction needs
    if args.compile:
        for block in model.encoder.blocks:
            block.compile(dynamic=True)
    run.wrapped = world.wrap(model)
    return run


def _resume(run: Run, path: Path) -> None:
    args, now = run.args, dict(run.progress)
    stored = load_checkpoint(path, world=run.world, **run.parts)
    _check_progress(path, stored, run.model)
    for name in ("class_names", "model"):
        if stored.get(name) != now[name]:
            raise InputError(f"{path}: was trained with {name} {stored.get(name)}, this run has {now[name]}")
    update = stored["settings"].get("embedding_update", args.embedding_update)
    if update != args.embedding_update:
        raise InputError(f"{path}: has the optimizer of --embedding_update {update}; resume with that")
    for name in ("data_fingerprint", "world_size"):
        if stored[name] != now[name]:
            run.say(f"resume: not exact, {name} was {stored[name]}, is {now[name]}")
    for name, value in stored["settings"].items():
        if value != getattr(args, name, None) and not (
            name == "lr_warmup_steps" and args.lr_warmup_steps is None
        ):
            run.say(f"resume: not exact, --{name} was {value}, is {getattr(args, name, None)}")
    if stored["total_steps"] != run.total_steps:
        run.say(
            f"resume: the schedule's {stored['total_steps']} steps become {run.total_steps}, from here on"
        )
    rows_done = stored["batch"] * stored["settings"]["batch_size"] * stored["world_size"]
    run.progress.update({k: stored[k] for k in ("epoch", "step", "best_macro_f1")})
    run.progress["evaluated_step"] = stored.get("evaluated_step", 0 if stored["batch"] else stored["step"])
    run.progress["batch"] = min(rows_done // run.loader.global_batch, len(run.loader))
    # The flags of this command rule, not those the optimizer was stored with.
    factor = run.scheduler.lr_lambdas[0](run.scheduler.last_epoch)
    run.scheduler.base_lrs = [args.lr] * len(run.optimizer.param_groups)
    for group in run.optimizer.param_groups:
        group.update(initial_lr=args.lr, lr=args.lr * factor, weight_decay=args.weight_decay)
    run.say(f"resume: {path}, epoch {run.progress['epoch'] + 1}, step {run.progress['step']}")
    if not leave_later_ones(Path(args.out) / "best.pt", run.progress["step"], run.world):
        run.progress["best_macro_f1"] = -1.0


def _check_progress(path: Path, stored: dict[str, Any], model: nn.Module) -> None:
    """What a resume takes from a checkpoint must be there and of its kind, before anything is written."""
    counts, settings = ("epoch", "batch", "step", "total_steps", "world_size"), stored.get("settings")
    sound = all(type(stored.get(name)) is int and stored[name] >= 0 for name in counts)
    sound = sound and isinstance(stored.get("best_macro_f1"), float) and "data_fingerprint" in stored
    sound = sound and isinstance(settings, dict) and type(settings.get("batch_size")) is int
    if not sound:
        raise InputError(f"{path}: does not say where its run was; use another checkpoint")
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise InputError(f"{path}: holds weights that are not finite; use another checkpoint")


# ---------------------------------------------------------------- training


def train_one_epoch(run: Run, compute_loss: ComputeLoss) -> None:
    """The rest of the current epoch. Saves, logs and stops by the flags; a non-finite loss never steps."""
    args, progress = run.args, run.progress
    if progress["step"] >= run.total_steps:
        return  # resumed before the last evaluation
    run.wrapped.train()
    batches = on_device(run.loader.epoch(progress["epoch"], start=progress["batch"]), run.device)
    bar = tqdm(total=len(run.loader), initial=progress["batch"], unit=" batches", disable=run.bar_off)
    bar.set_description(f"epoch {progress['epoch'] + 1}")
    interval = Interval(run)
    for group in accumulate(batches, args.grad_accum):
        loss, parts = _backward(run, group, compute_loss)
        sums = run.world.sum(torch.tensor([loss, float(bool(run.stop)), *parts.values()])).tolist()
        loss, stopping, parts = sums[0], sums[1], dict(zip(parts, sums[2:], strict=True))
        norm, stepped = float("nan"), False
        if math.isfinite(loss):
            norm, stepped = optimizer_step(
                run.optimizer, run.scaler, run.model.parameters(), run.scheduler, args.max_grad_norm
            )
        run.optimizer.zero_grad(set_to_none=True)
        progress["batch"] += len(group)
        progress["step"] += 1
        _check_step(run, group, loss, stepped)
        interval.add(group, loss, parts, norm)
        bar.update(len(group))
        if progress["step"] % args.log_every == 0:
            interval.close()
        if stopping:
            save(run, "checkpoint-last.pt")
            run.say(f"stopped after step {progress['step']}; --resume auto goes on from there")
            raise SystemExit(run.stop.exit_status)
        if args.save_every_steps and progress["step"] % args.save_every_steps == 0:
            save(run, "checkpoint-last.pt")
        if progress["step"] >= run.total_steps:
            break
    bar.close()
    interval.close()


def _backward(run: Run, group: list[dict], compute_loss: ComputeLoss) -> tuple[float, dict[str, float]]:
    """Gradients of the mean loss over the group's rows, however micro-batches and ranks share them."""
    rows = sum(batch["global_rows"] for batch in group)
    total, parts = torch.zeros((), device=run.device), {}
    for number, batch in enumerate(group, 1):
        between = run.world.size > 1 and number < len(group)  # ranks exchange gradients once a step
        with run.wrapped.no_sync() if between else nullcontext():
            with run.autocast():
                loss, batch_parts = compute_loss(run.wrapped, batch, run.args)
            share = batch["weight"] / rows
            run.scaler.scale(loss * (share * run.world.size)).backward()  # DDP takes the mean over ranks
        total += loss.detach() * share
        for name, value in batch_parts.items():
            parts[name] = parts.get(name, 0.0) + float(value) * share
    return float(total), parts


def _check_step(run: Run, group: list[dict], loss: float, stepped: bool) -> None:
    """Name a step that was left out; end the run after `--max_bad_steps` of them in a row."""
    overflow = math.isfinite(loss) and run.scaler.is_enabled()  # of fp16: the scaler's business
    if stepped or overflow:
        run.bad_steps = 0
        return
    run.bad_steps += 1
    rows = torch.cat([batch["rows"] for batch in group]).tolist()
    what = "loss" if not math.isfinite(loss) else "gradient"
    run.say(f"step {run.progress['step']}: non-finite {what}, weights left alone; rows {rows[:16]}")
    if run.bad_steps >= run.args.max_bad_steps:
        raise InputError(
            f"{run.bad_steps} steps in a row had a non-finite {what} (last: step {run.progress['step']}); "
            "the last checkpoint is kept, try a lower --lr"
        )


# ---------------------------------------------------------------- checkpoints


def save(run: Run, name: str) -> None:
    """Write a checkpoint; the one before stays as `checkpoint-previous.pt`, in case the newest is damaged."""
    out = Path(run.args.out)
    last, previous = out / "checkpoint-last.pt", out / "checkpoint-previous.pt"
    keep = previous if name == last.name else None
    save_checkpoint(out / name, run.progress, run.world, keep=keep, **run.parts)
    if not run.world.is_main:
        return
    if name != last.name:
        if last.exists():
            os.replace(last, previous)
        os.link(out / name, last)  # one file under two names
    if run.args.keep_last:
        epochs = sorted(out.glob("checkpoint-epoch*.pt"), key=lambda path: path.stat().st_mtime_ns)
        for path in epochs[: -run.args.keep_last]:
            path.unlink()


def end_epoch(run: Run, validation: Split) -> None:
    """Evaluate, keep `best.pt` if validation macro-F1 rose, write the epoch's checkpoint."""
    args, progress = run.args, run.progress
    if isinstance(run.optimizer, RowAdamW):
        run.optimizer.catch_up()
    result = _evaluate(run, validation)
    if not np.isfinite(result.logits).all():
        raise InputError(
            f"after step {progress['step']} the model's answers are not finite; "
            "the last checkpoint is kept, try a lower --lr"
        )
    epoch, step, macro_f1 = progress["epoch"] + 1, progress["step"], result.report["macro_f1"]
    run.log.log("validation", step, epoch, **result.summary)
    run.say(f"epoch {epoch} validation  " + "  ".join(f"{k} {v:.4f}" for k, v in result.summary.items()))
    if progress["batch"] >= len(run.loader):  # --max_steps may end a run inside an epoch
        progress["epoch"], progress["batch"] = epoch, 0
    progress["evaluated_step"] = step
    if macro_f1 > progress["best_macro_f1"]:
        progress["best_macro_f1"] = macro_f1
        rows = result.logits, validation.labels
        fitted = {
            "temperature": fit_temperature(*rows),
            "language_bias": fit_language_bias(*rows, validation.languages, validation.language_names),
        }
        best = {**progress, **fitted, "validation": result.summary}
        save_checkpoint(Path(args.out) / "best.pt", best, run.world, model=run.model)
    if epoch % args.save_every == 0 or run.finished:
        save(run, f"checkpoint-epoch{epoch}.pt")


def finish(run: Run, test: Split) -> None:
    """Test metrics of the best weights, with `summary.json` and the learning curve."""
    out = Path(run.args.out)
    best = load_checkpoint(out / "best.pt", restore_rng=False, model=run.model)
    result = _evaluate(run, test)
    run.log.log("test", best["step"], best["epoch"], **result.summary)
    run.say("test  " + "  ".join(f"{k} {v:.4f}" for k, v in result.summary.items()))
    names = [test.language_names[code] for code in test.languages]
    logits = add_language_bias(result.logits, names, best["language_bias"])
    biased = score(logits, test, run.args.lang_min_samples, run.args.lang_top_k)
    if not run.world.is_main:
        return
    from category_classification.report import plot_learning_curve

    plot_learning_curve(out / "metrics.jsonl", out / "learning_curve.png")
    run.log.finish(
        {
            "test": result.report,
            "test_with_language_bias": biased.report,
            "best_validation_macro_f1": best["best_macro_f1"],
            "best_step": best["step"],
            "temperature": best["temperature"],
            "steps": run.progress["step"],
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "seed": run.args.seed,
            "data_fingerprint": run.progress["data_fingerprint"],
            **describe_run(run.device),
        }
    )


def _evaluate(run: Run, split: Split) -> Evaluation:
    args = run.args
    return evaluate(
        run.model, split, run.device, run.autocast, run.world, args.lang_min_samples, args.lang_top_k
    )
