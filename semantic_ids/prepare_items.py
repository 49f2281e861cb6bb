"""Item metadata -> one clean row an item, with the text that is embedded.

    python semantic_ids/prepare_items.py --input meta_Video_Games.jsonl.gz
    python semantic_ids/prepare_items.py --input products.csv --id_column sku --title_column name \
        --category shop

In: Amazon Reviews metadata of any year, a JSON object id -> fields, or an own CSV, TSV or Parquet table. Out:
DATA_DIR/output/CATEGORY_items_updated.parquet with `parent_asin`, `item_context`, the fields that it was made
of, `text_hash`, and `duplicate_of` (the first item with the same text); beside it a summary in JSON.

Rules: HTML goes, entities are resolved, white space is folded. Rows of one id become one item: the first
value of each field counts. An item without title, description and category is left out and counted. Memory
holds the ids and text hashes, 200 bytes an item, and the rows of ids that occur twice.
"""

import argparse
import ast
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from semantic_ids.item_sources import read_items
from training_utils import InputError, replacing, run_script, write_json

# Where a field is looked for, in this order; in `details` (Amazon 2023) as well, without regard to case.
SOURCES = {
    "id": ("parent_asin", "asin", "id", "item_id"),
    "title": ("title", "name"),
    "description": ("description", "description_text"),
    "categories": ("categories", "category", "categories_text"),
    "product_type": ("product_type",),
    "platform": ("platform", "platforms"),
    "genre": ("genre",),
    "brand": ("brand", "store", "manufacturer"),
    "multiplayer": ("multiplayer",),
    "franchise": ("franchise",),
}
# Lines of item_context after the first three, with what stands for a missing value
LINES = {
    "product_type": ("Product Type", "Unknown"),
    "platform": ("Platform", "N/A"),
    "genre": ("Genre", "Unknown"),
    "brand": ("Brand", "Unknown"),
    "multiplayer": ("Multiplayer", "Unknown"),
    "franchise": ("Franchise", "N/A"),
}
FIELDS = [name for name in SOURCES if name != "id"]
TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)\s*>|<!--.*?-->|</?[a-zA-Z][^<>]*>", re.S | re.I)
WRITTEN_LIST = re.compile(r"""\[(['"]).*['"]\]""", re.S)  # Python's own form of a list of strings
LIST_MARKS = re.compile(r"""['"], ['"]|\\[nt]""")
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # JSON can hold half a surrogate pair, UTF-8 cannot
ROWS_AT_ONCE = 8192


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", required=True, help="metadata file")
    add("--category", default="Video_Games", help="names the output file")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--output", type=Path, help="default: DATA_DIR/output/CATEGORY_items_updated.parquet")
    for name in ("id", "title", "description", "categories", "brand"):
        add(f"--{name}_column", help=f"default: the first there is of {', '.join(SOURCES[name])}")
    add("--min_title", type=int, default=0, help="characters a title needs (the published filter: 21)")
    add("--min_description", type=int, default=0, help="characters a description needs (published: 101)")
    args = parser.parse_args()
    args.output = args.output or args.data_dir / "output" / f"{args.category}_items_updated.parquet"
    if args.output.suffix != ".parquet" or args.output.is_dir():
        raise InputError(f"--output {args.output}: name a .parquet file")
    return args


# ---------------------------------------------------------------- one item


def plain_text(value: Any) -> str:
    """Strings, lists (also written out, as in "['a', 'b']") and numbers as one clean line."""
    if value is None or value != value:
        return ""
    if isinstance(value, str) and WRITTEN_LIST.fullmatch(value):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # a quote inside was not escaped
            value = LIST_MARKS.sub(" ", value[2:-2])
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(plain_text, value)))
    text = html.unescape(html.unescape(str(value)))  # some shops escape twice
    return HALF_PAIR.sub("\ufffd", " ".join(TAG.sub(" ", text).split()))


def category_text(value: Any) -> str:
    """A path, a list of names, or a list of paths (2014), as names joined by commas, each once."""
    if isinstance(value, list | tuple):
        names = [name for part in value for name in (part if isinstance(part, list | tuple) else [part])]
        return ", ".join(dict.fromkeys(filter(None, map(plain_text, names))))
    return plain_text(value)


def written_object(text: str) -> Any:
    """The value of JSON, or else of a Python literal."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def clean_fields(row: dict[str, Any], chosen: dict[str, str]) -> dict[str, str]:
    """The fields that an item has, cleaned; empty ones are left out."""
    details = row.get("details")
    if isinstance(details, str) and details.startswith("{"):
        details = written_object(details)
    lowered = (
        {str(key).lower().replace(" ", "_"): value for key, value in details.items()}
        if isinstance(details, dict)
        else {}
    )
    found = {}
    for name in FIELDS:
        keys = (chosen[name],) if chosen.get(name) else SOURCES[name]
        make = category_text if name in ("categories", "platform") else plain_text
        values = [row.get(key) for key in keys] + [lowered.get(key) for key in keys]
        text = next(filter(None, map(make, values)), "")
        if text:
            found[name] = text
    return found


def item_context(fields: dict[str, str], lines: list[str]) -> str:
    """The text that is embedded; `lines` are the optional ones that this catalogue has."""
    parts = [
        f"Product: {fields.get('title', '')}",
        f"Description: {fields.get('description', '')}",
        f"Category: {fields.get('categories', '')}",
    ]
    return "\n".join(parts + [f"{LINES[name][0]}: {fields.get(name, LINES[name][1])}" for name in lines])


# ---------------------------------------------------------------- the catalogue


def item_id(row: dict[str, Any], chosen: dict[str, str]) -> str:
    keys = (chosen["id"],) if chosen.get("id") else SOURCES["id"]
    return next(filter(None, (plain_text(row.get(key)) for key in keys)), "")


def survey(args: argparse.Namespace, chosen: dict[str, str]) -> tuple[Counter, list[str], Counter]:
    """First pass: how often each id occurs, which optional lines there are, and the rows left out."""
    ids, present, left_out, columns = Counter(), set(), Counter(), {}
    for _, row in tqdm(read_items(args.input), desc="reading", unit=" rows", disable=None):
        if row is None:
            left_out["not an object"] += 1
            continue
        columns |= dict.fromkeys(row)
        item = item_id(row, chosen)
        if not item:
            left_out["no id"] += 1
            continue
        ids[item] += 1
        present |= clean_fields(row, chosen).keys()
    for name, column in chosen.items():
        if column and column not in columns:
            listed = ", ".join(map(repr, list(columns)[:20])) or "none"
            raise InputError(f"{args.input}: no column {column!r} for --{name}_column; it has {listed}")
    if not ids:
        raise InputError(
            f"{args.input}: holds no item with an id (left out: {dict(left_out)}); see --id_column"
        )
    return ids, [name for name in LINES if name in present], left_out


def merged_items(
    args: argparse.Namespace, chosen: dict[str, str], ids: Counter
) -> Iterator[tuple[str, dict]]:
    """Second pass: every item once, where its last row stands."""
    waiting: dict[str, dict[str, str]] = {}
    left = Counter({item: count for item, count in ids.items() if count > 1})
    for _, row in tqdm(read_items(args.input), desc="writing", unit=" rows", disable=None):
        item = item_id(row, chosen) if row is not None else ""
        if not item:
            continue
        fields = clean_fields(row, chosen)
        if item in left:
            fields |= waiting.pop(item, {})  # what came first counts
            left[item] -= 1
            if left[item]:
                waiting[item] = fields
                continue
        yield item, fields


def main() -> None:
    args = parse_args()
    chosen = {
        name: getattr(args, f"{name}_column")
        for name in ("id", "title", "description", "categories", "brand")
    }

    # Survey
    ids, lines, left_out = survey(args, chosen)

    # Write
    names = ["parent_asin", "item_context", "text_hash", "duplicate_of", *FIELDS]
    schema = pa.schema([(name, pa.string()) for name in names])
    first_with: dict[bytes, str] = {}
    counts = Counter()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.output) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for item, fields in merged_items(args, chosen, ids):
            if not fields.keys() & {"title", "description", "categories"}:
                left_out["no text"] += 1
                continue
            if len(fields.get("title", "")) < args.min_title:
                left_out["title too short"] += 1
                continue
            if len(fields.get("description", "")) < args.min_description:
                left_out["description too short"] += 1
                continue
            text = item_context(fields, lines)
            digest = hashlib.sha256(text.encode()).digest()[:16]
            same = first_with.setdefault(digest, item)
            counts["items"] += 1
            counts["text duplicates"] += same != item
            counts["without description"] += "description" not in fields
            found = {"parent_asin": item, "item_context": text, "text_hash": digest.hex(), **fields}
            rows.append({**found, "duplicate_of": same if same != item else None})
            if len(rows) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if counts["items"] == 0:
            raise InputError(f"{args.input}: no item is left (left out: {dict(left_out)})")
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    counts["rows of ids that occur again"] = sum(ids.values()) - len(ids)
    summary = {"input": args.input, **counts, "left out": dict(left_out), "context lines": lines}
    write_json(args.output.with_suffix(".summary.json"), summary)
    print(f"{args.output}: {counts['items']:,} items; {dict(counts)}; left out: {dict(left_out) or 'none'}")


if __name__ == "__main__":
    run_script(main)
