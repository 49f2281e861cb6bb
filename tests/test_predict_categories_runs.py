"""The prediction tool as a user runs it: rows and probabilities against a direct computation, every form in
and out, streams, signals, memory, and refusals that leave nothing behind.

    python -m pytest tests/test_predict_categories_runs.py
"""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import (
    CATEGORY,
    CLASS_WORDS,
    LANGUAGE_WORDS,
    assert_refused,
    make_texts,
    one_thread,
    run_main,
    run_script,
)

from category_classification import predict_categories, table_input
from category_classification.evaluation import load_classifier
from category_classification.lspc import tokenize
from category_classification.lspc_raw import clean_text

SCRIPT = CATEGORY / "predict_categories.py"
ADDED = ["label", "probability", "label_2", "probability_2", "label_3", "probability_3"]


def call(run: Path, source: object, output: object, *flags: object) -> subprocess.CompletedProcess:
    args = "--checkpoint", run / "best.pt", "--input", source, "--output", output, "--device", "cpu", *flags
    return run_main(predict_categories.main, *args)


def predict(run: Path, source: object, output: object, *flags: object) -> subprocess.CompletedProcess:
    result = call(run, source, output, *flags)
    assert result.returncode == 0, result.stderr
    return result


def make_rows(count: int = 60) -> list[dict[str, str]]:
    """Rows of three strings; some texts are dirty, empty or long."""
    texts = make_texts(count, seed=3)[0]
    texts[3], texts[7], texts[11] = "", "ring &amp;amp; <b>silver</b> \n\t chain&nbsp;", "leather boot " * 80
    texts[13], texts[17] = " \t ", '新しい "ring", silver'
    return [{"id": f"{n:03d}", "text": text, "note": f"n,{n}"} for n, text in enumerate(texts)]


def write_table(path: Path, rows: list[dict]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w", newline="")
    with opened as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_table(path: Path) -> list[dict]:
    """Rows with numbers as floats and null as None in the added columns."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(newline="") as file:
        if name.endswith(".jsonl"):
            return [json.loads(line) for line in file]
        rows = list(csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ","))
    for row in rows:
        for column in ADDED:
            row[column] = row[column] or None
            if row[column] and column.startswith("probability"):
                row[column] = float(row[column])
    return rows


@pytest.fixture(scope="module")
def expected(tiny_run):
    """The same rows with what the model says to each text by itself, in float32."""
    classifier = load_classifier(tiny_run / "best.pt", torch.device("cpu"))
    rows = make_rows()
    for row in rows:
        row |= dict.fromkeys(ADDED)
        if text := clean_text(row["text"]):
            ids = torch.tensor(tokenize(classifier.tokenizer, [text], classifier.seq_len))
            with torch.inference_mode():
                logits = classifier.model(ids, torch.ones_like(ids))[0].double()
            chances = (logits / classifier.temperature).softmax(0)
            for rank, number in enumerate(chances.argsort(descending=True).tolist()):
                row[ADDED[2 * rank]] = classifier.class_names[number]
                row[ADDED[2 * rank + 1]] = chances[number].item()
    return rows


def assert_same(found: list[dict], expected: list[dict], tolerance: float = 2e-6) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert list(row) == list(wanted)
        for name, value in wanted.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, abs=tolerance), (row, wanted)
            else:
                assert row[name] == value, (row, wanted)


# ---------------------------------------------------------------- rows and forms


@pytest.mark.parametrize("source", ["in.csv", "in.tsv.gz", "in.jsonl", "in.jsonl.gz", "in.parquet"])
@pytest.mark.parametrize("output", ["out.csv.gz", "out.tsv", "out.jsonl", "out.parquet"])
def test_every_form_in_and_out(tiny_run, expected, tmp_path, monkeypatch, source, output):
    monkeypatch.setattr(predict_categories, "CHUNK_ROWS", 17)
    path = write_table(tmp_path / source, make_rows())
    result = predict(tiny_run, path, tmp_path / output, "--no-amp")
    assert_same(read_table(tmp_path / output), expected)
    assert result.stdout == "" and "60 rows in" in result.stderr and "2 without text" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source, output])


@pytest.mark.parametrize("flags", [["--batch_tokens", 1], ["--batch_tokens", 10**6]])
def test_batching_changes_nothing(tiny_run, expected, tmp_path, flags):
    predict(tiny_run, write_table(tmp_path / "in.csv", make_rows()), tmp_path / "out.csv", "--no-amp", *flags)
    assert_same(read_table(tmp_path / "out.csv"), expected)


def test_half_precision_agrees(tiny_run, expected, tmp_path):
    predict(tiny_run, write_table(tmp_path / "in.csv", make_rows()), tmp_path / "out.csv", "--amp")
    found = read_table(tmp_path / "out.csv")
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b["label"]]
    differences = [abs(a["probability"] - b["probability"]) for a, b in pairs]
    assert max(differences) < 0.05 and np.mean(differences) > 0
    assert sum(a["label"] != b["label"] for a, b in pairs) <= 1


def test_json_lines_keep_their_bytes(tiny_run, tmp_path):
    lines = [
        b'{"text": "silver ring", "n": 1.10, "big": 123456789012345678901234567890, "d": 0.1234567890123456}',
        b' {"text":"novel","text":"leather boot", "x": [1e400, NaN, "\\ud800"]}  ',
        b"{}",
        b'{ "title" : null }',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    predict(tiny_run, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--top_k", 1)
    found = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert found[0].startswith(lines[0][:-1] + b', "label": "Jewelry", "probability": 0.')
    assert found[1].startswith(lines[1].strip()[:-1] + b', "label": "Shoes", "probability": 0.')
    assert found[2] == b'{"label": null, "probability": null}'
    assert found[3] == b'{"title" : null, "label": null, "probability": null}'


def test_parquet_keeps_types_and_metadata(tiny_run, tmp_path):
    columns = {
        "text": pa.array(["silver ring", None, "leather boot"], pa.large_string()),
        "when": pa.array([datetime(2020, 1, 2, 3, 4, 5)] * 3, pa.timestamp("ms", "UTC")),
        "small": pa.array([1, None, 3], pa.int8()),
        "list": pa.array([["a"], [], None], pa.list_(pa.string())),
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "bytes": pa.array([b"\xff", b"a", None]),
        "nan": pa.array([float("nan"), 1.5, None]),
    }
    table = pa.table(columns).replace_schema_metadata({"who": "me"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    predict(tiny_run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == [*columns, *ADDED]
    for name in columns:
        assert found.schema.field(name).type == pq.read_schema(tmp_path / "in.parquet").field(name).type
        assert name == "nan" or found[name].to_pylist() == table[name].to_pylist()
    assert found.schema.metadata[b"who"] == b"me"
    assert found["label"].to_pylist() == ["Jewelry", None, "Shoes"]

    predict(tiny_run, tmp_path / "in.parquet", tmp_path / "out.jsonl", "--top_k", 1)
    row = read_table(tmp_path / "out.jsonl")[0]
    assert row["when"] == "2020-01-02 03:04:05+00:00" and row["list"] == ["a"] and row["nan"] is None
    assert row["bytes"] == "\\xff"
    predict(tiny_run, tmp_path / "in.parquet", tmp_path / "out.csv", "--top_k", 1)
    with (tmp_path / "out.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["list"] == '["a"]' and row["small"] == "1" and row["bytes"] == "\\xff"


def test_json_lines_of_unequal_keys_become_a_table(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_categories, "CHUNK_ROWS", 2)
    rows = [{"text": "ring"}, {"a": True}, {"text": "boot", "a": None, "b": {"c": [1]}}, {"n": 1}, {"n": 2.5}]
    path = write_table(tmp_path / "in.jsonl", rows)
    predict(tiny_run, path, tmp_path / "out.csv", "--top_k", 1)
    with (tmp_path / "out.csv").open() as file:
        found = list(csv.reader(file))
    assert found[0] == ["text", "a", "b", "n", "label", "probability"]
    assert found[1][:4] == ["ring", "", "", ""] and found[2][:4] == ["", "true", "", ""]
    assert found[3][:4] == ["boot", "", '{"c": [1]}', ""]
    predict(tiny_run, path, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["n"].to_pylist() == [None, None, None, 1.0, 2.5]
    assert table["b"].to_pylist()[2] == {"c": [1]}
    write_table(path, [*rows, {"n": "text"}])
    assert_refused(call(tiny_run, path, tmp_path / "new.parquet"), "do not fit parquet", ".jsonl")
    path.write_text('{"text": "half a pair \\ud800"}\n')
    assert_refused(call(tiny_run, path, tmp_path / "new.csv"), "do not fit csv", ".jsonl")
    assert not list(tmp_path.glob("*new*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_carriage_return_in_a_field_stays_in_it(tiny_run, tmp_path, form):
    table, columns = tmp_path / f"in.{form}", ["title", "note"]
    rows = [["a leather boot heel", "a\rb"], ["novel, paperback", "x"]]
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter="," if form == "csv" else "\t", quoting=csv.QUOTE_ALL).writerows(
            [columns, *rows]
        )
    predict(tiny_run, table, tmp_path / f"out.{form}", "--text_column", "title")
    with (tmp_path / f"out.{form}").open(newline="") as file:
        found = list(csv.reader(file, delimiter="," if form == "csv" else "\t"))
    assert [row[:2] for row in found] == [columns, *rows]


def test_text_columns(tiny_run, tmp_path):
    rows = [{"title": "new", "description": "silver ring"}, {"title": "silver ring", "description": ""}]
    path = write_table(tmp_path / "in.csv", rows)

    def labels(*flags):
        predict(tiny_run, path, tmp_path / "out.csv", *flags)
        return [(row["label"], row["probability"]) for row in read_table(tmp_path / "out.csv")]

    both = labels()
    assert both == labels("--text_column", "title,description")
    assert both == labels("--text_column", "title", "--text_column", "description")
    assert labels("--text_column", "description")[1] == (None, None)
    assert both != labels("--text_column", "title")


def test_top_k_prefix_and_abstaining(tiny_run, tmp_path):
    path = write_table(
        tmp_path / "in.csv", [{"text": "ring", "label": "x"}, {"text": "boot novel", "label": ""}]
    )
    assert_refused(call(tiny_run, path, tmp_path / "out.csv"), "'label'", "--prefix predicted_")
    result = predict(tiny_run, path, tmp_path / "out.jsonl", "--prefix", "p_", "--top_k", 99, "--abstain", 1)
    found = read_table(tmp_path / "out.jsonl")
    assert list(found[0]) == ["text", "label", *(f"p_{name}" for name in ADDED)]
    for row in found:
        assert row["p_label"] is None and 0 < row["p_probability"] < 1 and row["p_label_2"]
        assert sum(row[f"p_probability{n}"] for n in ("", "_2", "_3")) == pytest.approx(1, abs=3e-6)
    assert "2 below --abstain 1" in result.stderr
    rows = [{"text": "ring"}] * 30 + [{"text": "ring", "label": 1}]
    path = write_table(tmp_path / "late.jsonl", rows)
    assert_refused(call(tiny_run, path, tmp_path / "late_out.jsonl"), "'label'", "--prefix")


def test_language_bias_moves_the_probabilities_of_its_language(tiny_run, tmp_path):
    """A bias of +50 for one class in German: German texts get that class, the others stay as they were."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    state = torch.load(run / "best.pt", weights_only=True)
    assert set(state["progress"]["language_bias"]) <= set(LANGUAGE_WORDS)
    state["progress"]["language_bias"] = {"de": [0.0, 50.0, 0.0]}
    torch.save(state, run / "best.pt")
    texts = [
        "der neue Roman mit vielen Seiten für den Winter",
        "the new novel with many pages for the winter",
    ]
    source = write_table(tmp_path / "in.csv", [{"text": text} for text in texts])
    predict(run, source, tmp_path / "plain.csv")
    predict(run, source, tmp_path / "biased.csv", "--language_bias")
    plain, biased = (read_table(tmp_path / f"{name}.csv") for name in ("plain", "biased"))
    assert biased[0]["label"] == sorted(CLASS_WORDS)[1] and float(biased[0]["probability"]) > 0.999
    assert biased[1] == plain[1]


def test_language_bias_needs_a_checkpoint_that_holds_one(tiny_run, tmp_path):
    source = write_table(tmp_path / "in.csv", [{"text": "ring"}])
    flags = ["--checkpoint", tiny_run / "checkpoint-last.pt", "--language_bias"]
    assert_refused(call(tiny_run, source, tmp_path / "out.csv", *flags), "no language bias")


def test_a_checkpoint_without_temperature_says_so(tiny_run, tmp_path):
    path = write_table(tmp_path / "in.csv", [{"text": "ring"}])
    result = call(tiny_run, path, tmp_path / "out.csv", "--checkpoint", tiny_run / "checkpoint-last.pt")
    assert result.returncode == 0 and "no fitted temperature" in result.stderr


# ---------------------------------------------------------------- streams and signals


def command(run: Path, *flags: object) -> list[str]:
    fixed = ["--checkpoint", str(run / "best.pt"), "--device", "cpu"]
    return [sys.executable, str(SCRIPT), *fixed, *map(str, flags)]


def start(run: Path, *flags: object, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(command(run, *flags), env=one_thread(), stderr=subprocess.PIPE, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_standard_input_to_standard_output(tiny_run, expected, tmp_path, form):
    path = write_table(tmp_path / f"in.{form}", make_rows())
    flags = ["--input", "-", "--output", "-", "--format", form, "--no-amp"]
    process = start(tiny_run, *flags, stdin=path.open("rb"), stdout=(tmp_path / f"out.{form}").open("wb"))
    assert process.communicate()[1].count(b"\n") == 1 and process.returncode == 0
    assert_same(read_table(tmp_path / f"out.{form}"), expected)


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(tiny_run, tmp_path):
    rows = [{"text": "ring", "note": "x" * 1000}] * 300
    path = write_table(tmp_path / "in.csv", rows)
    process = start(tiny_run, "--input", path, "--output", "-", stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"text,note,label")
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_signal_leaves_nothing_behind(tiny_run, tmp_path, number, status, waiting):
    """While it waits for input, and in the middle of a table."""
    output = tmp_path / "out.csv"
    output.write_text("older")
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "silver ring\n" * 60_000)
    flags = ["--input", "-" if waiting else source, "--output", output, *["--format", "csv"] * waiting]
    process = start(tiny_run, *flags, stdin=subprocess.PIPE)
    while process.poll() is None:
        if catches_sigterm(process.pid) if waiting else (tmp_path / ".out.csv.tmp").exists():
            break
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(60) == status
    assert process.stderr.read() == b""
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}
    assert output.read_text() == "older"


def catches_sigterm(pid: int) -> bool:
    """Whether the process has come so far as to have its own handlers."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


PEAK = """
import re, sys
from category_classification import predict_categories
predict_categories.CHUNK_ROWS = 2000
sys.argv = sys.argv[1:]
predict_categories.run_script(predict_categories.main)
# not ru_maxrss: Linux hands the parent's peak on to a child
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("forms", ["csv jsonl.gz", "jsonl csv", "parquet parquet"])
def test_memory_does_not_grow_with_the_file(tiny_run, tmp_path, forms):
    """4,000 rows against 40,000, of 3 KB each; the larger file has 120 MB, in Parquet in one row group.

    In float32: bfloat16 kernels are made and kept for each shape of batch, until all shapes have been met.
    """
    peaks, (source, output) = [], forms.split()
    for count in (4_000, 40_000):
        texts = make_texts(count, seed=1)[0]
        notes = np.random.default_rng(0).bytes(1500 * count).hex()
        rows = [{"text": text, "note": notes[3000 * n : 3000 * (n + 1)]} for n, text in enumerate(texts)]
        path = write_table(tmp_path / f"{count}.{source}", rows)
        arguments = command(tiny_run, "--input", path, "--output", tmp_path / f"out.{output}", "--no-amp")
        arguments[1:1] = ["-c", PEAK]
        result = subprocess.run(arguments, capture_output=True, text=True, env=one_thread())
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout))
    assert peaks[1] < peaks[0] + 60, peaks  # of 108 MB more


def test_long_rows_make_small_chunks(tiny_run, tmp_path, monkeypatch):
    """A chunk ends at its bytes, in Parquet at the rows that hold as many on average."""
    monkeypatch.setattr(predict_categories, "CHUNK_BYTES", 50_000)
    sizes = []
    read = table_input.read_table_batches

    def note_sizes(*args, **kwargs):
        for batch in read(*args, **kwargs):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(predict_categories, "read_table_batches", note_sizes)
    generator = np.random.default_rng(0)
    rows = [{"text": f"ring {generator.bytes(5000).hex()}"} for _ in range(30)]
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        sizes.clear()
        predict(tiny_run, write_table(tmp_path / name, rows), tmp_path / f"out-{name}")
        assert sum(sizes) == 30 and max(sizes) <= 5
        assert len(read_table(tmp_path / f"out-{name}")) == 30


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, ["no such file"]),
        ("in.xlsx", b"PK", [".csv"]),
        ("in.csv", b"", ["empty"]),
        ("in.csv", b"text,note\n", ["holds no row"]),
        ("in.csv", b"name,note\na,b\n", ["'text'", "--text_column", "'name'", "'note'"]),
        ("in.csv", b"text\nring\n" + b"a,b\n", ["line 3", "2 fields"]),
        ("in.csv", b"text\nring\n\xff\xfe\n", ["line 3", "UTF-8"]),
        ("in.csv", b'text\nring\n"open\n', ["quote"]),
        ("in.csv", b"text,text\na,b\n", ["2 columns", "'text'"]),
        ("in.csv.gz", gzip.compress(b"text\n" + os.urandom(5000).hex().encode())[:900], ["damaged gzip"]),
        ("in.jsonl", b'{"text": "ring"}\n{"text": \n', ["line 2", "bad_json"]),
        ("in.jsonl", b'{"text": "ring"}\n[1]\n', ["line 2", "not_object"]),
        ("in.jsonl", b"\n\n", ["holds no row"]),
        ("in.parquet", b"PAR1 and no more", ["not a whole Parquet file"]),
    ],
)
def test_bad_tables_are_refused(tiny_run, tmp_path, monkeypatch, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(predict_categories, "CHUNK_ROWS", 1)  # the bad row comes after rows that were written
    before = sorted(tmp_path.iterdir())
    for output in ("out.csv", "out.parquet"):
        assert_refused(call(tiny_run, tmp_path / name, tmp_path / output), *words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_last_row_leaves_the_older_output(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_categories, "CHUNK_ROWS", 5)
    path = write_table(tmp_path / "in.jsonl", make_rows())
    with path.open("ab") as file:
        file.write(b'{"text"\n')
    (tmp_path / "out.jsonl").write_text("older")
    assert_refused(call(tiny_run, path, tmp_path / "out.jsonl"), "line 61")
    assert (tmp_path / "out.jsonl").read_text() == "older" and len(list(tmp_path.iterdir())) == 2


def test_bad_outputs_and_flags_are_refused(tiny_run, tmp_path):
    path = write_table(tmp_path / "in.csv", make_rows())
    before = path.read_bytes()
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "folder.csv").mkdir()

    def refused(output, *flags, words):
        assert_refused(call(tiny_run, path, output, *flags), *words)

    refused(path, words=["is the input"])
    refused(tmp_path / "link.csv", words=["is the input"])
    refused(tmp_path / "none" / "out.csv", words=["there is no folder"])
    refused(tmp_path / "folder.csv", words=["no ordinary file"])
    refused("/dev/null", words=["cannot tell the form"])
    refused(tmp_path / "out.txt", words=["cannot tell the form"])
    refused(tmp_path / "out.parquet.gz", words=["leave out .gz"])
    refused(tmp_path / ("x" * 300 + ".csv"), words=["File name too long"])
    refused(tmp_path / "out.csv", "--abstain", 1.5, words=["--abstain"])
    refused(tmp_path / "out.csv", "--abstain", "nan", words=["--abstain"])
    refused(tmp_path / "out.csv", "--top_k", 0, words=["--top_k"])
    refused(tmp_path / "out.csv", "--format", "csv", words=["--format"])
    refused(tmp_path / "out.csv", "--device", "cuda", words=["--device"])
    refused(tmp_path / "out.csv", "--text_column", "none", words=["'none'", "'note'"])
    refused(tmp_path / "out.csv", "--tokenizer", tmp_path, words=["--tokenizer"])
    refused(tmp_path / "out.csv", "--checkpoint", tmp_path / "none.pt", words=["no such checkpoint"])
    refused(tmp_path / "out.csv", "--checkpoint", path, words=["checkpoint is damaged"])
    assert_refused(call(tiny_run, "-", tmp_path / "out.csv"), "--format")
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"in.csv", "link.csv", "folder.csv"}


def test_an_output_link_is_followed(tiny_run, tmp_path):
    (tmp_path / "real.csv").write_text("older")
    (tmp_path / "link.csv").symlink_to("real.csv")
    predict(tiny_run, write_table(tmp_path / "in.csv", make_rows()), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink() and len(read_table(tmp_path / "real.csv")) == 60


@pytest.mark.slow
def test_a_full_disk_keeps_the_older_output(tiny_run, tmp_path):
    write_table(tmp_path / "in.csv", [{"text": "ring", "note": "x" * 100_000}] * 10)
    (tmp_path / "out.csv").write_text("older")
    flags = ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv"]
    shell = f"ulimit -f 100; exec {' '.join(command(tiny_run, *flags))}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert result.returncode == 2 and "cannot write" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and (tmp_path / "out.csv").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_from_another_folder(tiny_run, tmp_path):
    """Relative paths, and an output beside the place of the call."""
    write_table(tmp_path / "in.csv", make_rows())
    result = run_script(
        SCRIPT, "--checkpoint", tiny_run / "best.pt", *"--input in.csv --output out.csv".split(), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert len(read_table(tmp_path / "out.csv")) == 60
