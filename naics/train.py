"""Train the hyperbolic embedding of the NAICS codes, one stage of the curriculum.

    poetry run python naics/train.py -c 01_stage_easy
    naics-gemini train -c 02_stage_medium training.trainer.max_epochs=20 model=ngram
    naics-gemini train -c 03_stage_hard --resume auto

In: the Parquet files of `naics-gemini data all` in paths.data_dir. Out: checkpoints/STAGE/ (best.pt by
validation loss, checkpoint-epochN.pt, checkpoint-last.pt) and outputs/STAGE/ (config.json, metrics.jsonl,
summary.json, learning_curve.png). A stage starts from the best weights of the one before it, where that was
trained.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from naics.config import Config, compose
from naics.data.census import fingerprint_roles
from naics.data.curriculum import Curriculum, audit_line
from naics.data.streaming_dataset import MatrixTriplets, ParquetTriplets, shared_pairs
from naics.data.texts import CodeTexts, Corpus, load_corpus
from naics.gradient_caching import initial_points
from naics.inference import build_model, check_roles, make_tokenizer
from naics.model.encoder import TrainedWeights
from naics.objective import Objective
from naics.training import Batches, Run, finish, start_run, train_epoch
from training_utils import (
    InputError,
    World,
    init_distributed,
    load_checkpoint,
    pick_device,
    run_script,
    seed_everything,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "naics-gemini train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--curriculum", required=True, help="stage, a file of conf/curriculum")
    parser.add_argument(
        "overrides", nargs="*", help="settings as in conf/, such as training.learning_rate=1e-4"
    )
    parser.add_argument("--from", dest="start", default="auto", help="best.pt to start from, auto or none")
    parser.add_argument("--resume", help="a checkpoint-*.pt of this stage, or auto")
    parser.add_argument(
        "--max_steps", type=int, default=0, help="end after so many steps in all (0 = by epochs)"
    )
    parser.add_argument("--seed", type=int, help="in place of the setting seed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, help="16-mixed (the default), or 32")
    parser.add_argument("--compile", action="store_true", help="compile the transformer")
    parser.add_argument("--wandb", action="store_true", help="mirror the records to Weights & Biases")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = settings(args)
    world = init_distributed()
    device = pick_device(args.device, world.local_rank)
    seed_everything(config.seed)

    # Data
    corpus = load_corpus(Path(config.paths.data_dir))
    if not world.is_main:
        world.gather(None)  # the first rank writes the token cache
    texts = CodeTexts(corpus, make_tokenizer(config), Path(config.data.cache_dir))
    if world.is_main:
        world.gather(None)
    train, validation = make_batches(config, texts, world)

    # Model
    model = build_model(config, len(corpus.taxonomy)).to(device)
    if config.model.backbone == "ngram":
        model.encoder.backbone.fit_idf(texts.seen_texts())
    started_from, roles = start_weights(args, config, model, corpus, world)
    if args.compile and config.model.backbone == "transformer":
        model.encoder.backbone.compile_body()

    # Optimizer, schedule, resume
    objective = Objective.of(config.loss, corpus.taxonomy, model.encoder.geometry, device)
    progress = {"epoch": 0, "batch": 0, "step": 0, "stale": 0, "best": None}
    out = Path(config.paths.checkpoint_dir) / config.experiment_name
    run = Run(
        config, world, device, model, texts, objective, train, validation, out, args.max_steps, progress
    )
    run.say(f"{config.experiment_name}: {audit_line(train.triplets.audit())}")
    shared = shared_pairs(train.triplets.table, validation.triplets.table)
    run.say(f"validation: {len(validation.triplets.table):,} pairs, {shared} of them in training")
    identity = {"world_size": world.size, "data_fingerprint": texts.fingerprint, "started_from": started_from}
    identity["roles"] = roles
    start_run(run, args.resume, args.wandb, identity)

    # Train
    if progress["step"] == 0:
        initial_points(run)
    while not run.finished:
        train_epoch(run)
    finish(run)


def settings(args: argparse.Namespace) -> Config:
    overrides = list(args.overrides)
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    if args.amp is not None:
        overrides.append(f"training.trainer.precision={'16-mixed' if args.amp else '32'}")
    if args.max_steps < 0:
        raise InputError(f"--max_steps {args.max_steps}: must not be below 0")
    return compose(args.curriculum, overrides)


def make_batches(config: Config, texts: CodeTexts, world: World) -> tuple[Batches, Batches]:
    """All ranks see the rows of the whole step, and share out what is encoded."""
    data, trainer = config.data, config.training.trainer
    curriculum = Curriculum(
        tuple(config.curriculum.positive_levels),
        config.curriculum.positive_distance_max,
        dict(config.curriculum.buckets),
        data.k_negatives,
    )
    rows = data.batch_size * world.size
    held_out = dict(
        split_seed=config.seed,
        validation_share=data.val_split,
        max_fallback=config.curriculum.max_fallback,
    )
    validation = MatrixTriplets(
        texts.corpus.taxonomy,
        curriculum,
        rows,
        config.seed + 1,
        split="validation",
        **held_out,
    )
    if data.backend == "parquet":
        train = ParquetTriplets(
            Path(data.triplets_path), texts.corpus.taxonomy, curriculum, rows, config.seed, **held_out
        )
    else:
        train = MatrixTriplets(texts.corpus.taxonomy, curriculum, rows, config.seed, **held_out)
    queries = texts.training_queries(config.loss.query_weight > 0, config.loss.redirect_weight > 0)
    steps = min(train.steps_per_epoch, trainer.limit_train_batches or train.steps_per_epoch)
    val_steps = min(validation.steps_per_epoch, trainer.limit_val_batches)
    per_step = data.queries * world.size if len(queries) else 0
    return (
        Batches(train, queries, per_step, config.model.query_dropout, config.seed, steps),
        Batches(validation, texts.queries(("validation",)), 0, 0.0, config.seed, val_steps),
    )


def start_weights(
    args: argparse.Namespace, config: Config, model: torch.nn.Module, corpus: Corpus, world: World
) -> tuple[str | None, str | None]:
    """Load the stage before this one (--from auto), or what --from names. Returns which, and the fingerprint
    of the index entries' roles: None where an older checkpoint does not say what trained it.
    """
    path = None
    if args.start == "auto" and config.curriculum.previous:
        path = Path(config.paths.checkpoint_dir) / config.curriculum.previous / "best.pt"
        if not path.is_file():
            if world.is_main and not args.resume:
                print(f"{path}: not there, so {config.curriculum.name} starts from the beginning")
            path = None
    elif args.start not in ("auto", "none"):
        path = Path(args.start)
    if path is None:
        return None, fingerprint_roles(corpus.taxonomy, corpus.index)
    stored = load_checkpoint(path, restore_rng=False, model=TrainedWeights(model))
    roles = check_roles(path, stored, corpus.taxonomy, corpus.index, world.is_main)
    try:
        before = stored["config"]["stages"], stored["config"]["curriculum"]["name"], f"{stored['best']:.4f}"
        config.stages = [str(name) for name in (*before[0], before[1])]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: does not say what its stages were; use another checkpoint") from None
    if world.is_main:
        print(f"starts from {path} ({' -> '.join(config.stages)}, validation loss {before[2]})")
    return config.stages[-1], roles


if __name__ == "__main__":
    run_script(main)
