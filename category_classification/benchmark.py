"""Rows per second of this project beside three peers, on the same rows, in turn.

    python category_classification/benchmark.py --json out.json      (twelve minutes on two cores)

Peers: `padded_origin`, our model as it was first published: every row padded to 256 tokens, attention
materialised, foreach AdamW, in float32 or under AMP, whichever is faster here; `trainer_padded`,
transformers' Trainer on a BERT of the same depth, width and vocabulary (fewer parameters a block than
ours), padded to 256, fused AdamW, bfloat16; `trainer_grouped`, the same with rows grouped by length and
padded to their longest.

Each contender lives in a process of its own and is called in turn; a figure is the median of the repeats
after one warm-up. Rows are drawn with the length distribution of real titles, or titles with descriptions
(Qwen3 tokens), and with ids so distributed that 64 titles touch some 530 of 151,669 embedding rows. A
contender that pads every row to 256 costs the same whatever the rows are, so it gets fewer of them. Peak
memory is the process's.
"""

import argparse
import ctypes
import math
import multiprocessing
import os
import re
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from category_classification.benchmark_peers import (
    BATCH,
    NUM_CLASSES,
    PADDED_LENGTH,
    HuggingFaceTrainer,
    PaddedOrigin,
)
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.evaluation import BATCH_TOKENS, to_device
from category_classification.lspc import Split, TrainingBatches, evaluation_batches
from category_classification.row_adamw import RowAdamW
from category_classification.training_flags import positive
from training_utils import (
    ALONE,
    InputError,
    autocast,
    keep_freed_memory,
    make_grad_scaler,
    optimizer_step,
    pick_device,
    run_script,
    write_json,
)

# log-normal lengths: median, spread of the logarithm (p90 32 of 18, and 194 of 116), and the rows ours takes
LENGTHS = {"titles": (18.0, 0.45, 768), "descriptions": (116.0, 0.38, 128)}
CASES = {"train_titles": "titles", "train_descriptions": "descriptions", "predict_titles": "titles"}
PEERS = ("padded_origin", "trainer_padded", "trainer_grouped")
ZIPF_EXPONENT, ZIPF_SHIFT = 1.25, 4.0  # 64 titles then touch about 530 ids, 64 descriptions 1,900


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--rows", type=positive, help="rows a repeat (default: by case)")
    parser.add_argument("--vocab_size", type=positive, default=151_669)
    parser.add_argument("--num_layers", type=positive, default=10)
    parser.add_argument("--embedding_update", choices=("dense", "rows"), default="rows")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="ours alone")
    parser.add_argument("--compile_peers", action="store_true", help="the Trainer's torch_compile as well")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def draw_rows(count: int, kind: str, vocab_size: int, seed: int = 0) -> Split:
    """`count` rows of token ids and labels, as a prepared split."""
    rng = np.random.default_rng(seed)
    median, spread, _ = LENGTHS[kind]
    lengths = rng.lognormal(math.log(median), spread, count).round().clip(2, PADDED_LENGTH).astype(np.int64)
    weights = 1 / (np.arange(vocab_size) + ZIPF_SHIFT) ** ZIPF_EXPONENT
    tokens = rng.choice(vocab_size, size=lengths.sum(), p=weights / weights.sum()).astype(np.uint32)
    labels, blank = rng.integers(NUM_CLASSES, size=count), np.zeros(count, dtype=np.int64)
    offsets = np.concatenate(([0], lengths.cumsum()))
    seen = np.ones(vocab_size, dtype=bool)
    names = [str(i) for i in range(NUM_CLASSES)]
    return Split("train", tokens, offsets, labels, blank, blank, seen, names, ["en"], "")


class Ours:
    """The trainer's path: batches in random order, packed; AMP, fused or row-wise AdamW, clipping."""

    def __init__(self, args: argparse.Namespace, split: Split) -> None:
        keep_freed_memory()  # as run_script does for every script
        self.split, self.device = split, pick_device(args.device)
        config = EncoderConfig(
            vocab_size=args.vocab_size,
            num_layers=args.num_layers,
            sparse_embedding_gradient=args.embedding_update == "rows",
        )
        self.model = EmbeddingClassifier(config, NUM_CLASSES).to(self.device)
        if args.compile:
            for block in self.model.encoder.blocks:
                block.compile(dynamic=True)
        adamw = RowAdamW if args.embedding_update == "rows" else torch.optim.AdamW
        self.optimizer = adamw(self.model.parameters(), lr=2e-4, fused=True)
        if args.embedding_update == "rows":
            self.optimizer.follow(self.model.encoder.embeddings)
        self.scaler = make_grad_scaler(self.device, True)
        self.loader, self.epoch = TrainingBatches(split, BATCH, 0, ALONE), 0

    def train(self) -> float:
        self.model.train()
        started = time.perf_counter()
        for batch in self.loader.epoch(self.epoch):
            batch = to_device(batch, self.device)
            with autocast(self.device, True):
                loss = F.cross_entropy(
                    self.model(batch["input_ids"], batch["attention_mask"]).float(), batch["labels"]
                )
            self.scaler.scale(loss).backward()
            optimizer_step(self.optimizer, self.scaler, self.model.parameters(), max_grad_norm=1.0)
        self.epoch += 1
        return len(self.split) / (time.perf_counter() - started)

    def predict(self) -> float:
        self.model.eval()
        started = time.perf_counter()
        for batch in evaluation_batches(self.split, ALONE, BATCH_TOKENS[self.device.type]):
            batch = to_device(batch, self.device)
            with torch.inference_mode(), autocast(self.device, True):
                self.model(batch["input_ids"], batch["attention_mask"]).argmax(-1).cpu()
        return len(self.split) / (time.perf_counter() - started)


def build(name: str, args: argparse.Namespace, split: Split) -> Any:
    """A contender: its `train()` and `predict()` return rows a second."""
    if name == "ours":
        return Ours(args, split)
    if name == "padded_origin":
        return PaddedOrigin(args, split)
    return HuggingFaceTrainer(args, split, grouped=name == "trainer_grouped")


def serve(name: str, args: argparse.Namespace, split: Split, threads: int, pipe: Any) -> None:
    """A contender's process: answers each call with (rows a second, peak memory in MB)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    contender = build(name, args, split)
    for call in iter(pipe.recv, None):
        speed = getattr(contender, call)()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # what is free goes back, for the next contender
        pipe.send((speed, peak_memory_mb()))


def peak_memory_mb() -> float:
    """This process's; `ru_maxrss` starts from its parent's on Linux, so it serves elsewhere only."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )


def measure(case: str, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Figures of each contender, called in turn; the first round warms up."""
    kind, call = CASES[case], case.split("_")[0]
    split = draw_rows(args.rows or LENGTHS[kind][2], kind, args.vocab_size)
    context = multiprocessing.get_context("spawn")
    figures = {name: {"rows_per_second": [], "peak_memory_mb": []} for name in ("ours", *PEERS)}
    pipes, processes = {}, []
    for name in figures:
        pipes[name], other = context.Pipe()
        call_args = (name, args, split, torch.get_num_threads(), other)
        process = context.Process(target=serve, args=call_args, daemon=True)  # none outlives a failure
        process.start()
        other.close()
        processes.append(process)
        _ask(pipes[name], name, call)  # built and warmed up one by one, so that none disturbs another
    for _ in range(args.repeats):
        for name, pipe in pipes.items():
            speed, memory = _ask(pipe, name, call)
            figures[name]["rows_per_second"].append(speed)
            figures[name]["peak_memory_mb"].append(memory)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    return figures


def _ask(pipe: Any, name: str, call: str) -> tuple[float, float]:
    try:
        pipe.send(call)
        return pipe.recv()
    except (ConnectionError, EOFError):
        raise InputError(f"the contender {name} ended: an error (above), or too little memory") from None


def compare(case: str, figures: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One record a metric and peer; ratio is above 1 where ours is better."""
    records = []
    for peer in PEERS:
        for metric in ("rows_per_second", "peak_memory_mb"):
            ours, theirs = figures["ours"][metric], figures[peer][metric]
            pairs = list(zip(ours, theirs, strict=True))
            ratios = [a / b if metric == "rows_per_second" else b / a for a, b in pairs]
            records.append(
                {
                    "case": case,
                    "metric": metric,
                    "ours": round(statistics.median(ours), 2),
                    "peer": peer,
                    "peer_value": round(statistics.median(theirs), 2),
                    "ratio": round(statistics.median(ratios), 3),
                    "repeats": len(pairs),
                }
            )
    return records


def print_table(records: list[dict[str, Any]]) -> None:
    print(f"{'case':20}{'metric':18}{'ours':>10}  {'peer':18}{'value':>10}{'ratio':>8}")
    for r in records:
        line = f"{r['case']:20}{r['metric']:18}{r['ours']:10.1f}  {r['peer']:18}{r['peer_value']:10.1f}"
        print(f"{line}{r['ratio']:8.2f}", flush=True)


def print_share_of_ceiling(records: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """On CUDA: our training FLOP/s over those of a large bfloat16 matrix product on random data."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16).unbind(0)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    ceiling = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    for case in {r["case"]: r for r in records if r["case"].startswith("train")}.values():
        kind = CASES[case["case"]]
        lengths = draw_rows(10_000, kind, 1000).lengths.astype(float)
        block = 2 * lengths * (2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 1536) + 4 * lengths**2 * 384
        flops = 3 * args.num_layers * block.mean() * case["ours"]
        print(f"{case['case']}: {flops / 1e12:.0f} of {ceiling / 1e12:.0f} TFLOP/s, {flops / ceiling:.0%}")


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    records = []
    for case in CASES if args.case == "all" else [args.case]:
        found = compare(case, measure(case, args))
        print_table(found)
        records += found
    if pick_device(args.device).type == "cuda":
        print_share_of_ceiling(records, args)
    if args.json:
        write_json(args.json, records)


if __name__ == "__main__":
    run_script(main)
