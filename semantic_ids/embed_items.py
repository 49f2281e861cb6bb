"""Item tokens -> one unit-length embedding an item.

    poetry run python semantic_ids/embed_items.py
    torchrun --nproc_per_node=8 semantic_ids/embed_items.py
    poetry run python semantic_ids/embed_items.py --tokenized tokens.npz --items items.parquet \
        --output embedded.parquet --model FOLDER --pooling mean --dim 384

In: the .npz of tokenize_items.py and the Parquet file that it was made of, joined by item id and text hash.
Out: that table with `embedding`, a fixed-size list of --dim float32: the last (or mean) token of the last
layer, cut to --dim, then scaled to length 1.

Each distinct text is embedded once, in batches of like length. Vectors are kept in shards beside the output
(.CATEGORY-embeddings-KEY), by text: a killed run goes on where it was, and after a change of the catalogue
only new texts are embedded. Ranks share the batches.
"""

import argparse
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from semantic_ids.item_embeddings import parquet_batches
from semantic_ids.tokenize_items import ragged_path, text_hash
from training_utils import InputError, World, init_distributed, pick_device, replacing, run_script

TOKENS_A_BATCH = {"cpu": 2048, "cuda": 65_536, "mps": 8192}  # padded; in float32 half as many
MOST_WORKERS = 8  # more would wait for the interpreter
BATCHES_A_SHARD = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--category", default="Video_Games", help="names the default files")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--tokenized", type=Path, help="default: DATA_DIR/output/CATEGORY_tokenized.npz")
    add("--items", type=Path, help="default: DATA_DIR/output/CATEGORY_items_updated.parquet")
    add("--output", type=Path, help="default: DATA_DIR/output/CATEGORY_items_with_embeddings.parquet")
    add("--model", default="Qwen/Qwen3-Embedding-0.6B", help="hub name or folder of any transformers encoder")
    add("--pooling", choices=("last", "mean"), default="last", help="Qwen3-Embedding: last; MiniLM: mean")
    add("--dim", type=int, default=1024, help="numbers kept of each embedding")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bfloat16 on CUDA, else float32")
    add(
        "--batch_tokens",
        type=int,
        help="padded tokens a batch (default: 65536 on CUDA, 2048 on a CPU; float32: half)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add(
        "--compile",
        action="store_true",
        help="compile the model: 2.4 times as fast on a GPU, 1.3 times on one CPU core, on several no faster",
    )
    args = parser.parse_args()
    if args.dim < 1 or (args.batch_tokens is not None and args.batch_tokens < 1):
        raise InputError("--dim and --batch_tokens must be 1 or more")
    output = args.data_dir / "output"
    args.tokenized = args.tokenized or output / f"{args.category}_tokenized.npz"
    args.items = args.items or output / f"{args.category}_items_updated.parquet"
    args.output = args.output or output / f"{args.category}_items_with_embeddings.parquet"
    return args


# ---------------------------------------------------------------- input


def load_tokens(path: Path) -> dict[str, np.ndarray]:
    """The ragged tokens beside the .npz, checked to belong together."""
    path = ragged_path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; tokenize_items.py writes it")
    names = ("ids", "offsets", "item_ids", "text_hashes", "max_length", "tokenizer", "instruction")
    try:
        with np.load(path, allow_pickle=False) as file:
            tokens = {name: file[name] for name in names}
    except Exception as error:  # a damaged zip fails in many ways
        raise InputError(f"{path}: is damaged ({type(error).__name__}); tokenize again") from None
    kinds = "".join(tokens[name].dtype.kind for name in names[:5])
    if kinds not in ("iiUUi", "uiUUi") or any(tokens[name].ndim != 1 for name in names[:4]):
        raise InputError(f"{path}: its arrays are of another kind; tokenize again")
    count, ends = len(tokens["item_ids"]), tokens["offsets"]
    whole = tokens["max_length"].ndim == 0 and tokens["ids"].min(initial=0) >= 0
    whole = whole and len(ends) == count + 1 and len(tokens["text_hashes"]) == count > 0
    if not whole or ends[0] != 0 or ends[-1] != len(tokens["ids"]) or (np.diff(ends) < 1).any():
        raise InputError(f"{path}: its arrays do not fit each other; tokenize again")
    return tokens


def check_items(path: Path, tokens: dict[str, np.ndarray]) -> None:
    """The same items with the same texts in the same order; what differs first is named."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepare_items.py writes it")
    row, known = 0, tokens["item_ids"]
    for batch in parquet_batches(path, ["parent_asin", "item_context"]):
        for item, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if row >= len(known):
                raise InputError(
                    f"{path}: has more items than were tokenized ({len(known):,}); tokenize again"
                )
            if str(item) != known[row]:
                raise InputError(
                    f"{path}, row {row + 1}: is item {item}, tokenized was {known[row]}; tokenize again"
                )
            if text_hash(str(text)) != tokens["text_hashes"][row]:
                raise InputError(f"{path}, row {row + 1}: the text of {item} has changed; tokenize again")
            row += 1
    if row < len(known):
        raise InputError(f"{path}: has {row:,} items, tokenized were {len(known):,}; tokenize again")


# ---------------------------------------------------------------- the model


def load_model(args: argparse.Namespace, device: torch.device) -> nn.Module:
    from transformers import AutoModel

    name = {"auto": "bfloat16" if device.type == "cuda" else "float32"}.get(args.dtype, args.dtype)
    try:
        model = AutoModel.from_pretrained(args.model, dtype=DTYPES[name])
    except Exception as error:
        where = (
            "is no model folder"
            if Path(args.model).exists()
            else "is no local folder, and the hub gave nothing"
        )
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--model {args.model}: {where} ({reason})") from None
    model.config.use_cache = False  # keys and values are for generating text
    width = model.config.hidden_size
    if args.dim > width:
        raise InputError(f"--dim {args.dim}: {args.model} gives {width} numbers; name {width} or fewer")
    return model.to(device).eval()


def check_tokens(args: argparse.Namespace, model: nn.Module, tokens: dict[str, np.ndarray]) -> None:
    """The model has a vector for every token, and a position for every place."""
    if (top := int(tokens["ids"].max())) >= model.get_input_embeddings().num_embeddings:
        raise InputError(f"--model {args.model}: knows no token {top}; tokenize with the same --model")
    lengths = np.diff(tokens["offsets"])
    longest, places = int(lengths.max()), positions(model)
    if 0 < places < longest:
        raise InputError(
            f"--model {args.model}: reads {places} tokens, item {tokens['item_ids'][lengths.argmax()]} has "
            f"{longest}; tokenize with --max_length {places}"
        )


def positions(model: nn.Module) -> int:
    """Tokens of the longest text, or 0 where nothing says so. RoBERTa and its like count positions from
    the padding's on, so that the first of their table are never used."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or 0


def compile_model(model: nn.Module) -> None:
    """On a CPU with the weights as constants, laid out for the matrix products: a second copy of them.
    Elsewhere layer by layer, as all layers are one graph, which is compiled once."""
    if model.device.type == "cpu":
        model.compile(dynamic=True, options={"freezing": True})
        return
    for layers in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for layer in layers:
            layer.compile(dynamic=True)


def model_key(args: argparse.Namespace, model: nn.Module, tokens: dict[str, np.ndarray]) -> str:
    """A hash of all that a vector depends on but its text."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        sample = (
            weight.flatten()[:: max(1, weight.numel() // 1024)].float().cpu()
        )  # the whole would take long
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + sample.numpy().tobytes())
    settings = [
        args.pooling,
        args.dim,
        int(tokens["max_length"]),
        str(tokens["tokenizer"]),
        str(tokens["instruction"]),
    ]
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()[:12]


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, T, E), (B, T) right-padded -> (B, E) in float32."""
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1].float()
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)


@torch.inference_mode()
def embed(model: nn.Module, ids: Tensor, mask: Tensor, args: argparse.Namespace) -> np.ndarray:
    hidden = model(input_ids=ids, attention_mask=None if is_causal(model) else mask).last_hidden_state
    vectors = F.normalize(pool(hidden, mask, args.pooling)[:, : args.dim], dim=1)
    return vectors.cpu().numpy()


def is_causal(model: nn.Module) -> bool:
    """Whether no token looks at later ones. Padding is on the right, so such a model needs no mask for it,
    and has the faster attention without."""
    found = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    return bool(found) and all(found)


def batches(lengths: np.ndarray, rows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows from long to short, `budget` padded tokens a batch: what does not fit shows at once."""
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    found, start = [], 0
    while start < len(rows):
        size = max(1, budget // int(lengths[rows[start]]))
        found.append(rows[start : start + size])
        start += size
    return found


# ---------------------------------------------------------------- shards


class VectorStore:
    """Vectors by text hash in files of a folder, each whole or not there."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, hashes: np.ndarray, vectors: np.ndarray) -> None:
        name = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        with replacing(self.folder / f"{name}.npz") as file:
            np.savez(file, hashes=hashes, vectors=vectors)

    def read(self) -> dict[str, tuple[int, int]]:
        """Where each text's vector is: (number of its shard, row). A damaged shard is removed."""
        self.shards, found = [], {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    hashes, vectors = file["hashes"], file["vectors"]
                if vectors.shape != (len(hashes), self.dim) or not np.isfinite(vectors).all():
                    raise ValueError
            except Exception:
                path.unlink(missing_ok=True)  # another rank may have been quicker
                continue
            found |= {text: (len(self.shards), row) for row, text in enumerate(hashes.tolist())}
            self.shards.append(vectors)
        return found


def embed_missing(
    args: argparse.Namespace,
    model: nn.Module,
    tokens: dict[str, np.ndarray],
    store: VectorStore,
    world: World,
) -> int:
    """Embed the distinct texts that no shard holds; returns how many this rank embedded."""
    device = next(model.parameters()).device
    have = store.read()
    _, first = np.unique(tokens["text_hashes"], return_index=True)
    rows = np.array([row for row in first if str(tokens["text_hashes"][row]) not in have], dtype=np.int64)
    world.gather(None)  # no rank writes before all have seen what there is
    lengths = np.diff(tokens["offsets"])
    budget = args.batch_tokens or TOKENS_A_BATCH[device.type] * 2 // model.dtype.itemsize
    todo = batches(lengths, rows, budget)[world.rank :: world.size]
    off = None if world.is_main else True
    bar = tqdm(total=sum(map(len, todo)), desc="embedding", unit=" texts", disable=off)

    def vectors_of(batch: np.ndarray) -> np.ndarray:
        mask = np.arange(lengths[batch].max()) < lengths[batch][:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = np.concatenate(
            [tokens["ids"][tokens["offsets"][row] : tokens["offsets"][row + 1]] for row in batch]
        )
        pair = [torch.from_numpy(array) for array in (ids, mask.astype(np.int64))]
        if device.type == "cuda":
            pair = [tensor.pin_memory() for tensor in pair]
        return embed(model, *(tensor.to(device, non_blocking=True) for tensor in pair), args)

    hashes, vectors = [], []
    with side_by_side(device) as apply:
        for number, (batch, found) in enumerate(zip(todo, apply(vectors_of, todo), strict=True), 1):
            vectors.append(found)
            hashes.append(tokens["text_hashes"][batch])
            bad = np.flatnonzero(~np.isfinite(found).all(1))
            if len(bad):
                raise InputError(
                    f"item {tokens['item_ids'][batch[bad[0]]]}: its embedding is not finite; "
                    "try --dtype float32"
                )
            bar.update(len(batch))
            if number % BATCHES_A_SHARD == 0 or number == len(todo):
                store.write(np.concatenate(hashes), np.concatenate(vectors))
                hashes, vectors = [], []
    bar.close()
    return sum(map(len, todo))


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Callable]:
    """A `map` for batches. On a CPU several run at once, on a core or a few each: cores that share a batch
    wait for each other after each operation."""
    threads = torch.get_num_threads()
    workers = min(threads, MOST_WORKERS) if device.type == "cpu" else 1
    if workers == 1:
        yield map
        return
    pool = ThreadPoolExecutor(workers)
    torch.set_num_threads(threads // workers)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def write_output(args: argparse.Namespace, tokens: dict[str, np.ndarray], store: VectorStore) -> None:
    """The items' table with the embedding beside each row."""
    places, row = store.read(), 0
    with replacing(args.output) as file, ExitStack() as stack:
        writer = None
        for batch in parquet_batches(args.items):
            found = [places[str(text)] for text in tokens["text_hashes"][row : row + len(batch)]]
            vectors = np.stack([store.shards[shard][place] for shard, place in found])
            row += len(batch)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), args.dim)
            table = pa.Table.from_batches([batch])
            if "embedding" in table.column_names:
                table = table.drop_columns("embedding")
            table = table.append_column("embedding", column)
            writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd"))
            writer.write_table(table)


def end_on_signal(number: int, _frame: FrameType | None) -> None:
    """Leave through every `finally`, so that no half-written file stays."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    args = parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # what is embedded stays in its shards
        signal.signal(number, end_on_signal)
    world = init_distributed()
    device = pick_device(args.device, world.local_rank)

    # Input
    tokens = load_tokens(args.tokenized)
    check_items(args.items, tokens)
    model = load_model(args, device)
    check_tokens(args, model, tokens)

    # Embed
    folder = args.output.with_name(f".{args.output.stem}-{model_key(args, model, tokens)}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    store = VectorStore(folder, args.dim)
    if args.compile:
        compile_model(model)
    started = time.perf_counter()
    counts = world.gather(embed_missing(args, model, tokens, store, world))
    seconds = time.perf_counter() - started

    # Output
    if world.is_main:
        write_output(args, tokens, store)
        items, distinct = len(tokens["item_ids"]), len(np.unique(tokens["text_hashes"]))
        print(
            f"{args.output}: {items:,} items, {distinct:,} distinct texts, {sum(counts):,} embedded now "
            f"({sum(counts) / seconds:,.1f}/s)"
        )


if __name__ == "__main__":
    run_script(main)
