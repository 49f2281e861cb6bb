"""The raw WDC LSPC V2020 files: offers in a zip of `*.json.gz` members, and the category of each cluster.

An offer is a JSON object a line with `cluster_id`, `title` or `name`, and `description`; absent values are
null, and HTML entities are left in, some of them escaped twice. Labels come as JSON lines or as lines of
`cluster_id<TAB>category`.
"""

import gzip
import hashlib
import html
import json
import re
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training_utils import InputError

SIX_CLASSES = ["Automotive", "Baby", "Books", "Clothing", "Jewelry", "Shoes"]
LABEL_KEY = "predicted_CategoryLabel_majority_voted"

# What the label map answers for clusters that are not kept; the others get a class number below MAX_CLASSES.
MAX_CLASSES = 250
TWO_LABELS, NOT_SELECTED, UNLABELLED = 253, 254, 255
DROPPED = {
    TWO_LABELS: "cluster_with_two_labels",
    NOT_SELECTED: "class_not_selected",
    UNLABELLED: "unlabelled_cluster",
}
MAX_CLUSTER_ID = 2**55  # so that an id and a class fit one uint64

LABELS_AT_ONCE = 2**18
BLOCK_BYTES = 2**20
MAX_LINE_BYTES = 16 * 2**20
# What zipfile, gzip and zlib raise where the bytes of a member are not what they should be.
DAMAGE = (EOFError, OSError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, KeyError)
CLUSTER_ID = re.compile(rb'"cluster_id"\s*:\s*(\d{1,18})\s*[,}]')
ENTITY = re.compile(r"&(?:#|\w)")


def clean_text(text: str) -> str:
    """HTML entities unescaped, up to three times; white space folded; always valid UTF-8."""
    for _ in range(3):
        if not ENTITY.search(text):
            break
        text = html.unescape(text)
    text = " ".join(text.replace("\0", " ").split())
    # Lone surrogates become ?
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def offer_text(offer: dict) -> str:
    """Title, else name, then the description."""
    title, name, description = (_string(offer.get(key)) for key in ("title", "name", "description"))
    return f"{title or name} {description}".strip()


def _string(value: object) -> str:
    if isinstance(value, str):
        return clean_text(value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


# ---------------------------------------------------------------- classes and labels


def normalise_class(name: str) -> str:
    """One spelling of a class: `Computers & Accessories` becomes `Computers_and_Accessories`."""
    return re.sub(r"[\W_]+", "_", name.replace("&", " and ")).strip("_")


@lru_cache(4096)
def class_key(name: str) -> str:
    """Equal for all spellings of a class, also in other letter case."""
    return normalise_class(name).casefold()


def read_class_file(path: Path) -> list[str]:
    """Class names, one a line; blank lines and lines that start with # do not count."""
    if not path.is_file():
        raise InputError(f"--classes {path}: not 6, not 24 and no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: one class name a line is needed") from None
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path}: no class name in it")
    return list({class_key(name): name for name in names}.values())


@dataclass(frozen=True)
class LabelMap:
    """Cluster id -> class number: a sorted uint64 array of `id * 256 + class`, mapped from a file."""

    packed: np.ndarray

    def lookup(self, cluster_ids: list[int]) -> list[int]:
        """Class number, TWO_LABELS, NOT_SELECTED or UNLABELLED of each cluster."""
        ids = np.array(
            [id if 0 <= id < MAX_CLUSTER_ID else MAX_CLUSTER_ID for id in cluster_ids], dtype=np.uint64
        )
        places = np.minimum(np.searchsorted(self.packed, ids << np.uint64(8)), len(self.packed) - 1)
        found = np.asarray(self.packed[places])
        return np.where(found >> np.uint64(8) == ids, found & np.uint64(255), UNLABELLED).tolist()


def read_labels(path: Path, wanted: list[str] | None) -> tuple[list[str], np.ndarray, int]:
    """Class names (alphabetical), the packed label map and the number of unreadable lines.

    `wanted` lists the classes to keep; None keeps every class that the file names.
    """
    codes: dict[str, int] = {}  # by the class's key, numbered in the order of first occurrence
    spelling: list[str] = []
    packed = array("Q")
    unreadable = 0
    for number, cluster_id, name in _label_lines(path):
        key = class_key(name)
        if not key or not 0 <= cluster_id < MAX_CLUSTER_ID:
            unreadable += 1
            continue
        if key not in codes:
            if len(codes) == MAX_CLASSES:
                raise InputError(f"{path}, line {number}: over {MAX_CLASSES} classes: is this a label file?")
            codes[key] = len(codes)
            spelling.append(normalise_class(name))
        packed.append(cluster_id << 8 | codes[key])
    if not packed:
        raise InputError(f"{path}: no cluster with a label in it")

    names = sorted(spelling) if wanted is None else sorted(normalise_class(name) for name in wanted)
    missing = [name for name in names if name.casefold() not in codes]
    if missing and (wanted != SIX_CLASSES or len(missing) == len(names)):
        raise InputError(f"{path}: no cluster of class {missing[0]!r}; it has {', '.join(sorted(spelling))}")
    number_of = np.full(256, NOT_SELECTED, dtype=np.uint64)
    for number, name in enumerate(names):
        if name.casefold() in codes:
            number_of[codes[name.casefold()]] = number
    return names, _pack(np.frombuffer(packed, dtype=np.uint64), number_of), unreadable


def _pack(packed: np.ndarray, number_of: np.ndarray) -> np.ndarray:
    """Sort, keep one entry a cluster and turn first-occurrence codes into class numbers, all in place."""
    packed.sort()
    kept = start = 0
    while start < len(packed):
        last_id = packed[min(start + LABELS_AT_ONCE, len(packed)) - 1] >> np.uint64(8)
        # No cluster lies across two parts
        end = int(np.searchsorted(packed, (last_id + np.uint64(1)) << np.uint64(8)))
        ids, codes = packed[start:end] >> np.uint64(8), packed[start:end] & np.uint64(255)
        starts = np.concatenate([[True], ids[1:] != ids[:-1]])
        ends = np.concatenate([starts[1:], [True]])
        # The entries of a cluster are sorted by code, so two different labels differ at its ends.
        classes, last = number_of[codes[starts]], number_of[codes[ends]]
        torn = (codes[starts] != codes[ends]) & ((classes != NOT_SELECTED) | (last != NOT_SELECTED))
        classes[torn] = TWO_LABELS
        packed[kept : kept + len(classes)] = ids[starts] << np.uint64(8) | classes
        kept, start = kept + len(classes), end
    return packed[:kept]


def _label_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Line number, cluster id and class name of each line; id -1 when the line cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: no such label file")
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        lines = gzip.GzipFile(fileobj=raw) if zipped else raw
        parse = None
        number = 0
        try:
            while line := lines.readline(MAX_LINE_BYTES):
                number += 1
                if line.isspace():
                    continue
                if parse is None:
                    parse = _label_form(path, line)
                    if line.startswith(b"cluster_id\t"):
                        continue
                try:
                    cluster_id, name = parse(line)
                    yield number, int(cluster_id), name if isinstance(name, str) else ""
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    yield number, -1, ""
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{path}, after line {number}: damaged gzip ({error}): download it again"
            ) from None
        if number == 0:
            raise InputError(f"{path}: empty label file")


def _label_form(path: Path, line: bytes):
    """The parser for the form that the first line shows."""
    if line.lstrip().startswith(b"{"):
        return _parse_json_label
    if line.count(b"\t") == 1 and (
        line.split(b"\t")[0].strip().isdigit() or line.startswith(b"cluster_id\t")
    ):
        return lambda line: line.decode("utf-8").rstrip("\r\n").split("\t")
    raise InputError(
        f"{path}, line 1: neither a JSON object with cluster_id and {LABEL_KEY} nor cluster_id<TAB>category: "
        f"{line[:60]!r}"
    )


def _parse_json_label(line: bytes) -> tuple[int, str]:
    record = json.loads(line)
    return record["cluster_id"], record[LABEL_KEY]


# ---------------------------------------------------------------- offers


def open_zip(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise InputError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}: the zip is needed as downloaded"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty: download it again")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a whole zip file ({error}): finish the download (wget -c)") from None


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """The `*.json.gz` members by name, without the shadow files that macOS adds."""
    with open_zip(path) as archive:
        members = [
            member
            for member in archive.infolist()
            if member.filename.endswith(".json.gz") and not Path(member.filename).name.startswith("._")
        ]
    if not members:
        raise InputError(f"{path}: no .json.gz member in it: is this lspcV2020.zip?")
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path}: encrypted: unpack it and zip it again without a password")
    return sorted(members, key=lambda member: member.filename)


def zip_fingerprint(members: list[zipfile.ZipInfo]) -> str:
    """A hash of the members' names, sizes and check sums: as good as reading 20 GB, at no cost."""
    listing = [[member.filename, member.file_size, member.compress_size, member.CRC] for member in members]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


class RawLine(NamedTuple):
    """One line of a member: an offer to keep, or the reason why not."""

    number: int
    reason: str | None  # None: kept
    raw: bytes
    cluster: int = 0
    label: int = 0
    text: str = ""


def read_offers(zip_path: Path, member: str, labels: LabelMap) -> Iterator[list[RawLine]]:
    """Blocks of lines of one member. Damage in it ends the member with a line of reason `damaged_member`.

    Nine lines in ten belong to clusters that are not kept. Their id is read from the bytes and looked up a
    block at a time, so that their JSON is never parsed (nor checked).
    """
    number = 1
    blocks = _line_blocks(zip_path, member)
    while True:
        try:
            lines = next(blocks, None)
        except DAMAGE as error:
            message = f"the rest of {member} cannot be read: {type(error).__name__}: {error}"
            yield [RawLine(number, "damaged_member", message.encode("utf-8", "replace"))]
            return
        if lines is None:
            return
        yield _read_block(lines, number, labels)
        number += len(lines)


def _line_blocks(zip_path: Path, member: str) -> Iterator[list[bytes | None]]:
    """Complete lines, about a megabyte at a time; None stands for a line beyond MAX_LINE_BYTES."""
    tail, too_long = b"", False
    with open_zip(zip_path) as archive, archive.open(member) as raw, gzip.GzipFile(fileobj=raw) as stream:
        while block := stream.read(BLOCK_BYTES):
            lines: list[bytes | None] = (tail + block).split(b"\n")
            tail = lines.pop()
            if too_long and lines:
                lines[0], too_long = None, False
            if len(tail) > MAX_LINE_BYTES or too_long:
                tail, too_long = b"", True
            yield lines
    if too_long:
        yield [None]
    elif tail:
        yield [tail]


def _read_block(lines: list[bytes | None], first_number: int, labels: LabelMap) -> list[RawLine]:
    # Line number, line, cluster id, offer if parsed already
    found: list[tuple[int, bytes, int, dict | None]] = []
    result = []
    for number, line in enumerate(lines, first_number):
        if line is None:
            result.append(RawLine(number, "line_too_long", b""))
            continue
        match = CLUSTER_ID.search(line)
        if match and line.find(b'"cluster_id"', match.end()) < 0:
            found.append((number, line, int(match[1]), None))
        elif line and not line.isspace():
            offer, reason = _parse(line)
            cluster = _cluster_id(offer) if offer is not None else None
            if cluster is None:
                result.append(RawLine(number, reason or "no_cluster_id", line))
            else:
                found.append((number, line, cluster, offer))
    for (number, line, cluster, offer), label in zip(
        found, labels.lookup([f[2] for f in found]), strict=True
    ):
        if label in DROPPED:
            result.append(RawLine(number, DROPPED[label], b""))
            continue
        reason = None
        if offer is None:
            offer, reason = _parse(line)
        if offer is not None and _cluster_id(offer) != cluster:
            reason = "no_cluster_id"  # the bytes held one somewhere inside, the offer itself has none
        text = offer_text(offer) if offer is not None else ""
        result.append(RawLine(number, reason or (None if text else "no_text"), line, cluster, label, text))
    return result


def _parse(line: bytes) -> tuple[dict | None, str | None]:
    try:
        offer = json.loads(line)
    except (ValueError, RecursionError):
        return None, "bad_json"
    return (offer, None) if isinstance(offer, dict) else (None, "not_object")


def _cluster_id(offer: dict) -> int | None:
    value = offer.get("cluster_id")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value) if not isinstance(value, float) or value.is_integer() else None
    except ValueError:
        return None
