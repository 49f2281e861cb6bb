"""The report's plots, each written aside and renamed; no plot needs a display.

A colour (Okabe and Ito's) says how weights are kept and multiplied, the marker or line which configuration of
that kind it is. Points of emulated formats are left out where cost is an axis.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.dtype_configs import CONFIGS
from experiments.report_analysis import Chapter, Summary
from experiments.report_data import BASE, Setting, number
from experiments.report_statistics import pareto_front
from training_utils import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID, MISSING_COLOUR = "#333333", "#DDDDDD", "#E8E8E8"
MARKERS, DASHES = "osD^vP*X<>h", ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MEMORY_PARTS = {
    "weights": "#0072B2",
    "gradients": "#E69F00",
    "optimizer_state": "#009E73",
    "activations_and_workspace": "#BBBBBB",
}
MOST_RATIO, LEAST_RATIO = 1.0, 0.02  # log2 of loss over fp32's where the heat map's colours may end


def kind_of(name: str) -> tuple[str, str]:
    """(kind, colour) of a configuration by how it keeps and multiplies weights."""
    config = next((config for config in CONFIGS if config.name == name), None)
    if config is None:
        return "other", "#999999"
    if config.parameters == "float16":
        return "fp16 weights", "#CC79A7"
    if config.parameters == "bfloat16" and config.update == "nearest":
        return "bf16 weights", "#D55E00"
    if config.parameters == "bfloat16":
        return "bf16 weights that keep lost bits", "#009E73"
    if config.compute == "float8_e4m3":
        return "fp8 products", "#56B4E9"
    if config.compute == "float16":
        return "fp16 products", "#E69F00"
    if config.compute == "bfloat16":
        return "bf16 products", "#0072B2"
    return "fp32 products", INK


def looks(configs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each configuration, the same in every plot of a chapter."""
    seen: dict[str, int] = {}
    found = {}
    for name in configs:
        kind, colour = kind_of(name)
        at = seen[kind] = seen.get(kind, -1) + 1
        marker, dashes = MARKERS[at % len(MARKERS)], DASHES[at % len(DASHES)]
        found[name] = {"color": colour, "marker": marker, "linestyle": dashes}
    return found


def save_figure(path: Path, size: tuple[float, float], draw: Callable[..., None], **grid: Any) -> None:
    """Draw on the axes of a figure of `size` inches and rename the finished PNG into place."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "font.size": 9.5,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(**grid, squeeze=False))
        with replacing(Path(path)) as file:
            figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)


def _say(axes: "Axes", text: str) -> None:
    """What stands where there is nothing to draw."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#777777")
    axes.set_axis_off()


# ---------------------------------------------------------------- costs


def plot_pareto(chapter: Chapter, path: Path) -> None:
    """Quality against throughput and against peak memory; rings and a line mark what no other beats."""
    metric, summaries = chapter.main.headline, chapter.summaries[0]
    style = looks(chapter.main.configs)
    panels = (
        ("samples_per_second", -1, "samples / s (more is better)"),
        ("peak_memory_gb", 1, "peak memory, GB (less is better)"),
    )

    def draw(grid: "np.ndarray") -> None:
        shown: dict[str, Any] = {}
        for axes, (cost, sign, label) in zip(grid[0], panels, strict=True):
            points = [s for s in summaries.values() if getattr(s, cost) and metric.name in s.scores]
            if not points:
                _say(axes, "no run gives this yet")
                continue
            _draw_points(axes, points, cost, sign, metric, style, shown)
            axes.set(xlabel=label)
            axes.grid()
        arrow = "more" if metric.sign > 0 else "less"
        grid[0, 0].set_ylabel(f"test {metric.title} ({arrow} is better)")
        grid[0, 0].set_title(f"{chapter.title}: quality against cost")
        if shown:
            figure = grid[0, 0].figure
            figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)

    save_figure(path, (12, 5), draw, nrows=1, ncols=2)


def _draw_points(
    axes: "Axes", points: list[Summary], cost: str, sign: int, metric: Any, style: dict, shown: dict
) -> None:
    x = np.array([getattr(s, cost) for s in points])
    y = np.array([s.scores[metric.name][0] for s in points])
    spread = np.nan_to_num([s.scores[metric.name][1] for s in points])
    for i, summary in enumerate(points):
        look = style[summary.config]
        bars = axes.errorbar(
            x[i], y[i], yerr=spread[i] or None, color=look["color"], marker=look["marker"], markersize=7,
            linestyle="none", elinewidth=1, capsize=2, alpha=0.9,
        )  # fmt: skip
        shown.setdefault(summary.config, bars)
    front = np.flatnonzero(pareto_front(sign * x, metric.sign * y))
    front = front[np.argsort(x[front])]
    axes.plot(x[front], y[front], color="#777777", linewidth=1, zorder=1)
    axes.plot(x[front], y[front], "o", markersize=13, markerfacecolor="none", color="#777777", zorder=1)


def plot_memory(chapter: Chapter, path: Path) -> None:
    """Peak memory by part, a bar a configuration, mean over seeds."""
    setting = chapter.main
    rows = []
    for config, summary in chapter.summaries[0].items():
        parts = [setting.mean(config, f"memory.{part}") for part in MEMORY_PARTS]
        if not summary.emulated and any(part is not None for part in parts):
            rows.append((config, [part or 0.0 for part in parts]))

    def draw(grid: "np.ndarray") -> None:
        axes = grid[0, 0]
        axes.set_title(f"{chapter.title}: peak memory by part")
        if not rows:
            _say(axes, "no run gives this yet")
            return
        names, parts = [name for name, _ in rows], np.array([values for _, values in rows])
        left = np.zeros(len(rows))
        for part, (title, colour) in enumerate(MEMORY_PARTS.items()):
            axes.barh(
                names, parts[:, part], left=left, color=colour, label=title.replace("_", " "), height=0.7
            )
            left += parts[:, part]
        for y, total in enumerate(left):
            axes.text(total, y, f" {total:.3g}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="GB", xlim=(0, 1.08 * left.max() or 1))
        axes.grid(axis="x")
        axes.figure.legend(loc="outside lower center", ncols=4, fontsize=8)

    save_figure(path, (9, 1.6 + 0.28 * max(3, len(rows))), draw)


# ---------------------------------------------------------------- over steps


def shared_seeds(setting: Setting) -> set[int]:
    """Seeds with a curve of every configuration that has one: means over others would differ by the seeds."""
    curves = [
        {seed for seed, row in runs.items() if row.get("curve")}
        for runs in setting.runs.values()
        if any(row.get("curve") for row in runs.values())
    ]
    return set.intersection(*curves) or set.union(*curves) if curves else set()


def mean_curve(setting: Setting, config: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean over the shared seeds that reached them; one not finite makes the mean NaN."""
    found: dict[int, list[float]] = {}
    seeds = shared_seeds(setting)
    for row in (row for seed, row in setting.runs.get(config, {}).items() if seed in seeds):
        for point in row.get("curve") or []:
            if name in point:
                value = number(point, name)
                found.setdefault(point["step"], []).append(math.nan if value is None else value)
    steps = sorted(found)
    return np.array(steps, dtype=float), np.array([np.mean(found[step]) for step in steps])


def plot_curves(chapter: Chapter, path: Path) -> None:
    """Training loss, validation loss, and validation loss less that of fp32_baseline at equal steps."""
    setting, style = chapter.main, looks(chapter.main.configs)

    def draw(grid: "np.ndarray") -> None:
        left, middle, right = grid[0]
        base = dict(zip(*mean_curve(setting, BASE, "validation_loss"), strict=True))
        shown: dict[str, Any] = {}
        for config in setting.configs:
            look = {name: style[config][name] for name in ("color", "linestyle")}
            for axes, name in ((left, "loss"), (middle, "validation_loss")):
                steps, values = mean_curve(setting, config, name)
                if np.isfinite(values).any():
                    few = {"marker": ".", "markersize": 5} if len(values) < 12 else {}
                    (line,) = axes.plot(steps, values, linewidth=1.4, **look, **few)
                    shown.setdefault(config, line)
            steps, values = mean_curve(setting, config, "validation_loss")
            both = [i for i, step in enumerate(steps) if step in base]
            if config != BASE and both:
                differences = values[both] - np.array([base[steps[i]] for i in both])
                right.plot(steps[both], differences, linewidth=1.4, marker=".", markersize=5, **look)
        right.axhline(0, color=INK, linewidth=1)
        titles = (f"{chapter.title}: training loss", "validation loss", f"validation loss less {BASE}'s")
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set(title=title, xlabel="step")
            axes.grid()
        if shown:
            left.figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)

    save_figure(path, (15, 5), draw, nrows=1, ncols=3)


def plot_stability(chapters: Sequence[Chapter], path: Path) -> None:
    """Training loss over fp32_baseline's at equal steps, and where a run first was not finite."""
    heights = [max(2, len(_ran(chapter))) for chapter in chapters]

    def draw(grid: "np.ndarray") -> None:
        for axes, chapter in zip(grid[:, 0], chapters, strict=True):
            _draw_heat_map(axes, chapter)

    size = (10, 1.2 * len(chapters) + 0.27 * sum(heights))
    save_figure(path, size, draw, nrows=len(chapters), gridspec_kw={"height_ratios": heights})


def _ran(chapter: Chapter) -> list[str]:
    """Configurations with a curve, or with a step at which it broke off."""
    return [
        config
        for config, summary in chapter.summaries[0].items()
        if summary.first_non_finite is not None or len(mean_curve(chapter.main, config, "loss")[0])
    ]


def _draw_heat_map(axes: "Axes", chapter: Chapter) -> None:
    from matplotlib import colormaps

    setting, configs = chapter.main, _ran(chapter)
    steps = sorted({step for config in configs for step in mean_curve(setting, config, "loss")[0]})
    base = dict(zip(*mean_curve(setting, BASE, "loss"), strict=True))
    axes.set_title(f"{chapter.title}: training loss over {BASE}'s at equal steps")
    if not (steps and base):
        _say(axes, f"no curve of {BASE} yet")
        return
    ratios = np.full((len(configs), len(steps)), np.nan)
    for i, config in enumerate(configs):
        for step, value in zip(*mean_curve(setting, config, "loss"), strict=True):
            if step in base and value > 0 and base[step] > 0:
                ratios[i, steps.index(step)] = math.log2(value / base[step])
    colours = colormaps["RdBu_r"].with_extremes(bad=MISSING_COLOUR)
    end = min(MOST_RATIO, max(LEAST_RATIO, float(np.nanmax(np.abs(ratios), initial=0.0))))
    image = axes.imshow(ratios, cmap=colours, vmin=-end, vmax=end, aspect="auto")
    for i, config in enumerate(configs):
        first = chapter.summaries[0][config].first_non_finite
        if first is not None:
            column = min(int(np.searchsorted(steps, first)), len(steps) - 1)
            axes.plot(column, i, "x", color=INK, markersize=8, markeredgewidth=2)
            axes.text(column, i, f"   not finite at {first}", va="center", fontsize=8)
    axes.set_yticks(range(len(configs)), configs)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(9, len(steps))).round().astype(int))
    axes.set_xticks(shown, [f"{steps[i]:g}" for i in shown])
    axes.set_xlabel("step (grey: no loss there)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.9, aspect=18)
    bar.set_ticks(at := [-end, -end / 2, 0, end / 2, end], labels=[f"x {2**x:.4g}" for x in at])
    bar.outline.set_visible(False)


def write_plots(chapters: Sequence[Chapter], out: Path) -> list[Path]:
    paths = []
    for chapter in chapters:
        for name, plot in (("pareto", plot_pareto), ("memory", plot_memory), ("curves", plot_curves)):
            paths.append(out / f"{name}_{chapter.name}.png")
            plot(chapter, paths[-1])
    paths.append(out / "stability.png")
    plot_stability(chapters, paths[-1])
    return paths
