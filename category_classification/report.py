"""Results for a reader: Markdown tables and PNG plots, each file written aside and renamed.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; no plot needs a display.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from training_utils import InputError, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
INK, GRID = "#333333", "#DDDDDD"
MOST_NUMBERED_CLASSES = 40  # a larger confusion matrix keeps this size and loses its numbers

# ---------------------------------------------------------------- tables


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "-"
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a dict; the columns are all keys in the order they first appear, numbers to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    titles = [name.replace("_", " ") for name in columns]
    numeric = [any(isinstance(row.get(name), int | float | list | tuple) for row in rows) for name in columns]
    widths = [max(len(line[i]) for line in [titles, *cells]) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - n) + ":" * n for w, n in zip(widths, numeric, strict=True)]
    return "\n".join([line(titles), line(rule), *map(line, cells)]) + "\n"


def score_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Overall and language scores of a `classification_report` as rows of one table."""
    names = (
        "support",
        "macro_f1",
        "macro_f1_interval",
        "accuracy",
        "accuracy_interval",
        "macro_f1_supported",
    )
    scores = {"all": report, **report["languages"]}
    return [
        {"language": language, **{name: of[name] for name in names if name in of}}
        for language, of in scores.items()
    ]


def markdown_report(report: dict[str, Any], title: str, rows: Sequence[dict[str, Any]] = ()) -> str:
    """Comparison rows, then overall, language and class scores of a `classification_report`."""
    parts = [f"# {title}\n"]
    if rows:
        parts.append(f"## Comparison\n\n{markdown_table(rows)}")
    other = report["other_languages"]
    parts.append(f"## Languages\n\n{markdown_table(score_rows(report))}")
    if other["languages"]:
        parts.append(f"Not listed: {other['languages']:,} smaller languages, {other['support']:,} rows.\n")
    if "level" in report:
        parts.append(
            f"Intervals hold {report['level']:.0%} of {report['resamples']:,} resamples of the "
            f"{report['clusters']:,} clusters.\n"
        )
    classes = [{"class": name, **scores} for name, scores in report["classes"].items()]
    parts.append(f"## Classes\n\n{markdown_table(classes)}")
    return "\n".join(parts)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


# ---------------------------------------------------------------- plots


def _save_figure(path: Path, size: tuple[float, float], draw: Callable[..., None], **grid: Any) -> None:
    """Draw on the axes of a figure of `size` inches and rename the finished PNG into place."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "font.size": 10,
        "axes.titlesize": 12,
        "axes.labelsize": 10.5,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(**grid))
        with replacing(Path(path)) as file:
            figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)


def _thousands(value: float) -> str:
    """1234 -> 1.2k, short enough for a cell."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return (
                f"{value / size:.1f}".removesuffix(".0") + unit
                if value < 10 * size
                else f"{value / size:.0f}{unit}"
            )
    return f"{value:.0f}"


def plot_confusion(counts: ArrayLike, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """(K, K) or (L, K, K) counts: colour is the share of the true class, the number is rows."""
    from matplotlib.colors import PowerNorm

    counts = np.asarray(counts)
    counts = counts.sum(0) if counts.ndim == 3 else counts
    support = counts.sum(1)
    share = counts / np.maximum(support, 1)[:, None]
    K = len(class_names)
    labels = [name.replace("_", " ") for name in class_names]
    dense = K > 10

    def draw(axes: "Axes") -> None:
        # The square root lifts confusions of a few per cent out of the white.
        image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
        axes.set_xticks(range(K), labels, rotation=90 if dense else 40, ha="center" if dense else "right")
        if not dense:
            for tick in axes.get_xticklabels():
                tick.set_rotation_mode("anchor")
        axes.set_yticks(range(K), [f"{n}  ({_thousands(s)})" for n, s in zip(labels, support, strict=True)])
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (rows)")
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(K + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(K + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=GRID, linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        if K > MOST_NUMBERED_CLASSES:
            axes.tick_params(labelsize=10 * MOST_NUMBERED_CLASSES / K)
        numbered = counts if K <= MOST_NUMBERED_CLASSES else np.zeros_like(counts)
        for i, j in zip(*np.nonzero(numbered), strict=True):
            number = _thousands(counts[i, j]) if dense else f"{counts[i, j]:,}"
            if not dense and share[i, j] >= 0.005:
                number += f"\n{share[i, j]:.1%}"
            colour = "white" if share[i, j] > 0.35 else INK
            axes.text(j, i, number, ha="center", va="center", fontsize=7 if dense else 9, color=colour)
        axes.set_title(title or "Confusion matrix", loc="left")
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, label="share of the true class")
        bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1%", "5%", "20%", "50%", "100%"])
        bar.outline.set_visible(False)

    side = 3.2 + (0.4 if dense else 0.75) * min(K, MOST_NUMBERED_CLASSES)
    _save_figure(path, (side + 1.2, side), draw)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut by a kill is skipped."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as metrics.jsonl ({error}); name a run's own file"
        ) from None
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "split" in record and "step" in record:
            records.append(record)
    return records


def _series(records: Iterable[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one quantity; records without it are left out, NaN and infinity stay as gaps."""
    found = [(r["step"], r[name]) for r in records if r["split"] == split and r.get(name) is not None]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _markers(values: np.ndarray, marker: str) -> dict[str, Any]:
    """Marks for a curve of few points; a single point would not show without."""
    return {"marker": marker, "markersize": 6} if len(values) <= 40 else {}


def plot_learning_curve(metrics_jsonl_path: Path, path: Path, title: str = "") -> None:
    """Training loss above validation macro-F1 and accuracy, over steps."""
    from matplotlib.ticker import MaxNLocator

    records = read_metrics(metrics_jsonl_path)
    loss_steps, loss = _series(records, "train", "loss")
    if len(loss) == 0 and not any(r["split"] == "validation" for r in records):
        raise InputError(f"{metrics_jsonl_path}: holds no train or validation record; train for a step first")

    def draw(panels: "Sequence[Axes]") -> None:
        above, below = panels
        smooth_over = max(len(loss) // 50, 1)
        above.plot(loss_steps, loss, color=SKY, linewidth=1, label="each record", **_markers(loss, "."))
        if smooth_over > 1:
            kernel, first = np.ones(smooth_over) / smooth_over, smooth_over // 2
            smooth = np.convolve(loss, kernel, "valid")
            steps = loss_steps[first : first + len(smooth)]
            above.plot(steps, smooth, color=BLUE, linewidth=2, label=f"mean of {smooth_over}")
        above.set_ylabel("training loss")
        above.set_title(title or "Learning curve", loc="left")
        for name, label, colour, marker in (
            ("accuracy", "accuracy", ORANGE, "s"),
            ("macro_f1", "macro-F1", BLUE, "o"),
        ):
            steps, values = _series(records, "validation", name)
            if not np.isfinite(values).any():
                continue
            below.plot(steps, values, color=colour, linewidth=1.8, label=label, **_markers(values, marker))
        if np.isfinite(values).any():
            best = np.nanargmax(values)
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": RED}
            label = f"best macro-F1 {values[best]:.4f}"
            below.plot(steps[best], values[best], linestyle="none", label=label, **ring)
        low, high = below.get_ylim()
        if high - low < 0.02:  # scores that hardly move get a readable axis
            below.set_ylim((low + high) / 2 - 0.01, (low + high) / 2 + 0.01)
        below.set_ylabel("validation")
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels:
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            if axes.get_legend_handles_labels()[0]:  # above the panel, where no line can run under it
                axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)

    _save_figure(path, (7.5, 6), draw, nrows=2, sharex=True)


def plot_reliability(bins: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """Accuracy against confidence, above the share of rows in each bin."""
    filled = [b for b in bins if b["rows"]]
    total = max(sum(b["rows"] for b in filled), 1)
    error = sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in filled) / total

    def draw(panels: "Sequence[Axes]") -> None:
        above, below = panels
        left, width = [b["lower"] for b in bins], [b["upper"] - b["lower"] for b in bins]
        above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
        above.vlines(
            [b["confidence"] for b in filled],
            [b["confidence"] for b in filled],
            [b["accuracy"] for b in filled],
            color=ORANGE,
            linewidth=3,
            label="gap",
        )
        above.plot(
            [b["confidence"] for b in filled],
            [b["accuracy"] for b in filled],
            color=BLUE,
            marker="o",
            linewidth=1.8,
            label="accuracy of the bin",
        )
        above.set(ylabel="accuracy", ylim=(0, 1.02))
        above.legend(loc="upper left")
        above.set_title(
            title or f"Reliability: calibration error {error:.4f} over {total:,} rows", loc="left"
        )
        below.bar(left, [b["rows"] / total for b in bins], width, align="edge", color=SKY, edgecolor="white")
        below.set(
            xlabel="confidence (probability of the predicted class)", ylabel="share of rows", xlim=(0, 1)
        )
        for axes in panels:
            axes.grid(axis="y")
            axes.set_axisbelow(True)

    _save_figure(path, (6.5, 6.5), draw, nrows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1]})


def plot_rows_curve(
    points: Sequence[dict[str, Any]], path: Path, score: str = "macro_f1", title: str = ""
) -> None:
    """Score over training rows: `points` of model, rows, (seed) and score; mean line, min-to-max band."""
    models = list(dict.fromkeys(p["model"] for p in points))
    looks = list(zip((BLUE, ORANGE, GREEN, PURPLE, RED, SKY), "osD^vP", strict=True))

    def draw(axes: "Axes") -> None:
        sizes = sorted({p["rows"] for p in points})
        ticks = sizes[:1]
        for size in sizes[1:]:  # labels nearer than a twentieth of the axis would run together
            if math.log(size / ticks[-1]) > 0.05 * math.log(sizes[-1] / sizes[0]):
                ticks.append(size)
        for i, model in enumerate(models):
            colour, marker = looks[i % len(looks)]
            sizes = sorted({p["rows"] for p in points if p["model"] == model})
            seeds = [[p[score] for p in points if p["model"] == model and p["rows"] == n] for n in sizes]
            axes.plot(
                sizes,
                [np.mean(s) for s in seeds],
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=2,
                label=model + (f" ({max(map(len, seeds))} seeds)" if max(map(len, seeds)) > 1 else ""),
            )
            axes.fill_between(
                sizes, [min(s) for s in seeds], [max(s) for s in seeds], color=colour, alpha=0.18, linewidth=0
            )
        axes.set_xscale("log")
        axes.set_xticks(ticks, [_thousands(n) for n in ticks])
        axes.minorticks_off()
        axes.set(xlabel="training rows", ylabel=score.replace("_", "-").replace("f1", "F1"))
        axes.set_title(title or "Test score over training rows", loc="left")
        axes.grid()
        axes.set_axisbelow(True)
        axes.legend(loc="best")

    _save_figure(path, (7.5, 4.8), draw)
