"""The train scripts' own promises, run as a user runs them; test_contracts.py has those of all scripts.

`SCRIPTS` lists every version; each test runs them all.
"""

import json
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import (
    CATEGORY,
    TORCHRUN,
    assert_refused,
    assert_same_weights,
    one_thread,
    records,
    run_main,
    run_script,
    torchrun,
)

from category_classification import train_embedding_classifier_v2, train_embedding_classifier_v3

SCRIPTS = [f"train_embedding_classifier{version}.py" for version in ("", "_v2", "_v3")]
SMALL = "--hidden_size 192 --num_layers 2 --batch_size 16 --seq_len 24 --device cpu --lang_min_samples 5"


@pytest.fixture(params=SCRIPTS)
def script(request) -> Path:
    return CATEGORY / request.param


@pytest.fixture(scope="session")
def base(tiny_data, tiny_tokenizer) -> list[str]:
    return ["--data", str(tiny_data), "--tokenizer", str(tiny_tokenizer), *SMALL.split()]


@pytest.mark.slow
def test_a_run_leaves_all_it_promises_and_learns(script, base, tmp_path):
    out = tmp_path / "out"
    result = run_script(script, *base, "--out", out, *"--epochs 4 --lr 2e-3 --amp --log_every 10".split())
    assert result.returncode == 0, result.stderr[-3000:]
    names = {path.name for path in out.iterdir()}
    assert names >= {
        *("config.json", "metrics.jsonl", "summary.json", "best.pt", "checkpoint-last.pt", "tokenizer"),
        *(f"checkpoint-epoch{n}.pt" for n in (1, 2, 3, 4)),
        "learning_curve.png",
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["test"]["macro_f1"] > 0.8
    assert {"command", "seed", "versions", "device", "data_fingerprint", "wall_seconds"} <= summary.keys()
    train = [r for r in records(out) if r["split"] == "train"]
    assert train[-1]["loss"] < 0.7 * train[0]["loss"]
    assert {"step", "epoch", "lr", "samples_per_second"} <= train[0].keys()
    assert [r["epoch"] for r in records(out) if r["split"] == "validation"] == [1, 2, 3, 4]
    assert [r["split"] for r in records(out)].count("test") == 1


@pytest.mark.slow
@pytest.mark.parametrize("update", ["dense", "rows"])
def test_resume_from_an_epoch_is_exact(script, base, tmp_path, update):
    flags = [*base, *"--epochs 3 --grad_accum 3 --token_dropout 0.1 --embedding_dropout 0.1 --amp".split()]
    flags += ["--embedding_update", update]
    assert run_script(script, *flags, "--out", tmp_path / "whole").returncode == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for name in (
        "checkpoint-epoch2.pt",
        "checkpoint-epoch3.pt",
        "checkpoint-last.pt",
        "checkpoint-previous.pt",
    ):
        (tmp_path / "part" / name).unlink()
    stored = tmp_path / "part/checkpoint-epoch1.pt"
    result = run_script(script, *flags, "--out", tmp_path / "part", "--resume", stored)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "not exact" not in result.stdout
    assert_same_weights(tmp_path / "whole/checkpoint-epoch3.pt", tmp_path / "part/checkpoint-epoch3.pt")
    assert_same_weights(tmp_path / "whole/best.pt", tmp_path / "part/best.pt")
    whole, part = (
        [{k: v for k, v in r.items() if k != "samples_per_second"} for r in records(tmp_path / name)]
        for name in ("whole", "part")
    )
    assert whole == part


@pytest.mark.slow
def test_more_epochs_reshape_the_schedule_and_say_so(script, base, tmp_path):
    out = tmp_path / "out"
    assert run_script(script, *base, "--out", out, "--epochs", 1).returncode == 0
    result = run_script(script, *base, "--out", out, "--epochs", 2, "--resume", out / "checkpoint-epoch1.pt")
    assert result.returncode == 0
    assert "resume: the schedule's 38 steps become 76" in result.stdout
    result = run_script(
        script, *base, "--out", out, *"--epochs 3 --resume auto --batch_size 8 --seed 7".split()
    )
    assert result.returncode == 0
    assert "--batch_size was 16, is 8" in result.stdout and "--seed was 42, is 7" in result.stdout


@pytest.mark.slow
def test_a_killed_rank_leaves_a_checkpoint_that_resumes(base, tmp_path):
    script, out = CATEGORY / SCRIPTS[0], tmp_path / "out"
    flags = [*base, *"--epochs 3 --save_every_steps 2 --log_every 1 --out".split(), str(out)]
    process = subprocess.Popen(
        [*TORCHRUN, str(script), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=one_thread(),
    )  # fmt: skip
    for line in process.stdout:
        if "step 7/" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-9", children[-1]], check=True)
    process.communicate()
    assert process.returncode != 0
    assert torch.load(out / "checkpoint-last.pt", weights_only=True)["progress"]["step"] >= 6
    result = torchrun(script, *flags, "--resume", "auto")
    assert result.returncode == 0, result.stderr[-3000:]
    assert torchrun(script, *flags[:-1], tmp_path / "whole").returncode == 0
    assert_same_weights(out / "checkpoint-epoch3.pt", tmp_path / "whole/checkpoint-epoch3.pt")


def test_bad_flags_and_inputs_are_refused(script, base, tmp_path):
    out, main = tmp_path / "out", import_module(f"category_classification.{script.stem}").main

    def refused(*words, flags):
        assert_refused(run_main(main, *base, *flags, "--out", out), *words)
        assert not out.exists()

    refused("--tokenizer", flags=["--tokenizer", tmp_path])
    refused("no split named 'trian'", flags=["--train_split", "trian"])
    refused("--device", flags=["--device", "cuda:99"])
    refused("no such checkpoint", flags=["--resume", tmp_path / "none.pt"])
    refused("--epochs", flags=["--epochs", "0"])
    refused("--hidden_size", flags=["--hidden_size", "100"])


@pytest.mark.slow
def test_another_model_is_not_written_over(script, base, tmp_path):
    out, main = tmp_path / "out", import_module(f"category_classification.{script.stem}").main
    assert run_main(main, *base, "--out", out, "--max_steps", 3).returncode == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.pt")}
    result = run_main(main, *base, "--out", out, "--resume", "auto", "--num_layers", 3)
    assert_refused(result, "does not fit")
    assert {path.name: path.read_bytes() for path in out.glob("*.pt")} == before


LANGUAGE_FLAGS = {
    "alpha": "--language_alpha 0.5",
    "weights": "--language_weights de=2,ja=3",
    "tune": "--finetune_languages not-en --init {teacher}",
    "anchor": "--finetune_languages de,ja --kl_teacher {teacher} --kl_weight 0.5",
    "keep": "--kl_teacher {teacher}",
}


@pytest.fixture(scope="session")
def teacher(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "v2"
    result = run_script(
        CATEGORY / "train_embedding_classifier_v2.py", *base, "--out", out, *"--epochs 2 --lr 2e-3".split()
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return out / "best.pt"


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_FLAGS)
def test_language_flags_resume_exactly(base, teacher, tmp_path, name):
    script = CATEGORY / "train_embedding_classifier_v2.py"
    flags = [*base, *"--epochs 2 --save_every_steps 2 --label_smoothing 0.05 --focal_gamma 1.5".split()]
    flags += LANGUAGE_FLAGS[name].format(teacher=teacher).split()
    assert run_script(script, *flags, "--out", tmp_path / "whole").returncode == 0
    steps = torch.load(tmp_path / "whole/checkpoint-last.pt", weights_only=True)["progress"]["total_steps"]
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, flags), "--out", str(tmp_path / "part"), "--log_every", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=one_thread(),
    )  # fmt: skip
    for line in process.stdout:
        if f"step {steps // 2}/" in line:
            process.kill()
    assert process.wait() == -signal.SIGKILL
    result = run_script(script, *flags, "--out", tmp_path / "part", "--resume", "auto")
    assert result.returncode == 0 and "not exact" not in result.stdout, result.stderr[-2000:]
    assert_same_weights(tmp_path / "whole/checkpoint-epoch2.pt", tmp_path / "part/checkpoint-epoch2.pt")


@pytest.mark.slow
@pytest.mark.parametrize("positives", ["label_language", "cross_language", "cluster"])
def test_every_kind_of_contrast_trains(base, tmp_path, positives):
    script, out = CATEGORY / "train_embedding_classifier_v3.py", tmp_path / "out"
    flags = [
        *"--epochs 1 --amp --contrastive_weight 0.5 --log_every 5 --contrastive_positives".split(),
        positives,
    ]
    result = run_script(script, *base, "--out", out, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    train = [r for r in records(out) if r["split"] == "train"]
    assert all(0 <= r["contrastive_loss"] < 100 and r["classification_loss"] > 0 for r in train)


@pytest.mark.slow
def test_wrong_language_flags_are_refused(base, teacher, tmp_path, tiny_run):
    main, out = train_embedding_classifier_v2.main, tmp_path / "out"

    def refused(*words, flags):
        assert_refused(run_main(main, *base, "--out", out, *flags), *words)
        assert not out.exists()

    refused("--language_weights xx", flags=["--language_weights", "xx=2"])
    refused("--language_weights", flags=["--language_weights", "de=-1"])
    refused("--finetune_languages xx", flags=["--finetune_languages", "xx", "--init", teacher])
    refused("name the model", flags=["--finetune_languages", "de"])
    refused("no such checkpoint", flags=["--kl_teacher", tmp_path / "none.pt"])
    refused("does not fit this model", flags=["--init", tiny_run / "best.pt"])
    refused("give one of them", flags=["--finetune_languages", "de", "--language_alpha", "0.5"])
    refused(
        "--kl_teacher",
        "does not fit",
        flags=["--finetune_languages", "de", "--kl_teacher", tiny_run / "best.pt"],
    )
    refused("--seed", flags=["--seed", "99999999999999999999"])
    main = train_embedding_classifier_v3.main
    refused("chooses the rows itself", flags="--contrastive_positives cluster --language_alpha 0.5".split())
    refused("--language_alpha", flags=["--language_alpha", "1.5"])


def test_the_published_command_parses(script, tmp_path, monkeypatch):
    """v1's logged command as the specification prints it: it gets as far as looking for its data."""
    command = (
        "--data ./lspc_dataset_full --out ./embedding_classifier_prodcat "
        "--resume ./embedding_classifier_prodcat/checkpoint-epoch3.pt --epochs 5 --batch_size 254 "
        "--grad_accum 2 --lr_schedule cosine --lr_warmup_steps 3000 --lr_min_scale 0.05 --save_every 1 --amp"
    )
    monkeypatch.chdir(tmp_path)
    main = import_module(f"category_classification.{script.stem}").main
    assert_refused(run_main(main, *command.split()), "./lspc_dataset_full: no such folder")
