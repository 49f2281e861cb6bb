"""Every command of the READMEs' code blocks, run as typed on sample data; those of scripts/*.sh, parsed.

The commands of one README run in order in one folder, which looks like a fresh checkout: what a reader would
have downloaded lies there under its documented name, made by scripts/make_sample_data.py or by hand. A folder
of a hub name stands for the model of that name. Python commands run inside this process, as `__main__`, since
a new interpreter takes seconds to import torch; shell scripts run in a shell.

A command that no table here names fails its test: add it to ADDED (with what makes it small) or to NOT_RUN
(with the reason, and what runs in its place).
"""

import argparse
import ast
import gzip
import hashlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, make_tokenizer, one_thread, run_main

from naics.cli import COMMANDS

PROJECTS = ("category_classification", "experiments", "semantic_ids", "naics")
READMES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/README.md"))]
RUNNERS = (
    "bash cat cd cp curl docker export git gunzip make mkdir mv naics-gemini nohup pip poetry pytest python "
    "python3 rm ruff sh source tar torchrun unzip uv wandb wget"
).split()

# A command, by its script -> what is added to it, so that it takes a second and not an hour
LIMITED_STAGE = (
    "--max_steps 2 --device cpu data.batch_size=4 data.queries=8 training.trainer.limit_val_batches=1"
)
ADDED = {
    "category_classification/prepare_lspc.py": "--workers 1",  # torch's threads are not to be forked
    "category_classification/train_embedding_classifier.py":
        "--max_steps 2 --num_layers 1 --batch_size 8 --seq_len 24 --device cpu",
    "category_classification/predict_categories.py": "--device cpu",
    "experiments/classification/prepare_data.py": "--allow_partial",  # the sample is not all of EURLEX57K
    # Every 16th of the 63 runs that --config all --seeds 3 asks for
    "experiments/classification/run.py":
        "--shard 0/16 --max_steps 2 --batch_size 2 --max_length 16 --threads 1 --device cpu",
    "experiments/baseline_tfidf.py": "--threads 1",
    "experiments/language_modeling/prepare_data.py": "",
    "experiments/language_modeling/run.py":
        "--shard 0/16 --max_steps 2 --batch_size 2 --num_layers 1 --hidden_size 32 --num_heads 2 "
        "--block_size 16 --eval_windows 4 --threads 1 --device cpu",
    "experiments/report.py": "--resamples 20",
    "semantic_ids/prepare_items.py": "",
    "semantic_ids/tokenize_items.py": "--max_length 32",
    "semantic_ids/embed_items.py": "--device cpu",
    "semantic_ids/train_rqvae.py": "--max_steps 2 --device cpu",
    "semantic_ids/export_semantic_ids.py": "--device cpu",
    "semantic_ids/evaluate_semantic_ids.py": "--device cpu",
    "scripts/run_semantic_ids.sh":
        "--max_length 32 --embed_flags '--device cpu' --train_flags '--max_steps 2 --device cpu'",
    "naics-gemini data": "",
    "naics-gemini train": LIMITED_STAGE,
    "naics-gemini evaluate": "--device cpu",
    "naics-gemini search": "--device cpu",
    "scripts/train_naics_curriculum.sh": LIMITED_STAGE,
}  # fmt: skip
# A command that cannot run here -> why not, and what runs in its place
NOT_RUN = {
    "git clone <this repository>": ("stands for an address", ()),
    "cd <it>": ("the folder of this test is one already", ()),
    "bash scripts/quickstart.sh": ("takes minutes; see test_scripts_call_commands_that_parse", ()),
    "naics-gemini data all": (
        "downloads from the Census Bureau",
        ("naics-gemini data preprocess", "naics-gemini data distances"),
    ),
}
# What a reader has downloaded or brings along -> its sample
SAMPLES = {
    "lspcV2020.zip": "lspc/lspcV2020.zip",
    "WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz":
        "lspc/WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz",
    "products.csv": "lspc/products.csv",
    "new.csv": "lspc/products.csv",
    "EURLEX57K.zip": "experiments/EURLEX57K.zip",
    "book.txt": "experiments/corpus.txt",
    "meta_Video_Games.jsonl.gz": "semantic_ids/meta_Video_Games.jsonl.gz",
    "data/naics/raw/2022": "naics/raw/2022",
}  # fmt: skip


# ---------------------------------------------------------------- reading


def code_blocks(text: str) -> Iterator[list[str]]:
    """The lines of every fenced block, and of every run of lines that are indented by four spaces."""
    fenced, block = False, []
    for line in [*text.splitlines(), ""]:
        fence = line.startswith("```")
        if not fence and (fenced or line.startswith("    ")):
            block.append(line if fenced else line[4:])
            continue
        if block:
            yield block
        block = []
        fenced ^= fence


def is_command(line: str) -> bool:
    """By its first word; of a runner that is not known here, by a script or a flag among the others."""
    first, *others = line.split() or [""]
    if Path(first).name in RUNNERS or re.match(r"[A-Z_]+=", first) or first == "$":
        return True
    if Path(first).suffix in (".py", ".sh", ".md", ".yaml") or first.endswith(
        "/"
    ):  # a line of a list of files
        return False
    return any(re.fullmatch(r"--\w[\w-]*|\S+\.(py|sh)", word) for word in others)


def commands(text: str) -> list[str]:
    """All commands in order, one line each. A block that has one is made of commands alone."""
    found = []
    for block in code_blocks(text):
        lines = re.sub(r"\\\n\s*", "", "\n".join(block)).splitlines()
        if any(map(is_command, lines)):
            found += [command.strip() for line in lines if line.strip() for command in line.split(" && ")]
    return found


def script_and_arguments(command: str) -> tuple[str, list[str]]:
    """ "naics-gemini train", a module ("naics.cli") or the path of a script, and its arguments."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["poetry", "run"]:
        del words[:2]
    runner, *words = words
    if runner == "naics-gemini":
        return f"{runner} {words[0]}", words[1:]
    if Path(runner).name in ("python", "python3", "bash") and words:
        start = 1 if words[0] == "-m" else 0
        return words[start], words[start + 1 :]
    raise AssertionError(f"no rule for the command: {command}")


# ---------------------------------------------------------------- running


def run_python(script: str, arguments: list[str]) -> subprocess.CompletedProcess:
    """What `python SCRIPT`, `python -m MODULE` or `naics-gemini COMMAND` does, inside this process."""

    def main() -> None:
        if script.endswith(".py"):
            sys.path.insert(0, str(Path(script).parent.resolve()))
            try:
                runpy.run_path(script, run_name="__main__")
            finally:
                del sys.path[0]
        elif script.startswith("naics-gemini"):
            (entry,) = entry_points(group="console_scripts", name="naics-gemini")
            entry.load()()
        else:
            runpy.run_path(find_spec(script).origin, run_name="__main__")

    return run_main(main, *script.split()[1:], *arguments)


class Parsed(BaseException):
    """Raised in place of all that a script does after it has read its flags."""


def assert_parses(script: str, arguments: list[str], monkeypatch) -> None:
    """The script's own parser takes the arguments, and Hydra the settings among them."""

    def stop_after(parse):
        def parse_and_stop(*args):
            raise Parsed(parse(*args))

        return parse_and_stop

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
        try:
            result = run_python(script, arguments)
        except Parsed as parsed:
            settings = parsed.args[0]
        else:
            raise AssertionError(
                f"{script} {shlex.join(arguments)}: {result.stderr[-2000:] or 'reads no flags'}"
            )
    if hasattr(settings, "overrides"):
        from naics.config import compose

        compose(settings.curriculum, settings.overrides)


def run_command(command: str, monkeypatch) -> None:
    if command in NOT_RUN:
        _, stand_ins = NOT_RUN[command]
        if stand_ins:
            assert_parses(*script_and_arguments(command), monkeypatch)
        for stand_in in stand_ins:
            run_command(stand_in, monkeypatch)
        return
    script, arguments = script_and_arguments(command)
    assert script in ADDED, f"no rule for {script} of the command: {command}"
    arguments += shlex.split(ADDED[script])
    if script.endswith(".sh"):
        shell = ["bash", script, *arguments]
        result = subprocess.run(shell, capture_output=True, text=True, env=one_thread())
    else:
        result = run_python(script, arguments)
    assert result.returncode == 0, f"{command}\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}"


# ---------------------------------------------------------------- places


def make_checkout(folder: Path, python: str) -> Path:
    """A folder that looks like this repository, with `python`, a shell command, as its interpreter."""
    for name in (*PROJECTS, "scripts", "training_utils.py", "pyproject.toml", "poetry.lock"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, lines in (("python", python), ("ruff", "exit 0")):
        (programs / name).write_text(f"#!/bin/sh\n{lines}\n")
        (programs / name).chmod(0o755)
    digest = hashlib.sha256()  # what setup.sh leaves: there is nothing to set up
    for name in ("pyproject.toml", "poetry.lock", "scripts/setup.sh"):
        digest.update((ROOT / name).read_bytes())
    (folder / ".venv/.matches").write_text(digest.hexdigest() + "\n")
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    sizes = "--lspc_rows 600 --items 200 --documents 100".split()
    result = run_python(str(ROOT / "scripts/make_sample_data.py"), ["--out", str(folder), *sizes])
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def models(samples, tmp_path_factory) -> Path:
    """Small random models in folders of the hub names that are defaults here."""
    import torch
    from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model, RobertaConfig

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    qwen = make_tokenizer(folder / "Qwen/Qwen3-Embedding-0.6B")
    sizes = dict(vocab_size=300, hidden_size=1024, num_hidden_layers=1, intermediate_size=16)
    heads = dict(num_attention_heads=4, num_key_value_heads=1, head_dim=8, max_position_embeddings=512)
    Qwen3Model(Qwen3Config(**sizes, **heads)).save_pretrained(qwen)

    mpnet = make_tokenizer(folder / "sentence-transformers/all-mpnet-base-v2")
    sizes |= dict(hidden_size=16, num_attention_heads=2)
    BertModel(BertConfig(**sizes)).save_pretrained(mpnet)

    for name in ("roberta-base", "gpt2"):
        (folder / name).mkdir()
        for file in (samples / "experiments/tokenizer").iterdir():
            (folder / name / file.name).symlink_to(file)
    sizes |= dict(vocab_size=2000, max_position_embeddings=514, pad_token_id=1)
    RobertaConfig(**sizes).save_pretrained(folder / "roberta-base")
    return folder


@pytest.fixture
def checkout(tmp_path, samples, models, monkeypatch) -> Path:
    """A fresh checkout with all that is documented to be there, as the working directory."""
    folder = make_checkout(tmp_path, f'exec "{sys.executable}" "$@"')
    for name, source in SAMPLES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(samples / source)
    for model in models.iterdir():
        (folder / model.name).symlink_to(model)
    monkeypatch.chdir(folder)
    return folder


# ---------------------------------------------------------------- tests


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES)
def test_commands_run(readme, checkout, monkeypatch):
    for command in commands((ROOT / readme).read_text(encoding="utf-8")):
        run_command(command, monkeypatch)


def test_every_readme_command_has_a_rule():
    """So that a new command is noticed by the quick round too."""
    for readme in READMES:
        for command in commands((ROOT / readme).read_text(encoding="utf-8")):
            assert command in NOT_RUN or script_and_arguments(command)[0] in ADDED, f"{readme}: {command}"


@pytest.mark.parametrize(
    "lines, found",
    [
        ("    uv run python naics/new.py \\\n      --flag 1\n", ["uv run python naics/new.py --flag 1"]),
        ("```bash\ncd here && runner naics/new.sh\n```\n", ["cd here", "runner naics/new.sh"]),
        ("    .venv/bin/python naics/new.py\n", [".venv/bin/python naics/new.py"]),
        ("    FLAG=1 anything\n    another --flag\n", ["FLAG=1 anything", "another --flag"]),
        ("    prepare -> train\n\n    trained model   data/best.pt\n\n    MRR   0.9\n", []),
        ("```\nnaics/   codes\nrun.py flags.py   the run\nscripts/new.sh   runs it\n```\n", []),
    ],
)
def test_commands_of_code_blocks_are_found_and_need_a_rule(lines, found, monkeypatch):
    assert commands(f"Text with `python x.py`.\n\n{lines}\nMore.\n") == found
    for command in found:
        with pytest.raises(AssertionError, match="no rule"):
            run_command(command, monkeypatch)


OTHER_FLAGS = {"--nnodes", "--nproc_per_node"}  # torchrun's
SOURCES = [path for name in (*PROJECTS, "scripts") for path in sorted((ROOT / name).rglob("*.py"))]


def test_flags_that_readmes_name_exist():
    """Those of the running text too, and --help of every script works."""
    scripts = [str(path) for path in SOURCES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("*.sh")]
    for script in [*scripts, *(f"naics-gemini {name}" for name in COMMANDS)]:
        result = run_python(script, ["--help"])
        assert result.returncode == 0, f"{script} --help\n{result.stderr[-2000:]}"
        texts.append(result.stdout)
    known = OTHER_FLAGS.union(*(re.findall(r"--\w[\w-]*", text) for text in texts))
    for readme in READMES:
        named = re.findall(r"(?<![\w-])--\w[\w-]*", (ROOT / readme).read_text(encoding="utf-8"))
        assert set(named) <= known, f"{readme}: {sorted(set(named) - known)}"


def test_commands_of_docstrings_parse(monkeypatch):
    """The examples above each script: as good as a README to whoever opens it."""
    monkeypatch.chdir(ROOT)  # nothing is run
    parsed = 0
    for path in SOURCES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for command in commands(docstring):
            if "[" in command:  # a synopsis
                continue
            command = re.sub(r"\s+\([^()]*\)$", "", command)  # a remark
            (command,) = (part for part in command.split(" | ") if not part.startswith(("zcat", "head")))
            command = re.sub(r"^torchrun --nproc_per_node=\d+", "python", command)
            assert_parses(*script_and_arguments(command), monkeypatch)
            parsed += 1
    assert parsed > 40


# ---------------------------------------------------------------- shell scripts

# In place of Python: notes the words of a call, keeps a program that comes on standard input, answers a
# question for a path, and leaves the sample file that the next script looks for
RECORDER = r"""
printf '%s\0' "$#" "$@" >> "$CALLS"
case "$*" in
  -\ *) cat > "$CALLS.$$.py" ;;
  -c*) echo a/path ;;
  *make_sample_data.py*semantic_ids)
    cd data/samples/semantic_ids && touch meta_Video_Games.jsonl.gz sequences.jsonl ;;
esac
"""
SCRIPT_ARGUMENTS = {
    "minority_languages.sh": "a/dataset a/tokenizer out",
    "run_semantic_ids.sh": "--input meta_Video_Games.jsonl.gz",
}
# What scripts read by themselves, without Python
REAL_FILES = (
    "tokenizers/qwen/tokenizer.json.gz",
    "tokenizers/qwen/tokenizer_config.json",
    "lm/wikitext2_test.txt",
    "semantic_ids/Industrial_and_Scientific.index.json.gz",
    "semantic_ids/Industrial_and_Scientific.valid.seq.jsonl.gz",
    "semantic_ids/Industrial_and_Scientific.test.seq.jsonl.gz",
)
OTHERS = ("pip", "pytest", "venv")  # modules whose flags are not ours


def recorded_calls(script: str, folder: Path) -> list[list[str]]:
    """The arguments of every call of Python that a shell script makes, its variables and loops at work."""
    make_checkout(folder, RECORDER)
    (folder / "data/samples/semantic_ids").mkdir(parents=True)
    (folder / "meta_Video_Games.jsonl.gz").touch()
    for name in REAL_FILES:
        (folder / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "real" / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    env = os.environ | {"CALLS": str(folder / "calls"), "REAL_DATA_DIR": str(folder / "real")}
    shell = ["bash", f"scripts/{script}", *SCRIPT_ARGUMENTS.get(script, "").split()]
    result = subprocess.run(shell, capture_output=True, text=True, env=env, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    for program in folder.glob("calls.*.py"):
        compile(program.read_text(), program.name, "exec")
    words = iter((folder / "calls").read_text().split("\0")[:-1] if (folder / "calls").exists() else [])
    return [[next(words) for _ in range(int(count))] for count in words]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.sh")))
def test_scripts_call_commands_that_parse(script, tmp_path, monkeypatch):
    """A whole run of a script takes minutes to hours: here its Python only notes how it was called."""
    calls = recorded_calls(script, tmp_path)
    assert calls or script == "setup.sh"  # which has nothing to do
    monkeypatch.chdir(tmp_path)
    for first, *arguments in calls:
        if first == "-c":
            compile(arguments[0], "-c", "exec")
        elif first == "-m" and arguments[0] not in OTHERS:
            assert_parses(arguments[0], arguments[1:], monkeypatch)
        elif first not in ("-", "-m"):
            assert_parses(first, arguments, monkeypatch)
