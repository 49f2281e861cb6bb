"""The RQ-VAE's batch loop: steps, codebook resets, validation, checkpoints and resume."""

import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from semantic_ids.id_metrics import code_counts, measure_items, unique_ids_proportion, usage
from semantic_ids.item_batches import ItemBatch, epoch_batches, epoch_noise
from semantic_ids.report import plot_learning_curve
from semantic_ids.rqvae import RQVAE, nearest_codes
from semantic_ids.rqvae_config import HIGHER_IS_BETTER, RQVAEConfig
from training_utils import (
    InputError,
    RunLog,
    StopSignal,
    World,
    accumulate,
    autocast,
    describe_run,
    latest_checkpoint,
    load_checkpoint,
    make_grad_scaler,
    optimizer_step,
    save_checkpoint,
)

KMEANS_ITEMS = 65_536  # at most, to start the codebooks from
RESET_ITEMS = 4096  # drawn for a reset of unused codes
# A resume with another value of one of these is allowed, but is not the run that was stopped.
EXACT_SETTINGS = (
    "batch_size gradient_accumulation_steps scheduler_type warmup_start_lr warmup_steps max_lr min_lr "
    "use_gradient_clipping gradient_clip_norm reset_unused_codes steps_per_codebook_reset "
    "codebook_usage_threshold val_split seed amp amp_dtype commitment_weight use_rotation_trick input_scale "
    "input_noise"
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
        self.optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.01, fused=fused)
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
    if not config.resume and any(out.glob("checkpoint_step_*.pth")):
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
        path = latest_checkpoint(out, "checkpoint_step_*.pth")
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
    for group in run.optimizer.param_groups:  # the schedule of this command rules
        group["lr"] = learning_rate(stored["step"], run.config, run.total_steps)
    run.say(f"resume: {path}, epoch {run.progress['epoch'] + 1}, step {run.progress['step']}")


# ---------------------------------------------------------------- one epoch


def train(run: Run, items: Tensor, train_rows: Tensor, validation_rows: Tensor) -> None:
    """The rest of the current epoch. Saves, logs, validates and stops by the settings."""
    config, progress = run.config, run.progress
    run.wrapped.train()
    batches = epoch_batches(
        train_rows, run.global_batch, config.seed, progress["epoch"], progress["batch"], run.world
    )
    for group in accumulate(batches, config.gradient_accumulation_steps):
        started = time.perf_counter()
        values, codes = _backward(run, items, group)
        loss, stopping = values["loss/total"], values.pop("stop")
        norm, stepped = math.nan, False
        if math.isfinite(loss):
            clip = config.gradient_clip_norm if config.use_gradient_clipping else None
            norm, stepped = optimizer_step(
                run.optimizer, run.scaler, run.model.parameters(), run.scheduler, clip
            )
        run.optimizer.zero_grad(set_to_none=True)
        for quantizer in run.model.quantizers:
            quantizer.update(run.world) if stepped else quantizer.forget()
        progress["batch"] += len(group)
        progress["step"] += 1
        _check_step(run, group, loss, stepped)
        if stepped and config.reset_unused_codes and progress["step"] % config.steps_per_codebook_reset == 0:
            reset_unused_codes(run, items, train_rows)
        if progress["step"] % config.steps_per_train_log == 0:
            seconds = time.perf_counter() - started
            log_step(run, values, codes, norm, sum(batch.global_rows for batch in group), seconds)
        if progress["step"] % config.steps_per_val_log == 0:
            validate(run, items, validation_rows)
        if stopping:
            save_step(run)
            run.say(f"stopped after step {progress['step']}; --resume auto goes on from there")
            raise SystemExit(run.stop.exit_status)
        if config.save_every_steps and progress["step"] % config.save_every_steps == 0:
            save_step(run)
        if run.finished:
            return
    progress["epoch"], progress["batch"] = progress["epoch"] + 1, 0


def _backward(run: Run, items: Tensor, group: list[ItemBatch]) -> tuple[dict[str, float], Tensor]:
    """Gradients of the mean loss over the group's rows, however micro-batches and ranks share them."""
    rows = sum(batch.global_rows for batch in group)
    scale, seed, epoch = run.config.input_noise, run.config.seed, run.progress["epoch"]
    sums, codes = {}, []
    for number, batch in enumerate(group, 1):
        between = run.world.size > 1 and number < len(group)  # ranks exchange gradients once a step
        with run.wrapped.no_sync() if between else nullcontext():
            with autocast(run.device, run.config.amp, run.config.amp_dtype):
                noise = None
                if scale:
                    noise = scale * epoch_noise(batch, items.shape[1], seed, epoch, run.world, run.device)
                output = run.wrapped(items[batch.rows.to(run.device)], noise)
            total, vq = run.model.loss(output)
            share = batch.weight / rows
            run.scaler.scale(total * (share * run.world.size)).backward()  # DDP takes the mean over ranks
        values = {"loss/total": total, "loss/reconstruction": output.reconstruction_loss, "loss/vq": vq}
        for level, loss in enumerate(output.commitment_losses):
            values[f"loss/commitment_level_{level}"] = loss
        for level, loss in enumerate(output.codebook_losses):
            values[f"loss/codebook_level_{level}"] = loss
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.detach() * share
        codes.append(output.codes)
    sums["stop"] = torch.tensor(float(bool(run.stop)), device=run.device)
    stacked = run.world.sum(torch.stack(list(sums.values()))).tolist()  # one transfer from the device
    return dict(zip(sums, stacked, strict=True)), torch.cat(codes)


def _check_step(run: Run, group: list[ItemBatch], loss: float, stepped: bool) -> None:
    """Name a step that was left out; end the run after `--max_bad_steps` of them in a row."""
    if stepped or (
        math.isfinite(loss) and run.scaler.is_enabled()
    ):  # fp16 overflows are the scaler's business
        run.bad_steps = 0
        return
    run.bad_steps += 1
    what = "loss" if not math.isfinite(loss) else "gradient"
    rows = torch.cat([batch.rows for batch in group])[:16].tolist()
    run.say(f"step {run.progress['step']}: non-finite {what}, weights left alone; rows {rows}")
    if run.bad_steps >= run.config.max_bad_steps:
        raise InputError(
            f"{run.bad_steps} steps in a row had a non-finite {what} (last: step {run.progress['step']}); "
            "the last checkpoint is kept, try a lower --max_lr"
        )


@torch.no_grad()
def reset_unused_codes(run: Run, items: Tensor, train_rows: Tensor) -> None:
    """Codes unused since the last reset move to random items, or what the levels before leave of them.

    The draw depends on (seed, step) alone, so that ranks and resumed runs make the same one.
    """
    quantizers, threshold = run.model.quantizers, run.config.codebook_usage_threshold
    low = [float((each.hits > 0).float().mean()) < threshold for each in quantizers]
    if any(low):
        generator = torch.Generator().manual_seed(run.config.seed * 2**32 + run.progress["step"])
        chosen = torch.randint(len(train_rows), (RESET_ITEMS,), generator=generator)
        residual = run.model.encoder(run.model.scale(items[train_rows[chosen].to(run.device)])).float()
        for quantizer, below in zip(quantizers, low, strict=True):
            if below:
                quantizer.reset_dead_codes(residual, generator)
            residual = residual - quantizer.codebook[nearest_codes(residual, quantizer.codebook)]
    for quantizer in quantizers:
        quantizer.hits.zero_()


def log_step(
    run: Run, values: dict[str, float], codes: Tensor, norm: float, rows: int, seconds: float
) -> None:
    config = run.config
    clip = config.gradient_clip_norm if config.use_gradient_clipping else math.inf
    metrics = {
        "metrics/learning_rate": run.optimizer.param_groups[0]["lr"],
        "metrics/gradient_norm": norm if math.isfinite(norm) else None,
        "metrics/gradient_norm_clipped": min(norm, clip) if math.isfinite(norm) else None,
        "metrics/batch_time_ms": round(1000 * seconds, 2),
        "metrics/samples_per_second": round(rows / seconds, 1),
        "metrics/unique_ids_proportion_train": unique_ids_proportion(codes, config.codebook_size),
    }
    for level, share in enumerate(usage(code_counts(codes, config.codebook_size))):
        metrics[f"metrics/codebook_usage_train_level_{level}"] = share
    values = {name: value if math.isfinite(value) else None for name, value in values.items()}
    step, epoch = run.progress["step"], run.progress["epoch"] + 1
    run.log.log("train", step, epoch, **values, **metrics)
    if run.config.steps_per_train_log and step % (10 * config.steps_per_train_log) == 0:
        loss = "non-finite" if values["loss/total"] is None else f"{values['loss/total']:.4f}"
        run.say(f"epoch {epoch} step {step}/{run.total_steps}  loss {loss}  {rows / seconds:,.0f} items/s")


# ---------------------------------------------------------------- validation and checkpoints


def validate(run: Run, items: Tensor, rows: Tensor) -> None:
    """Measure, log, and keep best_model.pth if --best_metric improved."""
    progress, config = run.progress, run.config
    progress["validated"] = progress["step"]
    measures = measure_items(run.model, items, rows, config.codebook_size)
    run.log.log("validation", progress["step"], progress["epoch"] + 1, **measures)
    of = {"val_loss": "loss/validation"}.get(config.best_metric, f"metrics/{config.best_metric}")
    value, sign = measures[of], 1 if HIGHER_IS_BETTER[config.best_metric] else -1
    if not math.isfinite(value):
        raise InputError(
            f"step {progress['step']}: {of} is not finite; the last checkpoint is kept, try a lower --max_lr"
        )
    run.say(
        f"step {progress['step']} validation  loss {measures['loss/validation']:.4f}  "
        f"cosine {measures['metrics/reconstruction_cosine']:.4f}  "
        f"unique {measures['metrics/unique_ids_proportion']:.4f}"
    )
    if progress["best"] is None or sign * value > sign * progress["best"]:
        progress["best"], progress["stale_validations"] = value, 0
        best = {**progress, "validation": measures}
        save_checkpoint(Path(config.checkpoint_dir) / "best_model.pth", best, run.world, model=run.model)
    else:
        progress["stale_validations"] += 1


def save_step(run: Run) -> None:
    """checkpoint_step_N.pth; the one before stays, in case the newest is damaged."""
    out = Path(run.config.checkpoint_dir)
    save_checkpoint(out / f"checkpoint_step_{run.progress['step']}.pth", run.progress, run.world, **run.parts)
    if run.world.is_main and run.config.keep_last:
        found = sorted(out.glob("checkpoint_step_*.pth"), key=lambda path: int(path.stem.rpartition("_")[2]))
        for path in found[: -max(2, run.config.keep_last)]:
            os.unlink(path)


def finish(run: Run, items: Tensor, validation_rows: Tensor) -> None:
    """final_model.pth (the last weights), measures of the best ones over all items, plots, the artifact."""
    out, progress = Path(run.config.checkpoint_dir), run.progress
    if progress["validated"] != progress["step"]:
        validate(run, items, validation_rows)
    save_checkpoint(out / "final_model.pth", progress, run.world, model=run.model)
    save_step(run)
    best = load_checkpoint(out / "best_model.pth", restore_rng=False, model=run.model)
    measures = measure_items(run.model, items, torch.arange(len(items)), run.config.codebook_size)
    run.say(
        f"best model, step {best['step']}, all {len(items):,} items  "
        f"cosine {measures['metrics/reconstruction_cosine']:.4f}  "
        f"unique {measures['metrics/unique_ids_proportion']:.4f}"
    )
    if not run.world.is_main:
        return
    plot_learning_curve(out / "metrics.jsonl", out / "learning_curve.png")
    config = run.config
    metadata = {
        "val_loss": best["validation"]["loss/validation"],
        "codebook_usage": [
            best["validation"][f"metrics/codebook_usage_level_{level}"]
            for level in range(config.codebook_quantization_levels)
        ],
        "avg_residual_norm": best["validation"]["metrics/avg_residual_norm"],
        "unique_ids_proportion": best["validation"]["metrics/unique_ids_proportion"],
        "step": best["step"],
        "epoch": best["epoch"],
        "codebook_levels": config.codebook_quantization_levels,
        "codebook_size": config.codebook_size,
        "embedding_dim": config.codebook_embedding_dim,
    }
    if config.wandb:
        import wandb

        artifact = wandb.Artifact(f"rqvae-best-{config.category}", type="model", metadata=metadata)
        artifact.add_file(str(out / "best_model.pth"))
        wandb.log_artifact(artifact)
    run.log.finish(
        {
            "all_items": measures,
            "best": metadata,
            "items": len(items),
            "steps": progress["step"],
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "seed": config.seed,
            "data_fingerprint": progress["data_fingerprint"],
            **describe_run(run.device),
        }
    )
