"""naics-gemini: from the Census workbooks to a searchable hyperbolic embedding of the NAICS codes.

    naics-gemini data download|preprocess|distances|triplets|all [--data_dir data/naics] [--year 2022]
    naics-gemini train -c 01_stage_easy [--from PATH] [--resume auto] [SETTING=VALUE ...]
    naics-gemini evaluate --checkpoint checkpoints/03_stage_hard/best.pt
    naics-gemini search "mobile dog grooming"
    naics-gemini export --checkpoint checkpoints/03_stage_hard/best.pt --out data/naics/export
    naics-gemini report --checkpoint checkpoints/03_stage_hard/best.pt --out data/naics/report

Each command says more with --help.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training_utils import InputError, run_script

STEPS = ("download", "preprocess", "distances", "triplets")
COMMANDS = ("data", "train", "evaluate", "search", "export", "report")


def data(argv: Sequence[str]) -> None:
    """Make the files that training reads, step by step or all of them but the written triplets."""
    parser = argparse.ArgumentParser("naics-gemini data", description=data.__doc__)
    parser.add_argument("step", choices=(*STEPS, "all"), help="all: download, preprocess, distances")
    parser.add_argument("--data_dir", type=Path, default=Path("data/naics"), help="folder of all files")
    parser.add_argument("--raw_dir", type=Path, help="folder of the workbooks (default: DATA_DIR/raw/YEAR)")
    parser.add_argument("--year", type=int, default=2022, choices=(2022, 2017), help="vintage of NAICS")
    parser.add_argument(
        "--rule", default="corrected", choices=("corrected", "compat"), help="of the distances"
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="of the roles of index entries, and of row order"
    )
    parser.add_argument("--limit", type=int, help="write only so many triplets")
    args = parser.parse_args(argv)
    raw = args.raw_dir or args.data_dir / "raw" / str(args.year)
    wanted = STEPS[:3] if args.step == "all" else (args.step,)
    for step in wanted:
        run_data_step(step, args, raw)


def run_data_step(step: str, args: argparse.Namespace, raw: Path) -> None:
    from naics.data.census import load_taxonomy, preprocess
    from naics.data.distances import write_distances
    from naics.data.download import download
    from naics.data.triplets import write_triplets

    if step == "download":
        download(raw, args.year)
    elif step == "preprocess":
        for name, value in preprocess(raw, args.data_dir, args.year, args.seed).items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            print(f"{name.replace('_', ' '):32}" + ", ".join(f"{part} {n}".strip() for part, n in parts))
    elif step == "distances":
        rows = write_distances(load_taxonomy(args.data_dir), args.data_dir, args.rule)
        print(f"{rows:,} pairs: {args.data_dir / 'naics_distances.parquet'}")
    else:
        out = args.data_dir / "naics_training_pairs"
        write_triplets(load_taxonomy(args.data_dir), out, args.rule, args.seed, limit=args.limit)
        print(f"triplets: {out}")


def command(name: str, argv: Sequence[str]) -> None:
    if name == "data":
        data(argv)
    elif name == "train":
        from naics.train import main as train

        train(argv)
    elif name == "evaluate":
        from naics.evaluate import main as evaluate

        evaluate(argv)
    elif name == "search":
        from naics.search import main as search

        search(argv)
    elif name == "export":
        from naics.export import main as export

        export(argv)
    else:
        from naics.report import main as report

        report(argv)


def dispatch() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    name, *rest = sys.argv[1:]
    if name not in COMMANDS:
        raise InputError(f"naics-gemini {name}: no such command; use one of {', '.join(COMMANDS)}")
    command(name, rest)


def main() -> None:
    run_script(dispatch)


if __name__ == "__main__":
    main()
