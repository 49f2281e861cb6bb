"""The two inputs of prepare_lspc.py, the corpus and a table, as units of work that each become one shard."""

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from category_classification.lspc_raw import (
    DROPPED,
    SIX_CLASSES,
    LabelMap,
    class_key,
    clean_text,
    list_members,
    read_class_file,
    read_labels,
    read_offers,
    zip_fingerprint,
)
from category_classification.row_keys import hash_strings
from category_classification.shards import ShardColumns, ShardFiles, ShardWriter, save_array
from category_classification.table_input import read_table_batches, table_format
from training_utils import InputError, write_json

VERSION = 1  # raise it when the same input gives other rows, so that old and new work are not mixed
TABLE_UNIT_ROWS = 16384
MAX_TABLE_CLASSES = 10_000


@dataclass
class Job:
    """What the two inputs have in common."""

    arguments: dict  # decide what a shard holds: its fingerprint
    columns: ShardColumns
    function: Callable  # makes one shard, in a worker
    units: Callable[[], Iterator[tuple]]  # the arguments of `function`, a unit after the other
    unit_count: int | None = None
    # Of the classes by number; complete once all units were taken
    names: list[str] = field(default_factory=list)
    notes: dict = field(default_factory=dict)


def file_hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wanted_classes(choice: str) -> list[str] | None:
    """The names to keep, None for all that occur."""
    return {"6": SIX_CLASSES, "24": None}[choice] if choice in ("6", "24") else read_class_file(Path(choice))


# ---------------------------------------------------------------- the corpus


def corpus_job(args: argparse.Namespace, partial: Path) -> Job:
    members = list_members(args.zip)
    wanted = wanted_classes(args.classes or "6")
    arguments = {
        "version": VERSION,
        "zip": zip_fingerprint(members),
        "labels": file_hash(args.labels),
        "classes": wanted,
        "add_language": args.add_language,
    }
    columns = ShardColumns(language=args.add_language, identify_language=args.add_language)
    members = members[: args.limit_members or None]

    def units() -> Iterator[tuple]:
        job.names, job.notes["unreadable_label_lines"] = load_labels(args.labels, wanted, partial)
        for index, member in enumerate(members):
            files = ShardFiles(partial / "shards", index)
            yield files, columns, args.zip, member.filename, partial / "labels.npy"

    job = Job(arguments, columns, prepare_member, units, len(members))
    return job


def load_labels(path: Path, wanted: list[str] | None, partial: Path) -> tuple[list[str], int]:
    """Class names and the count of unreadable lines; the label map goes to a file that all workers map."""
    described = partial / "labels.json"
    if not described.exists():
        names, packed, unreadable = read_labels(path, wanted)
        save_array(partial / "labels.npy", packed)
        write_json(described, {"names": names, "unreadable_lines": unreadable})
    labels = json.loads(described.read_text(encoding="utf-8"))
    return labels["names"], labels["unreadable_lines"]


def prepare_member(
    files: ShardFiles, columns: ShardColumns, zip_path: Path, member: str, labels: Path
) -> dict:
    """One member of the zip becomes one shard."""
    label_map = LabelMap(np.load(labels, mmap_mode="r"))
    shard = ShardWriter(files, columns)
    for block in read_offers(zip_path, member, label_map):
        for line in block:
            if line.reason is None:
                shard.add(line.text, line.label, line.cluster)
            elif line.reason in DROPPED.values():
                shard.count(line.reason)
            else:
                shard.reject(member, line.number, line.reason, line.raw[:1200].decode("utf-8", "replace"))
    return shard.close()


# ---------------------------------------------------------------- a table


def table_job(args: argparse.Namespace, partial: Path) -> Job:
    table_format(str(args.table))
    wanted = wanted_classes(args.classes or "24")
    arguments = {"version": VERSION, "table": file_hash(args.table), "classes": wanted}
    for name in ("text_column", "label_column", "language_column", "group_column", "add_language"):
        arguments[name] = getattr(args, name)
    has_language = bool(args.add_language or args.language_column)
    columns = ShardColumns(has_language, args.add_language, near_duplicates=not args.group_column)
    classes = TableClasses(args.table, args.label_column, wanted)
    needed = [*args.text_column, args.label_column, args.language_column, args.group_column]
    needed = list(dict.fromkeys(name for name in needed if name))

    def units() -> Iterator[tuple]:
        bad_rows: list[tuple[int, str, str]] = []
        batches = read_table_batches(
            str(args.table), needed, TABLE_UNIT_ROWS, on_bad_row=lambda *row: bad_rows.append(row)
        )
        index = 0
        for index, batch in enumerate(batches, 1):
            texts = [batch.column(name) for name in args.text_column]
            labels = [classes.number(value) for value in batch.column(args.label_column)]
            languages, groups = (
                batch.column(name) if name else None for name in (args.language_column, args.group_column)
            )
            job.names = classes.names
            files = ShardFiles(partial / "shards", index - 1)
            yield (
                files,
                columns,
                args.table.name,
                batch.row_numbers,
                texts,
                labels,
                languages,
                groups,
                bad_rows[:],
            )
            bad_rows.clear()
        if bad_rows:
            yield (
                ShardFiles(partial / "shards", index),
                columns,
                args.table.name,
                [],
                [],
                [],
                None,
                None,
                bad_rows,
            )
        unseen = classes.unseen()
        if unseen and wanted != SIX_CLASSES:
            raise InputError(f"{args.table}: no row of class {unseen[0]!r} in column {args.label_column!r}")

    job = Job(arguments, columns, prepare_rows, units)
    return job


class TableClasses:
    """Numbers the classes of a column: the wanted ones in their order, or all as they first occur."""

    def __init__(self, table: Path, column: str, wanted: list[str] | None) -> None:
        self.table, self.column = table, column
        self.only = None if wanted is None else {class_key(name): name for name in wanted}
        self.numbers = {name: number for number, name in enumerate((self.only or {}).values())}
        self.seen: set[str] = set()

    @property
    def names(self) -> list[str]:
        return list(self.numbers)

    def unseen(self) -> list[str]:
        return [name for name in self.names if name not in self.seen]

    def number(self, value: object) -> int | str:
        """The number of the value's class, or the reason why it has none."""
        name = plain_string(value)
        if not name:
            return "no_label"
        if self.only is not None:
            name = self.only.get(class_key(name), "")
            if not name:
                return "class_not_selected"
        if name not in self.numbers and len(self.numbers) == MAX_TABLE_CLASSES:
            raise InputError(
                f"{self.table}: column {self.column!r} has over {MAX_TABLE_CLASSES} values: is it the class?"
            )
        self.seen.add(name)
        return self.numbers.setdefault(name, len(self.numbers))


def plain_string(value: object) -> str:
    """Strings cleaned, numbers as they read (2.0 as 2), anything else empty."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() else str(value)
    return str(value) if isinstance(value, int) else ""


def prepare_rows(
    files: ShardFiles,
    columns: ShardColumns,
    source: str,
    numbers: list[int],
    texts: list[list],
    labels: list[int | str],
    languages: list | None,
    groups: list | None,
    bad_rows: list[tuple[int, str, str]],
) -> dict:
    """A stretch of a table becomes one shard."""
    shard = ShardWriter(files, columns)
    for number, reason, raw in bad_rows:
        shard.reject(source, number, reason, raw)
    for row, number in enumerate(numbers):
        text = " ".join(filter(None, (plain_string(column[row]) for column in texts)))
        if labels[row] == "class_not_selected":
            shard.count("class_not_selected")
        elif not text:
            shard.reject(source, number, "no_text", "")
        elif isinstance(labels[row], str):
            shard.reject(source, number, labels[row], text)
        else:
            language = language_code(languages[row]) if languages else ""
            cluster = group_number(plain_string(groups[row]) or text) if groups else 0
            shard.add(text, labels[row], cluster, language)
    return shard.close()


def language_code(value: object) -> str:
    """`de` for de, DE, de-AT and de_CH; `und` for nothing."""
    return re.split("[-_]", plain_string(value).lower())[0] or "und"


def group_number(group: str) -> int:
    """Integer groups keep their number; others get 63 bits of their hash."""
    if re.fullmatch(r"-?\d{1,18}", group, re.ASCII):
        return int(group)
    return int(hash_strings([group], b"group")[0] >> np.uint64(1))
