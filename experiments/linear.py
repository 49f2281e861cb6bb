"""Linear layers whose product autocast does not offer: 32-bit sums of 16-bit operands, fp8, emulated fp16."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _SumsOfProducts(torch.autograd.Function):
    """A linear layer's product of 16-bit operands whose 32-bit sums are returned unrounded, both ways."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        rounded = hidden.reshape(-1, hidden.shape[-1]).to(dtype), weight.to(dtype)  # (N, D), (C, D)
        ctx.save_for_backward(*rounded)
        ctx.dtype, ctx.shape, ctx.hidden_dtype = dtype, hidden.shape, hidden.dtype
        return _mm_to_fp32(rounded[0], rounded[1].t()).reshape(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1]).to(ctx.dtype)  # (N, C)
        to_hidden = (gradient @ weight).to(ctx.hidden_dtype).reshape(ctx.shape)
        return to_hidden, _mm_to_fp32(gradient.t(), hidden), None


def _mm_to_fp32(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # exact: a product of two 16-bit values fits 32 bits


def linear_returning_sums(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(..., D) -> (..., C), float32, from operands rounded to `dtype`."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = _SumsOfProducts.apply(hidden, weight, dtype)
        return logits if bias is None else logits + bias.float()


def multiply_in_fp8(body: nn.Module, emulate: bool) -> None:
    """Let torchao take over the linear layers whose sides are multiples of 16, as fp8 hardware wants them."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fits(module: nn.Module, _name: str) -> bool:
        return module.in_features % 16 == 0 and module.out_features % 16 == 0

    settings = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    convert_to_float8_training(body, module_filter_fn=fits, config=settings)
    for module in body.modules():
        if type(module).__name__ == "Float8Linear":
            # It follows CUDA's autocast only.
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16), *inputs[1:]))


class HalfLinear(nn.Linear):
    """float16 operands and results, both ways; sums in 32 bits, as a GPU has them."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            operands = (None if t is None else t.half().float() for t in (x, self.weight, self.bias))
            return F.linear(*operands).half()


def multiply_halves_by_32_bits(module: nn.Module) -> None:
    """For a processor without float16 products: its library's take 15 to 25 times as long as float32's."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = HalfLinear


def multiply_plainly(model: nn.Module) -> None:
    """Undo `multiply_in_fp8` and `multiply_halves_by_32_bits`; the weights stay the same parameters."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in ("Float8Linear", "HalfLinear"):
                shape = child.in_features, child.out_features
                plain = nn.Linear(*shape, bias=child.bias is not None, device="meta")
                plain.weight, plain.bias = child.weight, child.bias
                setattr(parent, name, plain)
