"""What a number format does to a run: lost updates, values that underflow, runs that diverge."""

import math
import re
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

GROUPS = ("embeddings", "norms", "attention", "mlp", "biases", "head", "other")

# Half the least subnormal (a tie, which rounds to 0), the least normal number, and what overflows: half a
# step above the largest number; in e4m3 that tie still rounds down, so the next float32 is named.
FORMATS = {
    "float16": (2.0**-25, 2.0**-14, 65520.0),
    "bfloat16": (2.0**-134, 2.0**-126, (2 - 2.0**-8) * 2.0**127),
    "float8_e4m3": (2.0**-10, 2.0**-6, 464.0 + 2.0**-15),
    "float8_e5m2": (2.0**-17, 2.0**-14, 61440.0),
}
LEAST_EXPONENT, EXPONENTS = -149, 277  # floor(log2 |x|) of a float32 lies in [-149, 127]
PROBED, PROBED_ON_CPU = 2**24, 2**20  # elements of a tensor that a histogram reads, evenly spaced


def group_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Each parameter once, by what it does; `biases` are those of linear layers outside the head."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    head = {id(p) for p in model.head.parameters()}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if id(p) not in seen:
                group = "head" if id(p) in head else _group_of(path, module, name)
                groups[group].append(p)
                seen.add(id(p))
    return groups


def _group_of(path: str, module: nn.Module, name: str) -> str:
    if isinstance(module, nn.Embedding) or "embedding" in name:
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    if name == "bias":
        return "biases"
    if re.search(r"att(n|ention)", path):  # before `output`, which in BERT's attention is a layer too
        return "attention"
    if re.search(r"mlp|ffn|feed_?forward|intermediate|output", path):
        return "mlp"
    return "other"


class UpdateMeter:
    """Which weights a step means to move and does not, by group; `start` before the step, `finish` after.

    AdamW means to move a weight whose gradient is not 0. A weight is what the optimizer remembers of it: with
    its compensation under Kahan, in 32 bits where there is a master. Only evenly spaced elements are read
    (`elements` a tensor), so that the copy does not show in a run's peak memory.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, elements: int = 2**16) -> None:
        self._groups, self._optimizer, self._elements = group_parameters(model), optimizer, elements
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def _sample(self, tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(-1)[:: math.ceil(tensor.numel() / self._elements)]

    def _weight(self, p: nn.Parameter) -> Tensor:
        """Sampled, in float64, where weight and compensation add up exactly."""
        state = self._optimizer.state.get(p, {})
        weight = self._sample(state.get("master", p)).double()
        if "compensation" in state:
            weight = weight + self._sample(state["compensation"]).double()
        return weight

    def start(self) -> None:
        """Call between backward and step, while gradients are there."""
        self._before = {
            id(p): (self._weight(p), self._sample(p.grad) != 0)
            for parameters in self._groups.values()
            for p in parameters
            if p.grad is not None
        }

    def finish(self) -> dict[str, dict[str, float | None]]:
        """By group:

        lost                 share of weights that were to move and did not
        progress             the step taken as a share of the one meant (its projection): 1 where rounding has
                             no bias, None where the state hides what was meant
        decay_no_op          share of weights other than 0 that weight decay alone would leave as they are
        second_moment_stuck  share of second moments other than 0 that a gradient of 0 would leave as they are
        second_moment_zero   share of weights to be moved whose second moment is 0: their step is over eps
        """
        settings = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        found = {}
        for name, parameters in self._groups.items():
            parts = [self._count(p, settings[id(p)]) for p in parameters if id(p) in self._before]
            if not parts:
                continue
            columns = zip(*(part.values() for part in parts), strict=True)
            sums = {
                key: float(torch.stack(values).sum()) for key, values in zip(parts[0], columns, strict=True)
            }
            found[name] = {
                "lost": _share(sums["lost"], sums["meant"], 0.0),
                "progress": _share(sums["along"], sums["length"], None),
                "decay_no_op": _share(sums["idle"], sums["decayed"], 0.0),
                "second_moment_stuck": _share(sums["stuck"], sums["moments"], None),
                "second_moment_zero": _share(sums["zero"], sums["meant_moments"], None),
            }
        self._before = {}
        return found

    def _count(self, p: nn.Parameter, group: dict[str, Any]) -> dict[str, Tensor]:
        before, meant = self._before[id(p)]
        after = self._weight(p)
        none = before.new_zeros(1)
        intended = self._intended(p, before, group)
        change = none if intended is None else after - before
        intended = none if intended is None else intended
        decays = group["weight_decay"] > 0
        idle = self._decay_no_op(p, float(group["lr"]) * group["weight_decay"]) if decays else none
        square = self._optimizer.state.get(p, {}).get("exp_avg_sq", none)
        square = self._sample(square)
        held = square.numel() == meant.numel()
        counts = {
            "lost": meant & (after == before),
            "meant": meant,
            "along": change * intended,
            "length": intended.square(),
            "idle": idle,
            "decayed": (before != 0) & decays,
            "stuck": ((square.double() * group["betas"][1]).to(square.dtype) == square) & (square != 0),
            "moments": square != 0,
            "zero": (square == 0) & meant if held else none,
            "meant_moments": meant if held else none,
        }
        return {name: values.sum(dtype=torch.float64) for name, values in counts.items()}

    def _intended(self, p: nn.Parameter, before: Tensor, group: dict[str, Any]) -> Tensor | None:
        """AdamW's step on the sampled weights in float64, from the moments after it."""
        state = self._optimizer.state.get(p, {})
        if "exp_avg" not in state:
            return None
        beta1, beta2 = group["betas"]
        step, lr = float(state["step"]), float(group["lr"])
        mean = self._sample(state["exp_avg"]).double() / (1 - beta1**step)
        square = self._sample(state["exp_avg_sq"]).double() / (1 - beta2**step)
        return -lr * mean / (square.sqrt() + group["eps"]) - lr * group["weight_decay"] * before

    def _decay_no_op(self, p: nn.Parameter, rate: float) -> Tensor:
        before = self._weight(p)
        state = self._optimizer.state.get(p, {})
        if getattr(self._optimizer, "update", "nearest") == "stochastic":
            return torch.zeros_like(before, dtype=torch.bool)  # it moves a weight by chance
        wanted = before * (1 - rate)
        dtype = torch.float32 if "master" in state else p.dtype
        written = wanted.to(dtype).double()
        if "compensation" in state:
            written = written + (wanted - written).to(dtype).double()
        return (written == before) & (before != 0)


def _share(part: float, whole: float, otherwise: float | None) -> float | None:
    share = part / whole if whole else otherwise
    return share if share is None or math.isfinite(share) else None


class ValueHistogram:
    """Magnitudes by power of two, and the shares that would be lost in each 16- and 8-bit format."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._largest: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        values = tensor.detach().reshape(-1)
        limit = PROBED_ON_CPU if values.device.type == "cpu" else PROBED
        values = values[:: math.ceil(values.numel() / limit) or 1].float().abs()
        finite = values.isfinite()
        _, exponents = torch.frexp(values[finite & (values > 0)])  # x = m 2^e with 0.5 <= m < 1
        bins = torch.bincount(exponents.long() - 1 - LEAST_EXPONENT, minlength=EXPONENTS)
        counts = [bins.new_tensor(values.numel()), (values == 0).sum(), (~finite).sum()]
        for zero, normal, overflow in FORMATS.values():
            counts += [((values > 0) & (values <= zero)).sum()]
            counts += [((values > zero) & (values < normal)).sum()]
            counts += [(finite & (values >= overflow)).sum()]
        counts = torch.cat([torch.stack(counts), bins])
        self._counts = counts if self._counts is None else self._counts + counts
        if values.numel():
            self._largest.append(values.where(finite, 0.0).max())

    def result(self) -> dict[str, Any]:
        """Shares of all elements, but a format's: those are of the elements other than 0.

        `zero` would round to 0, `subnormal` be kept with fewer bits, `overflow` lie beyond the largest;
        `bins` are pairs of an exponent e and the share with 2^e <= |x| < 2^(e+1).
        """
        if self._counts is None:
            return {}
        count, zeros, non_finite, *rest = self._counts.tolist()
        shares, bins = rest[: 3 * len(FORMATS)], rest[3 * len(FORMATS) :]
        nonzero = max(1, count - zeros - non_finite)
        result: dict[str, Any] = {
            "count": count,
            "zeros": zeros / max(1, count),
            "non_finite": non_finite / max(1, count),
            "largest": float(torch.stack(self._largest).max()) if self._largest else 0.0,
        }
        for number, name in enumerate(FORMATS):
            zero, subnormal, overflow = (n / nonzero for n in shares[3 * number : 3 * number + 3])
            result[name] = {"zero": zero, "subnormal": subnormal, "overflow": overflow}
        result["bins"] = [[e + LEAST_EXPONENT, n / max(1, count)] for e, n in enumerate(bins) if n]
        return result


class Underflow:
    """Histograms of one forward and backward pass. Hooks sit on the layers only inside the `with` block:

    with Underflow(model) as probe:
        logits = probe.watch(precision.logits(model, ids))
        scaler.scale(precision.loss(function, logits, labels)).backward()
    row["underflow"] = probe.result()

    Gradients are seen as they are held, a loss scale included.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._hooks = model, []
        self._seen = {name: ValueHistogram() for name in ("logits", "logit_gradients", "activations")}
        self._layers: dict[str, ValueHistogram] = {}

    def __enter__(self) -> "Underflow":
        for path, module in self._model.body.named_modules():
            *parents, name = path.split(".")
            if name.isdigit() and not any(parent.isdigit() for parent in parents):  # layer.3, not its parts
                self._hooks.append(module.register_forward_hook(self._read_layer(path)))
        return self

    def _read_layer(self, path: str) -> Any:
        self._layers[path] = ValueHistogram()

        def read(_module: nn.Module, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            self._layers[path].add(output)
            self._seen["activations"].add(output)

        return read

    def watch(self, logits: Tensor) -> Tensor:
        """In the format the head returns them; the hook sees their gradient in it."""
        self._seen["logits"].add(logits)
        if logits.requires_grad:
            self._hooks.append(logits.register_hook(self._seen["logit_gradients"].add))
        return logits

    def __exit__(self, *_error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def result(self) -> dict[str, Any]:
        """Call while gradients are there. `layers` has each layer's activations, `groups` gradients."""
        seen = {name: histogram.result() for name, histogram in self._seen.items()}
        seen["gradients"], seen["weights"], groups = ValueHistogram(), ValueHistogram(), {}
        for name, parameters in group_parameters(self._model).items():
            groups[name] = ValueHistogram()
            for p in parameters:
                seen["weights"].add(p)
                if p.grad is not None:
                    seen["gradients"].add(p.grad)
                    groups[name].add(p.grad)
        seen |= {name: seen[name].result() for name in ("gradients", "weights")}
        seen["layers"] = {path: histogram.result() for path, histogram in self._layers.items()}
        seen["groups"] = {name: found for name, h in groups.items() if (found := h.result())}
        return seen


class DivergenceRule:
    """Says when a run has diverged: `update` after each step gives the reason, or None.

    A loss that is not finite; a mean of 50 losses above 1.5 times the best such mean and above the first
    loss; or more than 20 steps in a row that a loss scaler skipped.
    """

    WINDOW, FACTOR, SKIPS = 50, 1.5, 20

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=self.WINDOW)
        self.first, self.best, self.skipped = None, math.inf, 0

    def update(self, loss: float, skipped: bool = False) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.skipped = self.skipped + 1 if skipped else 0
        if self.skipped > self.SKIPS:
            return f"{self.skipped} steps in a row overflowed and were skipped"
        self.first = loss if self.first is None else self.first
        self.losses.append(loss)
        if len(self.losses) < self.WINDOW:
            return None
        mean = sum(self.losses) / self.WINDOW
        self.best = min(self.best, mean)
        if mean > self.FACTOR * self.best and mean > self.first:
            return f"the mean of {self.WINDOW} losses is {mean:.4g}, from a best of {self.best:.4g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "first": self.first, "best": self.best, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=self.WINDOW)
        self.first, self.best, self.skipped = state["first"], state["best"], state["skipped"]
