"""prepare_data.py of the classification study: every form of input, the golden counts, and bad input."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_refused, run_main, run_script
from tiny_experiments import (
    CLASSIFICATION,
    TOPICS,
    as_dump,
    as_hub,
    make_documents,
    make_tokenizer,
    write_jsonl,
    write_zip,
)

from experiments.classification import prepare_data
from experiments.classification.documents import Unusable, parse_document
from experiments.tokenization import load_tokenizer
from training_utils import InputError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture
def prepare(tmp_path, tokenizer):
    """Runs the script on an input; returns its result and the folder it was to write."""

    def run(source: object, *arguments: object, out: str = "out"):
        folder = tmp_path / out
        base = ["--input", source, "--out", folder, "--tokenizer", tokenizer]
        return run_main(prepare_data.main, *base, *arguments), folder

    return run


def metadata(folder: Path) -> dict:
    return json.loads((folder / "metadata.json").read_text())


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted(folder.glob("*.npy"))}


def test_the_zip_of_documents(tmp_path, prepare, tokenizer):
    splits = make_documents()
    result, folder = prepare(write_zip(tmp_path / "EURLEX57K.zip", splits), "--allow_partial")
    assert result.returncode == 0, result.stderr
    label_map = json.loads((folder / "label_map.json").read_text())
    assert label_map == {"3": 0, "20": 1, "100": 2, "1000": 3, "2999": 4, "c_82916123": 5}
    assert json.loads((folder / "descriptors.json").read_text())["3"] == "bank"
    found = metadata(folder)
    assert {name: split["documents"] for name, split in found["splits"].items()} == {
        "train": 60, "validation": 20, "test": 20,
    }  # fmt: skip
    assert found["left_out"] == {} and not found["complete"]
    data = arrays(folder)
    backend = load_tokenizer(str(tokenizer)).backend
    for number, document in enumerate(sorted(splits["dev"], key=lambda d: d["celex_id"])):
        start, end = data["validation.label_offsets.npy"][number : number + 2]
        labels = data["validation.labels.npy"][start:end].tolist()
        assert labels == sorted(label_map[label] for label in document["concepts"])
        start, end = data["validation.offsets.npy"][number : number + 2]
        ids = data["validation.tokens.npy"][start:end].tolist()
        text = "\n".join([document["header"], document["recitals"], *document["main_body"]])
        assert ids == backend.encode(text, add_special_tokens=True).ids
        assert ids[0] == 0 and ids[-1] == 2  # <s> ... </s>


def test_all_forms_give_the_same_arrays(tmp_path, prepare):
    splits = make_documents()
    forms = {"zip": write_zip(tmp_path / "a.zip", splits)}
    forms["folder"] = tmp_path / "unpacked"
    with zipfile.ZipFile(forms["zip"]) as archive:
        archive.extractall(forms["folder"])
    forms["jsonl"] = write_jsonl(tmp_path / "own_names", splits)
    forms["dump"] = write_jsonl(tmp_path / "dump", {s: [as_dump(d) for d in ds] for s, ds in splits.items()})
    forms["hub"] = write_jsonl(tmp_path / "hub", {s: [as_hub(d) for d in ds] for s, ds in splits.items()})
    import pandas as pd

    (tmp_path / "parquet").mkdir()
    for split, documents in splits.items():
        frame = pd.DataFrame([as_hub(document) for document in documents])
        frame.to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet")
    forms["parquet"] = tmp_path / "parquet"
    one = [as_dump(d) | {"split": split} for split, documents in splits.items() for d in documents]
    forms["one_file"] = write_jsonl(tmp_path / "one", {"all": one}) / "all.jsonl"
    found = {}
    for name, source in forms.items():
        result, folder = prepare(source, "--allow_partial", out=f"out-{name}")
        assert result.returncode == 0, (name, result.stderr)
        found[name] = metadata(folder)["fingerprint"], arrays(folder)
    for name, (fingerprint, data) in found.items():
        assert fingerprint == found["zip"][0], name
        for part, array in data.items():
            np.testing.assert_array_equal(array, found["zip"][1][part], err_msg=f"{name} {part}")


def test_a_file_without_splits_is_split_by_id(tmp_path, prepare):
    documents = [as_dump(d) for d in make_documents({"train": 300})["train"]]
    source = write_jsonl(tmp_path / "one", {"documents": documents}) / "documents.jsonl"
    counts = []
    for name, lines in (("a", documents), ("b", documents[::-1])):
        source.write_text("".join(json.dumps(d) + "\n" for d in lines))
        result, folder = prepare(source, "--allow_partial", out=name)
        assert result.returncode == 0, result.stderr
        counts.append(
            {s: sorted(open(folder / f"{s}.jsonl").readlines()) for s in ("train", "validation", "test")}
        )
    assert counts[0] == counts[1]  # a document's split does not depend on the others
    assert 200 < len(counts[0]["train"]) < 280 and len(counts[0]["test"]) > 10


def test_a_set_of_other_counts_is_refused(tmp_path, prepare):
    result, folder = prepare(write_zip(tmp_path / "a.zip", make_documents()))
    assert_refused(result, "split train holds 60 documents", "45,000", "cut short", "--allow_partial")
    assert not folder.exists()


def test_a_missing_split_is_refused_in_any_case(tmp_path, prepare):
    splits = make_documents()
    del splits["dev"]
    result, _ = prepare(write_zip(tmp_path / "a.zip", splits), "--allow_partial")
    assert_refused(result, "split validation holds no document", "cut short")


def test_a_cut_zip_is_refused(tmp_path, prepare):
    whole = write_zip(tmp_path / "a.zip", make_documents()).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[: len(whole) // 2])
    assert_refused(prepare(tmp_path / "b.zip", "--allow_partial")[0], "b.zip", "not a whole zip")


def test_a_hundred_labels_are_not_4271(monkeypatch, tmp_path, prepare):
    """LexGLUE's set: by its fields, and by its count where someone has converted it."""
    rows = [{"text": "a text", "labels": [3, 17]} for _ in range(5)]
    source = write_jsonl(tmp_path / "lex_glue", {"train": rows, "validation": rows, "test": rows})
    assert_refused(prepare(source, "--allow_partial")[0], "train.jsonl, line 1", "100 labels", "4,271")
    documents = make_documents()
    for number, document in enumerate(documents["train"]):
        document["concepts"] = [str(n) for n in (2 * number % 100, (2 * number + 1) % 100)]
    for document in (*documents["dev"], *documents["test"]):
        document["concepts"] = ["0"]
    monkeypatch.setattr(prepare_data, "EURLEX57K", {"train": 60, "validation": 20, "test": 20})
    result, _ = prepare(write_jsonl(tmp_path / "converted", documents))
    assert_refused(result, "100 labels, EURLEX57K has 4,271", "LexGLUE")


def test_multi_eurlex_is_refused(tmp_path, prepare):
    row = {"celex_id": "1", "text": "x", "eurovoc_concepts": {"level_1": ["100"], "level_2": ["3"]}}
    source = write_jsonl(tmp_path / "m", {s: [row] for s in ("train", "dev", "test")})
    assert_refused(prepare(source, "--allow_partial")[0], "MultiEURLEX", "line 1")


def broken(kind: str) -> dict[str, list[dict]]:
    splits = make_documents()
    document = splits["dev"][7]
    if kind == "empty":
        document |= {"header": "", "recitals": None, "main_body": [" ", "\n"]}
    if kind == "unlabelled":
        document["concepts"] = []
    if kind == "unknown":
        document["concepts"] = ["100", "424242"]
    if kind == "twice":
        document["celex_id"] = splits["train"][3]["celex_id"]
    return splits


BAD = {
    "empty": ("is empty",),
    "unlabelled": ("has no label",),
    "unknown": ("unknown label id", "424242"),
    "twice": ("is there twice",),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_document_that_cannot_be_used(tmp_path, prepare, kind):
    source = write_zip(tmp_path / "a.zip", broken(kind))
    result, folder = prepare(source)
    assert_refused(result, "a.zip/dataset/dev/", ".json", *BAD[kind], "--allow_partial")
    assert not folder.exists()
    result, folder = prepare(source, "--allow_partial")
    assert result.returncode == 0, result.stderr
    assert metadata(folder)["splits"]["validation"]["documents"] == 19
    assert sum(metadata(folder)["left_out"].values()) == 1
    assert "left out: 1 x" in result.stdout


def test_broken_json(tmp_path, prepare):
    source = write_jsonl(tmp_path / "dump", make_documents())
    lines = (source / "test.jsonl").read_text().splitlines(keepends=True)
    lines[4] = lines[4][:100] + "\n"
    (source / "test.jsonl").write_text("".join(lines))
    assert_refused(prepare(source)[0], "test.jsonl, line 5", "broken JSON")
    result, folder = prepare(source, "--allow_partial")
    assert result.returncode == 0 and metadata(folder)["left_out"] == {"broken JSON": 1}


def test_a_label_file_that_does_not_match(tmp_path, prepare):
    source = write_jsonl(tmp_path / "dump", make_documents())
    other = tmp_path / "labels.json"
    other.write_text(json.dumps({str(n): f"level 2, {n}" for n in range(5000, 5100)}))
    for arguments in ((), ("--allow_partial",)):
        result, folder = prepare(source, "--label_file", other, *arguments)
        assert_refused(result, "label file")
        assert not folder.exists()
    assert_refused(
        prepare(source, "--label_file", other, "--allow_partial")[0], "does not match", "labels.json"
    )
    other.write_text("[1, 2]")
    assert_refused(prepare(source, "--label_file", other)[0], "not a label file")
    assert_refused(prepare(source, "--label_file", tmp_path / "none.json")[0], "no such file")


def test_label_files_as_lines_and_as_plain_names(tmp_path, prepare):
    splits = make_documents()
    source = write_jsonl(tmp_path / "dump", splits)
    lines = [json.dumps({"id": label, "title": words}) for label, words in TOPICS.items()]
    (source / "eurovoc_concepts.jsonl").write_text("\n".join(lines))
    result, folder = prepare(source, "--allow_partial")
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "descriptors.json").read_text()) == {
        label: TOPICS[label] for label in ("3", "20", "100", "1000", "2999", "c_82916123")
    }


def test_other_bad_arguments(tmp_path, prepare):
    assert_refused(prepare(tmp_path / "none.zip")[0], "no such file")
    assert_refused(prepare("nobody/nothing")[0], "--input nobody/nothing", "hub")
    (tmp_path / "empty").mkdir()
    assert_refused(prepare(tmp_path / "empty")[0], "no documents")
    source = write_jsonl(tmp_path / "dump", make_documents())
    assert_refused(prepare(source, "--parts", "header,footer")[0], "footer")
    result = run_main(
        prepare_data.main,
        "--input",
        source,
        "--allow_partial",
        "--out",
        tmp_path / "o",
        "--tokenizer",
        "no/such",
    )
    assert_refused(result, "--tokenizer no/such")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    assert_refused(prepare(source, "--allow_partial", out="mine")[0], "holds something else")
    assert (tmp_path / "mine/thesis.txt").exists()


def test_the_label_order():
    labels = ["c_2", "100", "20", "3", "08133", "8133", "c_10"]
    assert sorted(labels, key=prepare_data.label_order) == ["3", "20", "100", "08133", "8133", "c_10", "c_2"]


def test_parsing_a_document():
    with pytest.raises(Unusable, match="celex_id"):
        parse_document({"concepts": ["1"], "text": "x"}, "here", ("header",))
    with pytest.raises(Unusable, match="text is list"):
        parse_document({"concepts": ["1"], "text": ["x"], "celex_id": "a"}, "here", ("header",))
    with pytest.raises(InputError, match="here"):
        parse_document({"labels": [3], "text": "x"}, "here", ("header",))
    found = parse_document({"concepts": [7, "7", " 8 "], "text": "x", "celex_id": "a"}, "here", ())
    assert found.labels == ("7", "8")


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_rows(real_data, tmp_path):
    """The counts of the 300 real rows, with RoBERTa's own tokenizer."""
    out = tmp_path / "eurlex"
    tokenizer = real_data / "tokenizers" / "roberta"
    script = CLASSIFICATION / "prepare_data.py"
    result = run_script(
        script, "--input", real_data / "eurlex", "--out", out, "--tokenizer", tokenizer, "--allow_partial"
    )
    assert result.returncode == 0, result.stderr
    found = metadata(out)
    assert found["labels"] == 683
    assert [s["distinct_labels"] for s in found["splits"].values()] == [339, 342, 314]
    assert [s["documents"] for s in found["splits"].values()] == [100, 100, 100]
    assert found["label_groups"] == {"frequent": 0, "few": 339, "zero": 344}
    assert 440 < found["splits"]["train"]["tokens_per_document"] < 470
    label_map = json.loads((out / "label_map.json").read_text())
    numbers = [int(label) for label in label_map if label.isdigit()]
    assert numbers == sorted(numbers)
    assert load_tokenizer(str(tokenizer)).encode(["Hello world"], 512)[0].tolist() == [0, 31414, 232, 2]
    refused = run_script(
        script, "--input", real_data / "eurlex", "--out", tmp_path / "x", "--tokenizer", tokenizer
    )
    assert_refused(refused, "split train holds 100 documents, EURLEX57K has 45,000")
    multi = real_data / "eurlex" / "multi_eurlex_en.jsonl"
    assert_refused(run_script(script, "--input", multi, "--out", tmp_path / "y"), "MultiEURLEX")
