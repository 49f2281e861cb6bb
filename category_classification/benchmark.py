"""Rows per second of this project beside three peers, on the same rows, in turn.

    python category_classification/benchmark.py --json out.json      (eight minutes on two cores)

Peers: `padded_origin`, our model as it was first published: every row padded to 256 tokens, attention
materialised, foreach AdamW, in float32 or under AMP, whichever is faster here; `trainer_padded`,
transformers' Trainer on a BERT of the same depth, width and vocabulary (fewer parameters a block than
ours), padded to 256, fused AdamW, bfloat16; `trainer_grouped`, the same with rows grouped by length and
padded to their longest.

Each peer is met in turn, in a process of its own beside ours; both are called alternately, and a figure is
the median of the repeats after a warm-up. All keep the memory they free, so that nobody pays for fresh
pages. Rows are drawn with the length distribution of real titles, or titles with descriptions (Qwen3
tokens), and with ids so distributed that 64 titles touch some 530 of 151,669 embedding rows. A contender
that pads every row to 256 costs the same whatever the rows are, so it gets fewer of them. Peak memory is the
process's, during a case.

On CUDA `train_limit` compares our training step with the matrix product measured there, at 256 and 1,024
descriptions a step.
"""

import argparse
import math
import multiprocessing
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from category_classification.batches import TrainingBatches, evaluation_batches, on_device
from category_classification.benchmark_peers import (
    BATCH,
    NUM_CLASSES,
    PADDED_LENGTH,
    HuggingFaceTrainer,
    PaddedOrigin,
)
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.evaluation import BATCH_TOKENS
from category_classification.lspc import Split
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
Pairs = list[tuple[tuple[float, float], tuple[float, float]]]  # (rows a second, MB) of ours, of a peer
PEERS = ("padded_origin", "trainer_padded", "trainer_grouped")
ZIPF_EXPONENT, ZIPF_SHIFT = 1.25, 4.0  # 64 titles then touch about 530 ids, 64 descriptions 1,900


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=(*CASES, "train_limit", "all"), default="all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=positive, default=3)
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

    def __init__(self, args: argparse.Namespace, batch: int = BATCH, dtype: str = "auto") -> None:
        self.device, self.batch, self.dtype = pick_device(args.device), batch, dtype
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
        self.scaler = make_grad_scaler(self.device, True, dtype)
        self.epoch = 0

    def train(self, split: Split) -> float:
        self.model.train()
        started = time.perf_counter()
        for batch in on_device(TrainingBatches(split, self.batch, 0, ALONE).epoch(self.epoch), self.device):
            with autocast(self.device, True, self.dtype):
                loss = F.cross_entropy(
                    self.model(batch["input_ids"], batch["attention_mask"]).float(), batch["labels"]
                )
            self.scaler.scale(loss).backward()
            optimizer_step(self.optimizer, self.scaler, self.model.parameters(), max_grad_norm=1.0)
        self.epoch += 1
        return len(split) / (time.perf_counter() - started)

    def predict(self, split: Split) -> float:
        self.model.eval()
        started = time.perf_counter()
        for batch in on_device(evaluation_batches(split, ALONE, BATCH_TOKENS[self.device.type]), self.device):
            with torch.inference_mode(), autocast(self.device, True, self.dtype):
                self.model(batch["input_ids"], batch["attention_mask"]).argmax(-1).cpu()
        return len(split) / (time.perf_counter() - started)


def build(name: str, args: argparse.Namespace) -> Any:
    """A contender: its `train(split)` and `predict(split)` return rows a second."""
    if name == "ours":
        return Ours(args)
    if name == "padded_origin":
        return PaddedOrigin(args)
    return HuggingFaceTrainer(args, grouped=name == "trainer_grouped")


def serve(name: str, args: argparse.Namespace, splits: dict[str, Split], threads: int, pipe: Any) -> None:
    """A contender's process: answers each case with (rows a second, peak memory in MB)."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    contender = build(name, args)
    for case in iter(pipe.recv, None):
        forget_peak_memory()
        speed = getattr(contender, case.split("_")[0])(splits[CASES[case]])
        pipe.send((speed, peak_memory_mb()))


def forget_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then the process's so far


def peak_memory_mb() -> float:
    """This process's; `ru_maxrss` starts from its parent's on Linux, so it serves elsewhere only."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )


class Contender:
    """A process that runs cases on request."""

    def __init__(self, name: str, args: argparse.Namespace, splits: dict[str, Split]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, (self.pipe, other) = name, context.Pipe()
        arguments = (name, args, splits, torch.get_num_threads(), other)
        self.process = context.Process(target=serve, args=arguments, daemon=True)  # outlives no failure
        self.process.start()
        other.close()

    def run(self, case: str) -> tuple[float, float]:
        """Rows a second, peak memory in MB."""
        try:
            self.pipe.send(case)
            return self.pipe.recv()
        except (ConnectionError, EOFError):
            reason = "an error (above), or too little memory"
            raise InputError(f"the contender {self.name} ended: {reason}") from None

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def measure(cases: Sequence[str], args: argparse.Namespace) -> Iterator[tuple[str, str, Pairs]]:
    """Case, peer, and its (ours, the peer's) answers, called alternately after a warm-up."""
    splits = {
        kind: draw_rows(args.rows or LENGTHS[kind][2], kind, args.vocab_size)
        for kind in {CASES[case] for case in cases}
    }
    ours = Contender("ours", args, splits)
    for name in PEERS:
        peer = Contender(name, args, splits)
        for case in cases:
            for contender in (ours, peer):
                contender.run(case)
            yield case, name, [(ours.run(case), peer.run(case)) for _ in range(args.repeats)]
        peer.end()
    ours.end()


def compare(case: str, peer: str, pairs: Pairs) -> list[dict[str, Any]]:
    """One record a metric; ratio is above 1 where ours is better."""
    records = []
    for number, metric in enumerate(("rows_per_second", "peak_memory_mb")):
        values = [(ours[number], theirs[number]) for ours, theirs in pairs]
        ratios = [a / b if metric == "rows_per_second" else b / a for a, b in values]
        records.append(
            {
                "case": case,
                "metric": metric,
                "ours": round(statistics.median(a for a, _ in values), 2),
                "peer": peer,
                "peer_value": round(statistics.median(b for _, b in values), 2),
                "ratio": round(statistics.median(ratios), 3),
                "repeats": len(pairs),
            }
        )
    return records


def print_records(records: list[dict[str, Any]]) -> None:
    for r in records:
        line = f"{r['case']:20}{r['metric']:18}{r['ours']:10.1f}  {r['peer']:18}{r['peer_value']:10.1f}"
        print(f"{line}{r['ratio']:8.2f}", flush=True)


def matrix_product(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP a second of a large product of random matrices."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype).unbind(0)
    for repeats in (3, 20):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        torch.cuda.synchronize(device)
    return 20 * 2 * size**3 / (time.perf_counter() - started)


def train_limit(args: argparse.Namespace, dtype: str, batch: int, steps: int = 12) -> dict[str, Any]:
    """On CUDA: our training FLOP/s on descriptions over those of a matrix product; padding is no work."""
    ours = Ours(args, batch, dtype)
    rows = args.rows or steps * batch
    split = draw_rows(rows, "descriptions", args.vocab_size)
    for _ in range(2):  # compiles, and picks kernels
        ours.train(split)
    torch.cuda.reset_peak_memory_stats(ours.device)
    speed = statistics.median(ours.train(split) for _ in range(args.repeats))
    lengths = split.lengths.astype(float)
    block = 2 * lengths * (2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 1536) + 4 * lengths**2 * 384
    reached = 3 * args.num_layers * block.mean() * speed
    limit = matrix_product(ours.device, getattr(torch, dtype))
    memory = torch.cuda.max_memory_allocated(ours.device) / 1e9
    name = f"train_limit, {dtype}, {batch} rows a step"
    print(f"{name}: {speed:,.0f} rows/s of {lengths.mean():.0f} tokens, {memory:.1f} GB", flush=True)
    values = {
        "ours": round(reached / 1e12, 1),
        "peer": "matrix_product",
        "peer_value": round(limit / 1e12, 1),
    }
    return {
        "case": name,
        "metric": "tflops",
        **values,
        "ratio": round(reached / limit, 3),
        "repeats": args.repeats,
    }


def limits(args: argparse.Namespace) -> list[dict[str, Any]]:
    if pick_device(args.device).type != "cuda":
        if args.case == "train_limit":
            raise InputError("--case train_limit: compares with a GPU's matrix product, and there is none")
        return []
    records = []
    for dtype, batch in (("bfloat16", 256), ("bfloat16", 1024), ("float16", 1024)):
        records.append(train_limit(args, dtype, batch))
        print_records(records[-1:])
    return records


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    records = []
    print(f"{'case':20}{'metric':18}{'ours':>10}  {'peer':18}{'value':>10}{'ratio':>8}", flush=True)
    chosen = list(CASES) if args.case == "all" else [case for case in CASES if case == args.case]
    for case, peer, pairs in measure(chosen, args) if chosen else ():
        found = compare(case, peer, pairs)
        print_records(found)
        records += found
    if args.case in ("all", "train_limit"):
        records += limits(args)
    if args.json:
        write_json(args.json, records)


if __name__ == "__main__":
    run_script(main)
