"""Rows a second and peak memory of each data path as its input grows: flat, or not.

    python scripts/growth.py --out data/growth
    python scripts/growth.py --out data/growth --path tokenize_items --scale 1 10 100

Out: OUT/growth.json, which later runs of other paths or scales add to, OUT/growth.png, and a table on the
screen. A path's input is made up by the generators of make_sample_data.py, in a process of its own, then its
command runs as a user starts it, on one worker. Start-up, measured on a hundredth of the rows, is subtracted
from the time. Memory is the largest resident set of the command or any of its children. A scale that would
take longer than --minutes, by the one before it, is left out.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_utils import InputError, run_script, write_json

ROOT = Path(__file__).parent.parent
DIM = 256  # of the embeddings that are exported
LEAST_SECONDS = 0.5  # after start-up, without which a rate would be noise


@dataclass(frozen=True)
class DataPath:
    """`command` is a script and its flags: IN is the folder that `make` filled for so many rows."""

    unit: str
    rows: int  # at scale 1
    make: Callable[[Path, int], None]
    command: str
    least: int = 100  # rows that start-up is measured on, where a hundredth of `rows` is fewer


# ---------------------------------------------------------------- inputs


def run(command: str, **places: object) -> None:
    subprocess.run(words(command, **places), check=True, capture_output=True, cwd=ROOT)


def words(command: str, **places: object) -> list[str]:
    """The command's words with its places filled in; a place may hold spaces."""
    filled = [str(places.get(word, word)) for word in command.split()]
    for name, value in places.items():
        filled = [word.replace(f"{name}/", f"{value}/") for word in filled]
    return [sys.executable, *filled]


def make_offers(folder: Path, rows: int) -> None:
    from make_sample_data import write_offers

    write_offers(folder, rows, seed=0)


def make_table(folder: Path, rows: int) -> None:
    import csv

    from sample_lspc import Catalog, render_offer

    catalog = Catalog(0)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["title", "description", "category", "language"])
        for number in range(rows):
            product, language = catalog.draw_product(others=False), catalog.draw_language()
            title, description = render_offer(catalog, product, language)
            writer.writerow([f"{title} {number}", description, product.category, language])


def make_predictor(folder: Path, rows: int) -> None:
    """The table, and a classifier after one step."""
    from make_sample_data import write_lspc

    (folder / "lspc").mkdir()
    write_lspc(folder / "lspc", 2_000, seed=0)
    columns = "--text_column title,description --label_column category --workers 1"
    table = "category_classification/prepare_lspc.py --table IN/lspc/products.csv --out IN/data"
    run(f"{table} {columns}", IN=folder)
    size = "--hidden_size 192 --num_layers 1 --seq_len 64 --batch_size 16 --max_steps 1 --device cpu"
    train = (
        "category_classification/train_embedding_classifier.py --data IN/data --tokenizer IN/lspc/tokenizer"
    )
    run(f"{train} --out IN/run {size}", IN=folder)
    make_table(folder, rows)


def make_metadata(folder: Path, rows: int) -> None:
    from make_sample_data import write_items

    write_items(folder, rows, seed=0)


def make_items(folder: Path, rows: int) -> None:
    """Clean items, and a tokenizer."""
    from make_sample_data import write_lspc

    make_metadata(folder, rows)
    prepare = "semantic_ids/prepare_items.py --input IN/meta_Video_Games.jsonl.gz --output IN/items.parquet"
    run(prepare, IN=folder)
    (folder / "lspc").mkdir()
    write_lspc(folder / "lspc", 2_000, seed=0)


def make_embeddings(folder: Path, rows: int) -> None:
    """Random vectors, and an RQ-VAE as training starts with it: codes spread over them by k-means."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from semantic_ids.rqvae_config import RQVAEConfig
    from training_utils import save_checkpoint

    schema = pa.schema([("parent_asin", pa.string()), ("embedding", pa.list_(pa.float32(), DIM))])
    with pq.ParquetWriter(folder / "embedded.parquet", schema) as writer:
        for start in range(0, rows, 8192):
            count = min(8192, rows - start)
            vectors = np.random.default_rng(start).normal(size=(count, DIM)).astype(np.float32)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
            ids = [f"B{start + row:09}" for row in range(count)]
            writer.write_table(pa.table({"parent_asin": ids, "embedding": lists}, schema=schema))
    torch.manual_seed(0)
    config = RQVAEConfig(item_embedding_dim=DIM)
    model = config.build()
    model.initialize_codebooks(torch.randn(16_384, DIM), seed=0)
    save_checkpoint(folder / "model.pth", {"config": vars(config)}, model=model)


def make_acts(folder: Path, rows: int) -> None:
    from make_sample_data import write_acts

    write_acts(folder, rows, seed=0)


def make_text(folder: Path, rows: int) -> None:
    """So many lines: those of some acts again and again, each with its number."""
    make_acts(folder, 640)
    lines = [line for line in (folder / "corpus.txt").read_text("utf-8").splitlines() if line]
    with (folder / "text.txt").open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(f"{number} {lines[number % len(lines)]}\n")


def make_triplets(folder: Path, rows: int) -> None:
    write_triplets(folder / "triplets", rows)


def make_nothing(folder: Path, rows: int) -> None:
    """The triplets come out of a made-up taxonomy of the size of NAICS 2022."""


# ---------------------------------------------------------------- paths of naics/ that are no script's alone


def write_triplets(folder: Path, rows: int) -> None:
    from naics.benchmark_triplets import draw_taxonomy
    from naics.data.triplets import write_triplets as write

    write(draw_taxonomy(), folder, limit=rows)


def read_triplets(folder: Path, rows: int) -> None:
    """One pass."""
    from naics.benchmark_triplets import Reader

    Reader(argparse.Namespace(data_dir=None, folder=folder, rows=rows)).run()


def sample_matrix(folder: Path, rows: int) -> None:
    from naics.benchmark_triplets import Matrix

    Matrix(argparse.Namespace(data_dir=None, rows=rows)).run()


STEPS = {step.__name__: step for step in (write_triplets, read_triplets, sample_matrix)}
ITSELF = "scripts/growth.py --rows ROWS --out IN/triplets --step"
COLUMNS = "--text_column title,description"
PATHS = {
    "prepare_lspc_zip": DataPath(
        "offers", 60_000, make_offers,
        "category_classification/prepare_lspc.py --zip IN/lspcV2020.zip --labels IN/PDC2020_map.tsv "
        "--workers 1 --out IN/data",
        least=1000,
    ),
    "prepare_lspc_table": DataPath(
        "rows", 20_000, make_table,
        f"category_classification/prepare_lspc.py --table IN/table.csv {COLUMNS} --label_column category "
        "--workers 1 --out IN/data",
        least=1000,
    ),
    "predict_categories": DataPath(
        "rows", 10_000, make_predictor,
        "category_classification/predict_categories.py --checkpoint IN/run/best.pt --input IN/table.csv "
        f"{COLUMNS} --output IN/answers.csv --device cpu",
    ),
    "prepare_items": DataPath(
        "items", 20_000, make_metadata,
        "semantic_ids/prepare_items.py --input IN/meta_Video_Games.jsonl.gz --output IN/items.parquet",
    ),
    "tokenize_items": DataPath(
        "items", 10_000, make_items,
        "semantic_ids/tokenize_items.py --input IN/items.parquet --output IN/tokens.npz "
        "--model IN/lspc/tokenizer --max_length 512",
    ),
    "export_semantic_ids": DataPath(
        "items", 50_000, make_embeddings,
        "semantic_ids/export_semantic_ids.py --checkpoint IN/model.pth --embeddings IN/embedded.parquet "
        "--output IN/ids.parquet --collision_size 1000000 --device cpu",
    ),
    "prepare_eurlex": DataPath(
        "documents", 2_000, make_acts,
        "experiments/classification/prepare_data.py --input IN/EURLEX57K.zip --tokenizer IN/tokenizer "
        "--allow_partial --out IN/data",
    ),
    "prepare_text": DataPath(
        "lines", 100_000, make_text,
        "experiments/language_modeling/prepare_data.py --input IN/text.txt --tokenizer IN/tokenizer "
        "--out IN/data",
    ),
    "write_triplets": DataPath("triplets", 4_000_000, make_nothing, f"{ITSELF} write_triplets"),
    "read_triplets": DataPath("triplets", 10_000_000, make_triplets, f"{ITSELF} read_triplets"),
    "sample_matrix": DataPath("triplets", 50_000_000, make_nothing, f"{ITSELF} sample_matrix"),
}  # fmt: skip


# ---------------------------------------------------------------- measuring


def measure(name: str, rows: int) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a path over so many rows."""
    with tempfile.TemporaryDirectory(prefix=f"growth-{name}-") as folder:
        script = f"scripts/growth.py --step make --path {name} --rows ROWS --out IN"
        run(script, IN=folder, ROWS=rows)
        command, log = words(PATHS[name].command, IN=folder, ROWS=rows), Path(folder) / "growth.log"
        started = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = (log.read_text(errors="replace").splitlines() or [""])[-1]
            raise InputError(f"{name}, {rows:,} rows: ended with status {process.returncode} ({last})")
        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
        return seconds, usage.ru_maxrss / unit


def grow(name: str, rows: int, scales: list[int], minutes: float) -> list[dict[str, Any]]:
    """A record a scale, in their order."""
    small = max(PATHS[name].least, rows // 100)
    start_up, _ = measure(name, small)
    found: list[dict[str, Any]] = []
    for scale in sorted(scales):
        if found and found[-1]["seconds"] * scale / found[-1]["scale"] > 60 * minutes:
            print(f"{name}: scale {scale} would take more than {minutes:g} minutes, left out", flush=True)
            break
        seconds, memory = measure(name, rows * scale)
        own, more = seconds - start_up, rows * scale - small
        found.append({
            "path": name, "unit": PATHS[name].unit, "scale": scale, "rows": rows * scale,
            "seconds": round(seconds, 2), "start_up_seconds": round(start_up, 2),
            "rows_per_second": round(more / own, 1) if own > LEAST_SECONDS else None,
            "peak_mb": round(memory, 1),
        })  # fmt: skip
        print(row_of(found[-1]), flush=True)
    return found


HEAD = f"{'path':20} {'rows':>13} {'seconds':>9} {'start-up':>9} {'rows/s':>12} {'peak MB':>9}"


def row_of(each: dict[str, Any]) -> str:
    rate = "-" if each["rows_per_second"] is None else f"{each['rows_per_second']:,.0f}"
    return (
        f"{each['path']:20} {each['rows']:>13,} {each['seconds']:>9.1f} {each['start_up_seconds']:>9.1f} "
        f"{rate:>12} {each['peak_mb']:>9,.0f}"
    )


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Rate over that of the smallest scale, and peak memory; each path a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for number, name in enumerate(dict.fromkeys(each["path"] for each in records)):
        own = sorted((each for each in records if each["path"] == name), key=lambda each: each["rows"])
        rows = [each["rows"] for each in own]
        style = {"marker": "os^Dv"[number % 5], "linestyle": ("-", "--", ":")[number // 5], "label": name}
        rates = [each["rows_per_second"] or math.nan for each in own]  # none, or too few
        left.plot(rows, [rate / rates[0] for rate in rates], **style)
        right.plot(rows, [each["peak_mb"] for each in own], **style)
    left.set(xscale="log", xlabel="rows", ylabel="rows a second, over those of the smallest input")
    left.axhspan(0.9, 1.1, color="#DDDDDD", zorder=0)
    left.set_ylim(bottom=0)
    right.set(xscale="log", yscale="log", xlabel="rows", ylabel="peak memory, MB")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# ---------------------------------------------------------------- the script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of growth.json and growth.png")
    add("--path", nargs="+", choices=PATHS, default=list(PATHS), metavar="NAME", help=", ".join(PATHS))
    add("--scale", nargs="+", type=int, default=[1, 10], help="times the rows of scale 1")
    add("--rows", type=int, help="at scale 1, in place of the path's own")
    add("--minutes", type=float, default=20, help="longest time of a command")
    add("--step", choices=("make", *STEPS), help=argparse.SUPPRESS)  # a part that runs in its own process
    args = parser.parse_args()
    if min(args.scale) < 1 or (args.rows is not None and args.rows < 1):
        raise InputError("--scale, --rows: 1 or more")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


def main() -> None:
    args = parse_args()
    if args.step == "make":
        PATHS[args.path[0]].make(args.out, args.rows)
        return
    if args.step:
        STEPS[args.step](args.out, args.rows)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "growth.json"
    records = json.loads(path.read_text()) if path.exists() else []
    print(HEAD, flush=True)
    for name in args.path:
        found = grow(name, args.rows or PATHS[name].rows, args.scale, args.minutes)
        new = {(each["path"], each["rows"]) for each in found}
        records = [each for each in records if (each["path"], each["rows"]) not in new] + found
        write_json(path, records)
    plot(records, args.out / "growth.png")
    print(f"\n{HEAD}")
    for each in records:
        print(row_of(each))


if __name__ == "__main__":
    run_script(main)
