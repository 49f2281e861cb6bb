"""AdamW that says how a 16-bit weight is written: `RoundingAdamW`.

PyTorch's fused step computes in 32 bits and rounds the new weight and both moments to the parameter's format.
Here the same step keeps its moments in any format and writes the weight in one of four ways:

    nearest     w = round(w - u)
    stochastic  up or down, with the chances that make the mean exact
    kahan       w + c is the weight; c holds, in w's format, what rounding w cut off
    master      the weight is kept in 32 bits too, and w is its copy
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Elements that one pass works on: on a CPU they stay in its cache, on a GPU they bound the scratch memory
# (five 32-bit tensors) that would otherwise raise the peak that the study measures.
CHUNK = {"cpu": 2**16, "cuda": 2**23}
UPDATES = ("nearest", "stochastic", "kahan", "master")


class RoundingAdamW(Optimizer):
    """`update`: how weights are written. `seed` starts the stream of stochastic rounding, which must be the
    same on every rank, so that copies of a weight stay equal; its state is part of `state_dict`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        state_dtype: torch.dtype | None = None,
        update: str = "nearest",
        seed: int = 0,
    ) -> None:
        if update not in UPDATES:
            raise ValueError(f"update {update!r} is none of {', '.join(UPDATES)}")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.state_dtype, self.update, self.seed = state_dtype, update, seed
        parameters = [p for group in self.param_groups for p in group["params"]]
        if update == "stochastic" and any(p.dtype != torch.bfloat16 for p in parameters):
            raise ValueError("stochastic rounding cuts a float32 to a bfloat16: all weights must be bfloat16")
        self._generators: dict[torch.device, torch.Generator] = {}

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def _init_state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            if not p.is_contiguous():
                raise ValueError(f"a weight of shape {tuple(p.shape)} is not contiguous")
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, dtype=self.state_dtype or p.dtype)
            if self.update == "kahan":
                state["compensation"] = torch.zeros_like(p)
            if self.update == "master":
                state["master"] = p.detach().float()
        return state

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for step, device, pieces in self._passes(group):
                self._update(group, step, device, pieces)

    def _passes(self, group: dict[str, Any]) -> Iterable[tuple[int, torch.device, list[dict[str, Tensor]]]]:
        """Flat pieces of the group's tensors, as many at a time as CHUNK holds; a pass has one step."""
        waiting: dict[tuple[int, torch.device], list[dict[str, Tensor]]] = {}
        sizes: dict[tuple[int, torch.device], int] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self._init_state(p)
            state["step"] += 1
            key, size = (state["step"], p.device), CHUNK.get(p.device.type, CHUNK["cpu"])
            tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            flat = {name: value.view(-1) for name, value in tensors.items()}
            flat |= {"weight": p.view(-1), "gradient": p.grad.reshape(-1)}
            for start in range(0, p.numel(), size):
                piece = {name: value[start : start + size] for name, value in flat.items()}
                count = piece["weight"].numel()
                if sizes.get(key, 0) + count > size and waiting.get(key):
                    yield *key, waiting.pop(key)
                    sizes[key] = 0
                waiting.setdefault(key, []).append(piece)
                sizes[key] = sizes.get(key, 0) + count
        for key, pieces in waiting.items():
            yield *key, pieces

    def _update(
        self, group: dict[str, Any], step: int, device: torch.device, pieces: list[dict[str, Tensor]]
    ) -> None:
        beta1, beta2 = group["betas"]
        columns = {name: [piece[name] for piece in pieces] for name in pieces[0]}
        gradient, mean, square = (_to_fp32(columns[name]) for name in ("gradient", "exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(mean, gradient, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, gradient, gradient, 1 - beta2)
        for name, values in (("exp_avg", mean), ("exp_avg_sq", square)):
            if columns[name][0] is not values[0]:
                torch._foreach_copy_(columns[name], values)
        denominator = torch._foreach_sqrt(square)
        torch._foreach_div_(denominator, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(denominator, group["eps"])

        weight = self._read(columns)
        torch._foreach_mul_(weight, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(weight, mean, denominator, -group["lr"] / (1 - beta1**step))
        self._write(columns, weight, device)

    def _read(self, columns: dict[str, list[Tensor]]) -> list[Tensor]:
        """The weights in 32 bits: with their compensation, or the master itself."""
        if self.update == "master":
            return columns["master"]
        weight = _to_fp32(columns["weight"])
        if self.update == "kahan":
            torch._foreach_add_(weight, columns["compensation"])
        return weight

    def _write(self, columns: dict[str, list[Tensor]], weight: list[Tensor], device: torch.device) -> None:
        stored = columns["weight"]
        if self.update == "stochastic":
            for piece in weight:
                round_stochastically_(piece, self._generator(device))
        if stored[0] is not weight[0]:
            torch._foreach_copy_(stored, weight)
        if self.update == "kahan":
            torch._foreach_sub_(weight, stored)  # exact: w is the nearest 16-bit value
            torch._foreach_copy_(columns["compensation"], weight)

    def state_dict(self) -> dict[str, Any]:
        generators = {str(device): g.get_state() for device, g in self._generators.items()}
        return super().state_dict() | {"generators": generators}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, which would round the state to the parameters' dtype; here it keeps its own."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, parameters, strict=True):
            for name, value in saved.get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)
        for device, state in state_dict["generators"].items():
            self._generator(torch.device(device)).set_state(state.cpu())


def _to_fp32(tensors: list[Tensor]) -> list[Tensor]:
    """As they are where they are 32-bit already (and then updated in place), else copies."""
    return [tensor.float() for tensor in tensors]


def round_stochastically_(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 `values` in place to bfloat16's values, up with the chance of the part cut off.

    A bfloat16 is the upper half of a float32: random bits are added to the lower half, which is then cleared.
    Infinities and the usual NaN stay themselves.
    """
    words = torch.empty((values.numel() + 1) // 2, dtype=torch.int32, device=values.device)
    words.random_(-(2**31), 2**31, generator=generator)
    random = words.view(torch.int16)[: values.numel()].to(torch.int32)  # in [-2^15, 2^15)
    bits = values.view(torch.int32)
    bits.add_(random.view(values.shape)).add_(2**15).bitwise_and_(-(2**16))
    return values
