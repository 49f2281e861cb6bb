"""Some 350 bad inputs against the three programs that read what users bring: wrong content and flags.

Broken files, of these programs and all others: test_broken_inputs.py.

Whatever is thrown at prepare_lspc.py, the trainer and predict_categories.py: no traceback; status 2 and one
line that begins with "error:", or a correct success where the damage does no harm; no half-written output;
what was there before is untouched. The programs run inside this process, a handful as a user starts them.

    python -m pytest tests/test_bad_inputs.py
    BAD_INPUT_ROUNDS=10 python -m pytest tests/test_bad_inputs.py       (more of them)
"""

import gzip
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from broken_inputs import break_file
from conftest import CATEGORY, CLASS_WORDS, assert_refused, make_dataset, make_texts, run_main, run_script
from datasets import load_from_disk

from category_classification import (
    predict_categories,
    prepare_lspc,
    train_embedding_classifier,
    train_embedding_classifier_v3,
)

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("BAD_INPUT_ROUNDS", 1))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_sound(result) -> bool:
    """Refused in one line, or done; returns whether it was done."""
    if result.returncode == 0:
        assert "Traceback" not in result.stderr
        return True
    assert_refused(result)
    return False


# ---------------------------------------------------------------- prepare_lspc.py


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """A small corpus with its label files, and the same rows as tables."""
    folder = tmp_path_factory.mktemp("raw")
    texts, labels, _ = make_texts(120, seed=5)
    names = list(CLASS_WORDS)
    offers = [{"cluster_id": n, "title": text, "description": None} for n, text in enumerate(texts)]
    lines = [json.dumps(offer).encode() + b"\n" for offer in offers]
    with zipfile.ZipFile(folder / "lspc.zip", "w") as archive:
        for part in range(2):
            member = gzip.compress(b"".join(lines[60 * part : 60 * part + 60]), mtime=0)
            archive.writestr(f"part_{part}.json.gz", member)
    key = "predicted_CategoryLabel_majority_voted"
    votes = [json.dumps({"cluster_id": n, key: names[label]}) + "\n" for n, label in enumerate(labels)]
    (folder / "votes.json.gz").write_bytes(gzip.compress("".join(votes).encode(), mtime=0))
    (folder / "map.tsv").write_text("".join(f"{n}\t{names[label]}\n" for n, label in enumerate(labels)))
    rows = [{"title": text, "category": names[label]} for text, label in zip(texts, labels, strict=True)]
    lines = [f"{row['title']},{row['category']}\n" for row in rows]
    (folder / "rows.csv").write_text("".join(["title,category\n", *lines]))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.csv.gz").write_bytes(gzip.compress((folder / "rows.csv").read_bytes(), mtime=0))
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def sources(raw, tmp_path) -> Path:
    return shutil.copytree(raw, tmp_path / "raw")


def corpus_flags(sources: Path, labels: str = "map.tsv") -> list[object]:
    return ["--zip", sources / "lspc.zip", "--labels", sources / labels, "--workers", 1]


def table_flags(sources: Path, name: str) -> list[object]:
    columns = ["--text_column", "title", "--label_column", "category"]
    return ["--table", sources / name, *columns, "--workers", 1]


def prepare(sources: Path, flags: list[object]) -> None:
    """Run it; a refusal leaves no OUT, for a table no folder beside it, and the sources as they were."""
    out, before = sources.parent / "out", snapshot(sources)
    if assert_sound(run_main(prepare_lspc.main, *flags, "--out", out)):
        dataset = load_from_disk(out)
        assert sum(len(dataset[name]) for name in dataset) > 0
        assert not list(sources.parent.glob("*.partial"))
    else:
        assert not out.exists()
        assert not list(sources.parent.glob("*.partial")) or "--zip" in flags
    assert snapshot(sources) == before


def test_the_unbroken_sources_are_good(sources):
    for number, flags in enumerate(
        [
            corpus_flags(sources),
            corpus_flags(sources, "votes.json.gz"),
            *(table_flags(sources, f"rows.{form}") for form in ("csv", "csv.gz", "jsonl", "parquet")),
        ]
    ):
        out = sources.parent / f"out{number}"
        assert run_main(prepare_lspc.main, *flags, "--out", out).returncode == 0


TABLES = ["rows.csv", "rows.csv.gz", "rows.jsonl", "rows.parquet"]


TABLE_ROWS = {
    "wrong columns": [{"a": 1}],
    "nulls": [{"title": None, "category": None}],
    "numbers": [{"title": 1, "category": 2}, {"title": 1.5, "category": 2.5}] * 9,
    "lists": [{"title": ["ring"], "category": ["Books"]}] * 9,
    "objects": [{"title": {"a": 1}, "category": {}}] * 9,
    "one row": [{"title": "ring", "category": "Books"}],
    "one class": [{"title": f"ring {n}", "category": "Books"} for n in range(50)],
    "one text": [{"title": "ring", "category": name} for name in CLASS_WORDS] * 20,
    "a class a row": [{"title": f"ring {n}", "category": f"c{n}"} for n in range(50)],
    "a huge field": [{"title": f"{n} " + "y" * 300_000, "category": "Books"} for n in range(6)],
    "a huge number": [{"title": "ring", "category": 10**400}] * 9,
    "infinity": [{"title": float("inf"), "category": float("nan")}] * 9,
    "half a pair": [{"title": "ring \ud800", "category": "Bo\udfffoks"}] * 9,
    "control": [{"title": f"\0\1\2 {n}", "category": "\t\n"} for n in range(9)],
}


@pytest.mark.parametrize("name", TABLE_ROWS)
def test_prepare_tables_of_wrong_content(sources, name):
    rows = TABLE_ROWS[name]
    (sources / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(sources, table_flags(sources, "rows.jsonl"))


PARQUET_COLUMNS = {
    "no text type": {"title": pa.array([b"\xff\xfe", b"a"]), "category": pa.array(["Books", "Shoes"])},
    "not UTF-8": {
        "title": pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"a"]).buffers()),
        "category": pa.array(["Books", "Shoes"]),
    },
    "a class not UTF-8": {
        "title": pa.array(["ring", "boot"]),
        "category": pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"a"]).buffers()),
    },
    "no rows": {"title": pa.array([], pa.string()), "category": pa.array([], pa.string())},
    "no columns": {},
    "nested": {"title": pa.array([{"a": 1}] * 2), "category": pa.array([[1], []])},
}


@pytest.mark.parametrize("name", PARQUET_COLUMNS)
def test_prepare_parquet_of_wrong_content(sources, name):
    pq.write_table(pa.table(PARQUET_COLUMNS[name]), sources / "rows.parquet")
    prepare(sources, table_flags(sources, "rows.parquet"))


PREPARE_FLAGS = [
    ["--val_size", "0"],
    ["--val_size", "nan"],
    ["--test_size", "1"],
    ["--test_size", "-0.1"],
    ["--val_size", "0.6", "--test_size", "0.6"],
    ["--val_size", "word"],
    ["--seed", "-1"],
    ["--seed", "1.5"],
    ["--workers", "0"],
    ["--workers", "-3"],
    ["--limit_members", "-1"],
    ["--limit_members", "1"],
    ["--classes", "7"],
    ["--classes", "none.txt"],
    ["--classes", ""],
    ["--classes", "."],
    ["--text_column", "none"],
    ["--label_column", "none"],
    ["--label_column", "title"],
    ["--text_column", ","],
    ["--language_column", "none"],
    ["--language_column", "title", "--add_language"],
    ["--group_column", "none"],
    ["--group_column", "category"],
    ["--full_split_name", "train"],
    ["--full_split_name", "../up"],
    ["--full_split_name", ""],
    ["--zip", "none.zip"],
    ["--labels", "none.tsv"],
    ["--unknown"],
]


@pytest.mark.parametrize("flags", PREPARE_FLAGS, ids=" ".join)
def test_prepare_flags(sources, flags):
    prepare(sources, [*table_flags(sources, "rows.csv"), *flags])


def test_prepare_leaves_what_is_at_out(sources, tmp_path):
    """A file, another dataset, a foreign folder beside it, a folder that cannot be."""
    flags = table_flags(sources, "rows.csv")
    for number, make in enumerate((Path.touch, lambda path: (path.mkdir(), (path / "a").touch()))):
        out = tmp_path / f"out{number}"
        make(out)
        assert_refused(run_main(prepare_lspc.main, *flags, "--out", out))
        assert out.is_file() or [path.name for path in out.iterdir()] == ["a"]
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "mine").touch()
    assert_refused(run_main(prepare_lspc.main, *flags, "--out", tmp_path / "new"))
    assert (tmp_path / "new.partial" / "mine").exists()
    assert_refused(run_main(prepare_lspc.main, *flags, "--out", sources / "rows.csv" / "out"))
    assert_refused(run_main(prepare_lspc.main, *flags, "--out", tmp_path / ("x" * 300)))


# ---------------------------------------------------------------- the trainer


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("small") / "data", train=40, other=12)


@pytest.fixture
def data(small_data, tmp_path) -> Path:
    return shutil.copytree(small_data, tmp_path / "data")


SIZE = "--hidden_size 192 --num_layers 1 --batch_size 16 --seq_len 16 --max_steps 1 --device cpu".split()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_data, tiny_tokenizer) -> Path:
    """A finished run of one step; its dataset then has its token cache."""
    out = tmp_path_factory.mktemp("small") / "run"
    result = run_main(train_embedding_classifier.main, *train_flags(small_data, tiny_tokenizer), "--out", out)
    assert result.returncode == 0, result.stderr
    return out


def train_flags(data: Path, tokenizer: Path) -> list[object]:
    return ["--data", data, "--tokenizer", tokenizer, *SIZE]


def train(
    data: Path, tokenizer: Path, *flags: object, main: Callable[[], None] = train_embedding_classifier.main
) -> bool:
    """Run it; a refusal leaves no folder OUT, no half token cache, and the dataset as it was."""
    out, before = data.parent / "out", snapshot(data)
    done = assert_sound(run_main(main, *train_flags(data, tokenizer), "--out", out, *flags))
    assert done == (out / "summary.json").exists() and (done or not out.exists())
    after = snapshot(data)
    assert not [name for name in after if "partial" in name]
    assert {name: after.get(name) for name in before} == before
    return done


ARROW = "data-00000-of-00001.arrow"
DATASET_FILES = [f"train/{ARROW}", "train/dataset_info.json", "train/state.json", "dataset_dict.json"]


@pytest.mark.parametrize(
    "name", [*DATASET_FILES, "validation", "test", f"test/{ARROW}", "validation/state.json"]
)
def test_train_datasets_with_a_file_missing(data, tiny_tokenizer, name):
    path = data / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not train(data, tiny_tokenizer)


def rewritten(data: Path, change: Callable) -> None:
    """Replace every split by what `change` makes of it."""
    splits = load_from_disk(data)
    for name in splits:
        splits[name] = change(splits[name])
    splits.save_to_disk(data.with_name("changed"))
    shutil.rmtree(data)
    data.with_name("changed").rename(data)


def with_column(name: str, values: Callable[[int], object], kind: str | None = None) -> Callable:
    """A change: that column holds `values(row)`, in the type named."""
    from datasets import Dataset, Value

    def change(split: Dataset) -> Dataset:
        features = split.features.copy()
        if kind:
            features[name] = Value(kind)
        columns = {other: split[other][:] for other in split.column_names}
        columns[name] = [values(row) for row in range(len(split))]
        return Dataset.from_dict(columns, features=features)

    return change


DATASET_CHANGES = {
    "null labels": (with_column("label", lambda n: None if n % 5 == 0 else 1), False),
    "negative labels": (with_column("label", lambda n: -1), False),
    "labels of one class": (with_column("label", lambda n: 1), True),
    "no class labels": (with_column("label", lambda n: n % 3, "int64"), False),
    "text labels": (with_column("label", lambda n: "Books", "string"), False),
    "no text": (lambda split: split.remove_columns("text"), False),
    "no label": (lambda split: split.remove_columns("label"), False),
    "no rows": (lambda split: split.select([]), False),
    "one row": (lambda split: split.select([0]), True),
    "null texts": (with_column("text", lambda n: None), True),
    "some null texts": (with_column("text", lambda n: None if n % 3 else "ring"), True),
    "empty texts": (with_column("text", lambda n: ""), True),
    "number texts": (with_column("text", lambda n: n, "int64"), False),
    "null clusters": (with_column("cluster", lambda n: None), False),
    "text clusters": (with_column("cluster", lambda n: f"c{n}", "string"), None),
    "null languages": (with_column("language", lambda n: None), True),
    "number languages": (with_column("language", lambda n: n, "int64"), None),
    "float labels": (with_column("label", lambda n: 0.5, "float64"), False),
    "huge texts": (with_column("text", lambda n: "ring " * 5_000), True),
}


@pytest.mark.parametrize("name", DATASET_CHANGES)
def test_train_datasets_of_wrong_content(data, tiny_tokenizer, name):
    change, good = DATASET_CHANGES[name]
    rewritten(data, change)
    done = train(data, tiny_tokenizer)
    assert good is None or done == good


def test_train_labels_outside_the_classes(data, tiny_tokenizer):
    """A dataset_info.json with fewer classes than the rows use, one with other names in one split."""
    for names in (["Books", "Jewelry"], ["Books", "Jewelry", "Boots"]):
        path = data / "train" / "dataset_info.json"
        info = json.loads(path.read_text())
        info["features"]["label"]["names"] = names
        path.write_text(json.dumps(info))
        assert not train(data, tiny_tokenizer)


TRAIN_FLAGS = [
    "--epochs 0", "--epochs -1", "--epochs x", "--max_steps 0", "--batch_size 0", "--batch_size 1e9",
    "--grad_accum 0", "--lr 0", "--lr -1", "--lr nan", "--lr inf", "--lr_schedule square",
    "--lr_warmup_steps -5", "--lr_min_scale -1", "--lr_min_scale nan", "--weight_decay -1",
    "--weight_decay nan", "--max_grad_norm -1", "--max_grad_norm nan", "--embedding_update none",
    "--embedding_dropout 1", "--token_dropout -0.1", "--token_dropout 1", "--max_drop_path 1.5",
    "--num_layers 0", "--hidden_size 64", "--seq_len 0", "--resume none.pt", "--resume .", "--save_every 0",
    "--save_every_steps -1", "--keep_last -1", "--log_every 0", "--max_bad_steps 0", "--amp_dtype int8",
    "--device tpu", "--device cuda:99", "--seed -1", "--seed x", "--lang_min_samples -1", "--lang_top_k -1",
    "--classifier_dropout 2", "--train_split none", "--tokenizer none/none/none", "--tokenizer .",
]  # fmt: skip


@pytest.mark.parametrize("flags", TRAIN_FLAGS)
def test_train_flags(data, tiny_tokenizer, flags):
    assert not train(data, tiny_tokenizer, *flags.split())


V3_FLAGS = [
    "--classifier_hidden 0", "--classifier_dropout 1", "--label_smoothing 1", "--label_smoothing -0.1",
    "--focal_gamma -1", "--focal_gamma nan", "--contrastive_dim 0", "--contrastive_weight -1",
    "--contrastive_weight inf", "--contrastive_temp 0", "--contrastive_temp nan",
    "--contrastive_positives all", "--language_alpha 2", "--language_alpha nan",
    "--language_weights de", "--language_weights de=0",
    "--language_weights de=nan", "--language_weights xx=1", "--finetune_languages de",
    "--finetune_languages not-xx --init none.pt", "--init none.pt", "--init .", "--kl_teacher none.pt",
    "--kl_teacher .", "--kl_weight -1", "--kl_weight nan",
]  # fmt: skip


@pytest.mark.parametrize("flags", V3_FLAGS)
def test_train_v3_flags(data, tiny_tokenizer, flags):
    assert not train(data, tiny_tokenizer, *flags.split(), main=train_embedding_classifier_v3.main)


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def without(*names: str) -> Callable[[dict], object]:
    def change(state: dict) -> dict:
        inside = state
        for name in names[:-1]:
            inside = inside[name]
        del inside[names[-1]]
        return state

    return change


def having(value: object, *names: str) -> Callable[[dict], object]:
    def change(state: dict) -> dict:
        inside = state
        for name in names[:-1]:
            inside = inside[name]
        inside[names[-1]] = value
        return state

    return change


def weights_as(change: Callable) -> Callable[[dict], object]:
    def apply(state: dict) -> dict:
        return {**state, "model": {name: change(weight) for name, weight in state["model"].items()}}

    return apply


# How a checkpoint's contents are changed; all of these can be read, none is to be used.
CONTENTS = {
    "a list": lambda state: [1, 2],
    "a tensor": lambda state: torch.zeros(3),
    "empty": lambda state: {},
    "no model": without("model"),
    "no progress": without("progress"),
    "progress is a number": having(3, "progress"),
    "model is a number": having(3, "model"),
    "another model": having("OtherClassifier", "progress", "model"),
    "a model name that is a list": having(["EmbeddingClassifier"], "progress", "model"),
    "other classes": having(["a", "b", "c"], "progress", "class_names"),
    "fewer classes": having(["Books", "Jewelry"], "progress", "class_names"),
    "no classes": without("progress", "class_names"),
    "a weight less": lambda state: {**state, "model": dict(list(state["model"].items())[1:])},
    "weights of another shape": weights_as(lambda weight: weight[:1]),
    "weights that are numbers": weights_as(lambda weight: 0.0),
    "weights that are not finite": weights_as(lambda weight: weight * float("nan")),
}
CONTENTS_TO_PREDICT = {
    "no settings": without("progress", "settings"),
    "no model settings": without("progress", "model_settings"),
    "negative temperature": having(-1.0, "progress", "temperature"),
    "temperature is no number": having("warm", "progress", "temperature"),
    "temperature is not finite": having(float("nan"), "progress", "temperature"),
    "zero length": having(0, "progress", "settings", "seq_len"),
    "no layer count": without("progress", "model_settings", "config", "num_layers"),
    "a billion layers": having(10**9, "progress", "model_settings", "config", "num_layers"),
    "a billion tokens": having(10**9, "progress", "model_settings", "config", "vocab_size"),
    "no heads": having(0, "progress", "model_settings", "config", "num_attention_heads"),
    "an unknown setting": having(1, "progress", "model_settings", "config", "unknown"),
}
CONTENTS_TO_RESUME = {
    "no optimizer": without("optimizer"),
    "no scheduler": without("scheduler"),
    "no scaler": without("scaler"),
    "no rng": without("rng"),
    "rng is a number": having(3, "rng"),
    "rng of wrong type": having([{"python": 1, "numpy": 2, "torch": 3, "cuda": []}], "rng"),
    "no step": without("progress", "step"),
    "step is no number": having("one", "progress", "step"),
    "no settings": without("progress", "settings"),
    "no fingerprint": without("progress", "data_fingerprint"),
    "optimizer is a number": having(3, "optimizer"),
    "optimizer of other groups": having([], "optimizer", "param_groups"),
    "batch is no number": having(None, "progress", "batch"),
}


def write_contents(source: Path, target: Path, change: Callable[[dict], object]) -> None:
    torch.save(change(torch.load(source, weights_only=True)), target)


def resume(data: Path, tokenizer: Path, checkpoint: Path) -> bool:
    """Go on from a checkpoint in a folder of its own; a refusal leaves that folder as it was."""
    out = checkpoint.parent
    before = snapshot(out)
    flags = [*train_flags(data, tokenizer), "--max_steps", 2, "--out", out, "--resume", checkpoint]
    done = assert_sound(run_main(train_embedding_classifier.main, *flags))
    assert done or snapshot(out) == before
    return done


@pytest.fixture
def copied_run(small_run, tmp_path) -> Path:
    """The folder of a run with only its last checkpoint, and that apart for a broken one."""
    (tmp_path / "run").mkdir()
    shutil.copy(small_run / "checkpoint-last.pt", tmp_path / "run" / "broken.pt")
    shutil.copytree(small_run / "tokenizer", tmp_path / "run" / "tokenizer")
    shutil.copy(small_run / "metrics.jsonl", tmp_path / "run")
    return tmp_path / "run"


def test_resume_from_the_unbroken_checkpoint_works(copied_run, small_data, tiny_tokenizer):
    assert resume(small_data, tiny_tokenizer, copied_run / "broken.pt")


@pytest.mark.parametrize("name", {**CONTENTS, **CONTENTS_TO_RESUME})
def test_resume_from_checkpoints_of_wrong_content(small_run, copied_run, small_data, tiny_tokenizer, name):
    change = {**CONTENTS, **CONTENTS_TO_RESUME}[name]
    write_contents(small_run / "checkpoint-last.pt", copied_run / "broken.pt", change)
    done = resume(small_data, tiny_tokenizer, copied_run / "broken.pt")
    assert not done


def hostile_files(folder: Path) -> Iterator[Path]:
    """Checkpoints that would run code: as torch writes them, as a bare pickle, inside a plain value."""
    for number, write in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        for where in ("itself", "inside"):
            value = Hostile(folder / "ran")
            path = folder / f"hostile-{number}-{where}.pt"
            write(value if where == "itself" else {"progress": {"model": value}, "model": {}}, path)
            yield path


def test_hostile_checkpoints_run_no_code(tmp_path, tiny_run):
    (tmp_path / "in.csv").write_text("text\nring\n")
    for path in hostile_files(tmp_path):
        assert not predict(tiny_run, tmp_path / "in.csv", "--checkpoint", path)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- predict_categories.py


def predict(run: Path, source: Path, *flags: object, output: str = "out.jsonl") -> bool:
    """Run it; a refusal leaves the older output, and nothing else."""
    target = source.parent / output
    target.write_text("older")
    before = snapshot(source.parent)
    fixed = ["--checkpoint", run / "best.pt", "--input", source, "--output", target, "--device", "cpu"]
    result = run_main(predict_categories.main, *fixed, *flags)
    done, after = assert_sound(result), snapshot(source.parent)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} <= ({output} if done else set())
    if done:
        lines = after[output].splitlines() if output.endswith(".jsonl") else []
        assert all("label" in json.loads(line) for line in lines) and len(after[output]) > 5
    return done


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("seed", range(12 * ROUNDS))
@pytest.mark.parametrize("name", TABLES)
def test_predict_tables_broken_after_the_first_chunk(
    raw, tiny_run, tmp_path, monkeypatch, name, seed, output
):
    monkeypatch.setattr(predict_categories, "CHUNK_ROWS", 50)
    shutil.copy(raw / name, tmp_path / name)
    break_file(tmp_path / name, seed)
    predict(tiny_run, tmp_path / name, "--text_column", "title", output=output)


@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("name", TABLE_ROWS)
def test_predict_tables_of_wrong_content(tiny_run, tmp_path, name, output):
    rows = "".join(json.dumps(row) + "\n" for row in TABLE_ROWS[name])
    (tmp_path / "rows.jsonl").write_text(rows)
    predict(tiny_run, tmp_path / "rows.jsonl", output=output)


@pytest.mark.parametrize("output", ["out.jsonl", "out.csv"])
@pytest.mark.parametrize("name", PARQUET_COLUMNS)
def test_predict_parquet_of_wrong_content(tiny_run, tmp_path, name, output):
    pq.write_table(pa.table(PARQUET_COLUMNS[name]), tmp_path / "rows.parquet")
    predict(tiny_run, tmp_path / "rows.parquet", "--text_column", "title", output=output)


@pytest.mark.parametrize("name", {**CONTENTS, **CONTENTS_TO_PREDICT})
def test_predict_with_checkpoints_of_wrong_content(raw, tiny_run, tmp_path, name):
    change = {**CONTENTS, **CONTENTS_TO_PREDICT}[name]
    write_contents(tiny_run / "best.pt", tmp_path / "best.pt", change)
    (tmp_path / "rows.csv").write_text("text\nring\n")
    done = predict(tmp_path, tmp_path / "rows.csv", "--tokenizer", tiny_run / "tokenizer")
    assert done == (name == "other classes")


PREDICT_FLAGS = [
    "--top_k 0", "--top_k x", "--abstain -1", "--abstain 2", "--abstain nan", "--batch_tokens 0",
    "--device tpu", "--text_column none", "--text_column ,", "--format csv", "--format xml",
    "--amp_dtype int8", "--unknown", "--tokenizer none/none/none", "--checkpoint none.pt", "--checkpoint .",
    "--input none.csv", "--input .", "--input rows", "--prefix", "--output none/out.csv", "--output out",
    "--output .", "--output out.parquet.gz",
]  # fmt: skip


@pytest.mark.parametrize("flags", PREDICT_FLAGS)
def test_predict_flags(tiny_run, tmp_path, flags):
    (tmp_path / "rows.csv").write_text("text\nring\n")
    done = predict(tiny_run, tmp_path / "rows.csv", *flags.split())
    assert done == (flags == "--text_column ,")


# ---------------------------------------------------------------- as a user starts them


def test_as_processes(raw, tiny_run, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'title,category\n"ring\n')
    flags = table_flags(tmp_path, "rows.csv")
    assert_refused(run_script(CATEGORY / "prepare_lspc.py", *flags, "--out", tmp_path / "out"), "quote")
    (tmp_path / "best.pt").write_bytes((tiny_run / "best.pt").read_bytes()[:-1000])
    files = ["--input", raw / "rows.csv", "--output", tmp_path / "out.csv"]
    result = run_script(CATEGORY / "predict_categories.py", "--checkpoint", tmp_path / "best.pt", *files)
    assert_refused(result, "best.pt")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.csv").exists()
