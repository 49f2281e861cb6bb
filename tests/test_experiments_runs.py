"""Runs of both studies as a user starts them; test_contracts.py has what all training scripts promise."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_refused, one_thread, run_main, run_script, torchrun
from tiny_experiments import (
    CLASSIFICATION,
    LANGUAGE_MODELING,
    flags,
    make_documents,
    make_text,
    make_tokenizer,
    rows_of,
    write_zip,
)

from experiments.classification import prepare_data as prepare_classification
from experiments.classification import run as classification_run
from experiments.dtype_configs import CONFIGS, DtypeConfig, get_config
from experiments.language_modeling import prepare_data as prepare_language_modeling
from experiments.language_modeling import run as language_modeling_run
from experiments.run_record import append_row, finished_keys, read_rows, run_one
from experiments.sweep import Children, planned_runs
from experiments.task import EpochOrder
from training_utils import InputError

TASKS = ("classification", "language_modeling")
MAINS = {"classification": classification_run.main, "language_modeling": language_modeling_run.main}
SCRIPTS = {"classification": CLASSIFICATION / "run.py", "language_modeling": LANGUAGE_MODELING / "run.py"}
TINY = {
    "classification": "--encoder tiny-random --max_length 24",
    "language_modeling": "--num_layers 2 --hidden_size 32 --num_heads 2 --block_size 16 --eval_windows 20",
}
COMMON = "--batch_size 4 --gradient_accumulation_steps 2 --learning_rate 1e-3 --device cpu --threads 1"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """A prepared folder a task."""
    folder = tmp_path_factory.mktemp("experiments")
    tokenizer = make_tokenizer(folder / "tokenizer")
    source = write_zip(folder / "EURLEX57K.zip", make_documents())
    folders = {task: folder / task for task in TASKS}
    base = ["--tokenizer", tokenizer, "--out"]
    made = run_main(
        prepare_classification.main, "--input", source, *base, folders["classification"], "--allow_partial"
    )
    assert made.returncode == 0, made.stderr
    text = make_text(folder / "text.txt")
    made = run_main(prepare_language_modeling.main, "--input", text, *base, folders["language_modeling"])
    assert made.returncode == 0, made.stderr
    return folders


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def start(prepared, tmp_path):
    """Run a task in this process; returns the rows of results.jsonl."""

    def run(task: str, out: str = "out", **settings: object) -> list[dict]:
        result = run_main(MAINS[task], *arguments(prepared, task, tmp_path / out, **settings))
        assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-1000:]
        return rows_of(tmp_path / out)

    return run


def arguments(prepared: dict[str, Path], task: str, out: Path, **settings: object) -> list[str]:
    base = ["--data", str(prepared[task]), "--out", str(out), *TINY[task].split(), *COMMON.split()]
    return [*base, *flags(**settings)]


def lasting(row: dict) -> dict:
    """What a row says of the run's arithmetic: no times, memory or places."""
    kept = "status steps lost_updates underflow scale_history max_logit gradient_norm skipped_steps metrics "
    kept += "metrics_fp32 dtype_table"
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in row["curve"]]
    return {name: row[name] for name in kept.split()} | {"curve": curve, "model": row["model"]}


# ---------------------------------------------------------------- the row


def test_a_run_gives_the_row_that_the_report_reads(start, task, tmp_path):
    (row,) = start(task, config="amp_bf16", max_steps=12, eval_steps=4)
    assert (row["task"], row["config"], row["seed"], row["status"]) == (task, "amp_bf16", 0, "completed")
    assert row["learning_rate"] == 1e-3 and row["recipe"] == "spec" and row["device"] == "cpu"
    assert row["dtypes"] == json.loads(json.dumps(DtypeConfig(**vars(get_config("amp_bf16"))).__dict__))
    assert row["reason"] is None and row["emulated"] is False and row["pretrained"] is False
    assert row["steps"] == 12 and row["samples_per_second"] > 0 and row["tokens_per_second"] > 0
    assert row["step_ms"]["p10"] <= row["step_ms"]["median"] <= row["step_ms"]["p90"]
    assert row["peak_memory_gb"] >= sum(row["memory"].values()) * 0.999 or row["peak_memory_gb"] > 0
    assert set(row["memory"]) == {"weights", "gradients", "optimizer_state", "activations_and_workspace"}
    assert row["dtype_table"]["logits"] == "bfloat16" and row["dtype_table"]["loss"] == "float32"
    assert set(row["dtype_table"]["parameters"]) == {"float32"}
    assert [point["step"] for point in row["curve"]] == [4, 8, 12]
    assert [found["step"] for found in row["lost_updates"]] == [2, 4, 8]
    assert 0 <= row["lost_updates"][0]["groups"]["head"]["lost"] <= 1
    assert row["underflow"]["step"] == 5 and row["underflow_end"]["step"] == 12
    assert {"float16", "bfloat16", "bins"} <= row["underflow"]["logit_gradients"].keys()
    assert len(row["gradient_norm"]) == len(row["max_logit"]) == 12
    assert row["mfu"] is None and row["first_non_finite_step"] is None and row["skipped_steps"] == 0
    assert 0 < row["head_flops_share"] < 1 and row["data"]["train"] > 0 and row["data"]["fingerprint"]
    headline = {"classification": ("micro_f1_tuned", "precision_at_5"), "language_modeling": ("loss",)}[task]
    for name in headline:
        assert row["metrics"]["test"][name] > 0 and row["metrics_fp32"]["validation"][name] > 0
    assert (tmp_path / "out" / row["predictions"]).is_file()
    assert list((tmp_path / "out" / "runs").glob("*/summary.json"))
    assert not list((tmp_path / "out" / "runs").rglob("checkpoint*"))


def test_predictions_of_a_classification_give_its_metrics(start, tmp_path):
    (row,) = start(
        "classification", config="fp32_baseline", max_steps=60, eval_steps=30, head_bias_init="prior"
    )
    with np.load(tmp_path / "out" / row["predictions"]) as arrays:
        top5, gold, offsets = arrays["top5"], arrays["gold"], arrays["gold_offsets"]
        tp, fp, fn = arrays["tp"], arrays["fp"], arrays["fn"]
    test = row["metrics"]["test"]
    hits = [
        len(set(top5[i]) & set(gold[a:b])) for i, (a, b) in enumerate(zip(offsets, offsets[1:], strict=False))
    ]
    assert sum(hits) / (5 * len(top5)) == pytest.approx(test["precision_at_5"], abs=1e-12)
    assert 2 * tp.sum() / (2 * tp + fp + fn).sum() == pytest.approx(test["micro_f1_tuned"], abs=1e-12)
    assert (tp + fn).sum() == len(gold)
    assert test["micro_f1_tuned"] > 0.4  # it learns: 6 labels, two a document
    assert row["curve"][-1]["validation_loss"] < row["curve"][0]["validation_loss"]


def test_predictions_of_a_language_model_give_its_loss(start, tmp_path):
    (row,) = start("language_modeling", config="fp32_baseline", max_steps=40, eval_steps=20)
    with np.load(tmp_path / "out" / row["predictions"]) as arrays:
        assert arrays["losses"].mean() == pytest.approx(row["metrics"]["test"]["loss"], abs=1e-12)
    assert row["metrics"]["test"]["perplexity"] == pytest.approx(np.exp(row["metrics"]["test"]["loss"]))
    assert row["metrics"]["test"]["loss"] < np.log(448) - 1  # the untrained model's


def test_evaluation_in_32_bits_is_the_same_model(start):
    """In fp32 both evaluations are one; in bf16 they differ, and by less than the training did."""
    rows = start("language_modeling", config="fp32_baseline,bf16_pure", max_steps=10)
    fp32, bf16 = rows
    assert fp32["metrics"] == fp32["metrics_fp32"]
    difference = abs(bf16["metrics"]["test"]["loss"] - bf16["metrics_fp32"]["test"]["loss"])
    assert 0 < difference < 0.02


# ---------------------------------------------------------------- pairs


@pytest.mark.slow
def test_a_seed_fixes_start_order_and_dropout_in_every_configuration(start, task):
    """All configurations that a CPU has, in one sweep, and in the opposite order: no run touches another."""
    names = [config.name for config in CONFIGS if config.name not in ("fp8_tensorwise",)]
    rows = start(task, config="all", max_steps=3)
    assert [row["config"] for row in rows] == [config.name for config in CONFIGS]
    trained = {row["config"]: row for row in rows if row["status"] == "completed"}
    assert len({row["model"]["initial_sha256"] for row in trained.values()}) == 1
    assert trained["fp32_tf32_matmul"]["model"] == trained["fp32_baseline"]["model"]  # a CPU has no TF32
    assert trained["bf16_no_compile"]["model"] == trained["bf16_pure"]["model"]
    # the same rows and masks: rounding alone sets them apart (float16 state loses AdamW's second moment)
    losses = [row["curve"][-1]["loss"] for row in trained.values() if row["dtypes"]["state"] != "float16"]
    assert max(losses) - min(losses) < 0.05
    diverged = {row["config"] for row in rows if row["status"] == "diverged"}
    assert diverged == {"fp16_naive"}
    for row in rows:
        if row["status"] == "unsupported":
            assert row["reason"] and row["metrics"] is None
    again = start(task, out="again", config=",".join(reversed(names)), max_steps=3)
    assert {row["config"]: row["model"].get("final_sha256") for row in again} == {
        row["config"]: row["model"].get("final_sha256") for row in rows if row["config"] in names
    }


def test_another_seed_is_another_run(start, task):
    rows = start(task, config="fp32_baseline", seeds=2, max_steps=2)
    assert [row["seed"] for row in rows] == [0, 1]
    for name in ("initial_sha256", "final_sha256"):
        assert rows[0]["model"][name] != rows[1]["model"][name]


def test_dropout_masks_do_not_depend_on_the_format():
    dropout = torch.nn.Dropout(0.1).train()
    masks = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(3)
        masks.append(dropout(torch.ones(8, 33, 128, dtype=dtype)) == 0)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_the_order_is_a_permutation_an_epoch_and_every_step_is_full():
    order = EpochOrder(10, seed=5)
    rows = np.concatenate([order.rows(step, 4) for step in range(1, 11)])
    for epoch in range(4):
        assert sorted(rows[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert not np.array_equal(rows[:10], rows[10:20])
    np.testing.assert_array_equal(EpochOrder(10, seed=5).rows(7, 4), rows[24:28])  # by index alone
    assert len(EpochOrder(3, seed=0).rows(2, 8)) == 8  # more rows a step than there are
    lengths = np.array([5, 1, 5, 3, 2, 9, 1, 1, 4, 7])
    by_length = EpochOrder(10, seed=5, lengths=lengths).rows(2, 4)
    assert sorted(by_length) == sorted(rows[4:8]) and (np.diff(lengths[by_length]) >= 0).all()


def test_naive_float16_is_a_result_and_its_fused_form_goes_on(start, task):
    rows = {row["config"]: row for row in start(task, config="fp16_naive,fp16_naive_fused", max_steps=6)}
    assert rows["fp16_naive"]["status"] == "diverged" and rows["fp16_naive"]["first_non_finite_step"] <= 3
    assert "the loss is nan" in rows["fp16_naive"]["reason"] and rows["fp16_naive"]["metrics"] is None
    assert rows["fp16_naive"]["predictions"] is None
    assert rows["fp16_naive_fused"]["status"] == "completed"


@pytest.mark.slow
def test_evaluation_is_no_part_of_a_steps_time(prepared, tmp_path):
    """A sleep in each evaluation changes no figure of speed."""
    found = []
    for pause in (0.0, 1.0):

        def make_task(args: argparse.Namespace, pause: float = pause):
            task = language_modeling_run.make_task(args)

            def validate(predict):
                time.sleep(pause)
                return task.validate(predict)

            return replace(task, validate=validate)

        args = parsed(prepared, "language_modeling", tmp_path / f"{pause}", max_steps=24, eval_steps=4)
        row = run_one(make_task, args)
        found.append((row["train_seconds"], row["step_ms"]["p90"]))
    assert found[1][0] - found[0][0] < 3  # of the six seconds slept
    assert found[1][1] < 1000


def parsed(prepared: dict[str, Path], task: str, out: Path, **settings: object) -> argparse.Namespace:
    """The arguments of one run, as run_one takes them."""
    from experiments.classification.config import parse_args as parse_classification
    from experiments.language_modeling.config import parse_args as parse_language_modeling

    parse = parse_classification if task == "classification" else parse_language_modeling
    argv, sys.argv = sys.argv, ["run.py", *arguments(prepared, task, out, **settings)]
    try:
        return planned_runs(task, parse(None))[0]
    finally:
        sys.argv = argv


# ---------------------------------------------------------------- stops and kills


RESUMED = ("amp_bf16", "bf16_kahan", "bf16_sr", "bf16_master", "amp_fp16")


def launch(prepared: dict[str, Path], task: str, out: Path, **settings: object) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPTS[task]), *arguments(prepared, task, out, **settings)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=one_thread()
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", RESUMED)
def test_resume_after_a_signal_is_exact(start, prepared, tmp_path, config):
    """SIGTERM saves and leaves with 143; the same command then ends as a run never stopped, to the bit."""
    number = RESUMED.index(config)
    task, sent = TASKS[number % 2], (signal.SIGTERM, signal.SIGINT)[number % 3 == 1]
    # 95 steps to go when the signal is sent: a fast machine does not end first
    settings = dict(config=config, max_steps=100, eval_steps=5, dropout=0.1)
    (whole,) = start(task, out="whole", **settings)
    process = launch(prepared, task, tmp_path / "part", **settings)
    for line in process.stdout:
        if "step 5/" in line:
            process.send_signal(sent)
            break
    output = process.stdout.read()
    assert process.wait() == 128 + sent, output
    assert "stopped after step" in output
    assert not (tmp_path / "part/results.jsonl").exists()
    result = run_main(MAINS[task], *arguments(prepared, task, tmp_path / "part", **settings))
    assert result.returncode == 0 and "resume:" in result.stdout, result.stderr
    (part,) = rows_of(tmp_path / "part")
    assert lasting(part) == lasting(whole)
    assert part["key"] == whole["key"]
    with (
        np.load(tmp_path / "whole" / whole["predictions"]) as a,
        np.load(tmp_path / "part" / part["predictions"]) as b,
    ):
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


def newest(out: Path) -> float:
    try:
        return max((path.stat().st_mtime_ns for path in out.glob("runs/*/checkpoint-last.pt")), default=0)
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_another_runs_checkpoint_is_refused(prepared, tmp_path):
    settings = dict(config="fp32_baseline", max_steps=100, eval_steps=5, save_every_steps=2)
    process = launch(prepared, "language_modeling", tmp_path / "part", **settings)
    for line in process.stdout:
        if "step 5/" in line:
            process.kill()
    process.communicate()
    foreign = next((tmp_path / "part").glob("runs/*/checkpoint-*.pt"))
    other = settings | {"seed": 1, "resume": foreign}
    result = run_main(
        MAINS["language_modeling"], *arguments(prepared, "language_modeling", tmp_path / "other", **other)
    )
    assert_refused(result, foreign.name, "another run")


# ---------------------------------------------------------------- ranks


@pytest.mark.slow
def test_two_ranks_are_one_process_with_twice_the_batch_in_bfloat16(start, prepared, tmp_path, task):
    settings = dict(config="bf16_body_fp32_head", max_steps=6, dropout=0.0)
    result = torchrun(SCRIPTS[task], *arguments(prepared, task, tmp_path / "two", **settings))
    assert result.returncode == 0, result.stderr[-3000:]
    (one,) = start(task, out="one", **settings, batch_size=8)
    (two,) = rows_of(tmp_path / "two")
    assert two["world_size"] == 2 and two["model"]["initial_sha256"] == one["model"]["initial_sha256"]
    for a, b in ((one["curve"][-1], two["curve"][-1]), (one["metrics"]["test"], two["metrics"]["test"])):
        assert a["loss"] == pytest.approx(b["loss"], rel=5e-3)  # three digits


@pytest.mark.slow
def test_ranks_take_one_run_only(prepared, tmp_path):
    result = torchrun(
        SCRIPTS["classification"],
        *arguments(prepared, "classification", tmp_path / "out", config="fp32_baseline,amp_bf16"),
    )
    assert result.returncode != 0 and "torchrun takes one run" in result.stderr


# ---------------------------------------------------------------- sweeps


def test_finished_runs_are_skipped_and_new_ones_added(start, prepared, tmp_path):
    settings = dict(config="fp32_baseline,amp_bf16,fp16_naive", max_steps=2)
    rows = start("language_modeling", **settings)
    assert len(rows) == 3
    result = run_main(
        MAINS["language_modeling"], *arguments(prepared, "language_modeling", tmp_path / "out", **settings)
    )
    assert "3 runs, 3 of them done already" in result.stdout and len(rows_of(tmp_path / "out")) == 3
    rows = start("language_modeling", **settings | {"seeds": 2})
    assert [(row["config"], row["seed"]) for row in rows[3:]] == [
        ("fp32_baseline", 1), ("amp_bf16", 1), ("fp16_naive", 1),
    ]  # fmt: skip
    rows = start("language_modeling", **settings | {"learning_rate": "2e-5,6e-4", "config": "bf16_pure"})
    assert [row["learning_rate"] for row in rows[6:]] == [2e-5, 6e-4]
    one = dict(config="fp32_baseline", max_steps=2)
    result = run_main(
        MAINS["language_modeling"], *arguments(prepared, "language_modeling", tmp_path / "out", **one)
    )
    assert "completed already" in result.stdout and len(rows_of(tmp_path / "out")) == 8


def test_shards_part_the_runs(prepared, tmp_path):
    settings = dict(config="all", seeds=3)
    every = set()
    for number in range(4):
        args = parsed_sweep(prepared, tmp_path, shard=f"{number}/4", **settings)
        runs = {(run.config, run.seed) for run in planned_runs("classification", args)}
        assert not runs & every
        every |= runs
    assert every == {(config.name, seed) for config in CONFIGS for seed in range(3)}


def parsed_sweep(prepared: dict[str, Path], tmp_path: Path, **settings: object) -> argparse.Namespace:
    from experiments.classification.config import parse_args

    argv, sys.argv = (
        sys.argv,
        ["run.py", *arguments(prepared, "classification", tmp_path / "out", **settings)],
    )
    try:
        return parse_args(None)
    finally:
        sys.argv = argv


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_sweep_goes_on(prepared, tmp_path, number):
    settings = dict(config="fp32_baseline,amp_bf16,bf16_pure", max_steps=100, eval_steps=5)
    settings |= dict(save_every_steps=2)
    process = launch(prepared, "language_modeling", tmp_path / "out", **settings)
    for line in process.stdout:
        if "amp_bf16 seed 0  step 10/" in line:
            process.send_signal(number)
            break
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    before = [row["config"] for row in rows_of(tmp_path / "out")]
    assert before == ["fp32_baseline"]
    for _ in range(100):  # the child of a killed sweep ends by itself, and saves
        stamp = newest(tmp_path / "out")
        time.sleep(0.5)
        if newest(tmp_path / "out") == stamp:
            break
    result = run_main(
        MAINS["language_modeling"], *arguments(prepared, "language_modeling", tmp_path / "out", **settings)
    )
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["config"] for row in rows] == ["fp32_baseline", "amp_bf16", "bf16_pure"]
    assert "3 runs, 1 of them done already" in result.stdout


def make_greedy_task(args: argparse.Namespace):
    """A task whose training is killed, or runs out of memory, by configuration."""
    task = language_modeling_run.make_task(args)

    def batch(rows):
        if args.config == "bf16_pure":
            os.kill(os.getpid(), signal.SIGKILL)
        if args.config == "bf16_naive":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if args.config == "bf16_kahan":
            raise ZeroDivisionError("a bug")
        return task.train_batch(rows)

    return replace(task, train_batch=batch)


def test_runs_that_do_not_fit_are_rows_and_a_crash_stops_nothing(prepared, tmp_path):
    out = tmp_path / "out"
    runs = []
    for config in ("bf16_pure", "bf16_naive", "bf16_kahan", "fp32_baseline"):
        args = parsed(prepared, "language_modeling", out, config=config, max_steps=2)
        args.key = f"key-{config}"
        runs.append(args)
    previous = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        crashed = Children(make_greedy_task).run(runs)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(number, handler)
    assert len(crashed) == 1 and "bf16_kahan" in crashed[0]
    rows = {row["config"]: row for row in rows_of(out)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "bf16_pure": "oom", "bf16_naive": "oom", "fp32_baseline": "completed",
    }  # fmt: skip
    assert "signal 9" in rows["bf16_pure"]["reason"] and "2.00 GiB" in rows["bf16_naive"]["reason"]
    assert rows["bf16_pure"]["metrics"] is None
    assert list(finished_keys(out).values()) == ["completed"]  # the others are tried again


def test_a_line_that_a_kill_cut_is_taken_off(tmp_path):
    append_row(tmp_path, {"key": "a", "status": "completed", "value": float("nan")})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"key": "b", "status": "compl')
    assert [row["key"] for row in read_rows(tmp_path)] == ["a"]
    append_row(tmp_path, {"key": "c", "status": "oom"})
    assert [row["key"] for row in rows_of(tmp_path)] == ["a", "c"]
    assert rows_of(tmp_path)[0]["value"] is None
    assert finished_keys(tmp_path) == {"a": "completed"}


@pytest.mark.slow
def test_memory_does_not_grow_from_run_to_run(start):
    """A third seed has the peak of the first: each run is a process of its own."""
    rows = start("classification", config="fp32_baseline", seeds=3, max_steps=8, batch_size=16)
    peaks = [row["peak_memory_gb"] for row in rows]
    assert peaks[2] == pytest.approx(peaks[0], rel=0.05)


# ---------------------------------------------------------------- commands and bad input

SPEC_COMMANDS = (
    "--config amp_bf16 --seed 0",
    "--config all --seeds 3",
    "--config amp_bf16 --max_steps 100",
)


@pytest.mark.parametrize("command", SPEC_COMMANDS)
def test_the_specs_commands_are_understood(command, task, tmp_path):
    """As written they look for data/ below the current folder; what they lack there is said in one line."""
    result = run_script(SCRIPTS[task], *command.split(), cwd=tmp_path)
    folder = {"classification": "data/eurlex", "language_modeling": "data/lm"}[task]
    assert_refused(result, f"--data {folder}", "prepare_data.py")
    assert not (tmp_path / "results").exists()


def test_the_specs_commands_run(prepared, tmp_path, monkeypatch):
    """The same three with the defaults' folders in place; sizes alone are made small."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eurlex").symlink_to(prepared["classification"])
    small = [*TINY["classification"].split(), *"--batch_size 2 --gradient_accumulation_steps 1".split()]
    for command in (SPEC_COMMANDS[0], SPEC_COMMANDS[2]):
        steps = [] if "max_steps" in command else ["--max_steps", "3"]
        result = run_main(classification_run.main, *command.split(), *small, *steps)
        assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "results" / "classification")
    assert [row["max_steps"] for row in rows] == [3, 100]


def test_the_specs_settings_are_the_defaults(prepared, tmp_path):
    from experiments.classification.config import parse_args

    argv, sys.argv = sys.argv, ["run.py"]
    try:
        args = parse_args(None)
    finally:
        sys.argv = argv
    assert (args.batch_size, args.gradient_accumulation_steps, args.max_steps, args.eval_steps) == (
        8,
        4,
        5000,
        500,
    )
    assert (args.learning_rate, args.weight_decay, args.warmup_ratio, args.grad_clip) == (
        [2e-5],
        0.01,
        0.1,
        1.0,
    )
    assert (args.encoder, args.max_length) == ("roberta-base", 512)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": "bf16_magic"}, ("bf16_magic", "fp32_baseline", "amp_bf16", "bf16_kahan")),
        ({"config": "fp32_baseline,nope"}, ("nope",)),
        ({"resume": "/nowhere/checkpoint-last.pt"}, ("/nowhere/checkpoint-last.pt",)),
        ({"config": "all", "resume": "/nowhere/checkpoint-last.pt"}, ("--resume",)),
        ({"device": "cuda:77"}, ("--device cuda:77",)),
    ],
)
def test_bad_settings(prepared, tmp_path, task, settings, words):
    result = run_main(
        MAINS[task], *arguments(prepared, task, tmp_path / "out", **{"max_steps": 2} | settings)
    )
    assert_refused(result, *words)
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.parametrize(
    "flag", ["--shard 3/3", "--learning_rate 0", "--dropout 1", "--seeds 0", "--max_steps 0"]
)
def test_flags_out_of_range(task, flag):
    result = run_main(MAINS[task], *flag.split())
    assert result.returncode == 2 and flag.split()[0] in result.stderr and "Traceback" not in result.stderr


def test_bad_settings_of_classification(prepared, tmp_path):
    def run(**settings):
        base = arguments(prepared, "classification", tmp_path / "out", max_steps=2, **settings)
        return run_main(classification_run.main, *base)

    assert_refused(run(encoder="nobody/nothing"), "--encoder nobody/nothing", "hub")
    assert_refused(run(encoder=tmp_path), f"--encoder {tmp_path}", "no model there")
    assert_refused(run(max_length=600), "--max_length 600", "512")
    assert_refused(run(data=prepared["language_modeling"]), "another task")
    from transformers import RobertaConfig

    RobertaConfig(vocab_size=300, hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path / "other")
    assert_refused(run(encoder=tmp_path / "other"), "300 tokens", "400", "--tokenizer")


def test_bad_settings_of_language_modelling(prepared, tmp_path):
    def run(**settings):
        base = arguments(prepared, "language_modeling", tmp_path / "out", max_steps=2, **settings)
        return run_main(language_modeling_run.main, *base)

    assert_refused(run(hidden_size=33), "--hidden_size 33")
    assert_refused(run(block_size=100_000), "--block_size", "do not fill a window")
    assert_refused(run(data=prepared["classification"]), "another task")


@pytest.mark.parametrize("part", ["tokens", "offsets", "labels", "label_offsets"])
def test_damaged_files_of_a_prepared_folder(prepared, tmp_path, part):
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(prepared["classification"], folder)
    path = folder / f"validation.{part}.npy"
    content = path.read_bytes()
    base = arguments({"classification": folder}, "classification", tmp_path / "out", max_steps=2)
    path.write_bytes(content[: len(content) // 2])
    assert_refused(run_main(classification_run.main, *base), "validation")
    path.unlink()
    assert_refused(run_main(classification_run.main, *base), f"validation.{part}.npy")
    array = np.load(prepared["classification"] / path.name)
    np.save(path, array[:-3])
    assert_refused(run_main(classification_run.main, *base), "do not fit each other")
    if part == "labels":
        array[7] = 99
        np.save(path, array)
        assert_refused(run_main(classification_run.main, *base), "label index 99", "document")


def test_two_processes_do_not_share_a_run(prepared, tmp_path):
    settings = dict(config="fp32_baseline", max_steps=400, eval_steps=2)
    process = launch(prepared, "language_modeling", tmp_path / "out", **settings)
    for line in process.stdout:
        if "step 2/" in line:
            break
    base = arguments(prepared, "language_modeling", tmp_path / "out", **settings)
    try:
        assert_refused(run_main(language_modeling_run.main, *base), "another process is at this run")
    finally:
        process.kill()
        process.communicate()


def test_list_names_every_configuration(task):
    result = run_main(MAINS[task], "--list")
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [config.name for config in CONFIGS]


def test_an_unknown_configuration_lists_the_known_ones():
    with pytest.raises(InputError, match="known are fp32_baseline, .*bf16_sr"):
        get_config("bf17")
