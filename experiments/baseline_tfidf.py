"""TF-IDF with one linear SVM a label on prepared EUR-Lex: what a number format's effect is worth beside it.

    python experiments/baseline_tfidf.py --data data/eurlex --out results/classification

In:  --data, written by classification/prepare_data.py (its texts, uncut).
Out: in --out a line of results.jsonl with the configuration `tfidf_linear`, and the test split's predictions;
     report.py shows it below the number formats.

A rare label takes 1.2 s of one core with 45,000 documents of 240 distinct words, so EURLEX57K takes two cores
about an hour. Weights below 1% of a label's largest are dropped, which keeps them sparse.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from experiments.classification.data import EurLex, Split, load_eurlex
from experiments.classification.metrics import MultiLabelMetrics
from experiments.run_record import append_row, finished_keys
from experiments.task import read_metadata
from training_utils import InputError, describe_run, replacing, run_script

NAME = "tfidf_linear"
NEVER = -10.0  # the score of a label without training documents; an SVM's own lie around -1
DOCUMENTS_AT_ONCE = 256
SMALLEST_WEIGHT = 0.01  # of a label's largest


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/eurlex"), help="folder that prepare_data.py wrote")
    add("--out", type=Path, default=Path("results/classification"), help="folder of results.jsonl")
    add("--max_features", type=int, default=200_000, help="words, the most frequent")
    add("--c", type=float, default=1.0, help="the SVM's C")
    add("--seed", type=int, default=0, help="of the SVM's coordinate descent")
    add("--threads", type=int, default=0, help="labels at once (0 = cores)")
    args = parser.parse_args()
    if args.max_features < 1 or args.c <= 0 or args.threads < 0:
        raise InputError("--max_features and --c must be above 0, --threads 0 or more")
    return args


def read_texts(folder: Path, split: str, documents: int) -> list[str]:
    path = folder / f"{split}.jsonl"
    try:
        texts = [json.loads(line)["text"] for line in path.read_text("utf-8").split("\n") if line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: missing or damaged ({error}); run prepare_data.py again") from None
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{path}: a text is no text; run prepare_data.py again")
    if len(texts) != documents:
        raise InputError(f"{path}: {len(texts)} texts, not {documents}; run prepare_data.py again")
    return texts


def fit_label(
    features: csr_matrix, is_true: np.ndarray, args: argparse.Namespace
) -> tuple[csr_matrix, float]:
    """One label's weights (1, F) and intercept."""
    width = features.shape[1]
    if is_true.all() or not is_true.any():
        return csr_matrix((1, width), dtype=np.float32), -NEVER if is_true.all() else NEVER
    model = LinearSVC(C=args.c, random_state=args.seed).fit(features, is_true)
    weights = model.coef_[0].astype(np.float32)
    weights[np.abs(weights) < SMALLEST_WEIGHT * np.abs(weights).max()] = 0
    return csr_matrix(weights), float(model.intercept_[0])


def fit(features: csr_matrix, split: Split, labels: int, args: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """Weights (L, F) and intercepts (L) of all labels, on all cores: liblinear lets other threads run."""
    rows, columns = split.gold(np.arange(len(split)))
    of_label = csr_matrix((np.ones(len(rows), dtype=bool), (columns, rows)), shape=(labels, len(split)))
    tasks = (delayed(fit_label)(features, of_label[label].toarray()[0], args) for label in range(labels))
    found = Parallel(n_jobs=args.threads or os.cpu_count(), prefer="threads")(tasks)
    return vstack([weights for weights, _ in found]).tocsr(), np.array([b for _, b in found], np.float32)


def score(
    features: csr_matrix, weights: csr_matrix, intercepts: np.ndarray, data: EurLex, split: str,
    tuned: float | None = None,
) -> MultiLabelMetrics:  # fmt: skip
    metrics = MultiLabelMetrics(data.num_labels, data.train_documents, tuned)
    for start in range(0, features.shape[0], DOCUMENTS_AT_ONCE):
        documents = np.arange(start, min(start + DOCUMENTS_AT_ONCE, features.shape[0]))
        scores = (features[documents] @ weights.T).toarray().astype(np.float32) + intercepts
        rows, labels = data.splits[split].gold(documents)
        metrics.add(torch.from_numpy(scores), torch.from_numpy(rows), torch.from_numpy(labels))
    return metrics


def save_predictions(path: Path, metrics: MultiLabelMetrics, split: Split) -> None:
    hits, predicted, gold = (metrics.column(name) for name in ("hits", "predicted", "gold"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(
            file, top5=metrics.column("best"), gold=split.labels, gold_offsets=split.label_offsets,
            tp=hits, fp=predicted - hits, fn=gold - hits,
        )  # fmt: skip


def main() -> None:
    args = parse_args()
    metadata = read_metadata(args.data, "labels", "experiments/classification/prepare_data.py")
    key = f"{NAME}-{metadata['fingerprint']}-{args.max_features}-{args.c:g}-{args.seed}"
    if key in finished_keys(args.out):
        print(f"{NAME}: completed already, in {args.out}")
        return

    # Data
    data = load_eurlex(args.data, metadata["max_length"])
    counts = {name: len(split) for name, split in data.splits.items()}
    texts = {name: read_texts(args.data, name, count) for name, count in counts.items()}

    # Fit
    started = time.perf_counter()
    words = TfidfVectorizer(max_features=args.max_features, sublinear_tf=True)  # float64, as liblinear wants
    try:
        features = {"train": words.fit_transform(texts["train"])}
    except ValueError:  # an empty vocabulary
        raise InputError(f"{args.data}: no training text holds a word; prepare other documents") from None
    weights, intercepts = fit(features["train"], data.splits["train"], data.num_labels, args)
    seconds = time.perf_counter() - started

    # Score
    features |= {name: words.transform(texts[name]) for name in ("validation", "test")}
    tuned, _ = score(features["validation"], weights, intercepts, data, "validation").best_threshold()
    found = {
        name: score(features[name], weights, intercepts, data, name, tuned) for name in ("validation", "test")
    }
    predictions = Path("predictions") / f"{key}.npz"
    save_predictions(args.out / predictions, found["test"], data.splits["test"])
    metrics = {name: scores.result() for name, scores in found.items()}
    append_row(args.out, {
        "task": "classification", "config": NAME, "seed": args.seed, "learning_rate": None,
        "status": "completed", "reason": None, "emulated": False, "key": key,
        **describe_run(torch.device("cpu")),
        "model": {"name": NAME, "parameters": int(weights.nnz)},
        "data": {"fingerprint": metadata["fingerprint"], **counts, "labels": data.num_labels},
        "train_seconds": round(seconds, 1), "metrics": metrics, "predictions": str(predictions),
    })  # fmt: skip
    shown = ("micro_f1", "micro_f1_tuned", "macro_f1", "precision_at_1", "precision_at_5", "r_precision_at_5")
    print(
        f"{NAME}  {seconds:.0f} s  test  "
        + "  ".join(f"{name} {metrics['test'][name]:.4f}" for name in shown)
    )


if __name__ == "__main__":
    run_script(main)
