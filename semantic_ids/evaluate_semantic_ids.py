"""What a catalogue's semantic IDs are worth, beside IDs that need no training and anyone else's.

    python semantic_ids/evaluate_semantic_ids.py
    python semantic_ids/evaluate_semantic_ids.py --compare index.json --sequences purchases.jsonl \
        --label_column brand

Out, in --out: metrics.json, report.md, and ids.html, a page to browse the tree of IDs.

Measures, all without the last code, which only tells apart what shares the others: unique share; usage and
perplexity of each level; cosine of items to their reconstructions; prefix agreement, the share of an item's
5 nearest neighbours that have its prefix, beside the chance of two random items; collisions by cause; with
--label_column, how pure prefixes are in a label; with --sequences, how much oftener than by chance
neighbouring purchases share a prefix, recall of the next purchase by longest shared prefix beside recall by
cosine, and the same for popular items.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from semantic_ids import id_metrics
from semantic_ids.export_semantic_ids import load_rqvae
from semantic_ids.id_baselines import BASELINES
from semantic_ids.id_files import read_ids, read_purchases
from semantic_ids.id_page import write_page
from semantic_ids.item_embeddings import EmbeddingDataset
from training_utils import InputError, pick_device, replacing, run_script, write_json

NEIGHBOURS, RECALL_AT = 5, 10
POPULAR_SHARE = 0.1  # of the items, by purchases
OURS = "these IDs"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--category", default="Video_Games", help="names the default files")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--ids", type=Path, help="default: DATA_DIR/output/CATEGORY_semantic_ids.parquet; or JSON")
    add("--checkpoint", type=Path, default=Path("checkpoints/rqvae/best_model.pth"), help="of those IDs")
    add("--no_checkpoint", action="store_true", help="IDs of another's making: no reconstruction")
    add("--embeddings", type=Path, help="default: DATA_DIR/output/CATEGORY_items_with_embeddings.parquet")
    add("--levels", type=int, help="codes of an ID that carry meaning (default: the checkpoint's levels)")
    add("--compare", type=Path, action="append", default=[], help="another ID file for the same items")
    add("--sequences", type=Path, help="purchases: JSON lines with history and target, or user -> items")
    add("--label_column", help="column of the embedding file, for purity")
    add("--neighbour_items", type=int, default=10_000, help="items whose neighbours are looked up")
    add("--out", type=Path, help="default: DATA_DIR/output/CATEGORY_evaluation")
    add("--seed", type=int, default=0, help="of baselines and of the items looked up")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args()
    output = args.data_dir / "output"
    args.ids = args.ids or output / f"{args.category}_semantic_ids.parquet"
    args.embeddings = args.embeddings or output / f"{args.category}_items_with_embeddings.parquet"
    args.out = args.out or output / f"{args.category}_evaluation"
    if args.neighbour_items < 1 or not 0 <= args.seed < 2**31 or (args.levels or 1) < 1:
        raise InputError("--neighbour_items, --levels: 1 or more; --seed: from 0 to 2^31 - 1")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


class Catalogue:
    """The items all methods are measured on, and what is known of them beside their IDs."""

    def __init__(self, args: argparse.Namespace, items: EmbeddingDataset) -> None:
        self.ids = items.ids
        self.original = items.vectors
        self.unit = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True)
        columns = read_columns(args.embeddings, ["title", "item_context", "text_hash", args.label_column])
        self.titles = columns["title"] or columns["item_context"] or items.ids
        self.texts = np.array(columns["text_hash"]) if columns["text_hash"] else None
        self.labels = None
        if args.label_column:
            self.labels = number_labels(args, columns[args.label_column])
        rng = np.random.default_rng(args.seed)
        count = min(len(items.ids), args.neighbour_items)
        self.queries = np.sort(rng.permutation(len(items.ids))[:count])
        neighbours = min(NEIGHBOURS, len(items.ids) - 1)
        self.neighbours = id_metrics.nearest_items(self.unit, self.queries, neighbours)
        self.shuffle = rng.permutation(len(items.ids))
        self.pairs, self.popular = None, None
        if args.sequences:
            self.pairs, unknown = read_purchases(args.sequences, items.ids)
            if unknown:
                print(f"{args.sequences}: {unknown:,} pairs with an item that is not embedded left out")
            bought = np.bincount(self.pairs.reshape(-1), minlength=len(items.ids))
            self.popular = np.argsort(-bought, kind="stable")[: max(1, round(POPULAR_SHARE * len(items.ids)))]

    def cosine_recall(self) -> float:
        """Share of the purchases among the RECALL_AT items nearest to the purchase before."""
        sources, place = np.unique(self.pairs[:, 0], return_inverse=True)
        count = min(RECALL_AT, len(self.ids) - 1)
        near = id_metrics.nearest_items(self.unit, sources, count)
        return float((near[place.reshape(-1)] == self.pairs[:, 1:]).any(1).mean())

    def measure(self, name: str, codes: np.ndarray, found: np.ndarray | None) -> dict[str, Any]:
        """All measures of `codes` (N, L); `found` (N, E) are the items' reconstructions."""
        num_codes = int(codes.max()) + 1
        counts = id_metrics.code_counts(torch.from_numpy(codes), num_codes)
        groups = id_metrics.prefix_groups(codes)
        sizes = np.bincount(groups[-1])
        measures: dict[str, Any] = {
            "name": name,
            "unique_share": len(sizes) / len(codes),
            "largest_group": int(sizes.max()),
            "prefixes": [int(group.max()) + 1 for group in groups],
            "codes_used": [int((level > 0).sum()) for level in counts],
            "perplexity": id_metrics.perplexity(counts),
            "reconstruction_cosine": None if found is None else self.cosine(found),
            "prefix_agreement": [
                id_metrics.prefix_agreement(group, self.queries, self.neighbours) for group in groups
            ],
            "prefix_agreement_by_chance": [id_metrics.chance_of_one_group(group) for group in groups],
            "collisions": id_metrics.collision_causes(groups[-1], self.texts, self.unit),
        }
        if self.labels is not None:
            measures["prefix_purity"] = [id_metrics.purity(group, self.labels) for group in groups]
            shuffled = self.labels[self.shuffle]
            measures["prefix_purity_by_chance"] = [id_metrics.purity(group, shuffled) for group in groups]
        if self.pairs is not None:
            measures["adjacency"] = [id_metrics.adjacency(group, self.pairs) for group in groups]
            measures[f"recall_at_{RECALL_AT}"] = id_metrics.prefix_recall(groups, self.pairs, RECALL_AT)
            of_popular = groups[-1][self.popular]
            alone = (sizes[of_popular] == 1).mean()
            measures["popular_items_alone"] = float(alone)
        return measures

    def cosine(self, found: np.ndarray) -> float:
        lengths = np.linalg.norm(found, axis=1).clip(min=1e-12)
        return float(((self.unit * found).sum(1) / lengths).mean())


def read_columns(path: Path, names: list[str | None]) -> dict[str, list[Any] | None]:
    """Columns of the embedding file; None for one that it does not have."""
    try:
        with pq.ParquetFile(path) as file:
            have = [name for name in names if name in file.schema_arrow.names]
            table = file.read(columns=have)
            table.validate(full=True)  # texts are UTF-8
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); write it again") from None
    columns = {name: table.column(name) for name in have}
    for name, column in columns.items():
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            columns[name] = [" > ".join(map(str, value or [])) for value in column.to_pylist()]
        else:
            columns[name] = ["" if value is None else str(value) for value in column.to_pylist()]
    return {name: columns.get(name) for name in names if name}


def number_labels(args: argparse.Namespace, values: list[str] | None) -> np.ndarray:
    """Label numbers (N), -1 where an item has none."""
    if values is None:
        raise InputError(f"{args.embeddings}: no column {args.label_column!r} for --label_column")
    names = {name: number for number, name in enumerate(sorted(set(values) - {""}))}
    if not names:
        raise InputError(f"{args.embeddings}: column {args.label_column!r} is empty")
    return np.array([names.get(value, -1) for value in values])


def align(path: Path, levels: int | None, items: list[str]) -> np.ndarray:
    """Codes (N, L) of a file in the order of `items`."""
    found, codes = read_ids(path, levels)
    row_of = {item: row for row, item in enumerate(found)}
    missing = [item for item in items if item not in row_of]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of {len(items):,} embedded items have no ID in it, {missing[0]} among "
            "them; export again"
        )
    return codes[[row_of[item] for item in items]]


# ---------------------------------------------------------------- report


def table(methods: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the comparison, as text."""
    levels = max(len(method["perplexity"]) for method in methods)
    head = ["IDs", "unique", "cosine"]
    head += [f"p{depth}" for depth in range(1, levels + 1)] + ["perplexity a level", "largest group"]
    labelled, bought = "prefix_purity" in methods[0], "adjacency" in methods[0]
    head += ["purity 1, 2"] * labelled + ["adjacency lift", f"recall@{RECALL_AT}", "popular alone"] * bought
    rows = []
    for method in methods:
        cosine = method["reconstruction_cosine"]
        row = [method["name"], f"{method['unique_share']:.4f}", "-" if cosine is None else f"{cosine:.4f}"]
        agreement = [f"{value:.4f}" for value in method["prefix_agreement"]]
        row += agreement + ["-"] * (levels - len(agreement))
        row += [" / ".join(f"{value:.0f}" for value in method["perplexity"]), str(method["largest_group"])]
        if labelled:
            row.append(", ".join(f"{value:.3f}" for value in method["prefix_purity"][:2]))
        if bought:
            lift = method["adjacency"][0]["lift"]
            row.append("-" if lift is None else f"{lift:.1f}")
            row += [f"{method[f'recall_at_{RECALL_AT}']:.4f}", f"{method['popular_items_alone']:.4f}"]
        rows.append(row)
    return head, rows


def write_report(path: Path, metrics: dict[str, Any]) -> None:
    head, rows = table(metrics["methods"])
    lines = [f"# Semantic IDs of {metrics['items']:,} items", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    ours = metrics["methods"][0]
    lines += ["", "Items that share all codes, by cause: "]
    lines[-1] += "; ".join(
        f"{cause} {found['items']:,} items in {found['groups']:,} groups"
        for cause, found in ours["collisions"].items()
    )
    chance = ", ".join(f"{value:.4f}" for value in ours["prefix_agreement_by_chance"])
    lines += ["", f"p1, p2, ...: neighbours with the same prefix; two random items: {chance}."]
    if "cosine_recall" in metrics:
        lines += ["", f"Recall@{RECALL_AT} by cosine of the embeddings: {metrics['cosine_recall']:.4f}."]
    with replacing(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)

    # Input
    model, levels, width = None, args.levels, None
    if not args.no_checkpoint:
        model, config = load_rqvae(args.checkpoint, device)
        levels, width = args.levels or config.codebook_quantization_levels, config.item_embedding_dim
    items = EmbeddingDataset.from_parquet(args.embeddings, width)
    if len(items.ids) < 2:
        raise InputError(f"{args.embeddings}: one item; measures need two or more")
    codes = align(args.ids, levels, items.ids)
    others = {path.name: align(path, levels, items.ids) for path in args.compare}
    catalogue = Catalogue(args, items)

    # Measures
    found = None
    if model is not None:
        if codes.max() >= config.codebook_size:
            raise InputError(f"{args.ids}: holds code {codes.max()}, which {args.checkpoint} does not have")
        parts = torch.from_numpy(codes).split(id_metrics.ITEMS_AT_ONCE)
        found = torch.cat([model.decode(part.to(device)).cpu() for part in parts]).numpy()
    methods = [catalogue.measure(OURS, codes, found)]
    methods += [catalogue.measure(name, other, None) for name, other in others.items()]
    num_codes = config.codebook_size if model is not None else int(codes.max()) + 1
    for name, baseline in BASELINES.items():
        baseline_codes, baseline_found = baseline(items.vectors, codes.shape[1], num_codes, args.seed)
        methods.append(catalogue.measure(name, baseline_codes, baseline_found))
    metrics = {"items": len(items.ids), "ids": str(args.ids), "methods": methods}
    if catalogue.pairs is not None:
        metrics |= {"purchase_pairs": len(catalogue.pairs), "cosine_recall": catalogue.cosine_recall()}

    # Report
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "metrics.json", metrics)
    write_report(args.out / "report.md", metrics)
    write_page(args.out / "ids.html", metrics, table(methods), items.ids, catalogue.titles, codes)
    head, rows = table(methods)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{args.out}: metrics.json, report.md, ids.html")


if __name__ == "__main__":
    run_script(main)
