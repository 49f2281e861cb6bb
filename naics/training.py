"""The batch loop of naics/: steps, validation, checkpoints and resume."""

import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from naics.config import Config
from naics.data.curriculum import TripletBatch
from naics.data.texts import CodeTexts, Queries
from naics.gradient_caching import backward, encode_points
from naics.metrics import hits_at, rank_bounds, reciprocal_rank
from naics.model.encoder import NaicsModel, TrainedWeights, as_query
from naics.model.moe import count_choices
from naics.objective import Objective
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
    make_lr_scheduler,
    optimizer_step,
    read_checkpoint,
    save_checkpoint,
)

AMP_TYPES = {"16-mixed": (True, "auto"), "bf16-mixed": (True, "bfloat16"), "32": (False, "auto")}
COUNTS = "epoch batch step stale total_steps world_size".split()


@dataclass
class Batches:
    """Triplets and queries of each step: functions of (seed, epoch, step)."""

    triplets: Any  # MatrixTriplets or ParquetTriplets over all ranks' rows
    queries: Queries
    queries_per_step: int
    query_dropout: float
    seed: int
    steps: int  # of an epoch

    def batch(self, epoch: int, step: int) -> tuple[TripletBatch, Queries]:
        size, dropout = self.queries_per_step, self.query_dropout
        queries = self.queries.batch(self.seed, epoch, step, size, dropout)
        return self.triplets.batch(epoch, step), queries


@dataclass
class Run:
    """What belongs to one run, and where it has got to (`progress` travels in the checkpoint)."""

    config: Config
    world: World
    device: torch.device
    model: NaicsModel
    texts: CodeTexts
    objective: Objective
    train: Batches
    validation: Batches
    out: Path
    max_steps: int
    progress: dict[str, Any]
    log: RunLog | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        training = self.config.training
        steps = training.trainer.max_epochs * self.train.steps
        self.total_steps = min(steps, self.max_steps or steps)
        self.optimizer = make_optimizer(self.model, self.config, self.device)
        warmup = min(training.warmup_steps, self.total_steps // 5)
        self.scheduler = make_lr_scheduler(self.optimizer, "cosine", warmup, self.total_steps, 0.02)
        self.amp, self.amp_dtype = AMP_TYPES[training.trainer.precision]
        self.scaler = make_grad_scaler(self.device, self.amp, self.amp_dtype)
        self.bad_steps = 0

    @property
    def parts(self) -> dict[str, Any]:
        weights = TrainedWeights(self.model)
        return dict(model=weights, optimizer=self.optimizer, scheduler=self.scheduler, scaler=self.scaler)

    @property
    def finished(self) -> bool:
        trainer, progress = self.config.training.trainer, self.progress
        done = progress["epoch"] >= trainer.max_epochs or progress["step"] >= self.total_steps
        return done or bool(trainer.patience and progress["stale"] >= trainer.patience)

    def say(self, line: str) -> None:
        if self.world.is_main:
            tqdm.write(line)


def make_optimizer(model: NaicsModel, config: Config, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; matrices decay, the table of n-grams, scales and biases do not."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and "table" not in name and "adapters" not in name
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    scale = config.model.learning_rate_scale * config.curriculum.learning_rate_scale
    rate = config.training.learning_rate * scale
    return torch.optim.AdamW(groups, lr=rate, fused=device.type in ("cpu", "cuda"))


# ---------------------------------------------------------------- start and resume


def start_run(run: Run, resume: str | None, wandb: bool, identity: dict[str, Any]) -> None:
    """Restore what --resume names, or refuse to write over a run; then open the log."""
    config, progress = run.config, run.progress
    if not resume and any(run.out.glob("checkpoint-*.pt")):
        raise InputError(
            f"{run.out}: already holds a run; add --resume auto to go on, or set experiment_name=NAME"
        )
    path = latest_checkpoint(run.out) if resume == "auto" else resume
    if path:
        restore(run, Path(path), identity)
    elif resume:
        run.say(f"resume: no checkpoint in {run.out}, starting from the beginning")
    progress |= identity | {"total_steps": run.total_steps, "config": asdict(config)}
    folder = Path(config.paths.output_dir) / config.experiment_name
    run.out.mkdir(parents=True, exist_ok=True)
    if wandb:
        os.environ.setdefault("WANDB_PROJECT", config.project_name)
    run.log = RunLog(folder, asdict(config) | describe_run(run.device), wandb, run.world.is_main)
    run.log.rewind(progress["step"], progress["epoch"])


def restore(run: Run, path: Path, identity: dict[str, Any]) -> None:
    bases, groups = list(run.scheduler.base_lrs), run.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    stored = load_checkpoint(path, world=run.world, **run.parts)
    sound = all(type(stored.get(name)) is int and stored[name] >= 0 for name in COUNTS)
    was = flatten(stored["config"]) if isinstance(stored.get("config"), dict) else {}
    if not sound or "curriculum.name" not in was or "best" not in stored:
        raise InputError(f"{path}: does not say where its run was; use another checkpoint")
    if was["curriculum.name"] != run.config.curriculum.name:
        raise InputError(f"{path}: is of curriculum {was['curriculum.name']}; use --from")
    for name, now in identity.items():
        if stored.get(name) != now:
            run.say(f"resume: not exact, {name} was {stored.get(name)}, is {now}")
    if stored.get("roles") != identity["roles"]:
        # Entries that other roles held out may have trained these weights: no data may pass for theirs.
        identity["roles"] = stored.get("roles") and "mixed"
    new = flatten(asdict(run.config))
    for name in sorted(was.keys() | new.keys()):
        if was.get(name) != new.get(name) and not name.startswith(
            ("paths.", "stages", "training.trainer.max")
        ):
            run.say(f"resume: not exact, {name} was {was.get(name)}, is {new.get(name)}")
    if stored["total_steps"] != run.total_steps:
        run.say(
            f"resume: the schedule's {stored['total_steps']} steps become {run.total_steps}, from here on"
        )
    run.progress.update({name: stored[name] for name in ("epoch", "batch", "step", "stale", "best")})
    # The rates of this command rule, not those stored; the schedule does not count steps that were left out.
    factor = run.scheduler.lr_lambdas[0](run.scheduler.last_epoch)
    run.scheduler.base_lrs = bases
    for group, base, decay in zip(run.optimizer.param_groups, bases, decays, strict=True):
        group.update(initial_lr=base, lr=base * factor, weight_decay=decay)
    run.say(f"resume: {path}, epoch {run.progress['epoch'] + 1}, step {run.progress['step']}")
    if not leave_later_ones(run.out / "best.pt", run.progress["step"], run.world):
        run.progress.update(best=None, stale=0)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        found |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


# ---------------------------------------------------------------- one epoch


def train_epoch(run: Run) -> None:
    """The rest of the current epoch, its validation and its checkpoint."""
    config, progress = run.config, run.progress
    trainer = config.training.trainer
    run.model.train()
    while progress["batch"] < run.train.steps and progress["step"] < run.total_steps:
        started = time.perf_counter()
        triplets, queries = run.train.batch(progress["epoch"], progress["batch"])
        values = backward(run, triplets, queries)
        norm, stepped = math.nan, False
        if math.isfinite(values["loss"]):
            clip = trainer.gradient_clip_val or None
            parameters = [p for p in run.model.parameters() if p.requires_grad]
            norm, stepped = optimizer_step(run.optimizer, run.scaler, parameters, run.scheduler, clip)
        run.optimizer.zero_grad(set_to_none=True)
        progress["batch"] += 1
        progress["step"] += 1
        check_step(run, triplets, values["loss"], stepped)
        if progress["step"] % trainer.log_every_n_steps == 0:
            log_step(run, values, norm, time.perf_counter() - started, triplets, queries)
        if run.world.sum(torch.tensor(float(bool(run.stop)))) > 0:  # a signal reaches one rank first
            save(run, "checkpoint-last.pt")
            run.say(f"stopped after step {progress['step']}; --resume auto goes on from there")
            raise SystemExit(run.stop.exit_status)
        every = config.training.save_every_steps
        if every and progress["step"] % every == 0:
            save(run, "checkpoint-last.pt")
    validate(run)
    progress["epoch"], progress["batch"] = progress["epoch"] + 1, 0
    save(run, f"checkpoint-epoch{progress['epoch']}.pt")
    save(run, "checkpoint-last.pt")
    prune(run)


def check_step(run: Run, triplets: TripletBatch, loss: float, stepped: bool) -> None:
    """Name a step that was left out; end the run after `max_bad_steps` of them in a row."""
    if stepped or (
        math.isfinite(loss) and run.scaler.is_enabled()
    ):  # fp16 overflows are the scaler's business
        run.bad_steps = 0
        return
    run.bad_steps += 1
    what = "loss" if not math.isfinite(loss) else "gradient"
    codes = [run.texts.corpus.taxonomy.codes[row] for row in triplets.anchors[:8]]
    run.say(f"step {run.progress['step']}: non-finite {what}, weights left alone; anchors {', '.join(codes)}")
    if run.bad_steps >= run.config.training.max_bad_steps:
        raise InputError(
            f"{run.bad_steps} steps in a row had a non-finite {what} (last: step {run.progress['step']}); "
            "the last checkpoint is kept, try a lower training.learning_rate"
        )


def log_step(
    run: Run, values: dict[str, float], norm: float, seconds: float, triplets: TripletBatch, queries: Queries
) -> None:
    step, epoch = run.progress["step"], run.progress["epoch"] + 1
    rate = run.optimizer.param_groups[0]["lr"]
    record = {name: value if math.isfinite(value) else None for name, value in values.items()}
    fallback = run.train.triplets.curriculum.count_fallbacks(triplets.hardness) / triplets.hardness.size
    run.log.log(
        "train", step, epoch, lr=rate, gradient_norm=norm if math.isfinite(norm) else None,
        samples_per_second=round((len(triplets.anchors) + len(queries)) / seconds, 1),
        fallback_rate=round(fallback, 4), query_scale=round(run.model.query_scale.item(), 4), **record,
    )  # fmt: skip
    terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    run.say(f"epoch {epoch} step {step}/{run.total_steps}  {terms}  lr {rate:.2e}  {seconds:.2f} s a step")


# ---------------------------------------------------------------- validation and checkpoints


@torch.no_grad()
def validate(run: Run) -> None:
    """Encode every code, measure held-out pairs and queries; keep best.pt if the loss is the lowest yet."""
    progress, config = run.progress, run.config
    taxonomy, queries = run.texts.corpus.taxonomy, run.validation.queries
    points, router = encode_points(run, run.texts.channels(np.arange(len(taxonomy))))
    run.model.points.copy_(points)
    asked, _ = encode_points(run, as_query(queries.tokens))
    everything = torch.arange(len(taxonomy), device=run.device)
    sums: dict[str, float] = {}
    for step in range(run.validation.steps):
        triplets = run.validation.triplets.batch(0, step)
        value = float(run.objective.contrast(points, triplets))
        sums["triplet"] = sums.get("triplet", 0.0) + value / run.validation.steps
    found = run.objective(run.model, everything, points, triplets, asked, queries)
    found["triplet"] = torch.tensor(sums["triplet"])
    measures = {name: float(value) for name, value in found.items()}
    measures["loss"] = float(run.objective.total(found))
    if len(queries):
        scores = -run.objective.geometry.pairwise(asked, points[run.objective.leaves]).cpu().numpy()
        targets = run.objective.leaf_column.cpu().numpy()[queries.targets]
        better, ties = rank_bounds(scores, targets)
        measures["mrr"] = float(reciprocal_rank(better, ties).mean())
        measures |= {f"top{k}": float(hits_at(better, ties, k).mean()) for k in (1, 10)}
    usage = (
        [] if router is None else count_choices(router.topk(config.model.moe.top_k).indices, router.shape[1])
    )
    run.log.log(
        "validation", progress["step"], progress["epoch"] + 1, expert_usage=list(map(int, usage)), **measures
    )
    shown = "  ".join(f"{name} {value:.4f}" for name, value in measures.items())
    run.say(f"epoch {progress['epoch'] + 1} validation  {shown}")
    if not math.isfinite(measures["loss"]):
        raise InputError(
            f"step {progress['step']}: validation loss is not finite; the last checkpoint is kept, try a "
            "lower training.learning_rate"
        )
    if progress["best"] is None or measures["loss"] < progress["best"]:
        progress["best"], progress["stale"] = measures["loss"], 0
        best = {**progress, "config": asdict(config), "validation": measures, "router": router}
        save_checkpoint(run.out / "best.pt", best, run.world, model=TrainedWeights(run.model))
    else:
        progress["stale"] += 1


def save(run: Run, name: str) -> None:
    """Write a checkpoint; the one before stays as checkpoint-previous.pt, in case the newest is damaged."""
    keep = run.out / "checkpoint-previous.pt" if name == "checkpoint-last.pt" else None
    save_checkpoint(run.out / name, run.progress, run.world, keep=keep, **run.parts)


def prune(run: Run) -> None:
    """The newest `keep_last` epochs stay; 1 still leaves checkpoint-last.pt beside it."""
    keep = run.config.training.keep_last
    if run.world.is_main and keep:
        found = sorted(run.out.glob("checkpoint-epoch*.pt"), key=lambda path: int(path.stem[16:]))
        for path in found[:-keep]:
            os.unlink(path)


def finish(run: Run) -> None:
    """The learning curve and summary.json, with the measures of best.pt."""
    if not run.world.is_main:
        return
    best = read_checkpoint(run.out / "best.pt")["progress"]
    plot_learning_curve(run.log.out / "metrics.jsonl", run.log.out / "learning_curve.png")
    shown = "  ".join(f"{name} {value:.4f}" for name, value in best["validation"].items())
    run.say(f"best of {run.config.experiment_name}, step {best['step']}  {shown}")
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    run.log.finish(
        {
            "validation": best["validation"],
            "best_step": best["step"],
            "steps": run.progress["step"],
            "stages": [*run.config.stages, run.config.curriculum.name],
            "triplets": run.train.triplets.audit(),
            "trained_parameters": sum(p.numel() for p in parameters),
            "seed": run.config.seed,
            "data_fingerprint": run.progress["data_fingerprint"],
            **describe_run(run.device),
        }
    )


def plot_learning_curve(records: Path, target: Path) -> None:
    """Loss of training and validation, and MRR of the held-out index entries, over steps."""
    import json

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in records.read_text().splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for split, style in (("train", "-"), ("validation", "o-")):
        points = [(row["step"], row["loss"]) for row in rows if row["split"] == split]
        left.plot(*zip(*points, strict=True) if points else ([], []), style, label=split, markersize=4)
    found = [(row["step"], row["mrr"]) for row in rows if "mrr" in row]
    right.plot(*zip(*found, strict=True) if found else ([], []), "o-", color="tab:green", markersize=4)
    left.set(xlabel="step", ylabel="loss")
    left.legend(frameon=False)
    right.set(xlabel="step", ylabel="MRR of held-out index entries")
    figure.savefig(target, dpi=120)
    plt.close(figure)
