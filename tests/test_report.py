"""Tables and plots: what stands in them, that nothing overlaps, that a failed write keeps the old file."""

import json
import subprocess
import sys

import numpy as np
import pytest

from category_classification.metrics import (
    bootstrap_intervals,
    classification_report,
    expected_calibration_error,
    reliability_bins,
)
from category_classification.report import (
    markdown_report,
    markdown_table,
    plot_confusion,
    plot_learning_curve,
    plot_reliability,
    plot_rows_curve,
)
from training_utils import InputError


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, in order."""
    from matplotlib.figure import Figure

    saved, savefig = [], Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture
def results():
    """Labels, predictions and probabilities of 600 rows in 200 clusters, two languages, three classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 3, 200), 3)
    logits = rng.normal(size=(600, 3)) + 2 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    languages, predictions = rng.integers(0, 2, 600), logits.argmax(1)
    counts = np.zeros((2, 3, 3), np.int64)
    np.add.at(counts, (languages, labels, predictions), 1)
    intervals = bootstrap_intervals(languages, labels, predictions, np.arange(600) // 3, 2, 3, resamples=50)
    report = classification_report(
        counts, ["Books", "Baby|Toys", "Shoes"], ["en", "de"], 1, intervals=intervals
    )
    return report, probabilities, labels


def is_png(path):
    from matplotlib.image import imread

    return imread(path).std() > 0.01


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# ---------------------------------------------------------------- tables


def test_markdown_table_has_a_column_a_key_and_aligns_numbers():
    table = markdown_table(
        [{"model": "a|b", "rows": 12345, "macro_f1": 0.5}, {"model": "c", "interval": [0.1, 0.25]}]
    )
    lines = [
        [cell.strip() for cell in line.strip("|").replace("\\|", "/").split("|")]
        for line in table.splitlines()
    ]
    assert lines[0] == ["model", "rows", "macro f1", "interval"]
    assert [cell.endswith(":") for cell in lines[1]] == [False, True, True, True]
    assert lines[2:] == [["a/b", "12,345", "0.5000", "-"], ["c", "-", "-", "0.1000 to 0.2500"]]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_markdown_report_names_every_score(results):
    report, _, _ = results
    rows = [{"model": "encoder", "macro_f1": 0.9}, {"model": "linear", "macro_f1": 0.8}]
    text = markdown_report(report, "Test split", rows)
    low, high = report["languages"]["de"]["macro_f1_interval"]
    (line,) = [line for line in text.splitlines() if line.startswith("| de ")]
    assert f"{report['languages']['de']['macro_f1']:.4f}" in line and f"{low:.4f} to {high:.4f}" in line
    for expected in ("# Test split", "| linear ", "| Baby\\|Toys ", "200 clusters"):
        assert expected in text


# ---------------------------------------------------------------- plots


def boxes_that_overlap(texts, renderer):
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text() and t.get_visible()]
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize("num_classes", [2, 6, 24])
def test_confusion_plot_shows_each_count_and_no_text_overlaps(tmp_path, figures, num_classes):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 999, (num_classes, num_classes)) + np.diag(np.full(num_classes, 123_456))
    counts[0, 1] = 0
    plot_confusion(counts, [f"Category_number_{i}_and_more" for i in range(num_classes)], tmp_path / "c.png")
    (figure,) = figures
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    assert is_png(tmp_path / "c.png") and len(axes.texts) == (counts > 0).sum()
    assert {t.get_text().split("\n")[0] for t in axes.texts} >= (
        {"123k"} if num_classes == 24 else {f"{counts[1, 1]:,}"}
    )
    assert not boxes_that_overlap(axes.texts, renderer)
    assert not boxes_that_overlap(axes.get_yticklabels(), renderer)
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert all(t.get_window_extent(renderer).width < cell for t in axes.texts)
    outer = figure.bbox
    assert all(outer.contains(*t.get_window_extent(renderer).min) for t in axes.get_yticklabels())


def test_confusion_plot_of_many_classes_or_languages_stays_in_size(tmp_path, figures):
    plot_confusion(np.ones((3, 80, 80), int), [f"class {i}" for i in range(80)], tmp_path / "c.png")
    assert max(figures[0].get_size_inches()) < 25 and not figures[0].axes[0].texts
    assert figures[0].axes[0].images[0].get_array().max() == pytest.approx(1 / 80)


def test_learning_curve_draws_what_was_logged(tmp_path, figures):
    records = [{"split": "train", "step": s, "epoch": 0, "loss": 1 / (1 + s)} for s in range(200)]
    records[7]["loss"] = float("nan")
    scores = [(50, 0.4), (100, 0.8), (150, 0.7)]
    records += [
        {"split": "validation", "step": s, "epoch": 0, "macro_f1": f, "accuracy": f + 0.1} for s, f in scores
    ]
    log = write_records(tmp_path / "metrics.jsonl", records)
    with open(log, "a") as file:
        file.write('{"split": "train", "step": 20')  # a kill in the middle of a line
    plot_learning_curve(log, tmp_path / "curve.png")
    loss, validation = figures[0].axes
    drawn = loss.lines[0].get_ydata()
    assert len(drawn) == 200 and np.isnan(drawn[7]) and drawn[3] == 0.25
    # The smooth line is the mean of 4 records, drawn at the middle of them.
    assert loss.lines[1].get_ydata()[100] == pytest.approx(np.mean(drawn[100:104]))
    assert loss.lines[1].get_xdata()[100] == 102
    lines = {line.get_label(): line.get_xydata().tolist() for line in validation.lines}
    assert lines["macro-F1"] == [list(pair) for pair in scores] and lines["best macro-F1 0.8000"] == [
        [100, 0.8]
    ]
    assert is_png(tmp_path / "curve.png")


def test_a_log_that_cannot_be_drawn_is_named(tmp_path):
    with pytest.raises(InputError, match="missing.jsonl"):
        plot_learning_curve(tmp_path / "missing.jsonl", tmp_path / "curve.png")
    (tmp_path / "metrics.jsonl").write_text("[]\nnot json\n")
    with pytest.raises(InputError, match="no train or validation record"):
        plot_learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_reliability_plot_states_the_calibration_error(tmp_path, figures, results):
    _, probabilities, labels = results
    bins = reliability_bins(probabilities, labels, bins=10)
    plot_reliability(bins, tmp_path / "r.png")
    above, below = figures[0].axes
    assert f"{expected_calibration_error(probabilities, labels, bins=10):.4f}" in above.get_title(loc="left")
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(1)
    (accuracy,) = [line for line in above.lines if line.get_label() == "accuracy of the bin"]
    assert accuracy.get_ydata() == pytest.approx([b["accuracy"] for b in bins if b["rows"]])


def test_rows_curve_is_the_mean_over_seeds_with_its_range(tmp_path, figures):
    scores = {("linear", 1000): [0.8], ("encoder", 1000): [0.5, 0.7], ("encoder", 10_000): [0.9, 0.9]}
    points = [
        {"model": m, "rows": n, "seed": i, "macro_f1": f}
        for (m, n), fs in scores.items()
        for i, f in enumerate(fs)
    ]
    plot_rows_curve(points, tmp_path / "rows.png")
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["1k", "10k"]
    assert axes.lines[1].get_xydata().tolist() == [[1000, 0.6], [10_000, 0.9]]
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 0.9)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["linear", "encoder (2 seeds)"]


def test_a_failed_write_keeps_the_old_plot(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    plot_confusion([[1, 0], [0, 1]], ["a", "b"], tmp_path / "c.png")
    before = (tmp_path / "c.png").read_bytes()

    def half(self, file, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space"):
        plot_confusion([[5, 0], [0, 1]], ["a", "b"], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_importing_and_plotting_touch_no_global_state(tmp_path):
    code = (
        "import sys, category_classification.report as r, category_classification.metrics\n"
        "assert 'matplotlib' not in sys.modules and 'scipy' not in sys.modules\n"
        f"r.plot_confusion([[1, 0], [0, 1]], ['a', 'b'], {str(tmp_path / 'c.png')!r})\n"
        "import matplotlib; assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams['axes.spines.top']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
