"""The one place that applies a dtype configuration to a model, its forward pass and its optimizer.

A model here is `body` (inputs -> hidden) and `head` (the last nn.Linear, hidden -> logits). Each of the two
runs in an autocast context of its own: under one context a 32-bit head would still multiply in 16 bits.
"""

import copy
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.adamw import RoundingAdamW
from experiments.dtype_configs import DtypeConfig
from experiments.linear import (
    linear_returning_sums,
    multiply_halves_by_32_bits,
    multiply_in_fp8,
    multiply_plainly,
)

TORCH_DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,  # a mode of the product, not a type of tensor
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3": torch.bfloat16,  # what an fp8 product reads and returns
}
EXTRA = 'pip install -e ".[experiments]"'


def unsupported(config: DtypeConfig, device: torch.device, emulate: bool = False) -> str | None:
    """Why `config` cannot run on `device`, in a line; None where it can."""
    if device.type not in ("cpu", "cuda"):
        return None if config.name == "fp32_baseline" else f"runs on CUDA and CPU, not on {device.type}"
    if config.optimizer == "bitsandbytes" and not importlib.util.find_spec("bitsandbytes"):
        return f"needs bitsandbytes: {EXTRA}"
    formats = {config.parameters, config.compute, config.head_compute}
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if "float8_e4m3" in formats:
        if not importlib.util.find_spec("torchao"):
            return f"needs torchao: {EXTRA}"
        if not _multiplies_fp8(device) and not emulate:
            return "fp8 needs a GPU of compute capability 8.9; --emulate runs it in 32 bits, for quality only"
    if capability and capability < (8, 0) and formats & {"bfloat16", "tf32"}:
        return f"bfloat16 and TF32 need compute capability 8.0, this GPU has {capability[0]}.{capability[1]}"
    return None


def emulated(config: DtypeConfig, device: torch.device) -> bool:
    """Whether `device` computes the format's values by other means; speed and memory then say nothing."""
    fp8 = config.compute == "float8_e4m3" and not _multiplies_fp8(device)
    fp16 = "float16" in (config.compute, config.head_compute) and not _multiplies_fp16(device)
    return fp8 or fp16 or (_returns_sums(config) and device.type != "cuda")


def _multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _multiplies_fp16(device: torch.device) -> bool:
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type != "cpu" or any(found.get(name) for name in ("avx512_fp16", "amx_fp16"))


def _returns_sums(config: DtypeConfig) -> bool:
    """16-bit operands, and the product's 32-bit sums as they are."""
    return config.head_compute in ("bfloat16", "float16") and config.head_output == "float32"


class Precision:
    """`config` on `device`. Sets the process-wide precision of fp32 products: one configuration a process."""

    def __init__(self, config: DtypeConfig, device: torch.device) -> None:
        torch.set_float32_matmul_precision(config.matmul_precision)
        self.config, self.device = config, device
        self._embeddings: list[nn.Parameter] = []

    def cast(self, model: nn.Module) -> None:
        """Convert the weights in place: the head after the body, or it would take the body's dtype."""
        config = self.config
        model.to(TORCH_DTYPES[config.parameters])
        model.head.to(TORCH_DTYPES[config.head_parameters])
        self._embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        if config.compute == "float8_e4m3":
            multiply_in_fp8(model.body, emulate=not _multiplies_fp8(self.device))
        if not _multiplies_fp16(self.device):
            for part, compute in ((model.body, config.compute), (model.head, config.head_compute)):
                if compute == "float16":
                    multiply_halves_by_32_bits(part)

    def logits(self, model: nn.Module, *inputs: Any, **named_inputs: Any) -> Tensor:
        """(..., outputs) in `head_output`. DDP must wrap the caller of this, not `model`."""
        config = self.config
        with self._autocast(config.compute, config.parameters):
            hidden = model.body(*inputs, **named_inputs)  # (B, D) or (B, T, D)
        with self._autocast(config.head_compute, config.head_parameters):
            if _returns_sums(config):
                return linear_returning_sums(
                    hidden, model.head.weight, model.head.bias, TORCH_DTYPES[config.head_compute]
                )
            return model.head(hidden.to(TORCH_DTYPES[config.head_compute]))

    def _autocast(self, compute: str, parameters: str) -> AbstractContextManager:
        dtype = TORCH_DTYPES[compute]
        if dtype == TORCH_DTYPES[parameters]:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def loss(self, function: Callable[..., Tensor], logits: Tensor, *targets: Tensor) -> Tensor:
        """`function(logits, *targets)` in the loss's dtype; so are targets, as wider ones widen it."""
        dtype = TORCH_DTYPES[self.config.loss]
        targets = tuple(t.to(dtype) if t.is_floating_point() else t for t in targets)
        return function(logits.to(dtype), *targets)

    def make_optimizer(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> Optimizer:
        """`groups`: dicts of `params` and `weight_decay`. Call after `cast`."""
        config = self.config
        settings = dict(lr=lr, betas=betas, eps=config.eps)
        if config.optimizer == "ours":
            return RoundingAdamW(
                groups, **settings, state_dtype=TORCH_DTYPES[config.state], update=config.update
            )
        if config.optimizer == "bitsandbytes":
            import bitsandbytes

            # Rows of rare tokens have gradients far from their block's largest, which 8 bits round to 0.
            manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
            manager.initialize()  # it knows weights by their address, which may be that of a former one
            manager.override_config(self._embeddings, "optim_bits", 32)
            return bitsandbytes.optim.AdamW8bit(groups, **settings)
        return torch.optim.AdamW(groups, **settings, **{config.optimizer: True})

    def make_scaler(self) -> "torch.amp.GradScaler | StaticScaler":
        kind, _, factor = self.config.loss_scale.partition(":")
        if kind == "static":
            return StaticScaler(float(factor), self.device)
        # CPU and CUDA alone have one; elsewhere (fp32) it is off and the name does not matter.
        name = self.device.type if self.device.type == "cuda" else "cpu"
        return torch.amp.GradScaler(name, init_scale=2.0**16, enabled=kind == "dynamic")

    def step(
        self,
        optimizer: Optimizer,
        scaler: "torch.amp.GradScaler | StaticScaler",
        parameters: Iterable[nn.Parameter],
        max_norm: float | None = None,
    ) -> tuple[Tensor, bool]:
        """Unscale, clip, step, zero. Returns the gradient norm (on the device) and whether it was skipped.

        Nothing waits for the device, but for a dynamic loss scale, which has to be read.
        """
        scaler.unscale_(optimizer)
        held_factor = scaler.factor if isinstance(scaler, StaticScaler) else 1.0
        norm = clip_gradients(parameters, max_norm, held_factor)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped = scaler.get_scale() < before
        optimizer.zero_grad(set_to_none=True)
        return norm, skipped

    def dtype_table(
        self, model: nn.Module, optimizer: Optimizer, logits: Tensor, loss: Tensor
    ) -> dict[str, Any]:
        """Elements by dtype, as found (not as configured). Call between `backward` and `step`; the state is
        that of the steps before. `head` counts the head's part of each.
        """
        return {
            **_count_dtypes(model.parameters(), optimizer),
            "head": _count_dtypes(model.head.parameters(), optimizer),
            "logits": _name(logits.dtype),
            "loss": _name(loss.dtype),
        }

    def upcast_copy(self, model: nn.Module) -> nn.Module:
        """The same weights in 32 bits and plain layers, for a second evaluation beside the native one."""
        model = copy.deepcopy(model)
        multiply_plainly(model)
        return model.float()


class StaticScaler:
    """A constant loss scale, with GradScaler's methods.

    Gradients keep the factor, as dividing them in 16 bits would bring the underflow back: the fused step
    divides as it reads them, in 32 bits. Nothing is skipped.
    """

    def __init__(self, factor: float, device: torch.device) -> None:
        self.factor = factor
        self._tensor = torch.full((), factor, device=device)

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor

    def unscale_(self, optimizer: Optimizer) -> None:
        optimizer.grad_scale = self._tensor  # read by torch.optim's fused step

    def step(self, optimizer: Optimizer) -> None:
        self.unscale_(optimizer)
        optimizer.step()

    def update(self) -> None:
        pass

    def get_scale(self) -> float:
        return self.factor

    def is_enabled(self) -> bool:
        return True

    def state_dict(self) -> dict[str, float]:
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.factor = state["factor"]
        self._tensor.fill_(self.factor)


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float | None, held_factor: float = 1.0
) -> Tensor:
    """Scale gradients to a global 2-norm of `max_norm` or less; returns the norm before.

    The norm is summed in 32 bits in every configuration: in float16 the square of 256 is infinite.
    `held_factor` is a loss scale that the gradients still carry.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads, 2.0, dtype=torch.float32)
    norm = torch.linalg.vector_norm(torch.stack(norms)) / held_factor
    if max_norm:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor)
    return norm


def _count_dtypes(parameters: Iterable[nn.Parameter], optimizer: Optimizer) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = {"parameters": Counter(), "gradients": Counter(), "state": Counter()}
    for p in parameters:
        counts["parameters"][_name(p.dtype)] += p.numel()
        if p.grad is not None:
            counts["gradients"][_name(p.grad.dtype)] += p.numel()
        for value in optimizer.state.get(p, {}).values():
            if isinstance(value, Tensor) and value.shape == p.shape:  # not step counts or block maxima
                counts["state"][_name(value.dtype)] += value.numel()
    return {part: dict(count) for part, count in counts.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
