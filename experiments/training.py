"""The steps of one run and what is measured beside them.

Random numbers are a function of (seed, step, micro-batch, rank): weights start the same in every
configuration (drawn in float32 on the CPU, then cast), documents come in the same order, and dropout's stream
starts anew at each micro-batch, whatever else has drawn from it. So runs of one seed are pairs, and a resumed
run is the one that was stopped, to the bit.

Steps that carry a probe, an evaluation or a checkpoint do not count as time.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.costs import synchronize
from experiments.probes import Underflow, UpdateMeter
from experiments.run_state import Run, longer, save
from experiments.task import Batch, Evaluation
from training_utils import warmup_cosine

POINTS = 200  # of logit maximum and gradient norm, at most


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
        stopping = train_step(run, step)
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


def train_step(run: Run, step: int) -> bool:
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
                loss = run.loss(run.task.loss, logits, *batch.targets)
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
