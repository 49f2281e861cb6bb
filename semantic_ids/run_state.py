"""An RQ-VAE's run: its optimizer and schedule, where it has got to, and how it resumes."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from semantic_ids.rqvae import RQVAE
from semantic_ids.rqvae_config import RQVAEConfig
from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    describe_run,
    latest_checkpoint,
    leave_later_ones,
    load_checkpoint,
    make_grad_scaler,
)

CHECKPOINTS = "checkpoint_step_*.pth"
KMEANS_ITEMS = 65_536  # at most, to start the codebooks from
BASE_RATE = 1.0  # the schedule gives the learning rate itself
WEIGHT_DECAY = 0.01
# A resume with another value of one of these is allowed, but is not the run that was stopped.
EXACT_SETTINGS = (
    "batch_size gradient_accumulation_steps scheduler_type warmup_start_lr warmup_steps max_lr min_lr "
    "use_gradient_clipping gradient_clip_norm reset_unused_codes steps_per_codebook_reset "
    "codebook_usage_threshold val_split seed amp amp_dtype commitment_weight use_rotation_trick input_scale "
    "input_noise ema_decay ema_epsilon best_metric"
).split()


def learning_rate(step: int, config: RQVAEConfig, total_steps: int) -> float:
    """Linear from warmup_start_lr to max_lr, then half a cosine to min_lr at the last step."""
    warmup = config.warmup_steps if config.scheduler_type == "cosine_with_warmup" else 0
    warmup = min(warmup, total_steps // 2)  # a short run has to reach its peak
    if step < warmup:
        return config.warmup_start_lr + (config.max_lr - config.warmup_start_lr) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return config.min_lr + (config.max_lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Run:
    """What belongs to one run, and where it has got to (`progress` travels in the checkpoint)."""

    config: RQVAEConfig
    world: World
    device: torch.device
    model: RQVAE
    num_items: int
    progress: dict[str, Any]
    log: RunLog | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        config = self.config
        self.global_batch = config.batch_size * self.world.size
        self.batches_per_epoch = math.ceil(self.num_items / self.global_batch)
        steps = config.num_epochs * math.ceil(self.batches_per_epoch / config.gradient_accumulation_steps)
        self.total_steps = min(steps, config.max_steps or steps)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(trained, lr=BASE_RATE, weight_decay=WEIGHT_DECAY, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate(step, config, self.total_steps)
        )
        self.scaler = make_grad_scaler(self.device, config.amp, config.amp_dtype)
        self.wrapped: nn.Module = self.model
        self.bad_steps, self.kmeans_items = 0, KMEANS_ITEMS

    @property
    def parts(self) -> dict[str, Any]:
        return dict(model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, scaler=self.scaler)

    @property
    def finished(self) -> bool:
        progress, patience = self.progress, self.config.patience
        done = progress["epoch"] >= self.config.num_epochs or progress["step"] >= self.total_steps
        return done or bool(patience and progress["stale_validations"] >= patience)

    def say(self, line: str) -> None:
        if self.world.is_main:
            tqdm.write(line)


def start_run(
    config: RQVAEConfig, world: World, device: torch.device, model: RQVAE, num_items: int, fingerprint: str
) -> Run:
    """Optimizer, schedule, log; and the state of the checkpoint that `--resume` names."""
    out = Path(config.checkpoint_dir)
    if out.exists() and not out.is_dir():
        raise InputError(f"--checkpoint_dir {out}: is a file; name a folder")
    if not config.resume and any(out.glob(CHECKPOINTS)):
        raise InputError(
            f"--checkpoint_dir {out}: already holds a run; add --resume auto to go on, or name another folder"
        )
    progress = {
        "epoch": 0,
        "batch": 0,
        "step": 0,
        "best": None,
        "stale_validations": 0,
        "validated": 0,  # at this step
        "data_fingerprint": fingerprint,
        "world_size": world.size,
        "config": asdict(config),
    }
    run = Run(config, world, device, model, num_items, progress)
    path = config.resume
    if path == "auto":
        path = latest_checkpoint(out, CHECKPOINTS)
    if path:
        _resume(run, Path(path))
    elif config.resume:
        run.say(f"resume: no checkpoint in {out}, starting from the beginning")
    progress["total_steps"], progress["config"] = run.total_steps, asdict(config)
    run.log = RunLog(out, asdict(config) | describe_run(device), config.wandb, world.is_main)
    run.log.rewind(progress["step"], progress["epoch"] + 1)
    if config.compile:
        model.encoder.compile()
        model.decoder.compile()
    run.wrapped = world.wrap(model)
    return run


def _resume(run: Run, path: Path) -> None:
    now = dict(run.progress)
    stored = load_checkpoint(path, world=run.world, **run.parts)
    counts = ("epoch batch step stale_validations validated total_steps world_size").split()
    sound = all(type(stored.get(name)) is int and stored[name] >= 0 for name in counts)
    sound = sound and "data_fingerprint" in stored
    if not sound or not isinstance(stored.get("config"), dict) or "best" not in stored:
        raise InputError(f"{path}: does not say where its run was; use another checkpoint")
    if not all(bool(weight.isfinite().all()) for weight in run.model.parameters()):
        raise InputError(f"{path}: holds weights that are not finite; use another checkpoint")
    for name in ("data_fingerprint", "world_size"):
        if stored[name] != now[name]:
            run.say(f"resume: not exact, {name} was {stored[name]}, is {now[name]}")
    for name in EXACT_SETTINGS:
        was, new = stored["config"].get(name), getattr(run.config, name)
        if was != new:
            run.say(f"resume: not exact, --{name} was {was}, is {new}")
    if stored["total_steps"] != run.total_steps:
        run.say(
            f"resume: the schedule's {stored['total_steps']} steps become {run.total_steps}, from here on"
        )
    rows_done = stored["batch"] * stored["config"].get("batch_size", 1) * stored["world_size"]
    kept = ("epoch", "step", "best", "stale_validations", "validated")
    run.progress.update({name: stored[name] for name in kept})
    run.progress["batch"] = min(rows_done // run.global_batch, run.batches_per_epoch)
    # This command's settings rule, not those the optimizer was stored with. The schedule counts the steps
    # that were made, `progress` those left out as well.
    run.scheduler.base_lrs = [BASE_RATE] * len(run.optimizer.param_groups)
    rate = BASE_RATE * learning_rate(run.scheduler.last_epoch, run.config, run.total_steps)
    for group in run.optimizer.param_groups:
        group.update(initial_lr=BASE_RATE, lr=rate, weight_decay=WEIGHT_DECAY)
    run.say(f"resume: {path}, epoch {run.progress['epoch'] + 1}, step {run.progress['step']}")
    best = Path(run.config.checkpoint_dir) / "best_model.pth"
    has_best = leave_later_ones(best, run.progress["step"], run.world, CHECKPOINTS)
    same_metric = stored["config"].get("best_metric") == run.config.best_metric
    if not same_metric:
        run.progress["stale_validations"] = 0
    if not (has_best and same_metric):
        run.progress.update(best=None, validated=0)  # so that the run ends with a best model of its own


def step_checkpoints(out: Path) -> list[tuple[int, Path]]:
    """(step, file) of every checkpoint_step_N.pth, in the order of steps."""
    found = [(path.stem.rpartition("_")[2], path) for path in out.glob(CHECKPOINTS)]
    return sorted((int(step), path) for step, path in found if step.isdecimal())
