"""Score a trained classifier on a split: overall, by language, by class, and how far its confidence holds.

    python category_classification/evaluate_embedding_classifier.py --checkpoint RUN/best.pt --data DIR

In: any version's checkpoint (its tokenizer/ lies beside it) and a dataset written by prepare_lspc.py. Out, by
default in RUN/evaluation-test: metrics.json, report.md, confusion_matrix.png, reliability.png, and
learning_curve.png where the run's metrics.jsonl lies beside the checkpoint. A former evaluation in the same
folder is replaced, anything else is left alone.

Intervals come from resampled clusters. Where the dataset has `language_probability`, languages are also
scored on the rows whose language is sure: a short brand name is often taken for German.

--html FILE.html adds one page to read in a browser, which loads nothing from anywhere: the scores, and the
errors, most confident first, with their texts. It shows rows of the dataset: mind whom it is sent to.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from category_classification.evaluation import Classifier, Evaluation, evaluate, load_classifier
from category_classification.html_report import most_confident_errors, write_html
from category_classification.lspc import Split, load_splits, open_dataset
from category_classification.metrics import (
    bootstrap_intervals,
    classification_report,
    coverage_curve,
    expected_calibration_error,
    reliability_bins,
)
from category_classification.report import (
    markdown_report,
    markdown_table,
    plot_confusion,
    plot_learning_curve,
    plot_reliability,
    score_rows,
    write_text,
)
from category_classification.training_flags import not_negative, positive
from training_utils import ALONE, InputError, autocast, describe_run, pick_device, run_script, write_json

SURE = 0.8  # language_probability from which a row counts as one of that language


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or a checkpoint-*.pt")
    parser.add_argument("--data", required=True, help="folder written by prepare_lspc.py")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, help="default: evaluation-<split> beside the checkpoint")
    parser.add_argument("--html", type=Path, help="also one page with the scores and a browser of the errors")
    parser.add_argument("--tokenizer", help="hub name or folder (default: tokenizer/ beside the checkpoint)")
    parser.add_argument("--seq_len", type=positive, help="tokens a text is cut to (default: as in training)")
    parser.add_argument(
        "--lang_min_samples", type=not_negative, default=1000, help="rows a reported language needs"
    )
    parser.add_argument("--lang_top_k", type=not_negative, default=5, help="languages reported (0 = all)")
    parser.add_argument("--resamples", type=positive, default=1000, help="of the clusters, for intervals")
    parser.add_argument("--seed", type=not_negative, default=42, help="of the resamples")
    parser.add_argument("--amp", action="store_true", help="mixed precision: fp16 on CUDA, bfloat16 on a CPU")
    parser.add_argument("--amp_dtype", choices=("auto", "float16", "bfloat16"), default="auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args()
    args.out = args.out or args.checkpoint.parent / f"evaluation-{args.split}"
    return args


def check_out(out: Path) -> None:
    """`out` must be new, empty, or a former evaluation."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    try:
        former = "calibration" in json.loads((out / "metrics.json").read_text())
    except (OSError, ValueError, TypeError):
        former = not any(out.iterdir())
    if not former:
        raise InputError(f"--out {out}: holds something other than an evaluation; name another folder")


def check_html(path: Path, out: Path) -> None:
    """`path` must be a page that can be written, in `out` or a folder that is there."""
    if path.suffix.lower() not in (".html", ".htm"):  # also lest a checkpoint is replaced by mistake
        raise InputError(f"--html {path}: is no name of a page; it must end in .html")
    if path.exists() and not path.is_file():
        raise InputError(f"--html {path}: is no ordinary file; name another")
    if not path.parent.is_dir() and path.parent != out:
        raise InputError(f"--html {path}: there is no folder {path.parent}; make it first")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise InputError(f"--html {path}: cannot be written; name another folder")


def open_split(args: argparse.Namespace, classifier: Classifier) -> tuple[Split, np.ndarray | None]:
    """The split as token ids, and the probability of each row's language if the dataset has it."""
    dataset = open_dataset(args.data, [args.split])
    class_names = dataset[args.split].features["label"].names
    if class_names != classifier.class_names:
        raise InputError(
            f"--data {args.data}: has the classes {', '.join(class_names)}, "
            f"{args.checkpoint} was trained on {', '.join(classifier.class_names)}"
        )
    seq_len = args.seq_len or classifier.seq_len
    splits = load_splits(args.data, [args.split], dataset, classifier.tokenizer, seq_len, ALONE)
    if "language_probability" not in dataset.column_names[args.split]:
        return splits[args.split], None
    column = dataset[args.split].with_format("arrow")["language_probability"][:]
    return splits[args.split], column.to_numpy().astype(np.float32)


def report_with_intervals(result: Evaluation, split: Split, args: argparse.Namespace) -> dict[str, Any]:
    predictions = result.logits.argmax(1)
    languages, num_classes = len(split.language_names), len(split.class_names)
    rows = split.languages, split.labels, predictions, split.clusters
    intervals = bootstrap_intervals(*rows, languages, num_classes, args.resamples, args.seed)
    names, listed = (split.class_names, split.language_names), (args.lang_min_samples, args.lang_top_k)
    return classification_report(result.counts, *names, *listed, intervals=intervals)


def sure_languages(
    result: Evaluation, split: Split, probabilities: np.ndarray, reported: list[str]
) -> dict[str, Any]:
    """Scores of the reported languages over the rows whose language is sure."""
    sure = probabilities >= SURE
    cells = split.languages[sure], split.labels[sure], result.logits.argmax(1)[sure]
    counts = np.zeros(result.counts.shape, dtype=np.int64)
    np.add.at(counts, cells, 1)
    return classification_report(counts, split.class_names, split.language_names, languages=reported)[
        "languages"
    ]


def calibration(result: Evaluation, split: Split, temperature: float) -> dict[str, Any]:
    """Errors of the confidence with and without the temperature, and what abstaining buys."""
    logits, labels = torch.from_numpy(result.logits).double(), split.labels
    before, after = logits.softmax(1), (logits / temperature).softmax(1)
    return {
        "temperature": temperature,
        "expected_calibration_error_before": expected_calibration_error(before, labels),
        "expected_calibration_error": expected_calibration_error(after, labels),
        "coverage": coverage_curve(after, labels),
        "reliability": reliability_bins(after, labels),
    }


def write_evaluation(
    out: Path, metrics: dict[str, Any], title: str, class_names: list[str], metrics_jsonl: Path
) -> list[Path]:
    """All files, made in a folder aside that then takes the place of `out`."""
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        text = markdown_report(metrics, title)
        if sure := metrics.get("languages_sure"):
            rows = [{"language": language, **scores} for language, scores in sure.items()]
            text += f"\n## Rows whose language has probability {SURE} or more\n\n{markdown_table(rows)}"
        found = metrics["calibration"]
        text += (
            "\n## Calibration\n\n"
            f"Expected calibration error {found['expected_calibration_error']:.4f} at the stored temperature "
            f"{found['temperature']:.3f}, {found['expected_calibration_error_before']:.4f} without. "
            f"What abstaining below a confidence buys:\n\n"
            f"{markdown_table(found['coverage'])}\n## Plots\n\n"
        )
        plot_confusion(metrics["confusion"], class_names, aside / "confusion_matrix.png")
        plot_reliability(found["reliability"], aside / "reliability.png")
        plots = {"confusion_matrix.png": "Confusion matrix", "reliability.png": "Reliability"}
        if metrics_jsonl.is_file():
            plot_learning_curve(metrics_jsonl, aside / "learning_curve.png")
            plots["learning_curve.png"] = "Learning curve"
        text += "\n".join(f"![{label}]({file})" for file, label in plots.items()) + "\n"
        write_text(aside / "report.md", text)
        write_json(aside / "metrics.json", metrics)
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    except PermissionError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [out / name for name in ("report.md", "metrics.json", *plots)]


def main() -> None:
    args = parse_args()
    check_out(args.out)
    if args.html:
        check_html(args.html, args.out)
    device = pick_device(args.device)

    # Model and data
    classifier = load_classifier(args.checkpoint, device, args.tokenizer)
    split, language_probabilities = open_split(args, classifier)

    # Scores
    result = evaluate(classifier.model, split, device, lambda: autocast(device, args.amp, args.amp_dtype))
    report = report_with_intervals(result, split, args)
    if language_probabilities is not None:
        reported = list(report["languages"])
        report["languages_sure"] = sure_languages(result, split, language_probabilities, reported)

    # Files
    metrics = {
        "checkpoint": str(args.checkpoint),
        "step": classifier.progress.get("step"),
        "data": args.data,
        "data_fingerprint": split.fingerprint,
        "split": args.split,
        "loss": result.loss,
        **report,
        "calibration": calibration(result, split, classifier.temperature),
        "samples_per_second": result.samples_per_second,
        "seed": args.seed,
        **describe_run(device),
    }
    folder = args.checkpoint.resolve().parent.name
    title = f"{folder}/{args.checkpoint.name}, {args.split} split"
    metrics_jsonl = args.checkpoint.parent / "metrics.jsonl"
    paths = write_evaluation(args.out, metrics, title, split.class_names, metrics_jsonl)
    if args.html:
        texts = open_dataset(args.data, [args.split])[args.split]
        errors = most_confident_errors(result.logits, split, classifier.temperature, texts)
        write_html(args.html, metrics, title, errors)
        paths.append(args.html)

    # What a reader sees
    print(markdown_table(score_rows(report)), end="")
    error = metrics["calibration"]["expected_calibration_error"]
    print(f"calibration error {error:.4f}, {result.samples_per_second:,.0f} rows/s")
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    run_script(main)
