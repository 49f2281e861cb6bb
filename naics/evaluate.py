"""What a trained model is worth: text -> code on held-out index entries, and how much of the tree it holds.

    naics-gemini evaluate --checkpoint checkpoints/03_stage_hard/best.pt
    python naics/evaluate.py --checkpoint checkpoints/03_stage_hard/best.pt --split validation

Out, in --out: results.json and results.md. The learned space alone and the hybrid search stand beside lexical
baselines that need no training, each measure of structure beside the score of the tree's own metric, its
ceiling. The split "test" is sealed: each time it is read, a line goes to test_log.jsonl. The weights of the
two halves of the hybrid are fitted to the validation entries, whatever the split, as those of `search` are.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naics import lexical, metrics, structure_metrics
from naics.calibration import fit_weights
from naics.data.census import IndexEntries, References, Taxonomy, load_index, load_references
from naics.data.distances import tree_distances
from naics.evaluation_tables import to_markdown, with_interval
from naics.index_roles import near_matches, normalize
from naics.inference import LoadedModel, load_model
from training_utils import InputError, describe_run, pick_device, replacing, run_script, write_json

SPLITS = ("test", "validation")
LEARNED, HYBRID, LEXICAL = "learned space", "hybrid search", "lexical half of it"
NEAREST = "learned space, codes and entries"
PLAIN = "BM25, words and pairs, all seen entries"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="naics-gemini evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best.pt or checkpoint-*.pt of train")
    add("--data_dir", type=Path, default=Path("data/naics"), help="folder that `data preprocess` wrote")
    add("--out", type=Path, help="folder to write into (default: the checkpoint's)")
    add("--split", default="test", choices=SPLITS, help="which entries are asked for their code")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args(argv)
    args.out = args.out or args.checkpoint.parent
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


# ---------------------------------------------------------------- what is asked


def entries_of(taxonomy: Taxonomy, index: IndexEntries, role: str) -> tuple[list[str], np.ndarray]:
    """Texts of a role, and the column of each one's code among the six-digit codes."""
    column = np.full(len(taxonomy), -1)
    column[taxonomy.leaves] = np.arange(len(taxonomy.leaves))
    chosen = np.flatnonzero((index.roles == role) & (column[index.rows] >= 0))
    if not len(chosen):
        raise InputError(
            f"the index has no entry of role {role}; give the folder of `naics-gemini data preprocess`"
        )
    return [index.texts[row] for row in chosen], column[index.rows[chosen]]


def audit_leaks(
    taxonomy: Taxonomy, index: IndexEntries, references: References, queries: list[str]
) -> dict[str, int]:
    """How many queries say, exactly or nearly, what is text of a code or trains the model: 0 is right."""
    seen = [text for text, role in zip(index.texts, index.roles, strict=True) if role in lexical.SEEN]
    seen += [*taxonomy.titles, *taxonomy.descriptions, *references.activities]
    seen += [line for text in taxonomy.examples for line in text.split("; ")]
    exact = {normalize(text) for text in seen}
    return {
        "exact": sum(normalize(text) in exact for text in queries),
        "near": sum(near_matches(queries, seen)),
        "withheld": int((index.roles == "withheld").sum()),
    }


def reference_queries(references: References, below: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Activities, the rows they are sent to and the rows that send them; not those sent within one group."""
    found = [
        (activity, target, origin)
        for origin, activity, targets in zip(
            references.rows.tolist(), references.activities, references.targets, strict=True
        )
        for target in targets
        if below[target].any() and below[origin].any() and not (below[target] & below[origin]).any()
    ]
    texts, targets, origins = zip(*found, strict=True) if found else ((), (), ())
    return list(texts), np.array(targets, dtype=int), np.array(origins, dtype=int)


# ---------------------------------------------------------------- what is measured


class Methods:
    """All ways from a text to scores of the six-digit codes, by the name of their row."""

    def __init__(self, model: LoadedModel, index: IndexEntries, references: References) -> None:
        self.model, taxonomy = model, model.taxonomy
        self._half, self.weights = lexical.Lexical(taxonomy, index, references), np.ones(2)
        titles = lexical.code_documents(taxonomy, index, (), descriptions=False)
        texts, examples, entries = (
            lexical.code_documents(taxonomy, index, roles) for roles in ((), ("examples",), lexical.SEEN)
        )
        self._baselines = {
            "BM25, title": lexical.BM25(titles, lexical.words),
            "BM25, title and description": lexical.BM25(texts, lexical.words),
            "BM25, and examples": lexical.BM25(examples, lexical.words),
            PLAIN: lexical.BM25(entries, lexical.word_pairs),
            "hashed trigrams, and examples": lexical.HashedTrigrams(examples),
        }

    def halves(self, texts: list[str]) -> np.ndarray:
        """(2, q, n) scores of the lexical half and of the learned space."""
        distances = self.model.look_up(texts)
        if not np.isfinite(distances).all():
            raise InputError(f"{self.model.checkpoint}: gives distances that are not finite; use another one")
        return np.stack([self._half.scores(texts), -distances])

    def fit(self, texts: list[str], targets: np.ndarray) -> None:
        self.weights = fit_weights(self.halves(texts), targets)

    def scores(self, texts: list[str]) -> dict[str, np.ndarray]:
        halves = self.halves(texts)
        to_codes = self.model.distances(self.model.encode_queries(texts))[:, self.model.taxonomy.leaves]
        return {
            HYBRID: np.tensordot(self.weights, halves, 1),
            NEAREST: halves[1],
            LEARNED: -to_codes,
            LEXICAL: halves[0],
            **{name: scorer.scores(texts) for name, scorer in self._baselines.items()},
        }


def evaluate_model(
    model: LoadedModel, index: IndexEntries, references: References, split: str = "test", seed: int = 0
) -> dict[str, Any]:
    """All measures of one model, as results.json holds them."""
    taxonomy, methods = model.taxonomy, Methods(model, index, references)
    methods.fit(*entries_of(taxonomy, index, "validation"))
    texts, targets = entries_of(taxonomy, index, split)
    paths = taxonomy.ancestors[taxonomy.leaves]  # (leaves, 5)
    found = {
        name: metrics.query_measures(scores, targets, paths) for name, scores in methods.scores(texts).items()
    }
    pairs = ((HYBRID, LEXICAL), (HYBRID, NEAREST), (NEAREST, PLAIN), (LEARNED, PLAIN))
    differences = {
        f"{a} - {b}": {name: found[a][name] - found[b][name] for name in ("top1", "hits@10", "mrr")}
        for a, b in pairs
    }
    by_sector = {f"{name}, mrr": found[name]["mrr"] for name in (HYBRID, NEAREST, PLAIN)}
    sectors = metrics.by_sector(by_sector, paths[targets, 0])
    below = np.zeros((len(taxonomy), len(paths)), dtype=bool)
    below[paths, np.arange(len(paths))[:, None]] = True
    return {
        "split": split,
        "counts": {
            "codes": len(taxonomy),
            "candidates": len(paths),
            "queries": len(texts),
            "codes_asked_for": len(np.unique(targets)),
        },
        "leaks": audit_leaks(taxonomy, index, references, texts),
        "hybrid_weights": dict(zip((LEXICAL, NEAREST), methods.weights.tolist(), strict=True)),
        "text_to_code": {
            name: metrics.bootstrap_over_codes(values, targets, seed) for name, values in found.items()
        },
        "differences": {
            name: metrics.bootstrap_over_codes(values, targets, seed) for name, values in differences.items()
        },
        "by_sector": {taxonomy.codes[sector]: row for sector, row in sectors.items()},
        "cross_references": measure_references(methods, references, below, seed),
        **measure_structure(model),
    }


def measure_references(
    methods: Methods, references: References, below: np.ndarray, seed: int
) -> dict[str, Any]:
    """Chance that an activity is nearer to the code it is sent to than to the code that sends it away."""
    texts, targets, origins = reference_queries(references, below)
    if not texts:
        return {"queries": 0}
    wins = {
        name: metrics.reference_wins(scores, targets, origins, below)
        for name, scores in methods.scores(texts).items()
    }
    # An activity is text of its destination in the lexical half, and under redirect_weight a training query.
    trained = methods.model.config.get("loss", {}).get("redirect_weight", 0) > 0
    seen = [HYBRID, LEXICAL, *([NEAREST, LEARNED] if trained else [])]
    return {
        "queries": len(texts),
        "read_before": seen,
        "destination_first": metrics.bootstrap_over_codes(wins, targets, seed),
    }


def measure_structure(model: LoadedModel) -> dict[str, Any]:
    """The learned distances of all codes against the tree's, with the tree's own measures beside them."""
    taxonomy, codes = model.taxonomy, model.codes
    tree, levels, parents = tree_distances(taxonomy), taxonomy.levels, taxonomy.parents
    learned, ceiling = (
        structure_metrics.structure_measures(distances, tree, levels, parents)
        for distances in (model.distances(codes), tree)
    )
    radii = np.linalg.norm(codes.astype(np.float64), axis=1)
    bound = model.geometry.bound if model.geometry.kind == "lorentz" else None
    return {
        "structure": {name: {"learned": learned[name], "exact_tree": ceiling[name]} for name in learned},
        "radii": structure_metrics.radius_measures(radii, levels, parents),
        "collapse": structure_metrics.collapse_measures(codes, bound),
        "experts": None if model.router is None else structure_metrics.expert_measures(model.router),
    }


# ---------------------------------------------------------------- what is written


def log_opening(args: argparse.Namespace, run: dict[str, Any]) -> int:
    """Note, before it is read, that the sealed split is; returns how often it was so far."""
    path = args.out / "test_log.jsonl"
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": str(args.checkpoint),
        "data_dir": str(args.data_dir),
        "command": run["command"],
        "git_commit": run["git_commit"],
    }
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")
    return len(path.read_text().splitlines())


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)

    # Model and data, all read before the seal is broken
    model = load_model(args.checkpoint, args.data_dir, args.device)
    index, references = load_index(args.data_dir), load_references(args.data_dir)
    for role in ("validation", args.split):
        entries_of(model.taxonomy, index, role)  # which there must be
    run = describe_run(pick_device(args.device))

    # Measures
    args.out.mkdir(parents=True, exist_ok=True)
    opened = log_opening(args, run) if args.split == "test" else None
    results = evaluate_model(model, index, references, args.split)

    # Files
    results = {"checkpoint": str(args.checkpoint), **run, "test_opened": opened, **results}
    write_json(args.out / "results.json", results)
    with replacing(args.out / "results.md") as file:
        file.write(to_markdown(results).encode())
    leaks = results["leaks"]
    if leaks["exact"] or leaks["near"]:
        print(f"warning: {leaks['near']} queries are text of a code or train the model; run preprocess again")
    for name in (HYBRID, NEAREST, LEARNED, PLAIN):
        row = results["text_to_code"][name]
        print(f"{name:40} MRR {with_interval(row['mrr'])}  hits@10 {row['hits@10']['value']:.3f}")
    print(f"Spearman with the tree's distances       {results['structure']['spearman']['learned']:.3f}")
    print(
        f"{args.out}: results.json, results.md" + (f"; sealed split opened {opened} times" if opened else "")
    )


if __name__ == "__main__":
    run_script(main)
