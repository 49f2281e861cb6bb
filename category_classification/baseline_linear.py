"""Any reader's first question: what does TF-IDF with logistic regression reach on the same splits?

    python category_classification/baseline_linear.py --data ./lspc_dataset_full --out ./baseline_linear
    python category_classification/baseline_linear.py --data DIR --out DIR --features both --max_rows 100000

In: a DatasetDict folder with train, validation, test (text or title/description, label, cluster, language).
Out: metrics.json (validation and test), summary.json, report.md, confusion.png.

N-grams are hashed, so nothing grows with the vocabulary. On one core 100k titles of 42 characters take 35 s
and 0.7 GB, 1M titles 2 minutes and 3.2 GB; 100k texts of 340 characters 3 minutes and 2.4 GB. `--max_rows`
bounds both; past 2^31 n-grams in all (16M titles) it must be given.
"""

import argparse
import hashlib
import importlib.metadata
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from category_classification.language_id import identify
from category_classification.metrics import ConfusionByLanguage, bootstrap_intervals, classification_report
from category_classification.report import markdown_report, markdown_table, plot_confusion, write_text
from training_utils import InputError, describe_run, run_script, write_json

ANALYZERS = {"char": [("char_wb", (2, 5))], "word": [("word", (1, 2))]}
ANALYZERS["both"] = ANALYZERS["char"] + ANALYZERS["word"]
MAX_CHARACTERS = 1000  # about the 256 tokens that the encoder reads; bounds memory a row
MIN_EPOCHS, MAX_EPOCHS, ROW_VISITS = 10, 50, 5_000_000  # of SAGA: many rows need few passes
TOLERANCE = 1e-3  # of SAGA: a tenth of it costs 5 times the passes and moves F1 by less than 0.002
PREDICTED_AT_ONCE = 10_000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="DatasetDict folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--train_split", default="train", help="'full' holds the test rows too: ask by name")
    parser.add_argument("--features", choices=ANALYZERS, default="char", help="char_wb 2-5, word 1-2 or both")
    parser.add_argument("--C", type=float, default=20.0, help="inverse strength of the L2 penalty")
    parser.add_argument("--max_rows", type=int, default=0, help="random training rows; nested (0 = all)")
    parser.add_argument("--max_features", type=int, default=2**20, help="hash columns of each analyzer")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--lang_min_samples", type=int, default=1000, help="rows for a language to be listed")
    parser.add_argument("--lang_top_k", type=int, default=5, help="languages listed, largest first (0 = all)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the clusters")
    args = parser.parse_args()
    if not args.C > 0 or not 1 <= args.max_features <= 2**30 or not 0 <= args.seed < 2**32:
        raise InputError("--C must be above 0, --max_features in 1..2^30, --seed in 0..2^32-1")
    if min(args.max_rows, args.lang_min_samples, args.lang_top_k) < 0 or args.resamples < 1:
        raise InputError("--max_rows and the --lang flags must not be below 0, --resamples not below 1")
    if (args.out / "metrics.json").exists():
        raise InputError(
            f"--out {args.out}: holds the metrics.json of a former run; name another or remove it"
        )
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; name a folder")
    return args


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Rows:
    texts: list[str]
    labels: NDArray[np.int64]
    clusters: NDArray
    languages: list[str]


def open_splits(data: Path, train_split: str) -> tuple[dict[str, Any], list[str]]:
    """The datasets of train, validation and test, and the class names they share."""
    import datasets

    try:
        found = datasets.load_from_disk(str(data))
    except Exception as error:  # a damaged folder fails in many ways, all of them the input's
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{data}: no dataset folder, or one with an empty split ({reason}); make one with prepare_lspc.py"
        ) from None
    splits, class_names = {}, None
    for role, name in (("train", train_split), ("validation", "validation"), ("test", "test")):
        if not isinstance(found, datasets.DatasetDict) or name not in found:
            have = ", ".join(found) if isinstance(found, datasets.DatasetDict) else "a single Dataset"
            raise InputError(f"{data}: no split {name!r} (it holds {have}); prepare it or name --train_split")
        splits[role] = split = found[name]
        names = getattr(split.features.get("label"), "names", None)
        if names is None or len(split) == 0:
            raise InputError(f"{data}: split {name!r} needs rows and a ClassLabel column 'label'")
        class_names = class_names or names
        if names != class_names:
            raise InputError(f"{data}: split {name!r} has other classes than {train_split!r}")
    return splits, class_names


def read_rows(split: Any, num_classes: int, where: str) -> Rows:
    """The columns of one split, checked row by row; without clusters each row is its own."""
    try:
        table = split.with_format("arrow")[:]
        table.validate(full=True)  # damaged buffers are found before they are taken for lengths
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{where}: damaged ({' '.join(str(error).split())[:120]}); prepare it again"
        ) from None
    have = table.column_names

    def values(name: str, instead_of_null: Any = None) -> list:
        found = table.column(name).to_pylist()
        if instead_of_null is None and None in found:
            raise InputError(f"{where}: row {found.index(None)} has no {name}; fill or drop it")
        return [instead_of_null if value is None else value for value in found]

    if "text" in have:
        texts = values("text")
    elif "title" in have:
        fields = [values(name, "") for name in ("title", "description") if name in have]
        texts = [" ".join(filter(None, parts)) for parts in zip(*fields, strict=True)]
    else:
        raise InputError(f"{where}: no column 'text' or 'title' (it has {', '.join(have)})")
    labels = np.array(values("label"), np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise InputError(f"{where}: row {outside[0]} has label {labels[outside[0]]}, outside the classes")
    language = next((name for name in ("language", "lang") if name in have), None)
    return Rows(
        texts=[str(text)[:MAX_CHARACTERS] for text in texts],
        labels=labels,
        clusters=np.array(values("cluster")) if "cluster" in have else np.arange(len(labels)),
        languages=values(language, "und") if language else [code or "und" for code in identify(texts)[0]],
    )


def fingerprint(*splits: Rows) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        digest.update("\0".join(rows.texts).encode() + rows.labels.tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- model


def make_features(kind: str, columns: int) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline, make_union

    def counts(analyzer: str, ngrams: tuple[int, int]) -> Any:
        return HashingVectorizer(
            analyzer=analyzer,
            ngram_range=ngrams,
            n_features=columns,
            alternate_sign=False,  # signed collisions would break the logarithm of the counts
            norm=None,
            dtype=np.float32,
        )

    return make_union(
        *(make_pipeline(counts(*a), TfidfTransformer(sublinear_tf=True)) for a in ANALYZERS[kind])
    )


def fit(rows: Rows, args: argparse.Namespace) -> tuple[Any, Any]:
    """Fitted (features, classifier). SAGA's cost is that of the n-grams, L-BFGS's that of all columns."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(rows.labels)) < 2:
        raise InputError(f"{args.data}: the training rows are all of one class; raise --max_rows")
    features = make_features(args.features, args.max_features)
    matrix = features.fit_transform(rows.texts)
    for _, (_, tfidf) in features.transformer_list:
        # An n-gram unseen in training has the highest idf, log(1 + rows) + 1: it would drown the known ones.
        tfidf.idf_[tfidf.idf_ > np.log1p(len(rows.labels)) + 0.5] = 0
    if matrix.nnz >= 2**31:
        raise InputError(f"{args.data}: {matrix.nnz:,} n-grams are more than SAGA can index; use --max_rows")
    epochs = min(max(ROW_VISITS // len(rows.labels), MIN_EPOCHS), MAX_EPOCHS)
    classifier = LogisticRegression(
        C=args.C, solver="saga", max_iter=epochs, tol=TOLERANCE, random_state=args.seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the bound is meant
        return features, classifier.fit(matrix, rows.labels)


def predict(model: tuple[Any, Any], texts: list[str]) -> NDArray[np.int64]:
    features, classifier = model
    starts = range(0, len(texts), PREDICTED_AT_ONCE)
    return np.concatenate(
        [classifier.predict(features.transform(texts[i : i + PREDICTED_AT_ONCE])) for i in starts]
    )


def score(
    rows: Rows, predictions: NDArray, class_names: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """The `classification_report` of one split with its intervals by cluster."""
    language_names, languages = np.unique(rows.languages, return_inverse=True)
    confusion = ConfusionByLanguage(len(language_names), len(class_names))
    confusion.update(*(torch.from_numpy(x) for x in (languages, rows.labels, predictions)))
    sizes = len(language_names), len(class_names)
    intervals = bootstrap_intervals(
        languages, rows.labels, predictions, rows.clusters, *sizes, args.resamples, args.seed
    )
    listed = args.lang_min_samples, args.lang_top_k
    return classification_report(
        confusion.counts, class_names, language_names.tolist(), *listed, intervals=intervals
    )


def main() -> None:
    args = parse_args()
    started = time.perf_counter()

    # Data
    splits, class_names = open_splits(args.data, args.train_split)
    if args.train_split == "full":
        print("warning: split 'full' holds the validation and test rows; the scores below are no measurement")
    order = np.random.default_rng(args.seed).permutation(len(splits["train"]))
    splits["train"] = splits["train"].select(np.sort(order[: args.max_rows or None]))
    train, validation, test = (
        read_rows(split, len(class_names), f"{args.data}: {role}") for role, split in splits.items()
    )

    # Train
    fit_started = time.perf_counter()
    model = fit(train, args)
    fit_seconds = time.perf_counter() - fit_started

    # Test
    predict_started = time.perf_counter()
    predictions = [predict(model, rows.texts) for rows in (validation, test)]
    predict_seconds = time.perf_counter() - predict_started
    metrics = {
        name: score(rows, predicted, class_names, args)
        for name, rows, predicted in zip(("validation", "test"), (validation, test), predictions, strict=True)
    }

    # Results; metrics.json last, because it marks the folder as done
    rows = [
        {
            "model": f"TF-IDF {args.features} + logistic regression",
            "train_rows": len(train.texts),
            "split": name,
            **{of: report[of] for of in ("macro_f1", "macro_f1_interval", "accuracy")},
        }
        for name, report in metrics.items()
    ]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {args.out}: cannot be made ({error.strerror}); name another") from None
    plot_confusion(metrics["test"]["confusion"], class_names, args.out / "confusion.png")
    text = markdown_report(metrics["test"], "Linear baseline, test split", rows)
    write_text(args.out / "report.md", text + "\n![Confusion matrix](confusion.png)\n")
    run = describe_run(torch.device("cpu"))
    run["versions"]["scikit-learn"] = importlib.metadata.version("scikit-learn")
    summary = {
        **{f"{row['split']}_{of}": row[of] for row in rows for of in ("macro_f1", "accuracy")},
        "args": {name: str(x) if isinstance(x, Path) else x for name, x in vars(args).items()},
        "seed": args.seed,
        **run,
        "data_fingerprint": fingerprint(train, validation, test),
        "train_rows": len(train.texts),
        "epochs": int(model[1].n_iter_.max()),
        "train_rows_per_second": round(len(train.texts) / fit_seconds, 1),
        "predict_rows_per_second": round(sum(map(len, predictions)) / predict_seconds, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    write_json(args.out / "summary.json", summary)
    write_json(args.out / "metrics.json", metrics)
    print(markdown_table(rows), end="")
    print(f"{summary['train_rows_per_second']:,.0f} rows/s in training, {args.out}/report.md has the rest")


if __name__ == "__main__":
    run_script(main)
