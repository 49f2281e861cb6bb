"""Tokenize item texts once, on the CPU, so that the accelerator only embeds.

    poetry run python semantic_ids/tokenize_items.py
    poetry run python semantic_ids/tokenize_items.py --input items.parquet --output tokens.npz --model DIR

In: prepare_items.py's Parquet file (`parent_asin`, `item_context`). Out: an .npz with input_ids and
attention_mask (items x max_length), max_length, n_items, item_ids and text_hashes; beside it, as .ragged.npz,
the same tokens without padding, which embed_items.py reads. Both load with allow_pickle=False.

Texts are wrapped in the instruction of Qwen3-Embedding; --instruction "" leaves them as they are. Tokens
wait in a nameless file beside the output: memory holds the items' ids and hashes, and one block of texts.
"""

import argparse
import hashlib
import tempfile
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from semantic_ids.item_embeddings import STREAMED
from training_utils import InputError, replacing, run_script

TASK = (
    "Given a product description, generate a semantic embedding that captures its key features and "
    "characteristics"
)
TEXTS_AT_ONCE = 1024


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--category", default="Video_Games", help="names the default files")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--input", type=Path, help="default: DATA_DIR/output/CATEGORY_items_updated.parquet")
    add("--output", type=Path, help="default: DATA_DIR/output/CATEGORY_tokenized.npz")
    add("--model", default="Qwen/Qwen3-Embedding-0.6B", help="hub name or folder; its tokenizer is used")
    add("--max_length", type=int, default=2048, help="tokens a text is cut to, its last one kept")
    add("--instruction", default=TASK, help="task put before each text; empty = none")
    add(
        "--num_rows",
        type=int,
        help="the first rows only; the default output is then CATEGORY_tokenized_N.npz",
    )
    args = parser.parse_args()
    if args.max_length < 2 or (args.num_rows is not None and args.num_rows < 1):
        raise InputError("--max_length must be 2 or more, --num_rows 1 or more")
    suffix = f"_{args.num_rows}" if args.num_rows else ""
    args.input = args.input or args.data_dir / "output" / f"{args.category}_items_updated.parquet"
    args.output = args.output or args.data_dir / "output" / f"{args.category}_tokenized{suffix}.npz"
    if args.output.suffix != ".npz":
        raise InputError(f"--output {args.output}: name an .npz file")
    return args


def ragged_path(tokenized: Path) -> Path:
    return tokenized.with_suffix(".ragged.npz")


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_texts(path: Path, num_rows: int | None = None) -> Iterator[tuple[list[str], list[str]]]:
    """Blocks of (item ids, texts), checked row by row."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepare_items.py writes it")
    row = 0
    seen: set[str] = set()
    try:
        with pq.ParquetFile(path, **STREAMED) as file:
            for name in ("parent_asin", "item_context"):
                if file.schema_arrow.names.count(name) != 1:
                    have = ", ".join(file.schema_arrow.names[:12])
                    raise InputError(f"{path}: no column {name!r}, or two of them (it has {have})")
            for batch in file.iter_batches(TEXTS_AT_ONCE, columns=["parent_asin", "item_context"]):
                ids, texts = (batch.column(name).to_pylist() for name in ("parent_asin", "item_context"))
                if num_rows is not None:
                    ids, texts = ids[: num_rows - row], texts[: num_rows - row]
                for number, (item, text) in enumerate(zip(ids, texts, strict=True), row + 1):
                    if item is None or not isinstance(text, str) or not text.strip():
                        raise InputError(f"{path}, row {number}: has no parent_asin or no item_context")
                    if str(item) in seen:
                        raise InputError(f"{path}, row {number}: item {item} stands there twice; keep one")
                    seen.add(str(item))
                row += len(ids)
                if ids:
                    yield [str(item) for item in ids], texts
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}, after row {row}: not a whole Parquet file ({reason})") from None
    if row == 0:
        raise InputError(f"{path}: holds no row")


def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        where = (
            "is no model folder" if Path(name).exists() else "is no local folder, and the hub gave nothing"
        )
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--model {name}: {where} ({reason}); name a folder with tokenizer.json") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token_id is None:
        raise InputError(f"--model {name}: its tokenizer names no pad_token, eos_token or sep_token")
    return tokenizer


def wrap(text: str, instruction: str) -> str:
    return f"Instruct: {instruction}\nQuery: {text}" if instruction else text


# ---------------------------------------------------------------- writing


def write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterator
) -> None:
    """An array into an .npz, block by block, as numpy itself would write it whole."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_2_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())


def token_blocks(spool: BinaryIO, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids end to end, lengths) of blocks of items."""
    spool.seek(0)
    for start in range(0, len(lengths), TEXTS_AT_ONCE):
        part = lengths[start : start + TEXTS_AT_ONCE]
        yield np.frombuffer(spool.read(4 * int(part.sum())), dtype=np.int32), part


def padded_blocks(
    spool: BinaryIO, lengths: np.ndarray, width: int, pad: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, mask) of blocks of items, padded on the right to `width`."""
    for ids, part in token_blocks(spool, lengths):
        mask = np.arange(width) < part[:, None]
        block = np.full(mask.shape, pad, dtype=np.int32)
        block[mask] = ids
        yield block, mask


def write_ragged(file: BinaryIO, spool: BinaryIO, lengths: np.ndarray, values: dict[str, np.ndarray]) -> None:
    """Tokens without padding, one after another."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    with zipfile.ZipFile(file, "w") as archive:
        blocks = (ids for ids, _ in token_blocks(spool, lengths))
        write_array(archive, "ids", (int(offsets[-1]),), np.int32, blocks)
        for name, value in (values | {"offsets": offsets}).items():
            write_array(archive, name, value.shape, value.dtype, iter([value]))


def write_padded(
    file: BinaryIO, spool: BinaryIO, lengths: np.ndarray, values: dict[str, np.ndarray], pad: int
) -> None:
    """The published form: every item padded to max_length."""
    width = int(values["max_length"])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, (name, dtype) in enumerate((("input_ids", np.int32), ("attention_mask", np.uint8))):
            blocks = (pair[number] for pair in padded_blocks(spool, lengths, width, pad))
            write_array(archive, name, (len(lengths), width), dtype, blocks)
        for name in ("max_length", "n_items", "item_ids", "text_hashes"):
            write_array(archive, name, values[name].shape, values[name].dtype, iter([values[name]]))


def main() -> None:
    args = parse_args()
    tokenizer = load_tokenizer(args.model)
    pad = tokenizer.pad_token_id
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=args.output.parent) as spool:
        # Tokenize
        lengths, item_ids, hashes = array("q"), [], []
        bar = tqdm(desc="tokenizing", unit=" items", disable=None)
        for ids, texts in read_texts(args.input, args.num_rows):
            wrapped = [wrap(text, args.instruction) for text in texts]
            cut = dict(truncation=True, max_length=args.max_length, return_attention_mask=False)
            rows = [row or [pad] for row in tokenizer(wrapped, **cut)["input_ids"]]
            spool.write(np.concatenate(rows, dtype=np.int32).tobytes())
            lengths.extend(map(len, rows))
            hashes += map(text_hash, texts)
            item_ids += ids
            bar.update(len(ids))
        bar.close()

        # Write
        lengths = np.array(lengths)
        values = {
            "max_length": np.array(args.max_length),
            "n_items": np.array(len(item_ids)),
            "item_ids": np.array(item_ids),
            "text_hashes": np.array(hashes),
            "tokenizer": np.array(
                hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]
            ),
            "instruction": np.array(args.instruction),
        }
        with replacing(ragged_path(args.output)) as file:
            write_ragged(file, spool, lengths, values)
        with replacing(args.output) as file:
            write_padded(file, spool, lengths, values, pad)
    cut = int((lengths == args.max_length).sum())
    print(
        f"{args.output}: {len(item_ids):,} items, {len(set(hashes)):,} distinct texts, "
        f"{np.mean(lengths):.0f} tokens on average, {cut:,} cut to {args.max_length}"
    )


if __name__ == "__main__":
    run_script(main)
