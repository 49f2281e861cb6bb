"""What each configuration does to a model, read off the tensors and the products really computed."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.dtype_configs import CONFIGS, get_config
from experiments.linear import HalfLinear, multiply_halves_by_32_bits
from experiments.precision import Precision, clip_gradients, emulated, unsupported

CPU = torch.device("cpu")
WIDTH, LABELS, WORDS = 64, 100, 100  # each matrix has the 4,096 elements from which state is kept in 8 bits
NAMES = [config.name for config in CONFIGS]
FP32, BF16, FP16 = "float32", "bfloat16", "float16"


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embedding(ids).mean(1))  # (B, D)
        for layer in self.layers:
            hidden = hidden + F.gelu(layer(hidden))
        return hidden


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = Body(), nn.Linear(WIDTH, LABELS)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)


class Products(TorchDispatchMode):
    """Writes down the operands' dtypes of every matrix product, with the number of its columns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            assert a.dtype == b.dtype
            self.seen.append((str(a.dtype).removeprefix("torch."), b.shape[1]))
        return function(*args, **(kwargs or {}))


def batch(rows: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(WORDS, (rows, 12), generator=generator)
    return ids, (torch.rand(rows, LABELS, generator=generator) < 0.05).float()


class Run:
    def __init__(self, name: str, lr: float = 2e-5) -> None:
        self.config = get_config(name)
        if reason := unsupported(self.config, CPU, emulate=True):
            pytest.skip(reason)
        self.precision, self.model = Precision(self.config, CPU), Model()
        self.precision.cast(self.model)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        rest = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = self.precision.make_optimizer(groups, lr)
        self.scaler = self.precision.make_scaler()

    def backward(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids, labels = batch()
        logits = self.precision.logits(self.model, ids)
        loss = self.precision.loss(F.binary_cross_entropy_with_logits, logits, labels)
        self.scaler.scale(loss).backward()
        return logits, loss

    def step(self, max_norm: float | None = 1.0) -> tuple[torch.Tensor, bool]:
        return self.precision.step(self.optimizer, self.scaler, self.model.parameters(), max_norm)

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            losses.append(float(self.backward()[1].detach()))
            self.step()
        return losses

    @property
    def finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.parameters())


# name: parameters, gradients and state (body; head), then logits and loss, as tensors must have them
FULL, HALF, BRAIN = (FP32, FP32, FP32), (FP16, FP16, FP16), (BF16, BF16, BF16)
EIGHT = (FP32, FP32, "uint8")
EXPECTED = {
    "fp32_baseline": (FULL, FULL, FP32, FP32),
    "fp32_tf32_matmul": (FULL, FULL, FP32, FP32),
    "amp_fp16": (FULL, FULL, FP16, FP32),
    "amp_bf16": (FULL, FULL, BF16, FP32),
    "bf16_pure": (BRAIN, BRAIN, BF16, FP32),
    "bf16_naive": (BRAIN, BRAIN, BF16, BF16),
    "bf16_no_compile": (BRAIN, BRAIN, BF16, FP32),
    "fp16_naive": (HALF, HALF, FP16, FP16),
    "amp_fp16_8bit_adam": (EIGHT, EIGHT, FP16, FP32),
    "amp_bf16_8bit_adam": (EIGHT, EIGHT, BF16, FP32),
    "amp_bf16_fp32_head": (FULL, FULL, FP32, FP32),
    "bf16_body_fp32_head": (BRAIN, FULL, FP32, FP32),
    "fp16_static_scale": (HALF, HALF, FP16, FP32),
    "fp16_naive_fused": (HALF, HALF, FP16, FP16),
    "bf16_kahan": (BRAIN, BRAIN, BF16, FP32),
    "bf16_sr": (BRAIN, BRAIN, BF16, FP32),
    "bf16_fp32_state": ((BF16, BF16, FP32), (BF16, BF16, FP32), BF16, FP32),
    "bf16_master": ((BF16, BF16, FP32), (BF16, BF16, FP32), BF16, FP32),
    "amp_bf16_head_out32": (FULL, FULL, FP32, FP32),
    "bf16_head_only": (FULL, FULL, BF16, FP32),
    "fp8_tensorwise": (FULL, FULL, BF16, FP32),
}


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_of_weights_gradients_state_logits_and_loss(name):
    run = Run(name)
    run.steps(2)  # the head must keep its format through steps
    logits, loss = run.backward()
    table = run.precision.dtype_table(run.model, run.optimizer, logits, loss)
    body, head, logits_dtype, loss_dtype = EXPECTED[name]
    assert (table["logits"], table["loss"]) == (logits_dtype, loss_dtype)

    weights = WIDTH * LABELS + LABELS
    whole = sum(p.numel() for p in run.model.parameters())
    for part, dtype, dtype_of_head in zip(("parameters", "gradients", "state"), body, head, strict=True):
        tensors = {"bf16_kahan": 3, "bf16_master": 3}.get(name, 2) if part == "state" else 1
        if dtype == "uint8":  # vectors and the embedding stay in 32 bits
            small = whole - 2 * WIDTH * WIDTH - WIDTH * LABELS
            assert table[part] == {"uint8": tensors * (whole - small), FP32: tensors * small}
            assert table["head"][part] == {"uint8": tensors * (weights - LABELS), FP32: tensors * LABELS}
            continue
        counted = {dtype_of_head: tensors * weights}
        assert table["head"][part] == counted
        counted[dtype] = counted.get(dtype, 0) + tensors * (whole - weights)
        assert table[part] == counted


HALF_STATE = ["fp16_naive", "fp16_naive_fused", "fp16_static_scale"]
BODY_PRODUCTS = {"fp32_baseline": FP32, "fp32_tf32_matmul": FP32, "bf16_head_only": FP32, "amp_fp16": FP16}
BODY_PRODUCTS |= {name: FP16 for name in NAMES if name.startswith("fp16") or name == "amp_fp16_8bit_adam"}
HEAD_PRODUCTS = {"amp_bf16_fp32_head": FP32, "bf16_body_fp32_head": FP32, "bf16_head_only": BF16}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fp8_tensorwise"])
def test_dtypes_of_the_operands_of_products(name):
    """Forward: what autocast or the weights' own format make of body and head."""
    run = Run(name)
    with Products() as products, torch.no_grad():
        run.precision.logits(run.model, batch()[0])
    body = BODY_PRODUCTS.get(name, BF16)
    head = HEAD_PRODUCTS.get(name, body)
    if name == "amp_bf16_head_out32":  # here 32-bit products of bfloat16 values, below compared with those
        head = FP32
    elif emulated(run.config, CPU):  # so are those of float16 values
        assert body == head == FP16 and {type(layer) for layer in run.model.modules()} >= {HalfLinear}
        body = head = FP32
    assert [dtype for dtype, columns in products.seen if columns == WIDTH] == [body, body]
    assert [dtype for dtype, columns in products.seen if columns == LABELS] == [head]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HALF_STATE])
def test_learns_without_a_non_finite_weight(name):
    run = Run(name, lr=2e-3)
    losses = run.steps(15)
    assert losses[-1] < 0.8 * losses[0] and run.finite


@pytest.mark.parametrize("name", HALF_STATE[1:])
def test_half_second_moments_underflow_and_blow_a_fast_run_up(name):
    """The square of a gradient below 2e-4 is 0 in float16: the step divides by eps. A slow run survives."""
    run = Run(name, lr=2e-3)
    run.steps(2)
    square = run.optimizer.state[run.model.body.layers[0].weight]["exp_avg_sq"]
    assert (square == 0).float().mean() > 0.9
    run.steps(13)
    assert not run.finite
    slow = Run(name)
    assert all(map(math.isfinite, slow.steps(50))) and slow.finite


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("fp16_naive", "fp16_naive_fused")])
def test_one_step_is_that_of_the_baseline_to_rounding(name):
    """At a rate that 8 bits of a weight can hold; float16's moments underflow, its weights agree less."""
    base, run = Run("fp32_baseline", lr=1e-2), Run(name, lr=1e-2)
    before = [p.detach().clone().float() for p in base.model.parameters()]
    for each in (base, run):
        each.steps(1)
    pairs = zip(before, base.model.parameters(), run.model.parameters(), strict=True)
    moves = [(a.detach() - start, b.detach().float() - start) for start, a, b in pairs]
    ours, theirs = (torch.cat([m[i].flatten() for m in moves]) for i in (1, 0))
    cosine = F.cosine_similarity(ours, theirs, dim=0)
    assert cosine > 0.95 and ours.norm() == pytest.approx(float(theirs.norm()), rel=0.1)


def test_fp32_head_under_autocast_is_no_no_op():
    ids, _ = batch()
    runs = {name: Run(name) for name in ("amp_bf16", "amp_bf16_fp32_head", "amp_bf16_head_out32")}
    logits = {name: run.precision.logits(run.model, ids) for name, run in runs.items()}
    assert logits["amp_bf16_fp32_head"].dtype == torch.float32
    rounded = logits["amp_bf16"].float()
    assert (logits["amp_bf16_fp32_head"] != rounded).float().mean() > 0.9
    # and closer to the product in float64 of the same hidden states
    run = runs["amp_bf16_fp32_head"]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = run.model.body(ids).detach().double()
    exact = hidden @ run.model.head.weight.detach().double().t() + run.model.head.bias.detach().double()
    errors = {name: float((z.detach().double() - exact).abs().max()) for name, z in logits.items()}
    assert errors["amp_bf16_fp32_head"] < 1e-6 < 1e-4 < errors["amp_bf16"]
    assert 1e-6 < errors["amp_bf16_head_out32"] < errors["amp_bf16"]


def test_head_returning_sums_multiplies_rounded_operands():
    """Against float64: logits and both gradients from bfloat16 operands, summed without rounding."""
    run = Run("amp_bf16_head_out32")
    ids, _ = batch()
    head = run.model.head
    with torch.autocast("cpu", torch.bfloat16):
        hidden = run.model.body(ids)
    logits = run.precision.logits(run.model, ids)
    rounded = [t.detach().to(torch.bfloat16).double() for t in (hidden, head.weight)]
    expected = rounded[0] @ rounded[1].t() + head.bias.detach().double()
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-6)
    gradient = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    logits.backward(gradient)
    expected = gradient.to(torch.bfloat16).double().t() @ rounded[0]
    torch.testing.assert_close(head.weight.grad.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(head.bias.grad, gradient.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.float16])
def test_products_of_halves_by_32_bits_round_operands_and_results_as_float16(weights):
    torch.manual_seed(0)
    layer, x = nn.Linear(WIDTH, LABELS).to(weights), torch.randn(16, WIDTH).to(weights).requires_grad_()
    gradient = torch.randn(16, LABELS).half()
    multiply_halves_by_32_bits(layer)
    with torch.autocast("cpu", dtype=torch.float16, enabled=weights == torch.float32):
        found = layer(x)
    found.backward(gradient)
    weight, bias, rows = (t.detach().half().double() for t in (layer.weight, layer.bias, x))
    exact = {
        "product": (found, rows @ weight.T + bias),
        "to rows": (x.grad, gradient.double() @ weight),
        "to weight": (layer.weight.grad, gradient.double().T @ rows),
        "to bias": (layer.bias.grad, gradient.double().sum(0)),
    }
    assert found.dtype == torch.float16
    for name, (value, want) in exact.items():
        assert torch.equal(value.half().to(value.dtype), value), name  # nothing finer than float16
        torch.testing.assert_close(value.double(), want.half().double(), rtol=2.0**-10, atol=1e-4, msg=name)


def test_only_a_cpu_without_float16_instructions_emulates_them(monkeypatch):
    for instructions, held in (({}, True), ({"avx512_fp16": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=instructions: found, raising=False)
        run = Run("amp_fp16")
        layers = {type(m) for m in (*run.model.body.layers, run.model.head)}
        assert emulated(run.config, CPU) is held and layers == {HalfLinear if held else nn.Linear}
        assert not emulated(get_config("amp_bf16"), CPU)


def test_the_head_keeps_its_format_after_two_steps():
    run = Run("bf16_body_fp32_head")
    run.steps(2)
    assert run.model.head.weight.dtype == torch.float32
    assert {p.dtype for p in run.model.body.parameters()} == {torch.bfloat16}


def test_fp16_naive_diverges_by_step_3_and_its_fused_twin_does_not():
    naive, fused = Run("fp16_naive"), Run("fp16_naive_fused")
    finite = []
    for _ in range(3):
        naive.steps(1)
        finite.append(naive.finite)
    assert not finite[-1] and not math.isfinite(naive.steps(1)[0])
    share = torch.cat([p.detach().flatten().isfinite() for p in naive.model.parameters()]).float().mean()
    assert share < 0.5
    losses = fused.steps(50)
    assert fused.finite and all(map(math.isfinite, losses))


def test_a_dynamic_scale_recovers_from_an_overflow():
    run = Run("amp_fp16")
    run.steps(2)
    before = [p.detach().clone() for p in run.model.parameters()]
    assert run.scaler.get_scale() == 2.0**16
    run.backward()
    run.model.head.weight.grad[0, 0] = torch.inf
    _, skipped = run.step()
    assert skipped and run.scaler.get_scale() == 2.0**15
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    run.backward()
    norm, skipped = run.step()
    assert not skipped and norm.isfinite() and run.finite
    assert not torch.equal(before[0], next(run.model.parameters()))


def test_a_static_scale_keeps_what_half_gradients_would_lose():
    """Gradients carry 1,024 until the fused step divides them; norm and clipping see the true ones."""
    zeros = {}
    for run in (Run("fp16_naive_fused"), Run("fp16_static_scale")):
        ids, labels = batch()
        logits = run.precision.logits(run.model, ids)
        loss = run.precision.loss(F.binary_cross_entropy_with_logits, logits, labels)
        run.scaler.scale(loss * 2e-5).backward()  # as small as over 4,271 labels and more documents
        zeros[run.config.name] = float((run.model.head.weight.grad == 0).float().mean())
        norm = torch.cat([p.grad.flatten() for p in run.model.parameters()]).double().norm()
        factor = 1024.0 if run.config.name == "fp16_static_scale" else 1.0
        assert float(run.step(max_norm=None)[0]) == pytest.approx(float(norm) / factor, rel=1e-3)
    assert zeros["fp16_static_scale"] < 0.05 < 0.3 < zeros["fp16_naive_fused"]


def test_gradients_are_clipped_to_a_norm_taken_in_32_bits():
    parameters = [nn.Parameter(torch.zeros(300, dtype=torch.float16)), nn.Parameter(torch.zeros(7))]
    parameters[0].grad = torch.full((300,), 600.0, dtype=torch.float16)  # its square overflows float16
    parameters[1].grad = torch.full((7,), 3.0)
    exact = math.sqrt(300 * 600.0**2 + 7 * 9)
    assert float(clip_gradients(parameters, 1.0)) == pytest.approx(exact, rel=1e-6)
    clipped = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))
    assert clipped == pytest.approx(1.0, rel=2e-3)
    assert float(clip_gradients(parameters, 2.0)) == pytest.approx(clipped, rel=1e-6)  # left as they are


def test_the_loss_is_taken_in_its_own_format():
    logits = torch.randn(4, 9).to(torch.bfloat16)
    labels, classes = torch.ones(4, 9), torch.tensor([1, 2, 3, 4])
    for name, dtype in (("bf16_pure", torch.float32), ("bf16_naive", torch.bfloat16)):
        precision = Precision(get_config(name), CPU)
        for function, target in ((F.binary_cross_entropy_with_logits, labels), (F.cross_entropy, classes)):
            assert precision.loss(function, logits, target).dtype == dtype


def test_what_a_cpu_cannot_run_says_why():
    fp8 = get_config("fp8_tensorwise")
    reason = unsupported(fp8, CPU)
    assert reason and "\n" not in reason
    assert emulated(fp8, CPU) and emulated(get_config("amp_bf16_head_out32"), CPU)
    others = [config for config in CONFIGS if config is not fp8 and config.optimizer != "bitsandbytes"]
    assert [unsupported(config, CPU) for config in others] == [None] * len(others)
    assert not emulated(get_config("fp32_tf32_matmul"), CPU)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, library in (("amp_bf16_8bit_adam", "bitsandbytes"), ("fp8_tensorwise", "torchao")):
        reason = unsupported(get_config(name), CPU)
        assert library in reason and "[experiments]" in reason


def test_tf32_sets_its_mode_and_the_next_configuration_takes_it_back():
    Precision(get_config("fp32_tf32_matmul"), CPU)
    assert torch.get_float32_matmul_precision() == "high"
    Precision(get_config("fp32_baseline"), CPU)
    assert torch.get_float32_matmul_precision() == "highest"
    ids, _ = batch()
    logits = [run.precision.logits(run.model, ids) for run in (Run("fp32_tf32_matmul"), Run("fp32_baseline"))]
    assert torch.equal(*logits)  # a CPU has no TF32


@pytest.mark.parametrize("name", ["bf16_pure", "bf16_body_fp32_head", "fp16_static_scale", "fp8_tensorwise"])
def test_upcast_copy_has_the_same_weights_in_32_bits(name):
    run = Run(name)
    run.steps(1)
    copy = run.precision.upcast_copy(run.model)
    assert copy.state_dict().keys() == run.model.state_dict().keys()
    for a, b in zip(run.model.parameters(), copy.parameters(), strict=True):
        assert b.dtype == torch.float32 and torch.equal(a.float(), b) and a.data_ptr() != b.data_ptr()
    assert {type(m) for m in (*copy.body.layers, copy.head)} == {nn.Linear}
    assert copy.head(copy.body(batch()[0])).dtype == torch.float32


def test_evaluation_between_forward_and_backward_loses_no_gradient():
    """Autocast keeps cast weights; one made without a graph must not serve training."""
    run = Run("amp_bf16")
    ids, _ = batch()
    with torch.no_grad():
        run.precision.logits(run.model, ids)
    run.backward()
    assert all(p.grad is not None for p in run.model.parameters())


def test_fp8_is_the_product_of_values_rounded_to_8_bits():
    """Against our own rounding: one scale a tensor, its largest value at 448."""
    run = Run("fp8_tensorwise")
    layer = run.model.body.layers[0]
    inputs = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))  # as a norm returns them
    output = layer(inputs)
    inputs = inputs.to(torch.bfloat16)

    def rounded(t: torch.Tensor) -> torch.Tensor:
        scale = 448 / t.detach().abs().max().double()
        return (t.detach().double() * scale).float().to(torch.float8_e4m3fn).double() / scale

    expected = rounded(inputs) @ rounded(layer.weight).t() + layer.bias.double()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=2**-7, atol=2e-3)
    plain = inputs.double() @ layer.weight.double().t() + layer.bias.double()
    assert (output.double() - plain).abs().max() > (output.double() - expected).abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_bits(name, tmp_path):
    whole = Run(name)
    whole.steps(6)
    stopped = Run(name)
    stopped.steps(3)
    parts = {part: getattr(stopped, part).state_dict() for part in ("model", "optimizer", "scaler")}
    torch.save(parts, tmp_path / "checkpoint.pt")
    resumed = Run(name)
    for part, state in torch.load(tmp_path / "checkpoint.pt", weights_only=True).items():
        getattr(resumed, part).load_state_dict(state)
    resumed.steps(3)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        for key, value in whole.optimizer.state[a].items():
            if isinstance(value, torch.Tensor):
                found = resumed.optimizer.state[b][key]
                assert found.dtype == value.dtype
                torch.testing.assert_close(found, value, rtol=0, atol=0, equal_nan=True)
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()
