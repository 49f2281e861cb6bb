"""EUR-Lex documents in the forms they come in, streamed as (split, place, fields).

- the original EURLEX57K zip, or its unpacked folder: one JSON a document under train/, dev/, test/, fields
  `type` and `concepts`, and a label file EURLEX57K.json;
- archive.org's dump: {train,dev,test}.jsonl with `document_type` and `eurovoc_concepts`, and
  eurovoc_concepts.jsonl;
- Parquet files named after their split, and hub data sets: `text` in place of the document's parts;
- one .jsonl of documents: split by the field `split`, or 80/10/10 by a hash of `celex_id`.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_utils import InputError

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(
    ("dev", "development", "valid", "val", "validation"), "validation"
)
_LABEL_FILE = re.compile(r"^(eurlex57k|eurovoc[a-z_]*)\.jsonl?$", re.IGNORECASE)
PARTS = ("title", "header", "recitals", "main_body", "attachments")

Row = tuple[str, str, dict[str, Any] | str]  # split, place, fields or what is wrong with them


class Unusable(Exception):
    """A document that cannot be trained or tested on; the message says why."""


@dataclass(frozen=True)
class Document:
    celex_id: str
    text: str
    labels: tuple[str, ...]  # EuroVoc ids, each once
    place: str  # file and line


def parse_document(fields: dict[str, Any], place: str, parts: tuple[str, ...]) -> Document:
    """Either spelling of the fields; `parts` are joined by a line break where there is no `text`."""
    concepts = fields.get("concepts", fields.get("eurovoc_concepts"))
    if isinstance(concepts, dict):
        raise InputError(
            f"{place}: eurovoc_concepts by level is MultiEURLEX, another data set; EURLEX57K is needed"
        )
    if concepts is None and isinstance(fields.get("labels"), list):
        raise InputError(
            f"{place}: `labels` without `eurovoc_concepts` is LexGLUE's set of 100 labels (or MultiEURLEX); "
            "EURLEX57K has 4,271"
        )
    if not concepts or not isinstance(concepts, list):
        raise Unusable("has no label")
    labels = [str(concept).strip() for concept in concepts]
    if not all(isinstance(concept, str | int) for concept in concepts) or not all(labels):
        raise Unusable(f"labels are not ids ({str(concepts)[:60]})")
    celex_id = fields.get("celex_id")
    if not isinstance(celex_id, str) or not celex_id:
        raise Unusable("has no celex_id")
    text = fields.get("text")
    if text is None:
        pieces = [fields.get(part) or "" for part in parts]
        text = "\n".join("\n".join(map(str, p)) if isinstance(p, list) else str(p) for p in pieces)
    if not isinstance(text, str):
        raise Unusable(f"text is {type(text).__name__}")
    if not text.strip():
        raise Unusable("is empty")
    try:
        "".join((celex_id, text, *labels)).encode()
    except UnicodeEncodeError:
        raise Unusable("holds half a surrogate pair") from None
    return Document(celex_id, text, tuple(dict.fromkeys(labels)), place)


# ---------------------------------------------------------------- where rows come from


def read_rows(source: str) -> tuple[Iterator[Row], dict[str, str] | None]:
    """All documents of a folder, zip, .jsonl or hub data set; and id -> name if there is a label file."""
    path = Path(source)
    if path.is_dir():
        files = {str(p.relative_to(path)): p for p in sorted(path.rglob("*")) if p.is_file()}
        return _files(source, files, lambda name: files[name].open("rb"))
    if path.suffix == ".zip" and path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{source}: not a whole zip file ({error}); copy or download it again") from None
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        return _files(source, names, archive.open)
    if path.is_file():
        if path.suffix != ".jsonl":
            raise InputError(f"{source}: name a folder, a .zip, a .jsonl or a hub data set")
        return _one_file(source, path), None
    if path.exists() or path.suffix in (".zip", ".jsonl") or source.startswith((".", "/")):
        raise InputError(f"--input {source}: no such file or folder")
    return _hub(source), None


def _split_of(name: str) -> str | None:
    """`dataset/dev/31991R.json` and `eurlex57k_dev.jsonl` are of the validation split."""
    path = Path(name)
    folders = [part.lower() for part in path.parts[:-1]]
    if "__macosx" in folders or path.name.startswith("."):
        return None
    words = re.split(r"[-_.]", path.name.lower())[:-1]
    found = [_SPLIT_NAMES[word] for word in [*reversed(folders), *words] if word in _SPLIT_NAMES]
    return found[0] if found else None


def _files(source: str, names: Any, opener: Any) -> tuple[Iterator[Row], dict[str, str] | None]:
    of_split = {
        name: _split_of(name) for name in names if Path(name).suffix in (".json", ".jsonl", ".parquet")
    }
    label_files = [n for n, split in of_split.items() if split is None and _LABEL_FILE.match(Path(n).name)]
    if not any(of_split.values()):
        raise InputError(f"{source}: no documents of a train, dev or test split in it")

    def read(name: str) -> bytes:
        try:
            with opener(name) as file:
                return file.read()
        except Exception as error:  # a damaged zip fails in many ways
            raise InputError(f"{source}: {name} is damaged ({error}); download it again") from None

    descriptors = None
    if label_files:
        descriptors = read_descriptors(read(label_files[0]), f"{source}:{label_files[0]}")

    def rows() -> Iterator[Row]:
        for split in SPLITS:
            for name in (n for n, s in of_split.items() if s == split):
                yield from ((split, *row) for row in _read_file(f"{source}/{name}", read(name)))

    return rows(), descriptors


def _read_file(place: str, content: bytes) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, fields) of the documents in one file; a string in place of fields says what is wrong."""
    if place.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(content))
            table.validate(full=True)  # texts are UTF-8
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"{place}: not a whole Parquet file ({reason}); download it again") from None
        for number, fields in enumerate(table.to_pylist(), 1):
            yield f"{place}, row {number}", fields
        return
    if place.endswith(".json"):
        yield place, _json(content)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield f"{place}, line {number}", _json(line)


def _json(content: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"broken JSON ({str(error)[:60]})"
    return value if isinstance(value, dict) else f"holds {type(value).__name__}, not a document"


def _one_file(source: str, path: Path) -> Iterator[Row]:
    for place, fields in _read_file(source, path.read_bytes()):
        if isinstance(fields, str):
            yield "train", place, fields
            continue
        named = _SPLIT_NAMES.get(str(fields.get("split")).lower())
        digest = hashlib.sha256(str(fields.get("celex_id")).encode()).digest()
        yield named or ("test", "validation", *["train"] * 8)[digest[0] % 10], place, fields


def _hub(name: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset

        try:
            splits = load_dataset(name)
        except RuntimeError:  # a script-based data set, which datasets refuses: the hub keeps a Parquet copy
            splits = load_dataset(name, revision="refs/convert/parquet")
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"--input {name}: no such file, and the hub gave nothing ({reason}); "
            "name the zip, a folder or a .jsonl"
        ) from None
    for key, rows in splits.items():
        for number, fields in enumerate(rows, 1):
            yield _SPLIT_NAMES.get(key, key), f"{name}, {key} row {number}", fields


# ---------------------------------------------------------------- label file


def read_descriptors(content: bytes, place: str) -> dict[str, str]:
    """EuroVoc id -> name: an object of ids (to names, or to objects with `label`), or lines with `id`."""
    try:
        if place.endswith(".jsonl"):
            values = [json.loads(line) for line in content.splitlines() if line.strip()]
            table = {str(value["id"]): value for value in values}
        else:
            table = json.loads(content)
        names = {str(key): _descriptor(value) for key, value in table.items()}
        "".join((*names, *names.values())).encode()  # half a surrogate pair cannot be written
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{place}: not a label file ({str(error)[:60]}); needed is an object of EuroVoc id -> name"
        ) from None
    if not names:
        raise InputError(f"{place}: an empty label file")
    return names


def _descriptor(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(next((value[key] for key in ("label", "title", "name") if key in value), ""))
