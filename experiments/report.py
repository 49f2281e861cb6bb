"""The dtype study as a report: classification beside language modelling, from whatever runs there are.

    python experiments/report.py --results results/classification results/language_modeling

In:  every results.jsonl under --results, also of a sweep that still runs, and the predictions beside it.
Out: in --out: report.md, report.html (one file, no network), summary.csv (a line a configuration and learning
     rate), comparison.json (ranking_correlation, flips, recommendations), and the plots as PNG.
A configuration without a run shows as "-", one that failed with its status and reason.
"""

import argparse
import csv
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.report_analysis import Chapter, caution, make_chapters, matrix_share
from experiments.report_comparison import compare_tasks, decide, first_of
from experiments.report_data import BASE, HEADLINES, TITLES, Row, make_settings, read_results
from experiments.report_page import write_page
from experiments.report_plots import write_plots
from experiments.report_sections import chapter_sections
from experiments.report_statistics import RESOLUTION
from experiments.report_text import MISSING, Picture, Section, Table, between, markdown, plain
from experiments.report_verdicts import verdicts
from training_utils import InputError, replacing, run_script, write_json

TITLE = "How number formats change training"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="folders that run.py wrote to")
    parser.add_argument("--out", type=Path, default=Path("results/report"), help="folder of the report")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstraps (0: none)")
    args = parser.parse_args()
    if args.resamples < 0:
        raise InputError(f"--resamples {args.resamples}: name 0 or more")
    return args


# ---------------------------------------------------------------- sections across tasks


def opening(rows: list[Row], chapters: list[Chapter], comparison: dict[str, Any]) -> list[Section]:
    """What was found, before the figures that it rests on."""
    decisions: Table = comparison["recommendations"]
    many = sum(len(chapter.main.configs) for chapter in chapters)
    return [
        Section("Verdicts", 2, [
            "Each hypothesis of PLAN.md and our own prediction. An interval is Student's at 95% over paired "
            "seeds (none for one seed); about one in twenty misses, and there are "
            f"{many} rows.",
            *filter(None, map(caution, chapters)),
            verdicts(chapters),
        ]),
        Section("What to take when", 2, [
            f"The cheapest configuration whose quality is shown to be no worse than {BASE}'s by more than "
            f"{RESOLUTION}, with the rows that say so; `not resolved` where the interval is wider.",
            decisions,
        ]),
        Section("Classification beside language modelling", 2, _comparison_blocks(chapters, comparison)),
        Section("Stability of all runs", 2, [
            _statuses(rows),
            Picture("stability.png", "Training loss over that of fp32_baseline, and first non-finite steps"),
        ]),
    ]  # fmt: skip


def _comparison_blocks(chapters: list[Chapter], comparison: dict[str, Any]) -> list[str | Table]:
    found = comparison["ranking_correlation"]
    if len({chapter.task for chapter in chapters}) < len(TITLES):
        return ["Needs runs of both tasks."]
    interval = found["interval"]
    bounds = (
        "95% interval {:.2f} to {:.2f}".format(*interval) if interval else "no interval without predictions"
    )
    text = (
        f"Spearman's correlation of the two rankings: {plain(found['spearman'], 2)} ({bounds}) over "
        f"{len(found['configurations'])} configurations that completed in both; "
        f"{plain(found['spearman_with_diverged'], 2)} with those that diverged ranked last. The interval "
        "comes from resampled documents and seeds."
    )
    flips: Table = [
        {
            "better in classification": flip["better_in_classification"],
            "better in language modelling": flip["better_in_language_modeling"],
            "probability": plain(flip["probability"], 3),
        }
        for flip in comparison["flips"]
    ]
    nothing = "No pair of configurations changes its order with a probability above 0.9."
    return [
        text,
        "Pairs whose order flips with a probability above 0.9:" if flips else nothing,
        flips,
        *_ranks(chapters),
    ]


def _ranks(chapters: list[Chapter]) -> list[Table]:
    """Each configuration's delta in both tasks, side by side."""
    table = []
    largest = [chapter for task in TITLES if (chapter := first_of(chapters, task))]
    for config in largest[0].main.configs:
        row = {"configuration": config}
        for chapter in largest:
            metric = chapter.main.headline
            summary = chapter.summaries[0].get(config)
            delta = summary.deltas.get(metric.name) if summary else None
            cell = MISSING
            if delta and delta.count:
                cell = f"{delta.mean:+.4f} {between(delta.low, delta.high)}".removesuffix(f" {MISSING}")
            elif summary and summary.status not in ("completed", MISSING):
                cell = summary.status
            row[f"Δ {metric.title}, {chapter.title}"] = cell
        table.append(row)
    return [table]


def _statuses(rows: list[Row]) -> str:
    counts = Counter(row["status"] for row in rows)
    return (
        ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
        + f" of {len(rows):,} runs."
    )


def closing(rows: list[Row]) -> list[Section]:
    """What a reader needs to repeat the runs."""
    table = [
        {
            "configuration": row["config"],
            "task": TITLES[row["task"]],
            "seed": str(row["seed"]),
            "lr": f"{row['learning_rate']:g}" if row.get("learning_rate") else MISSING,
            "status": row["status"],
            "device": str(row.get("device", MISSING)),
            "torch": str((row.get("versions") or {}).get("torch", MISSING)),
            "commit": str(row.get("git_commit") or MISSING)[:10],
            "command": str(row.get("command", MISSING)),
        }
        for row in rows
    ]
    return [Section("Runs", 2, [table])]


# ---------------------------------------------------------------- files


def summary_rows(chapters: list[Chapter]) -> list[dict[str, Any]]:
    """A flat row a configuration and learning rate; None is an empty cell."""
    table = []
    for chapter in chapters:
        for setting, summaries in chapter.by_rate():
            for config, summary in summaries.items():
                row: dict[str, Any] = {
                    "task": chapter.task,
                    "model": setting.shared["model.name"],
                    "device": setting.shared["device"],
                    "learning_rate": setting.learning_rate,
                    "config": config,
                    "status": summary.status if summary.status != MISSING else "",
                    "reason": summary.reason,
                    "emulated": summary.emulated,
                    "seeds": len(summary.seeds),
                }
                for position, metric in enumerate(HEADLINES[chapter.task], 1):
                    row |= _metric_cells(f"metric{position}", metric.name, summary)
                row |= {
                    "samples_per_second": summary.samples_per_second,
                    "speed_ratio": summary.speed_ratio,
                    "peak_memory_gb": summary.peak_memory_gb,
                    "memory_ratio": summary.memory_ratio,
                    "mfu": summary.mfu,
                    "seconds_to_equal_quality": summary.seconds_to_target,
                    "lost_updates": matrix_share(setting, config, "lost"),
                    "first_non_finite_step": summary.first_non_finite,
                    "skipped_steps": summary.skipped_steps,
                }
                table.append(row)
    return table


def _metric_cells(prefix: str, name: str, summary: Any) -> dict[str, Any]:
    mean, spread = summary.scores.get(name, (None, None))
    delta = summary.deltas.get(name)
    cells = {"name": name, "mean": mean, "sd": spread}
    names = ("delta", "delta_low", "delta_high", "delta_documents_low", "delta_documents_high")
    values = (delta.mean, delta.low, delta.high, *delta.documents) if delta else (None,) * len(names)
    cells |= dict(zip(names, values, strict=True))
    cells |= {
        "seeds_needed": delta.seeds_needed if delta else None,
        "reads_as": delta.verdict if delta else None,
    }
    return {f"{prefix}_{key}": value for key, value in cells.items()}


def write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        finite = {k: v for k, v in row.items() if not (isinstance(v, float) and not math.isfinite(v))}
        writer.writerow(finite)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def tiles_of(rows: list[Row], chapters: list[Chapter]) -> dict[str, str]:
    counts = Counter(row["status"] for row in rows)
    seeds = {row["seed"] for row in rows}
    return {"runs": f"{len(rows):,}", "seeds": str(len(seeds))} | {
        name: f"{counts[name]:,}" for name in ("completed", "diverged", "oom", "unsupported") if counts[name]
    }


def main() -> None:
    args = parse_args()

    # Rows
    rows = read_results(args.results)
    chapters = make_chapters(make_settings(rows), args.resamples)
    if not chapters:
        raise InputError(f"--results {args.results[0]}: holds baselines alone; run a configuration first")

    # Figures
    comparison = compare_tasks(chapters, args.resamples) | {"recommendations": decide(chapters)}
    chapter_parts = [section for chapter in chapters for section in chapter_sections(chapter)]
    sections = [*opening(rows, chapters, comparison), *chapter_parts, *closing(rows)]

    # Files
    args.out.mkdir(parents=True, exist_ok=True)
    write_plots(chapters, args.out)
    with replacing(args.out / "report.md") as file:
        file.write(markdown(TITLE, sections).encode())
    write_summary(args.out / "summary.csv", summary_rows(chapters))
    write_json(args.out / "comparison.json", comparison)
    write_page(args.out / "report.html", TITLE, tiles_of(rows, chapters), sections, chapters)
    print(_statuses(rows))
    for name in ("report.html", "report.md"):
        print(args.out / name)


if __name__ == "__main__":
    run_script(main)
