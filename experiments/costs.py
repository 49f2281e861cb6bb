"""What a configuration costs: arithmetic, share of the machine's limit, memory, time of a step."""

import ctypes
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

GIGA = 1e9


def model_flops(
    num_layers: int,
    hidden_size: int,
    sequence_length: int,
    outputs: int,
    intermediate_size: int | None = None,
    causal: bool = False,
    output_positions: int = 1,
) -> float:
    """Operations to train a transformer on one sequence: products of weights and of attention, times 3.

    The backward pass, twice the forward one, is the 2 in that 3; nothing else counts it. Two operations a
    multiply-add, two products of T x T x D in attention, half of each where `causal`. Embedding look-ups,
    norms and activations are left out. `output_positions`: 1 for a classifier, T for a language model.
    """
    width = intermediate_size or 4 * hidden_size
    weights = num_layers * (4 * hidden_size**2 + 2 * hidden_size * width)
    attention = num_layers * 4 * sequence_length**2 * hidden_size * (0.5 if causal else 1.0)
    head = 2 * hidden_size * outputs * output_positions
    return 3.0 * (2 * weights * sequence_length + attention + head)


def mfu(flops_per_sample: float, samples_per_second: float, peak_flops: float) -> float:
    """Model FLOP utilisation, in [0, 1]. More than 1 is a wrong count or a wrong peak, so it is an error."""
    share = flops_per_sample * samples_per_second / peak_flops
    if share > 1:
        raise ValueError(f"utilisation of {share:.0%}: the FLOP count or the peak is wrong")
    return share


def matmul_ceiling(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """The most operations a second that a square matrix product reaches here, over three sizes."""
    best = 0.0
    for size in (4096, 8192, 16384) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        a @ b  # the first call picks a kernel
        end = time.perf_counter() + seconds / 3
        repeats = 8 if device.type == "cuda" else 1
        while time.perf_counter() < end:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(repeats):
                a @ b
            synchronize(device)
            best = max(best, repeats * 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class MemoryMeter:
    """Peak memory of a run, from `restart` on. One run a process: compiled models outlive their run.

    On a GPU what the allocator handed out (and what it reserved); on a CPU the process's resident memory
    above that at `restart`, so that the interpreter and the data do not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._base = 0
        else:
            _trim_heap()
            self._base = _resident("VmRSS")
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            except OSError:
                pass

    def read(self, model: nn.Module, optimizer: Optimizer) -> dict[str, float | dict[str, float]]:
        """`peak_memory_gb` (and `reserved_gb` on a GPU), and its parts in GB: what is neither weights nor
        gradients nor optimizer state is activations and workspace.
        """
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            found = {"reserved_gb": torch.cuda.max_memory_reserved(self.device) / GIGA}
        else:
            peak, found = max(0, _resident("VmHWM") - self._base), {}
        parameters = list(model.parameters())
        held = {
            "weights": _bytes([*parameters, *model.buffers()]),
            "gradients": _bytes(p for p in parameters if p.requires_grad),
            "optimizer_state": _bytes(
                value for state in optimizer.state.values() for value in state.values()
            ),
        }
        rest = max(0, peak - sum(held.values()))
        memory = {name: size / GIGA for name, size in (held | {"activations_and_workspace": rest}).items()}
        return found | {"peak_memory_gb": peak / GIGA, "memory": memory}


def _bytes(tensors: Iterable[object]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _resident(field: str) -> int:
    """Bytes of /proc/self/status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _trim_heap() -> None:
    """Give freed memory back, which a model would otherwise use without showing as growth."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class StepClock:
    """Times of optimizer steps, without warm-up, compilation or what runs between `stop` and `start`.

    On a GPU marks are events in its own queue: only `start` waits for it, so that an evaluation before does
    not run into the first step.
    """

    def __init__(self, device: torch.device, warmup_steps: int = 20) -> None:
        self.device, self.warmup_steps = device, warmup_steps
        self._segments: list[list] = []
        self._open = False

    def _mark(self) -> "float | torch.cuda.Event":
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        synchronize(self.device)
        self._segments.append([self._mark()])
        self._open = True

    def step(self) -> None:
        """Call at the end of each optimizer step."""
        if not self._open:
            raise RuntimeError("StepClock.step: the clock is stopped; call start() after an evaluation")
        self._segments[-1].append(self._mark())

    def stop(self) -> None:
        """Call before an evaluation or a checkpoint."""
        self._open = False

    def milliseconds(self) -> list[float]:
        """Of every step, warm-up included."""
        synchronize(self.device)
        cuda = self.device.type == "cuda"
        return [
            a.elapsed_time(b) if cuda else (b - a) * 1000
            for marks in self._segments
            for a, b in zip(marks, marks[1:], strict=False)
        ]

    def result(self, samples_per_step: int) -> dict[str, object]:
        """Median, p10 and p90 of a step in ms, and samples a second at the median. A run too short for
        the whole warm-up leaves out its first half. `compile_seconds`: the first step above the median.
        """
        every = self.milliseconds()
        kept = every[min(self.warmup_steps, len(every) // 2) :]
        if not kept:
            return {"step_ms": None, "samples_per_second": None, "compile_seconds": None, "timed_steps": 0}
        p10, median, p90 = np.percentile(kept, [10, 50, 90]).tolist()
        return {
            "step_ms": {"median": median, "p10": p10, "p90": p90},
            "samples_per_second": samples_per_step * 1000 / median,
            "compile_seconds": max(0.0, every[0] - median) / 1000,
            "timed_steps": len(kept),
        }
