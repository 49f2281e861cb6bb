"""One run of one configuration: the steps, what is measured beside them, checkpoints, the result row.

Random numbers are a function of (seed, step, micro-batch, rank): weights start the same in every
configuration (drawn in float32 on the CPU, then cast), documents come in the same order, and dropout's stream
starts anew at each micro-batch, whatever else has drawn from it. So runs of one seed are pairs, and a resumed
run is the one that was stopped, to the bit.

Steps that carry a probe, an evaluation or a checkpoint do not count as time.
"""

import argparse
import hashlib
import math
import os
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.costs import MemoryMeter, StepClock, synchronize
from experiments.dtype_configs import DtypeConfig
from experiments.precision import Precision
from experiments.probes import DivergenceRule, Underflow, UpdateMeter
from experiments.task import Batch, Evaluation, Task
from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
    warmup_cosine,
)

PROBE_STEP = 5  # values are looked at here, with the optimizer's state made, and memory is read before it
POINTS = 200  # of loss scale, logit maximum and gradient norm, at most


class Forward(nn.Module):
    """What DDP wraps: it must see the call that leads to the logits."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.precision.logits(self.model, *inputs)


class Run:
    """What belongs to one run, and where it has got to (`progress` travels in the checkpoint)."""

    def __init__(
        self, task: Task, config: DtypeConfig, args: argparse.Namespace, world: World, device: torch.device
    ) -> None:
        self.task, self.config, self.args, self.world, self.device = task, config, args, world, device
        self.rows = args.batch_size * args.gradient_accumulation_steps * world.size
        self.total_steps = total_steps(args, task.epoch_rows, self.rows)
        self.warmup_steps = int(args.warmup_ratio * self.total_steps)
        self.precision = Precision(config, device)
        self.memory = MemoryMeter(device)
        seed_everything(args.seed)
        self.model = task.make_model()
        self.initial_sha256 = weights_sha256(self.model)
        self.precision.cast(self.model)
        self.model.to(device)
        self.optimizer = self.precision.make_optimizer(
            parameter_groups(self.model, args.weight_decay), args.learning_rate, task.betas
        )
        self.scaler = self.precision.make_scaler()
        self.clock, self.rule, self.stop = StepClock(device), DivergenceRule(), StopSignal()
        self.forward: nn.Module = Forward(self.model, self.precision)
        self.log: RunLog | None = None
        self.progress: dict[str, Any] = {
            "step": 0, "curve": [], "lost_updates": [], "underflow": {}, "scale_history": [], "max_logit": [],
            "gradient_norm": [], "skipped_steps": 0, "first_non_finite_step": None, "train_seconds": 0.0,
            "tokens": 0, "padded_tokens": 0, "loss_sum": 0.0, "loss_count": 0, "timing": None, "memory": None,
            "dtype_table": None, "reason": None, "rule": self.rule.state_dict(),
        }  # fmt: skip

    @property
    def parts(self) -> dict[str, Any]:
        return dict(model=self.model, optimizer=self.optimizer, scaler=self.scaler)

    @property
    def finished(self) -> bool:
        return self.progress["step"] >= self.total_steps or self.progress["reason"] is not None

    @property
    def epoch(self) -> int:
        return self.progress["step"] * self.rows // self.task.epoch_rows

    def say(self, line: str) -> None:
        if self.world.is_main:
            print(f"{self.config.name} seed {self.args.seed}  {line}", flush=True)

    def evaluates(self, step: int) -> bool:
        return step % self.args.eval_steps == 0 or step == self.total_steps

    def meters_updates(self, step: int) -> bool:
        """At the peak of the learning rate and at evaluations, but the last: its rate is next to 0."""
        peak = min(self.warmup_steps + 1, self.total_steps)
        return step == peak or (step % self.args.eval_steps == 0 and step < self.total_steps)

    def probes(self, step: int) -> bool:
        return step in (min(PROBE_STEP, self.total_steps), self.total_steps)

    def saves(self, step: int) -> bool:
        every = self.args.save_every_steps
        return bool(every) and step % every == 0 and step < self.total_steps

    def interrupts(self, step: int) -> bool:
        """Whether `step` is followed or burdened by something that is no training."""
        return self.evaluates(step) or self.meters_updates(step) or self.probes(step) or self.saves(step)


def total_steps(args: argparse.Namespace, epoch_rows: int, rows: int) -> int:
    epochs = getattr(args, "max_epochs", None)
    by_epochs = math.ceil(epochs * epoch_rows / rows) if epochs else math.inf
    return int(min(args.max_steps or math.inf, by_epochs))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, biases and norms do not; the head apart, as its format may differ."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    head = {id(p) for p in model.head.parameters()}
    for p in model.parameters():
        groups.setdefault(("head" if id(p) in head else "body", p.ndim > 1), []).append(p)
    return [
        {"params": params, "weight_decay": weight_decay if decays else 0.0, "name": name}
        for (name, decays), params in groups.items()
    ]


def weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- steps


def train(run: Run) -> None:
    """All steps that are left. A stop by signal saves and leaves with its status."""
    run.model.train()
    run.clock.start()
    started = time.perf_counter()
    while not run.finished:
        step = run.progress["step"] + 1
        interrupts = run.interrupts(step)
        if interrupts:
            run.clock.stop()
            _read_memory(run)
        stopping = _step(run, step)
        run.progress["step"] = step
        if not interrupts:
            run.clock.step()
        if not (interrupts or stopping or run.finished):
            continue
        synchronize(run.device)
        run.progress["train_seconds"] += time.perf_counter() - started
        run.clock.stop()
        if run.evaluates(step) and run.progress["reason"] is None:
            _validate(run)
        if stopping:
            save(run)
            run.say(f"stopped after step {step}; the same command goes on from there")
            raise SystemExit(run.stop.exit_status)
        if run.saves(step):
            save(run)
        run.clock.start()
        started = time.perf_counter()
    _read_memory(run)
    run.progress["timing"] = longer(run.progress["timing"], run.clock.result(run.rows))


def _step(run: Run, step: int) -> bool:
    """One optimizer step, but on a loss that is not finite. Returns whether a signal asks to stop."""
    progress, precision = run.progress, run.precision
    lr = run.args.learning_rate * warmup_cosine(
        step - 1, run.warmup_steps, run.total_steps, run.task.min_lr_scale
    )
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    loss, logits, raw_loss = _backward(run, step)
    loss, stopping = run.world.sum(torch.tensor([loss / run.world.size, float(bool(run.stop))])).tolist()
    if not math.isfinite(loss):
        run.optimizer.zero_grad(set_to_none=True)
        progress["first_non_finite_step"] = progress["first_non_finite_step"] or step
        skipped = False
    else:
        if progress["dtype_table"] is None and step >= min(2, run.total_steps):
            progress["dtype_table"] = precision.dtype_table(run.model, run.optimizer, logits, raw_loss)
        meter = UpdateMeter(run.model, run.optimizer) if run.meters_updates(step) else None
        if meter:
            meter.start()
        norm, skipped = precision.step(
            run.optimizer, run.scaler, run.model.parameters(), run.args.grad_clip or None
        )
        if meter and not skipped:
            progress["lost_updates"].append({"step": step, "lr": lr, "groups": meter.finish()})
        _record(run, step, loss, lr, norm, logits)
    progress["skipped_steps"] += skipped
    progress["reason"] = run.rule.update(loss, skipped)
    if progress["reason"]:
        run.say(f"step {step}: diverged, {progress['reason']}")
    return bool(stopping)


def _backward(run: Run, step: int) -> tuple[float, Tensor, Tensor]:
    """Gradients of the mean over the step's rows, however micro-batches and ranks share them. Returns this
    rank's mean loss, and the last micro-batch's logits and loss as they are.
    """
    args, world = run.args, run.world
    rows = run.task.step_rows(step, run.rows)
    total = torch.zeros((), device=run.device)
    for number in range(args.gradient_accumulation_steps):
        last = number == args.gradient_accumulation_steps - 1
        start = (number * world.size + world.rank) * args.batch_size
        batch = run.task.train_batch(rows[start : start + args.batch_size]).to(run.device)
        torch.manual_seed(stream_seed(args.seed, step, number, world.rank))
        underflow = Underflow(run.model) if last and run.probes(step) else None
        with nullcontext() if last or world.size == 1 else run.forward.no_sync(), _eager(underflow):
            with underflow or nullcontext():
                logits = run.forward(*batch.inputs)
                if underflow:
                    logits = underflow.watch(logits)
                loss = run.precision.loss(run.task.loss, logits, *batch.targets)
                run.scaler.scale(loss / args.gradient_accumulation_steps).backward()
        total += loss.detach().float() / args.gradient_accumulation_steps
        run.progress["tokens"] += batch.tokens * world.size
        run.progress["padded_tokens"] += batch.padded_tokens * world.size
    if underflow:
        moment = "end" if step == run.total_steps else "start"
        run.progress["underflow"][moment] = {"step": step, **underflow.result()}
    return float(total), logits.detach(), loss.detach()


def _eager(underflow: Underflow | None) -> AbstractContextManager:
    """Hooks inside a compiled body would have it compiled again, so a probe runs without."""
    return torch.compiler.set_stance("force_eager") if underflow else nullcontext()


def stream_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _record(run: Run, step: int, loss: float, lr: float, norm: Tensor, logits: Tensor) -> None:
    progress = run.progress
    progress["loss_sum"] += loss
    progress["loss_count"] += 1
    if run.scaler.is_enabled():
        scale = run.scaler.get_scale()
        if not progress["scale_history"] or progress["scale_history"][-1][1] != scale:
            progress["scale_history"].append([step, scale])
    every = max(1, run.total_steps // POINTS)
    if step % every == 0 or step == run.total_steps:
        norm, largest = float(norm), float(logits.abs().max())
        finite = [value if math.isfinite(value) else None for value in (norm, largest)]
        progress["gradient_norm"].append([step, finite[0]])
        progress["max_logit"].append([step, finite[1]])
        run.log.log("train", step, run.epoch, loss=loss, lr=lr, gradient_norm=finite[0], max_logit=finite[1])


def _read_memory(run: Run) -> None:
    """Once, before the first probe or evaluation, whose memory is not training's."""
    if run.progress["memory"] is None and run.progress["step"] >= min(2, run.total_steps):
        run.progress["memory"] = run.memory.read(run.model, run.optimizer)


# ---------------------------------------------------------------- evaluation


def predictor(run: Run, model: nn.Module, native: bool = True) -> Any:
    """Batch -> logits of `model`: by the configuration, or in plain 32 bits for an upcast copy."""

    def predict(batch: Batch) -> Tensor:
        inputs = batch.to(run.device).inputs
        return run.precision.logits(model, *inputs) if native else model.head(model.body(*inputs))

    return predict


def _validate(run: Run) -> None:
    """A point of the curve, of rank 0 over all rows; others wait."""
    progress, values = run.progress, None
    if run.world.is_main:
        run.model.eval()
        with torch.no_grad():
            values = run.task.validate(predictor(run, run.model))
        run.model.train()
    values = run.world.gather(values)[0]
    mean = progress["loss_sum"] / max(1, progress["loss_count"])
    progress["loss_sum"], progress["loss_count"] = 0.0, 0
    loss = values.pop("loss")
    point = {"loss": mean, "validation_loss": loss, **values}
    seconds = round(progress["train_seconds"], 3)
    progress["curve"].append({"step": progress["step"], **point, "seconds": seconds})
    run.log.log("validation", progress["step"], run.epoch, **point, seconds=seconds)
    shown = "  ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in point.items())
    run.say(f"step {progress['step']}/{run.total_steps}  {shown}")


def evaluate_run(run: Run) -> tuple[Evaluation | None, Evaluation | None]:
    """The final weights in the configuration's arithmetic and in 32-bit; None where they are not finite."""
    if not run.world.is_main:
        return None, None
    if not all(bool(p.isfinite().all()) for p in run.model.parameters()):
        return None, None
    run.model.eval()
    with torch.no_grad():
        native = run.task.evaluate(predictor(run, run.model))
        torch.set_float32_matmul_precision("highest")
        upcast = run.precision.upcast_copy(run.model).eval()
        return native, run.task.evaluate(predictor(run, upcast, native=False))


# ---------------------------------------------------------------- checkpoints


def save(run: Run) -> None:
    """Write checkpoint-last.pt; the one before stays, in case the newest is damaged."""
    last = run.args.run_folder / "checkpoint-last.pt"
    run.progress["rule"] = run.rule.state_dict()
    run.progress["timing"] = longer(run.progress["timing"], run.clock.result(run.rows))
    if run.world.is_main and last.exists():
        os.replace(last, last.with_name("checkpoint-previous.pt"))
    save_checkpoint(last, run.progress, run.world, **run.parts)


def longer(a: dict[str, Any] | None, b: dict[str, Any]) -> dict[str, Any]:
    """Of two processes' timings the one over more steps: a resume warms up again, so they do not mix."""
    return b if a is None or b["timed_steps"] >= a["timed_steps"] else a


def prepare(run: Run) -> None:
    """Run folder and log; the state of the checkpoint that --resume names; compilation and ranks."""
    args, folder = run.args, run.args.run_folder
    if args.resume == "none" and run.world.is_main:
        shutil.rmtree(folder, ignore_errors=True)
    run.world.gather(None)  # others look for a checkpoint only after that
    path = latest_checkpoint(folder) if args.resume == "auto" else None
    if args.resume not in ("auto", "none"):
        path = Path(args.resume)
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    run.log = RunLog(folder, settings | {"config": run.config.name}, args.wandb, run.world.is_main)
    if path:
        stored = load_checkpoint(path, world=run.world, **run.parts)
        if stored.get("key") != args.key:
            raise InputError(f"{path}: is of another run ({stored.get('key')}, not {args.key})")
        run.progress.update(stored)
        run.rule.load_state_dict(stored["rule"])
        run.say(f"resume: {path}, step {stored['step']}")
    run.progress["key"] = args.key
    run.log.rewind(run.progress["step"], run.epoch + 1)
    if args.compile and run.config.compile:
        run.model.body.compile()
    if run.world.size > 1:
        run.forward = run.world.wrap(run.forward)
