"""Plots of a run, each written aside and renamed; no plot needs a display. Colours are Okabe and Ito's."""

import json
from pathlib import Path

from training_utils import replacing

BLUE, ORANGE, GREEN, INK, GRID = "#0072B2", "#E69F00", "#009E73", "#333333", "#DDDDDD"


def plot_learning_curve(metrics_jsonl: Path, path: Path) -> None:
    """Training and validation loss, and below them cosine and unique share on validation, over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [json.loads(line) for line in Path(metrics_jsonl).read_text().splitlines()]
    by_split = {split: [r for r in records if r["split"] == split] for split in ("train", "validation")}

    def line(axes, split: str, name: str, label: str, colour: str, marker: str = "") -> None:
        points = [(r["step"], r[name]) for r in by_split[split] if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, linewidth=1.6)

    with pyplot.rc_context({"axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK}):
        figure, (above, below) = pyplot.subplots(2, 1, figsize=(7.5, 6), sharex=True, layout="constrained")
        line(above, "train", "loss/total", "training", BLUE)
        line(above, "validation", "loss/validation", "validation", ORANGE, "o")
        line(below, "validation", "metrics/reconstruction_cosine", "reconstruction cosine", BLUE, "o")
        line(below, "validation", "metrics/unique_ids_proportion", "unique IDs", GREEN, "s")
        above.set(ylabel="loss", yscale="log", title="Learning curve")
        below.set(ylabel="validation", xlabel="step")
        for axes in (above, below):
            axes.grid(axis="y", color=GRID)
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best", frameon=False)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=150)
        pyplot.close(figure)
