"""Ways to break a file: its bytes, and, by its form, what stands in it.

`ways(name)` gives those that fit a file of that name; each is a function of its content and a generator.
"""

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

Way = Callable[[bytes, random.Random], bytes | None]

# What may stand where something else belongs
ODD = (
    *(None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), -1e308),
    *("", " ", "x", "\0", "\ud800", "99999999999999999999", "x" * 100_000, [], {}, ["a", None], {"a": {}}),
)
UNLIKE_A_CHECKPOINT = (None, True, -1, 2**70, "", "x", [], {}, ["a", None], {"a": {}})


class Hostile:
    """Unpickled, it would make a file in the working folder."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("hostile-code-ran"),)


# ---------------------------------------------------------------- bytes


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def cut_front(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(1, len(content)) :]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def gone(content: bytes, rng: random.Random) -> None:
    return None


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 3000))


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to eight bytes changed."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero_out(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    size = rng.randrange(1, 400)
    return content[:start] + b"\0" * len(content[start : start + size]) + content[start + size :]


def insert(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are no UTF-8, quotes, braces, NULs or a very long word in some place."""
    piece = rng.choice([b"\xff\xfe", b'"', b"{", b"\0\0\0", b"\r", b"x" * 200_000, b"\xed\xa0\x80", b"[[[["])
    place = rng.randrange(len(content))
    return content[:place] + piece + content[place:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A stretch of the file stands there twice."""
    start = rng.randrange(len(content))
    end = start + rng.randrange(1, 500)
    return content[:end] + content[start:]


def other_kind(content: bytes, rng: random.Random) -> bytes:
    heads = [b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"PK\x03\x04" + b"\0" * 60, b"<html>404</html>"]
    heads += [b"\x1f\x8b\x08", gzip.compress(noise(b"", rng)), b"PAR1", b"\xef\xbb\xbf"]
    return rng.choice([*heads, b"null", b"[]", b"{}", b"[" * 100_000])


BYTES: list[Way] = [cut, cut_front, empty, gone, noise, flip, zero_out, insert, repeat, other_kind]


# ---------------------------------------------------------------- trees: JSON, checkpoints


# Parts of a checkpoint that PyTorch reads by itself: damage shows in the archive's checksums
PYTORCHS_OWN = ("optimizer", "scheduler", "scaler")


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in lists and objects within each other."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        if key not in PYTORCHS_OWN:
            yield from places(tree[key])


def change_tree(tree: Any, rng: random.Random, odd: tuple = ODD) -> Any:
    """Another value in one place, or none, or the value twice."""
    found = list(places(tree))
    if not found:
        return rng.choice(odd)
    if rng.random() < 0.5:  # near the root: most places are far from it, and much alike
        found = [place for place in found if place[0] is tree] + list(places(rng.choice(found)[0]))
    container, key = rng.choice(found)
    what = rng.randrange(5)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, list):
        container.append(container[key])
    elif what == 1:
        container["another name"] = container.pop(key)
    elif isinstance(container[key], torch.Tensor):
        container[key] = change_tensor(container[key], rng)
    else:
        container[key] = rng.choice(odd)
    return tree


def change_tensor(tensor: torch.Tensor, rng: random.Random) -> Any:
    changes = [
        lambda: tensor[:-1] if tensor.ndim else tensor[None],
        lambda: tensor.double() * float("nan"),
        lambda: torch.full_like(tensor, torch.inf if tensor.is_floating_point() else -1),
        lambda: tensor.flatten(),
        lambda: tensor.bool(),
        lambda: torch.zeros(0),
        lambda: 0.0,
    ]
    return rng.choice(changes)()


def change_json(content: bytes, rng: random.Random) -> bytes:
    try:
        return json.dumps(change_tree(json.loads(content), rng)).encode()
    except json.JSONDecodeError:  # lines after all
        return change_lines(content, rng)


def change_lines(content: bytes, rng: random.Random) -> bytes:
    """JSON lines: one of them, or the same field of all."""
    rows = [json.loads(line) for line in content.splitlines()]
    if rng.random() < 0.5:
        change_tree(rows, rng)
    else:
        key, value = rng.choice(list(rows[0])), rng.choice([*ODD, "gone"])
        for row in rows:
            row.pop(key, None) if value == "gone" else row.update({key: value})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def change_checkpoint(content: bytes, rng: random.Random) -> bytes:
    file, state = io.BytesIO(), torch.load(io.BytesIO(content), weights_only=True)
    torch.save(change_tree(state, rng, UNLIKE_A_CHECKPOINT), file)
    return file.getvalue()


def hostile_checkpoint(content: bytes, rng: random.Random) -> bytes:
    file = io.BytesIO()
    torch.save(rng.choice([Hostile(), {"progress": {"step": Hostile()}, "model": {}}]), file)
    return file.getvalue()


# ---------------------------------------------------------------- tables


def change_delimited(content: bytes, rng: random.Random, delimiter: str = ",") -> bytes:
    """A cell, the header, a row or a column of it."""
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=delimiter))
    change_rows(rows, rng)
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode(errors="surrogatepass")


def change_rows(rows: list[list[Any]], rng: random.Random) -> None:
    number, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    odd = rng.choice([value for value in ODD if not isinstance(value, list | dict)])
    what = rng.randrange(8)
    if what == 0:
        rows[number][column:] = [odd]
    elif what == 1:
        rows[number].append(odd)
    elif what == 2:
        rows[0][column] = rng.choice([rows[0][0], "", "another name"])
    elif what == 3:
        del rows[number]
    elif what == 4:
        rows.insert(number, rows[rng.randrange(len(rows))])
    elif what == 5:
        del rows[1:]
    elif what == 6:
        for row in rows:
            del row[column : column + 1]
    else:
        for row in rows[1:]:
            row[column : column + 1] = [odd]


def change_workbook(content: bytes, rng: random.Random) -> bytes:
    from openpyxl import Workbook, load_workbook

    rows = [list(row) for row in load_workbook(io.BytesIO(content)).active.values]
    change_rows(rows, rng)
    book, file = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append([cell if can_stand_in_a_workbook(cell) else "x" for cell in row])
    book.save(file)
    return file.getvalue()


def can_stand_in_a_workbook(value: Any) -> bool:
    return not isinstance(value, str) or (len(value) < 30_000 and value.isprintable() and value != "\ud800")


def change_parquet(content: bytes, rng: random.Random) -> bytes:
    """A column of another name, type or content, or rows left out, twice or in another order."""
    table = pq.read_table(io.BytesIO(content))
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place).combine_chunks()
    values, count = column.to_pylist(), len(table)
    some = [None if rng.random() < 0.2 else value for value in values]
    binary = pa.array([b"\xff\xfe"] * count)
    columns = [
        lambda: pa.nulls(count, column.type),
        lambda: pa.array(some, column.type),
        lambda: pa.array([values[0]] * count, column.type),
        lambda: pa.array(values[::-1], column.type),
        lambda: pa.array(range(count)),
        lambda: pa.array([f"v{n}" for n in range(count)]),
        lambda: pa.array([float("nan")] * count),
        lambda: pa.array([-1] * count, pa.int8()),
        lambda: pa.array([[n] for n in range(count)]),
        lambda: pa.array([{"a": n} for n in range(count)]),
        lambda: binary,
        lambda: pa.Array.from_buffers(pa.string(), count, binary.buffers()),  # a string that is no UTF-8
        lambda: pa.nulls(count),
        lambda: changed_numbers(column, rng),
    ]
    tables = [
        lambda: table.drop_columns(name),
        lambda: table.rename_columns([*table.column_names[:place], "x", *table.column_names[place + 1 :]]),
        lambda: table.append_column(name, column),
        lambda: table.slice(0, 0),
        lambda: table.slice(0, max(1, count - 1)),
        lambda: table.take(list(range(count))[::-1]),
        lambda: pa.concat_tables([table, table.slice(0, 1)]),
    ]
    if rng.random() < 0.35:
        table = rng.choice(tables)()
    else:
        table = table.set_column(place, name, rng.choice(columns)())
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def changed_numbers(column: pa.Array, rng: random.Random) -> pa.Array:
    """One number, or all in a row's list, that the type holds and the reader does not want."""
    kind = column.type.value_type if pa.types.is_nested(column.type) else column.type
    values = column.to_pylist()
    if pa.types.is_floating(kind):
        odd: Any = rng.choice([float("nan"), float("inf"), 0.0, -1e30])
    elif pa.types.is_integer(kind):
        odd = rng.choice([0, 127, *([-1] if pa.types.is_signed_integer(kind) else [])])
    else:
        odd = rng.choice(["", " ", "x", "\0", "x" * 100_000])
    row = rng.randrange(len(values))
    values[row] = [odd] * len(values[row]) if isinstance(values[row], list) else odd
    return pa.array(values, column.type)


# ---------------------------------------------------------------- arrays


def change_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    changes = [
        lambda: array[:-1] if array.ndim else array[None],
        lambda: array[::-1] if array.ndim else -np.ones(3),
        lambda: array[:0] if array.ndim else array[None],
        lambda: array.reshape(1, -1),
        lambda: array.astype("U8"),
        lambda: np.full(array.shape, -1),
        lambda: np.full(array.shape, 2**40),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, "x"),
        lambda: np.array(Hostile()),
        lambda: np.zeros(array.shape, array.dtype),
    ]
    return rng.choice(changes)()


def change_npy(content: bytes, rng: random.Random) -> bytes:
    file = io.BytesIO()
    np.save(file, change_array(np.load(io.BytesIO(content)), rng), allow_pickle=True)
    return file.getvalue()


def change_npz(content: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as found:
        arrays = {name: found[name] for name in found.files}
    name = rng.choice(list(arrays))
    array = arrays.pop(name)
    if rng.random() < 0.8:
        arrays[name] = change_array(array, rng)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# ---------------------------------------------------------------- files in files


def change_zipped(content: bytes, rng: random.Random) -> bytes:
    """One member broken in a way of its own, gone, twice, or of another name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = rng.randrange(len(members))
    name, inner = members[place]
    what = rng.randrange(6)
    if what == 0:
        members[place] = (rng.choice(["../outside.json", "/outside.json", "dataset/x/y.json", "x"]), inner)
    elif what == 1:
        members.append((name, inner))
    else:
        members[place : place + 1] = [(name, broken)] if (broken := one_way(name, inner, rng)) else []
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, inner in members:
            archive.writestr(name, inner)
    return file.getvalue()


def change_gzipped(content: bytes, rng: random.Random, name: str) -> bytes:
    return gzip.compress(one_way(name, gzip.decompress(content), rng) or b"", mtime=0)


def one_way(name: str, content: bytes, rng: random.Random) -> bytes | None:
    return rng.choice(ways(name))(content, rng) if content else b"x"


BY_FORM: dict[str, list[Way]] = {
    ".json": [change_json],
    ".jsonl": [change_lines],
    ".csv": [change_delimited],
    ".tsv": [lambda content, rng: change_delimited(content, rng, "\t")],
    ".parquet": [change_parquet],
    ".npy": [change_npy],
    ".npz": [change_npz],
    ".xlsx": [change_workbook],
    ".zip": [change_zipped],
    ".pt": [change_checkpoint, change_checkpoint, hostile_checkpoint],
}
BY_FORM[".pth"] = BY_FORM[".pt"]


def ways(name: str) -> list[Way]:
    """Half of them change bytes, half what stands in the file, where its form is known."""
    if name.endswith(".gz"):
        inner = [lambda content, rng: change_gzipped(content, rng, name.removesuffix(".gz"))]
    else:
        inner = BY_FORM.get(Path(name).suffix, [])
    return BYTES + inner * (len(BYTES) // len(inner)) if inner else BYTES


def break_file(path: Path, seed: int) -> None:
    """One way, chosen by the seed. What is gone has a folder in its place now and then."""
    rng = random.Random(f"{path.name} {seed}")
    content = one_way(path.name, path.read_bytes(), rng)
    if content is not None:
        path.write_bytes(content)
        return
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
