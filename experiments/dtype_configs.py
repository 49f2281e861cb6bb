"""The dtype configurations that both tasks share: what is stored, multiplied and accumulated in which format.

A configuration is data only; `precision.py` alone applies one. Where a run asks for `all`, it takes them in
this order. In each row the fields of the head (the last linear layer) stand apart from those of the body.

    parameters  how weights are kept        compute  operands of the matrix products (by autocast if other)
    gradients   as left by `backward`       state    AdamW's two moments
    update      how a new weight is written: `nearest` rounds it, `stochastic` rounds up or down by chance,
                `kahan` keeps what was rounded off in a second tensor, `master` keeps 32-bit weights too
"""

from dataclasses import dataclass, replace

from training_utils import InputError

TASKS = ("classification", "language_modeling")


@dataclass(frozen=True)
class DtypeConfig:
    """One row of the study. Formats: float32, tf32, bfloat16, float16, float8_e4m3; state also int8."""

    name: str
    parameters: str = "float32"
    compute: str = "float32"
    gradients: str = "float32"
    state: str = "float32"
    head_parameters: str = "float32"
    head_compute: str = "float32"
    head_gradients: str = "float32"
    head_state: str = "float32"
    head_output: str = "float32"
    loss: str = "float32"
    loss_scale: str = "none"  # none, dynamic, static:FACTOR
    update: str = "nearest"
    optimizer: str = "fused"  # fused, foreach, bitsandbytes, ours
    eps: float = 1e-8
    matmul_precision: str = "highest"  # torch.set_float32_matmul_precision
    compile: bool = True  # where the run asks for it
    expected_to_diverge: bool = False
    tasks: tuple[str, ...] = TASKS
    note: str = ""

    def __post_init__(self) -> None:
        if self.loss_scale == "dynamic" and "float16" in (self.gradients, self.head_gradients):
            raise ValueError(f"{self.name}: GradScaler refuses to unscale float16 gradients")
        rounds_to_zero = self.optimizer == "foreach" and self.state == "float16" and self.eps <= 2.0**-25
        if rounds_to_zero and not self.expected_to_diverge:
            raise ValueError(f"{self.name}: eps {self.eps} is 0 in float16, so AdamW divides by 0")


_HEAD = ("head_parameters", "head_compute", "head_gradients", "head_state", "head_output")


def _all_in(dtype: str) -> dict[str, str]:
    """Body and head kept and computed in one 16-bit format; the loss is taken on upcast logits."""
    return dict.fromkeys(["parameters", "compute", "gradients", "state", *_HEAD], dtype)


def _autocast_to(dtype: str) -> dict[str, str]:
    """Weights, gradients and state in 32 bits, matrix products in `dtype`."""
    return dict.fromkeys(["compute", "head_compute", "head_output"], dtype)


_FP32 = DtypeConfig("fp32_baseline", note="the reference: IEEE products, fused AdamW")
_AMP_FP16 = DtypeConfig("amp_fp16", **_autocast_to("float16"), loss_scale="dynamic")
_AMP_BF16 = DtypeConfig("amp_bf16", **_autocast_to("bfloat16"))
_BF16 = DtypeConfig("bf16_pure", **_all_in("bfloat16"))
_FP16_NAIVE = DtypeConfig(
    "fp16_naive",
    **_all_in("float16"),
    loss="float16",
    optimizer="foreach",
    expected_to_diverge=True,
    note="eps 1e-8 is 0 in float16, so the update divides by 0",
)
_OURS = replace(_BF16, optimizer="ours")

CONFIGS: tuple[DtypeConfig, ...] = (
    _FP32,
    DtypeConfig(
        "fp32_tf32_matmul",
        compute="tf32",
        head_compute="tf32",
        matmul_precision="high",
        note="equal to fp32_baseline on a CPU, which has no TF32",
    ),
    _AMP_FP16,
    _AMP_BF16,
    _BF16,
    replace(_BF16, name="bf16_naive", loss="bfloat16", optimizer="foreach", note="the loss too in 16 bits"),
    replace(_BF16, name="bf16_no_compile", compile=False, note="bf16_pure without torch.compile"),
    _FP16_NAIVE,
    replace(_AMP_FP16, name="amp_fp16_8bit_adam", state="int8", head_state="int8", optimizer="bitsandbytes"),
    replace(_AMP_BF16, name="amp_bf16_8bit_adam", state="int8", head_state="int8", optimizer="bitsandbytes"),
    replace(
        _AMP_BF16,
        name="amp_bf16_fp32_head",
        head_compute="float32",
        head_output="float32",
        note="autocast is off around the head",
    ),
    replace(
        _BF16,
        name="bf16_body_fp32_head",
        **dict.fromkeys(_HEAD, "float32"),
        note="two parameter dtypes in one optimizer",
    ),
    DtypeConfig(
        "fp16_static_scale",
        **_all_in("float16"),
        loss_scale="static:1024",
        note="gradients keep the factor; the fused step divides in 32 bits; no step is skipped",
    ),
    replace(
        _FP16_NAIVE,
        name="fp16_naive_fused",
        optimizer="fused",
        expected_to_diverge=False,
        note="fp16_naive where eps is added in 32 bits: sets the effect of eps apart",
    ),
    replace(_OURS, name="bf16_kahan", update="kahan", note="a bfloat16 tensor keeps what rounding cut off"),
    replace(_OURS, name="bf16_sr", update="stochastic", note="weights rounded by chance, moments to nearest"),
    replace(
        _OURS,
        name="bf16_fp32_state",
        state="float32",
        head_state="float32",
        note="sets the rounding of the moments apart from that of the weights",
    ),
    replace(
        _OURS,
        name="bf16_master",
        state="float32",
        head_state="float32",
        update="master",
        note="32-bit moments and 32-bit master weights",
    ),
    replace(
        _AMP_BF16,
        name="amp_bf16_head_out32",
        head_output="float32",
        note="the head multiplies bfloat16 and returns its 32-bit sums; a CPU emulates it",
    ),
    DtypeConfig(
        "bf16_head_only",
        head_compute="bfloat16",
        head_output="bfloat16",
        note="the opposite of amp_bf16_fp32_head",
    ),
    replace(
        _AMP_BF16,
        name="fp8_tensorwise",
        compute="float8_e4m3",
        note="e4m3 forward, e5m2 gradients, one dynamic scale a tensor; the head stays in bfloat16",
    ),
)

ALIASES = {"fp32_true": "fp32_baseline"}


def get_config(name: str) -> DtypeConfig:
    known = {config.name: config for config in CONFIGS}
    try:
        return known[ALIASES.get(name, name)]
    except KeyError:
        names = ", ".join([*known, *ALIASES])
        raise InputError(f"--config {name}: no such configuration; known are {names}, and all") from None


def configs_of(task: str) -> list[DtypeConfig]:
    """What `--config all` runs. The rows made for classification run in both tasks, for the comparison."""
    return [config for config in CONFIGS if task in config.tasks]
