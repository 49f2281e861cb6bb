"""A trained RQ-VAE and item embeddings -> one ID an item, and one item an ID.

    python semantic_ids/export_semantic_ids.py
    python semantic_ids/export_semantic_ids.py --previous old_ids.parquet        (more items, same model)

Out: CATEGORY_semantic_ids.parquet (`parent_asin`, `semantic_id_0`, ..., `semantic_id` as "12-7-201-0",
`tokens`), the same as JSON, the codebooks and the prefix tree as .npz. Items that share all levels' codes are
told apart by a last code, given in the order of their ids, whatever the order of the rows; --collision_price
first moves some of them to the next best code of the last level. With --previous, items keep the codes that
they had and new ones take what is free: IDs once given stay, and none is given again to another item, also
after its own was removed. Of removed items the Parquet file's metadata keeps the highest numbers, so name the
newest export itself: the JSON file, or a copy that another tool wrote, does not hold them.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional as F

from semantic_ids.collisions import resolve_collisions, retired_ids, spread_last_level
from semantic_ids.item_embeddings import ROWS_AT_ONCE, embedding_blocks
from semantic_ids.prefix_trie import PrefixTrie
from semantic_ids.rqvae import RQVAE
from semantic_ids.rqvae_config import RQVAEConfig
from training_utils import InputError, pick_device, read_checkpoint, replacing, run_script

ROWS_WRITTEN = 65_536  # at once
RETIRED = b"retired_semantic_ids"  # key in the Parquet file's metadata


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--category", default="Video_Games", help="names the default files")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--checkpoint", type=Path, default=Path("checkpoints/rqvae/best_model.pth"))
    add("--embeddings", type=Path, help="default: DATA_DIR/output/CATEGORY_items_with_embeddings.parquet")
    add("--output", type=Path, help="default: DATA_DIR/output/CATEGORY_semantic_ids.parquet")
    add("--previous", type=Path, help="an earlier export, whose IDs stay")
    add(
        "--collision_price",
        type=float,
        default=0.0,
        help="of two items with all codes in common, in mean squared distances: above 0, one of them takes "
        "another last-level code if that costs less",
    )
    add("--collision_size", type=int, help="last codes there are (default: the codebook's size)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args()
    output = args.data_dir / "output"
    args.embeddings = args.embeddings or output / f"{args.category}_items_with_embeddings.parquet"
    args.output = args.output or output / f"{args.category}_semantic_ids.parquet"
    if args.output.suffix != ".parquet":
        raise InputError(f"--output {args.output}: name a .parquet file")
    if args.collision_size is not None and args.collision_size < 1:
        raise InputError("--collision_size must be 1 or more")
    if not 0 <= args.collision_price < math.inf:
        raise InputError("--collision_price must be 0 or more")
    return args


def load_rqvae(path: Path, device: torch.device) -> tuple[RQVAE, RQVAEConfig]:
    """The model of any checkpoint of train_rqvae.py, ready to encode."""
    state = read_checkpoint(path)
    try:
        config = RQVAEConfig(**state["progress"]["config"])
        model = config.build()
        model.load_state_dict(state["model"])
        if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
            raise ValueError("weights that are not finite")
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, InputError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a whole checkpoint of train_rqvae.py ({reason})") from None
    return model.to(device).eval(), config


def encode_items(
    model: RQVAE, blocks: Iterator[tuple[list[str], np.ndarray]], device: torch.device, with_residuals: bool
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Item ids, codes (N, L), and what all levels but the last leave (N, D), where that is asked for.

    Every block is filled up to the same size: a matrix product of fewer rows may round in another way, and
    equal items would then differ, in the last bits, by where they stand in the file.
    """
    ids, codes, residuals = [], [], [torch.empty(0, model.quantizers[-1].codebook.shape[1])]
    for names, vectors in blocks:
        part = F.pad(torch.tensor(vectors, device=device), (0, 0, 0, ROWS_AT_ONCE - len(vectors)))
        ids += names
        found = model.encode(part)
        codes.append(found[: len(names)].cpu())
        if with_residuals:
            residuals.append(model.last_residual(part, found)[: len(names)].cpu())
    return ids, torch.cat(codes).numpy(), torch.cat(residuals).numpy()


# ---------------------------------------------------------------- IDs given before


def read_previous(path: Path, levels: int, num_codes: int) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Item id -> all codes of an earlier export, the last one included; and the `retired_ids` it knew of."""
    columns = ["parent_asin", *(f"semantic_id_{level}" for level in range(levels + 1))]
    if not path.is_file():
        raise InputError(f"--previous {path}: no such file")
    try:
        table = pq.read_table(path, columns=columns)
        table.validate(full=True)  # ids are UTF-8
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"--previous {path}: not an export with {levels} levels ({reason})") from None
    for name in columns[1:]:
        if not pa.types.is_integer(table.schema.field(name).type) or table.column(name).null_count:
            raise InputError(f"--previous {path}: column {name} holds other than whole numbers")
    try:
        retired = json.loads((table.schema.metadata or {}).get(RETIRED, b"[]"))
        retired = [list(map(int, text.split("-"))) for text in retired]
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"--previous {path}: its metadata {RETIRED.decode()} is no list of IDs") from None
    rows = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
    previous = {str(item): codes for item, *codes in rows}
    for codes in [*previous.values(), *retired]:
        if len(codes) != levels + 1 or min(codes) < 0 or max(codes[:-1]) >= num_codes:
            raise InputError(
                f"--previous {path}: ID {'-'.join(map(str, codes))} is none of {levels} levels of "
                f"{num_codes} codes; it is of another model"
            )
    return previous, retired


def keep_previous(
    ids: list[str], codes: np.ndarray, previous: dict[str, list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, L) with the last level of `previous` where an item's prefix is what it was; and where (N)."""
    codes, fixed = codes.copy(), np.zeros(len(ids), dtype=bool)
    for row, item in enumerate(ids):
        was = previous.get(item)
        if was is not None and list(was[:-2]) == codes[row, :-1].tolist():
            codes[row, -1], fixed[row] = was[-2], True
    return codes, fixed


# ---------------------------------------------------------------- output


def tokens_of(codes: list[int], num_codes: int) -> str:
    """Every level has tokens of its own: code c of level l is number l * num_codes + c."""
    inner = "".join(f"<|sid_{level * num_codes + code}|>" for level, code in enumerate(codes))
    return f"<|sid_start|>{inner}<|sid_end|>"


def write_exports(
    args: argparse.Namespace,
    ids: list[str],
    codes: np.ndarray,
    retired: list[list[int]],
    model: RQVAE,
    num_codes: int,
) -> None:
    levels = [(f"semantic_id_{level}", pa.int32()) for level in range(codes.shape[1])]
    texts = [("semantic_id", pa.string()), ("tokens", pa.string())]
    schema = pa.schema([("parent_asin", pa.string()), *levels, *texts])
    if retired:
        schema = schema.with_metadata({RETIRED: json.dumps(["-".join(map(str, each)) for each in retired])})
    with (
        replacing(args.output) as table,
        replacing(args.output.with_suffix(".json")) as pairs,
        pq.ParquetWriter(table, schema, compression="zstd") as writer,
    ):
        pairs.write(b"{")
        for start in range(0, len(ids), ROWS_WRITTEN):
            part, names = codes[start : start + ROWS_WRITTEN], ids[start : start + ROWS_WRITTEN]
            rows = part.tolist()
            numbers = ["-".join(map(str, row)) for row in rows]
            tokens = [tokens_of(row, num_codes) for row in rows]
            columns = [names, *part.T.astype(np.int32), numbers, tokens]
            writer.write_table(pa.table(list(map(pa.array, columns)), schema=schema))
            inner = json.dumps(dict(zip(names, numbers, strict=True)), indent=0)[1:-2]  # less its braces
            pairs.write(b"," * bool(start) + inner.encode())
        pairs.write(b"\n}")
    with replacing(args.output.with_suffix(".codebooks.npz")) as file:
        books = {
            f"level_{n}": each.codebook.detach().cpu().numpy() for n, each in enumerate(model.quantizers)
        }
        np.savez(file, **books)
    PrefixTrie.build(codes).save(args.output.with_suffix(".trie.npz"))


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    model, config = load_rqvae(args.checkpoint, device)
    blocks = embedding_blocks(args.embeddings, config.item_embedding_dim)
    shape = config.codebook_quantization_levels, config.codebook_size
    previous, retired = read_previous(args.previous, *shape) if args.previous else ({}, [])

    # Codes
    ids, codes, residuals = encode_items(model, blocks, device, with_residuals=args.collision_price > 0)
    codes, fixed = keep_previous(ids, codes, previous)  # also without a price: the earlier export had one
    if args.collision_price:
        codebook = model.quantizers[-1].codebook.detach().cpu().numpy()
        codes = spread_last_level(ids, codes, residuals, codebook, args.collision_price, fixed)
    last = resolve_collisions(ids, codes, config.codebook_size, previous, retired)
    room = args.collision_size or config.codebook_size
    if last.max() >= room:
        worst = ids[int(last.argmax())]
        raise InputError(
            f"{args.embeddings}: items that share the codes of {worst}, or did so in --previous, need "
            f"{int(last.max()) + 1} numbers, with room for {room}; train longer, or give --collision_size"
        )
    whole = np.column_stack((codes, last))

    # Files
    args.output.parent.mkdir(parents=True, exist_ok=True)
    retired = retired_ids([*previous.values(), *retired], whole)
    write_exports(args, ids, whole, retired, model, config.codebook_size)
    _, sizes = np.unique(codes, axis=0, return_counts=True)
    changed = sum(list(previous[id]) != whole[row].tolist() for row, id in enumerate(ids) if id in previous)
    print(
        f"{args.output}: {len(ids):,} items, {len(sizes):,} distinct codes ({len(sizes) / len(ids):.2%}), "
        f"largest group {sizes.max()}" + (f", {changed:,} changed since --previous" if previous else "")
    )


if __name__ == "__main__":
    run_script(main)
