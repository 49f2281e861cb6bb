"""ID files and purchase sequences, of ours and of others."""

import gzip
import json
import re
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training_utils import InputError


def read_ids(path: Path, levels: int | None = None) -> tuple[list[str], np.ndarray]:
    """Item ids and their codes (N, L): the first `levels` of each ID.

    A Parquet file of export_semantic_ids.py, or a JSON object id -> "12-7-201-0", ["<a_12>", "<b_7>"] or
    [12, 7]. A level without number in the file is an error.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; export_semantic_ids.py writes it")
    found = _read_parquet(path) if path.suffix == ".parquet" else _read_json(path)
    if not found:
        raise InputError(f"{path}: holds no ID")
    widths = {len(codes) for codes in found.values()}
    if min(widths) < (levels or 1):
        raise InputError(f"{path}: an ID has {min(widths)} codes, needed are {levels or 1}; give --levels")
    if levels is None and len(widths) > 1:
        raise InputError(f"{path}: IDs have {min(widths)} to {max(widths)} codes; give --levels")
    return list(found), np.array([codes[:levels] for codes in found.values()], dtype=np.int64)


def _read_parquet(path: Path) -> dict[str, list[int]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = sorted(
                (name for name in names if re.fullmatch(r"semantic_id_\d+", name)),
                key=lambda name: int(name.rpartition("_")[2]),
            )
            if "parent_asin" not in names or not columns:
                raise InputError(f"{path}: no columns parent_asin and semantic_id_0, ...")
            table = file.read(columns=["parent_asin", *columns])
            table.validate(full=True)  # ids are UTF-8
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); export again") from None
    rows = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
    return _checked(path, zip(table.column("parent_asin").to_pylist(), rows, strict=True))


def _read_json(path: Path) -> dict[str, list[int]]:
    try:
        with _open(path) as file:
            content = json.load(file)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:100]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object of item id -> semantic ID")
    rows = ((item, code.split("-") if isinstance(code, str) else code) for item, code in content.items())
    return _checked(path, rows)


def _checked(path: Path, rows: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for item, codes in rows:
        if str(item) in found:
            raise InputError(f"{path}: item {item} stands there twice")
        try:
            found[str(item)] = [_number(code) for code in codes]
        except (TypeError, ValueError, AttributeError):
            raise InputError(f"{path}, item {item}: {codes!r:.60} is no semantic ID") from None
    return found


def _number(code: Any) -> int:
    """12, "12" or "<a_12>"."""
    number = int(code) if isinstance(code, int) else int(re.fullmatch(r"(?:<\w+_)?(\d+)>?", code)[1])
    if not 0 <= number < 2**20:
        raise ValueError
    return number


def _open(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def read_purchases(path: Path, item_ids: list[str]) -> tuple[np.ndarray, int]:
    """Pairs (P, 2) of rows of items bought one after the other, and how many pairs held an unknown item.

    JSON lines {"history": [...], "target": ...} give the last of the history and the target; those without
    a target, a JSON object user -> [items], and lines "user item item ..." give all consecutive pairs.
    Items bought twice in a row are left out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    row_of = {item: row for row, item in enumerate(item_ids)}
    pairs, unknown = [], 0
    for line, sequence in enumerate(_sequences(path), 1):
        if not isinstance(sequence, list):
            raise InputError(f"{path}, line {line}: no list of items")
        for a, b in pairwise(map(str, sequence)):
            if a not in row_of or b not in row_of:
                unknown += 1
            elif a != b:
                pairs.append((row_of[a], row_of[b]))
    if not pairs:
        raise InputError(f"{path}: no two items bought one after the other stand among the embedded ones")
    return np.array(pairs), unknown


def _sequences(path: Path) -> Any:
    try:
        with _open(path) as file:
            first = file.readline()
            file.seek(0)
            if first.startswith("{") and '"history"' in first:
                for number, line in enumerate(file, 1):
                    yield _purchases_of(path, number, line)
            elif first.startswith("{"):
                yield from json.load(file).values()
            else:
                yield from (line.split()[1:] for line in file)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise InputError(f"{path}: not purchase sequences ({str(error)[:100]})") from None


def _purchases_of(path: Path, number: int, line: str) -> list[Any]:
    try:
        row = json.loads(line)
        history, target = row["history"], row.get("target")
        return history if target is None else [*history[-1:], target]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f'{path}, line {number}: not {{"history": [...], "target": ...}}') from None
