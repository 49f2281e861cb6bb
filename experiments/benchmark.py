"""Speed of this project beside public packages, on the same rows, in turn.

    python experiments/benchmark.py --json out.json      (some six minutes on two cores)

train_step  optimizer steps of 8 x 4 documents with the lengths of EURLEX57K, 4,271 labels, a RoBERTa of 4
            layers by 256: ours in amp_bf16 beside `trainer`, transformers' Trainer on the same model with its
            fast options (length grouping, fused AdamW, bf16), and `trainer_defaults`, as it comes (float32)
train_step_fp32  ours in fp32_baseline beside `trainer_defaults`: equal precision
metrics     6,000 documents x 4,271 labels: all of the study's metrics beside those that scikit-learn has, and
            torchmetrics, where it is installed

Each contender lives in a process of its own and is called in turn; a figure is the median of the repeats
after one warm-up. `peak_memory_mb` is what a process's memory grew by from the drawn rows on. Further records
say how well contenders agree on each score.
"""

import argparse
import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import benchmark_peers as contenders
from training_utils import InputError, run_script, write_json

DEFAULTS = {"trainer_defaults": partial(contenders.HuggingFaceTrainer, fastest=False)}
CASES: dict[str, tuple[int, dict[str, Callable]]] = {  # rows, contenders
    "train_step": (
        128,
        {
            "ours": partial(contenders.Ours, config="amp_bf16"),
            "trainer": partial(contenders.HuggingFaceTrainer, fastest=True),
            **DEFAULTS,
        },
    ),
    "train_step_fp32": (128, {"ours": partial(contenders.Ours, config="fp32_baseline"), **DEFAULTS}),
    "metrics": (
        6_000,
        {
            "ours": contenders.StreamingMetrics,
            "scikit_learn": contenders.ScikitLearnMetrics,
            "torchmetrics": contenders.TorchMetrics,
        },
    ),
}
Answer = tuple[float, float, Any]  # rows a second, memory in MB, result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--rows", type=positive, help="documents a repeat (default: by case)")
    parser.add_argument("--num_layers", type=positive, default=4)
    parser.add_argument("--hidden_size", type=positive, default=256, help="a multiple of 64")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.hidden_size % 64:
        raise InputError(f"--hidden_size {args.hidden_size}: name a multiple of 64")
    return args


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def installed(name: str) -> bool:
    return name != "torchmetrics" or importlib.util.find_spec(name) is not None


# ---------------------------------------------------------------- measuring


def serve(build: Callable, args: argparse.Namespace, threads: int, pipe: Any) -> None:
    """A contender's process: answers each call with its speed, memory and result."""
    torch.set_num_threads(threads)
    contender = build(args)
    before = forget_peak_memory()
    while pipe.recv():
        speed = contender.run()
        pipe.send((speed, max(memory_mb("VmHWM") - before, 0.0), contender.result()))


def forget_peak_memory() -> float:
    """What drawing rows took is no contender's; returns what is in use now, in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return memory_mb("VmRSS")


def memory_mb(field: str) -> float:
    """This process's, on Linux; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(case: str, args: argparse.Namespace) -> dict[str, list[Answer]]:
    """The answers of each contender, called in turn; the first round warms up."""
    rows, builders = CASES[case]
    args = argparse.Namespace(**vars(args) | {"rows": args.rows or rows})
    context = multiprocessing.get_context("spawn")
    pipes, processes, answers = {}, [], {}
    for name, build in builders.items():
        if not installed(name):
            print(f"{case}: {name} is not installed and left out")
            continue
        pipes[name], other = context.Pipe()
        call_args = (build, args, torch.get_num_threads(), other)
        process = context.Process(target=serve, args=call_args, daemon=True)  # none outlives a failure
        process.start()
        other.close()
        processes.append(process)
        ask(pipes[name], name)  # built and warmed up one by one, so that none disturbs another
    for _ in range(args.repeats):
        for name, pipe in pipes.items():
            answers.setdefault(name, []).append(ask(pipe, name))
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return answers


def ask(pipe: Any, name: str) -> Answer:
    try:
        pipe.send(True)
        return pipe.recv()
    except (ConnectionError, EOFError):
        raise InputError(f"the contender {name} ended: an error (above), or too little memory") from None


def compare(case: str, answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """Records of speed, memory and agreement by peer; a ratio is above 1 where ours is better."""
    records, (speeds, memory, results) = [], zip(*answers["ours"], strict=True)
    for peer in [name for name in answers if name != "ours"]:
        their_speeds, their_memory, their_results = zip(*answers[peer], strict=True)
        faster = [a / b for a, b in zip(speeds, their_speeds, strict=True)]
        records.append(record(case, "rows_per_second", speeds, peer, their_speeds, faster))
        if all(memory) and all(their_memory):
            smaller = [b / a for a, b in zip(memory, their_memory, strict=True)]
            records.append(record(case, "peak_memory_mb", memory, peer, their_memory, smaller))
        ours, theirs = results[-1], their_results[-1]
        for name in sorted(set(ours or ()) & set(theirs or ())):
            a, b = ours[name], theirs[name]
            records.append(record(case, name, [a], peer, [b], [a / b if b else float(a == b)]))
    return records


def record(
    case: str, metric: str, ours: Sequence, peer: str, peers: Sequence, ratios: Sequence
) -> dict[str, Any]:
    """Medians."""
    middle = [round(float(statistics.median(values)), 7) for values in (ours, peers, ratios)]
    values = {"ours": middle[0], "peer": peer, "peer_value": middle[1], "ratio": middle[2]}
    return {"case": case, "metric": metric, **values, "repeats": len(ratios)}


def print_table(records: list[dict[str, Any]]) -> None:
    print(f"{'case':17}{'metric':17}{'ours':>14}  {'peer':20}{'value':>14}{'ratio':>9}")
    for r in records:
        line = f"{r['case']:17}{r['metric']:17}{r['ours']:14,.5g}  {r['peer']:20}{r['peer_value']:14,.5g}"
        print(f"{line}{r['ratio']:9.4g}", flush=True)


def main() -> None:
    args = parse_args()
    records = []
    for case in CASES if args.case == "all" else [args.case]:
        found = compare(case, measure(case, args))
        print_table(found)
        records += found
    if args.json:
        write_json(args.json, records)


if __name__ == "__main__":
    run_script(main)
