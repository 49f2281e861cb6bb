"""The RQ-VAE's batch loop: steps, codebook resets, validation, checkpoints."""

import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from semantic_ids.id_metrics import code_counts, measure_items, unique_ids_proportion, usage
from semantic_ids.item_batches import ItemBatch, epoch_batches, epoch_noise
from semantic_ids.report import plot_learning_curve
from semantic_ids.rqvae import nearest_codes
from semantic_ids.rqvae_config import HIGHER_IS_BETTER
from semantic_ids.run_state import Run, step_checkpoints
from training_utils import (
    InputError,
    accumulate,
    autocast,
    describe_run,
    load_checkpoint,
    optimizer_step,
    save_checkpoint,
)

RESET_ITEMS = 4096  # drawn for a reset of unused codes


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
                run.model.quantizers.train(batch.weight > 0)  # a row of another rank must not count twice
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
        for _, path in step_checkpoints(out)[: -max(2, run.config.keep_last)]:
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
