"""One run: what belongs to it, where it has got to, and its checkpoints."""

import argparse
import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.costs import MemoryMeter, StepClock
from experiments.dtype_configs import DtypeConfig
from experiments.precision import Precision
from experiments.probes import DivergenceRule
from experiments.task import Task
from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
)

PROBE_STEP = 5  # values are looked at here, with the optimizer's state made, and memory is read before it


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
        self.loss = self.precision.loss
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


def compile_run(run: Run) -> None:
    """Layer by layer, as all layers of a list are one graph, which is compiled once. And a loss in 32 bits:
    logits of 50,304 tokens are then never written in 32 bits. One in 16 bits would gain precision by it.
    """
    for layers in [module for module in run.model.body.modules() if isinstance(module, nn.ModuleList)]:
        for layer in layers:
            layer.compile()
    if run.config.loss == "float32":
        run.loss = torch.compile(run.precision.loss)


def weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- checkpoints


def save(run: Run) -> None:
    """Write checkpoint-last.pt; the one before stays, in case the newest is damaged."""
    last = run.args.run_folder / "checkpoint-last.pt"
    run.progress["rule"] = run.rule.state_dict()
    run.progress["timing"] = longer(run.progress["timing"], run.clock.result(run.rows))
    previous = last.with_name("checkpoint-previous.pt")
    save_checkpoint(last, run.progress, run.world, keep=previous, **run.parts)


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
    if path:
        stored = load_checkpoint(path, world=run.world, **run.parts)
        if stored.get("key") != args.key:
            raise InputError(f"{path}: is of another run ({stored.get('key')}, not {args.key})")
        try:
            sound = all(type(stored[name]) is type(v) for name, v in run.progress.items() if v is not None)
            sound = sound and (stored["timing"] is None or stored["timing"]["timed_steps"] >= 0)
            run.rule.load_state_dict(stored["rule"])
        except (AttributeError, LookupError, TypeError, ValueError):
            sound = False
        if not sound:
            raise InputError(f"{path}: does not say where its run was; use another checkpoint")
        run.progress.update(stored)
        run.say(f"resume: {path}, step {stored['step']}")
    run.progress["key"] = args.key
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    run.log = RunLog(folder, settings | {"config": run.config.name}, args.wandb, run.world.is_main)
    run.log.rewind(run.progress["step"], run.epoch + 1)
    if args.compile and run.config.compile:
        compile_run(run)
    if run.world.size > 1:
        run.forward = run.world.wrap(run.forward)
