"""Time, memory and share of a GPU's limit of every number format, at two well-known models' shapes.

    python experiments/benchmark_shapes.py --json out.json
    python experiments/benchmark_shapes.py --shape 32x1 --config amp_bf16,bf16_pure --compile

RoBERTa-base on documents of up to 512 tokens with 4,271 labels, and GPT-2 small on windows of 1,024 tokens,
both from random weights and on random tokens: steps of the study's own engine, 32 rows each, as 8 x 4 (rows
of a micro-batch, and micro-batches) and 32 x 1. A share of the limit is of the matrix product in the format
that the configuration multiplies in, measured here; padding counts as work, as it is computed. What a
configuration does to the quality is run.py's to say.
"""

import argparse
import copy
import functools
import gc
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmark_peers import LABELS, MAX_LENGTH, draw_documents, make_model
from experiments.classification.model import binary_cross_entropy
from experiments.costs import matmul_ceiling, mfu, model_flops
from experiments.dtype_configs import CONFIGS, DtypeConfig, get_config
from experiments.language_modeling.data import Text
from experiments.language_modeling.model import GPT, GPTConfig, cross_entropy
from experiments.precision import TORCH_DTYPES, unsupported
from experiments.run_flags import positive
from experiments.run_record import OUT_OF_MEMORY
from experiments.run_state import Run, compile_run
from experiments.task import EpochOrder, Task
from experiments.training import train_step
from training_utils import ALONE, InputError, RunLog, pick_device, run_script, write_json

SHAPES = {"8x4": (8, 4), "32x1": (32, 1)}  # rows of a micro-batch, micro-batches of a step
STARTED = 1000  # steps done before, so that no probe of a run's first steps falls into the timing
WARM_UP = 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=(*TASKS, "all"), default="all")
    add("--shape", choices=(*SHAPES, "all"), default="all", help="rows of a micro-batch x micro-batches")
    add("--config", default="all", help="configurations with commas, or all")
    add("--steps", type=positive, default=20, help=f"that are timed, after {WARM_UP} to warm up")
    add("--num_layers", type=positive, default=12)
    add("--hidden_size", type=positive, default=768, help="a multiple of 64")
    add("--compile", action="store_true", help="compile the layers, where the configuration allows it")
    add("--json", type=Path, help="also write the figures there")
    add("--device", default="auto")
    args = parser.parse_args()
    if args.hidden_size % 64:
        raise InputError(f"--hidden_size {args.hidden_size}: name a multiple of 64")
    return args


# ---------------------------------------------------------------- the two tasks


def classification(args: argparse.Namespace) -> tuple[Task, int]:
    """The task, and tokens of a full row."""
    data, model = draw_documents(640), make_model(args)
    rows, pad_to = data.splits["train"], MAX_LENGTH if args.compile else None
    task = make_task(
        model, binary_cross_entropy,
        step_rows=EpochOrder(len(rows), 0, np.diff(rows.offsets)).rows,
        train_batch=lambda chosen: data.batch("train", chosen, pad_to),
        flops_per_sample=model_flops(args.num_layers, args.hidden_size, MAX_LENGTH, LABELS),
    )  # fmt: skip
    return task, MAX_LENGTH


def language_modeling(
    args: argparse.Namespace, vocabulary: int = 50_257, length: int = 1024
) -> tuple[Task, int]:
    tokens = np.random.default_rng(0).integers(0, vocabulary, 400 * length).astype(np.uint16)
    text = Text({"train": tokens}, {"tokenizer": {"vocab_size": vocabulary}}, length)
    config = GPTConfig(text.vocab_size, length, args.num_layers, args.hidden_size, args.hidden_size // 64)
    sizes = args.num_layers, args.hidden_size, length, text.vocab_size
    task = make_task(
        GPT(config), cross_entropy,
        step_rows=lambda step, rows: text.step_starts(0, step, rows),
        train_batch=lambda starts: text.batch("train", starts),
        flops_per_sample=model_flops(*sizes, causal=True, output_positions=length),
    )  # fmt: skip
    return task, length


def make_task(model: torch.nn.Module, loss: Any, **fields: Any) -> Task:
    return Task(
        name="", headline=(), make_model=lambda: copy.deepcopy(model), loss=loss,
        validate=lambda _: {}, evaluate=lambda _: None, epoch_rows=1, head_flops_share=0.0,
        betas=(0.9, 0.95), min_lr_scale=0.0, facts={}, **fields,
    )  # fmt: skip


TASKS = {"classification": classification, "language_modeling": language_modeling}


# ---------------------------------------------------------------- measuring


@functools.cache
def ceiling(device: torch.device, dtype: torch.dtype, matmul_precision: str) -> float:
    torch.set_float32_matmul_precision(matmul_precision)
    return matmul_ceiling(device, dtype)


def measure(
    task: Task, length: int, config: DtypeConfig, shape: str, args: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one configuration at one shape."""
    device, (rows, micro_batches) = pick_device(args.device), SHAPES[shape]
    steps = WARM_UP + args.steps
    settings = argparse.Namespace(
        batch_size=rows, gradient_accumulation_steps=micro_batches, max_steps=2 * STARTED,
        warmup_ratio=0.0, seed=0, learning_rate=1e-4, eval_steps=10**6, weight_decay=0.01, grad_clip=1.0,
        save_every_steps=0,
    )  # fmt: skip
    limit = ceiling(device, TORCH_DTYPES[config.compute], config.matmul_precision)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(task, config, settings, ALONE, device)
        run.say, run.log = lambda line: None, RunLog(Path(folder), {})
        run.clock.warmup_steps = WARM_UP
        run.rule.update = lambda loss, skipped: None  # random weights: how the loss goes is not measured
        run.progress["step"] = STARTED
        for number in (signal.SIGTERM, signal.SIGINT):  # a run would save itself; this one just ends
            signal.signal(number, signal.SIG_DFL)
        if args.compile and config.compile:
            compile_run(run)
        run.model.train()
        run.clock.start()
        for step in range(STARTED + 1, STARTED + steps + 1):
            train_step(run, step)
            run.clock.step()
        if step := run.progress["first_non_finite_step"]:  # such a step is not taken, so it has no time
            reason = f"the loss is not finite at step {step - STARTED}"
            return {"status": "diverged", "reason": reason}
        timing, memory = run.clock.result(run.rows), run.memory.read(run.model, run.optimizer)
    work = task.flops_per_sample * run.progress["padded_tokens"] / (steps * run.rows * length)
    return {
        "samples_per_second": timing["samples_per_second"],
        "step_ms": timing["step_ms"]["median"],
        "compile_seconds": timing["compile_seconds"],
        "peak_memory_gb": memory["peak_memory_gb"],
        "memory": memory["memory"],
        "tflops": work * timing["samples_per_second"] / 1e12,
        "ceiling_tflops": limit / 1e12,
        "mfu": mfu(work, timing["samples_per_second"], limit),
    }


def records(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    configs = CONFIGS if args.config == "all" else [get_config(name) for name in args.config.split(",")]
    device = pick_device(args.device)
    for name in [name for name in TASKS if args.task in (name, "all")]:
        task, length = TASKS[name](args)
        for shape in [shape for shape in SHAPES if args.shape in (shape, "all")]:
            for config in configs:
                found = {"task": name, "shape": shape, "config": config.name, "compiled": args.compile}
                if reason := unsupported(config, device):
                    yield found | {"status": "unsupported", "reason": reason}
                    continue
                try:
                    found |= {"status": "completed", **measure(task, length, config, shape, args)}
                except RuntimeError as error:
                    if not any(words in str(error) for words in OUT_OF_MEMORY):
                        raise
                    found |= {"status": "oom", "reason": str(error).splitlines()[0]}
                yield found
                gc.collect()  # a run's model goes before the next one comes
                torch.compiler.reset()
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def main() -> None:
    args, found = parse_args(), []
    print(
        f"{'task':18}{'shape':6}{'configuration':22}{'samples/s':>10}{'ms/step':>9}{'GB':>7}"
        f"{'TFLOP/s':>9}{'MFU':>7}"
    )
    for row in records(args):
        found.append(row)
        line = f"{row['task']:18}{row['shape']:6}{row['config']:22}"
        if row["status"] == "completed":
            line += f"{row['samples_per_second']:10.1f}{row['step_ms']:9.1f}{row['peak_memory_gb']:7.1f}"
            line += f"{row['tflops']:9.1f}{row['mfu']:7.1%}"
        else:
            line += f"  {row['status']}: {row['reason']}"
        print(line, flush=True)
        if args.json:
            write_json(args.json, found)


if __name__ == "__main__":
    run_script(main)
