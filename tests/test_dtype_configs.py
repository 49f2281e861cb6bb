"""The study's configurations against its canonical table, written out here a second time."""

from dataclasses import FrozenInstanceError, asdict

import pytest

from experiments.dtype_configs import ALIASES, CONFIGS, DtypeConfig, configs_of, get_config
from training_utils import InputError

FP32, TF32, BF16, FP16, FP8, INT8 = "float32", "tf32", "bfloat16", "float16", "float8_e4m3", "int8"

# name: parameters, compute, gradients, state, head's compute, logits, loss, loss scale, optimizer, update
TABLE = {
    "fp32_baseline": (FP32, FP32, FP32, FP32, FP32, FP32, FP32, "none", "fused", "nearest"),
    "fp32_tf32_matmul": (FP32, TF32, FP32, FP32, TF32, FP32, FP32, "none", "fused", "nearest"),
    "amp_fp16": (FP32, FP16, FP32, FP32, FP16, FP16, FP32, "dynamic", "fused", "nearest"),
    "amp_bf16": (FP32, BF16, FP32, FP32, BF16, BF16, FP32, "none", "fused", "nearest"),
    "bf16_pure": (BF16, BF16, BF16, BF16, BF16, BF16, FP32, "none", "fused", "nearest"),
    "bf16_naive": (BF16, BF16, BF16, BF16, BF16, BF16, BF16, "none", "foreach", "nearest"),
    "bf16_no_compile": (BF16, BF16, BF16, BF16, BF16, BF16, FP32, "none", "fused", "nearest"),
    "fp16_naive": (FP16, FP16, FP16, FP16, FP16, FP16, FP16, "none", "foreach", "nearest"),
    "amp_fp16_8bit_adam": (FP32, FP16, FP32, INT8, FP16, FP16, FP32, "dynamic", "bitsandbytes", "nearest"),
    "amp_bf16_8bit_adam": (FP32, BF16, FP32, INT8, BF16, BF16, FP32, "none", "bitsandbytes", "nearest"),
    "amp_bf16_fp32_head": (FP32, BF16, FP32, FP32, FP32, FP32, FP32, "none", "fused", "nearest"),
    "bf16_body_fp32_head": (BF16, BF16, BF16, BF16, FP32, FP32, FP32, "none", "fused", "nearest"),
    "fp16_static_scale": (FP16, FP16, FP16, FP16, FP16, FP16, FP32, "static:1024", "fused", "nearest"),
    "fp16_naive_fused": (FP16, FP16, FP16, FP16, FP16, FP16, FP16, "none", "fused", "nearest"),
    "bf16_kahan": (BF16, BF16, BF16, BF16, BF16, BF16, FP32, "none", "ours", "kahan"),
    "bf16_sr": (BF16, BF16, BF16, BF16, BF16, BF16, FP32, "none", "ours", "stochastic"),
    "bf16_fp32_state": (BF16, BF16, BF16, FP32, BF16, BF16, FP32, "none", "ours", "nearest"),
    "bf16_master": (BF16, BF16, BF16, FP32, BF16, BF16, FP32, "none", "ours", "master"),
    "amp_bf16_head_out32": (FP32, BF16, FP32, FP32, BF16, FP32, FP32, "none", "fused", "nearest"),
    "bf16_head_only": (FP32, FP32, FP32, FP32, BF16, BF16, FP32, "none", "fused", "nearest"),
    "fp8_tensorwise": (FP32, FP8, FP32, FP32, BF16, BF16, FP32, "none", "fused", "nearest"),
}
FIELDS = (
    "parameters compute gradients state head_compute head_output loss loss_scale optimizer update".split()
)


def test_every_row_of_the_table_and_no_other_in_its_order():
    assert [config.name for config in CONFIGS] == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_row_says_what_the_table_says(name):
    row = asdict(get_config(name))
    assert {field: row[field] for field in FIELDS} == dict(zip(FIELDS, TABLE[name], strict=True))
    assert row["eps"] == 1e-8
    assert row["matmul_precision"] == ("high" if name == "fp32_tf32_matmul" else "highest")
    assert row["compile"] == (name != "bf16_no_compile")
    own_head = name == "bf16_body_fp32_head"  # the one row whose head is kept in another format
    assert row["head_parameters"] == row["head_gradients"] == (FP32 if own_head else row["parameters"])
    assert row["head_state"] == (FP32 if own_head else row["state"])


def test_each_row_differs_from_every_other_in_more_than_its_name():
    settings = [{**asdict(config), "name": "", "note": ""}.items() for config in CONFIGS]
    assert len({tuple(items) for items in settings}) == len(CONFIGS)


def test_a_row_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        CONFIGS[0].loss = BF16


def test_both_tasks_run_the_same_rows():
    assert configs_of("classification") == configs_of("language_modeling") == list(CONFIGS)


def test_an_alias_is_the_row_itself():
    assert {get_config(alias).name for alias in ALIASES} == {"fp32_baseline"}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="bf16_pur: no such configuration") as error:
        get_config("bf16_pur")
    for name in [*TABLE, "fp32_true", "all"]:
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dynamic_scale_on_half_gradients_is_refused():
    with pytest.raises(ValueError, match="unscale"):
        DtypeConfig("wrong", gradients=FP16, loss_scale="dynamic")


def test_an_eps_that_rounds_to_zero_must_be_meant():
    settings = dict(state=FP16, optimizer="foreach")
    with pytest.raises(ValueError, match="eps"):
        DtypeConfig("wrong", **settings)
    DtypeConfig("meant", **settings, expected_to_diverge=True)
    DtypeConfig("large", **settings, eps=1e-7)
    assert [config.name for config in CONFIGS if config.expected_to_diverge] == ["fp16_naive"]
