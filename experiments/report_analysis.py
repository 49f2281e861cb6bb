"""What the report says of each configuration of a setting: means, paired deltas with intervals, costs."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report_data import (
    BASE,
    HEADLINES,
    TITLES,
    Setting,
    at,
    load_predictions,
    number,
    score_parts,
)
from experiments.report_statistics import (
    first_reached,
    judge,
    paired_bootstrap,
    paired_deltas,
    resample_counts,
    seeds_needed,
    t_interval,
)

UNTRAINED = "not resolved (hardly learnt)"
LEARNT_F1, LEARNT_LOSS = 0.2, 0.8  # micro-F1; share of the loss of guessing, ln(vocabulary)
TARGET_SHARE = 0.95  # of the baseline's fall in validation loss; equal quality is reached there


@dataclass(frozen=True)
class Delta:
    """Paired differences by seed. `low`, `high`: Student's interval over seeds; `documents`: bootstrap.

    `diverged`: seeds on which the one diverged and the other completed, and the reverse; they have no
    difference, but the verdict knows of them.
    """

    count: int
    mean: float
    low: float
    high: float
    documents: tuple[float, float]
    seeds_needed: int | None
    verdict: str  # of the gain: better, worse, equal, open
    diverged: tuple[int, int]

    @property
    def known(self) -> bool:
        """Whether any seed says something."""
        return self.count > 0 or any(self.diverged)


@dataclass
class Summary:
    """One configuration in one setting. A figure that no run gives is None."""

    config: str
    seeds: list[int] = field(default_factory=list)
    status: str = "-"
    reason: str = ""
    emulated: bool = False
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)  # metric -> mean, sd over seeds
    upcast: dict[str, float] = field(default_factory=dict)  # with the weights in float32
    deltas: dict[str, Delta] = field(default_factory=dict)
    samples_per_second: float | None = None
    speed_ratio: float | None = None
    peak_memory_gb: float | None = None
    memory_ratio: float | None = None
    mfu: float | None = None
    seconds_to_target: float | None = None
    reached_target: tuple[int, int] = (0, 0)  # seeds that did, seeds that ran
    first_non_finite: int | None = None
    skipped_steps: float | None = None


class Predictions:
    """Parts of the scores by run, read once."""

    def __init__(self, setting: Setting) -> None:
        self.task, self.arrays, self.parts = setting.task, {}, {}
        for config in setting.configs:
            for seed, row in setting.completed(config).items():
                if arrays := load_predictions(row):
                    self.arrays[config, seed] = arrays
                    self.parts[config, seed] = score_parts(setting.task, arrays)

    def of(self, config: str, metric: str) -> dict[int, np.ndarray]:
        """Seed -> (N, 2)."""
        return {seed: parts[metric] for (name, seed), parts in self.parts.items() if name == config}


def make_delta(
    setting: Setting, config: str, other: str, metric: str, sign: int, predictions: Predictions,
    counts: np.ndarray | None,
) -> Delta:  # fmt: skip
    """`config` minus `other` at equal seeds."""
    deltas = paired_deltas(setting.score(config, metric), setting.score(other, metric))
    mean, low, high = t_interval(deltas)
    documents = (math.nan, math.nan)
    if counts is not None:
        documents = paired_bootstrap(predictions.of(config, metric), predictions.of(other, metric), counts)
    gain = (low, high) if sign > 0 else (-high, -low)
    diverged = setting.diverged(config, other), setting.diverged(other, config)
    verdict = verdict_of(judge(*gain), *diverged)
    return Delta(len(deltas), mean, low, high, documents, seeds_needed(deltas), verdict, diverged)


def verdict_of(judged: str, diverged: int, other_diverged: int) -> str:
    """Of the interval and of the seeds on which one alone diverged: worse than any score."""
    if diverged:
        return "open" if other_diverged else "worse"
    if other_diverged:
        return "open" if judged == "worse" else "better"
    return judged


def target_loss(setting: Setting) -> float | None:
    """The validation loss at which fp32_baseline has made TARGET_SHARE of its fall, over its seeds."""
    firsts, lasts = [], []
    for row in setting.completed(BASE).values():
        losses = [value for _, value in validation_curve(row)]
        if len(losses) > 1 and all(map(math.isfinite, losses)):
            firsts.append(losses[0])
            lasts.append(min(losses))
    if not firsts or np.mean(firsts) <= np.mean(lasts):
        return None
    return float(np.mean(firsts) - TARGET_SHARE * (np.mean(firsts) - np.mean(lasts)))


def validation_curve(row: dict[str, Any]) -> list[tuple[float, float]]:
    """(step, validation loss); what is no number is NaN."""
    found = []
    for point in row.get("curve") or []:
        if "validation_loss" in point:
            value = number(point, "validation_loss")
            found.append((float(point["step"]), math.nan if value is None else value))
    return found


def summarize(setting: Setting, predictions: Predictions, resamples: int) -> dict[str, Summary]:
    """Configuration -> summary, in the study's order."""
    some = next(iter(predictions.parts.values()), None)
    counts = None
    if some and resamples:
        documents = len(next(iter(some.values())))
        counts = resample_counts(documents, resamples, np.random.default_rng(0))
    target = target_loss(setting)
    found = {}
    for config in setting.configs:
        summary = found[config] = Summary(config)
        runs = setting.runs.get(config, {})
        if not runs:
            continue
        summary.seeds = list(setting.completed(config))
        summary.status, summary.reason = describe_status(list(runs.values()))
        summary.emulated = any(row.get("emulated") for row in setting.completed(config).values())
        steps = [s for row in runs.values() if (s := number(row, "first_non_finite_step")) is not None]
        summary.first_non_finite = int(min(steps)) if steps else None
        skipped = [s for row in runs.values() if (s := number(row, "skipped_steps")) is not None]
        summary.skipped_steps = float(np.mean(skipped)) if skipped else None
        _add_scores(summary, setting, predictions, counts)
        if not summary.emulated:  # an emulated format has the quality of the real one, not its cost
            _add_costs(summary, setting, target)
    return found


def _add_scores(
    summary: Summary, setting: Setting, predictions: Predictions, counts: np.ndarray | None
) -> None:
    for metric in HEADLINES[setting.task]:
        values = list(setting.score(summary.config, metric.name).values())
        if not values:
            continue
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        summary.scores[metric.name] = float(np.mean(values)), spread
        if upcast := setting.score(summary.config, metric.name, upcast=True):
            summary.upcast[metric.name] = float(np.mean(list(upcast.values())))
        if summary.config != BASE:
            summary.deltas[metric.name] = make_delta(
                setting, summary.config, BASE, metric.name, metric.sign, predictions, counts
            )


def _add_costs(summary: Summary, setting: Setting, target: float | None) -> None:
    config = summary.config
    summary.samples_per_second = setting.mean(config, "samples_per_second")
    summary.peak_memory_gb = setting.mean(config, "peak_memory_gb")
    summary.mfu = setting.mean(config, "mfu")
    base_speed, base_memory = (setting.mean(BASE, name) for name in ("samples_per_second", "peak_memory_gb"))
    if summary.samples_per_second and base_speed:
        summary.speed_ratio = summary.samples_per_second / base_speed
    if summary.peak_memory_gb and base_memory:
        summary.memory_ratio = summary.peak_memory_gb / base_memory
    if target is None:
        return
    seconds, rows = [], setting.completed(config).values()
    for row in rows:
        curve = validation_curve(row)
        step = first_reached([s for s, _ in curve], [v for _, v in curve], target, -1) if curve else None
        milliseconds = number(row, "step_ms.median")
        if step is not None and milliseconds is not None:
            seconds.append(step * milliseconds / 1000)
    summary.reached_target = len(seconds), len(rows)
    if rows and len(seconds) == len(rows):
        summary.seconds_to_target = float(np.mean(seconds))


def describe_status(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """`completed`, or what else happened and how often; and the reason of the first that failed."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    failed = [row for row in rows if row["status"] != "completed"]
    parts = [name if len(counts) == 1 else f"{count} {name}" for name, count in counts.items()]
    return ", ".join(parts), str(at(failed[0], "reason") or "") if failed else ""


# ---------------------------------------------------------------- chapters


@dataclass
class Chapter:
    """A family of settings (they differ in learning rate alone), the one with most runs first."""

    name: str  # of its files
    title: str
    settings: list[Setting]
    predictions: list[Predictions]
    summaries: list[dict[str, Summary]]
    resamples: int

    @property
    def main(self) -> Setting:
        return self.settings[0]

    @property
    def task(self) -> str:
        return self.main.task

    def by_rate(self) -> list[tuple[Setting, dict[str, Summary]]]:
        """In order of the learning rate."""
        pairs = zip(self.settings, self.summaries, strict=True)
        return sorted(pairs, key=lambda pair: pair[0].learning_rate or 0.0)

    def pair(self, config: str, other: str, at_setting: int = 0) -> Delta:
        """`config` minus `other` in the first headline metric."""
        setting, metric = self.settings[at_setting], self.main.headline
        predictions, counts = self.predictions[at_setting], None
        common = {**predictions.of(config, metric.name)}.keys() & predictions.of(other, metric.name).keys()
        if common and self.resamples:
            documents = len(predictions.of(config, metric.name)[min(common)])
            counts = resample_counts(documents, self.resamples, np.random.default_rng(0))
        return make_delta(setting, config, other, metric.name, metric.sign, predictions, counts)


def caution(chapter: Chapter, at_setting: int = 0) -> str:
    """A sentence where even the baseline has hardly learnt, so that no format can harm it; else nothing."""
    setting, metric = chapter.settings[at_setting], chapter.main.headline
    score = setting.mean(BASE, f"metrics.test.{metric.name}")
    if score is None:
        return ""
    if chapter.task == "classification":
        linear = [number(row, f"metrics.test.{metric.name}") for row in setting.baselines]
        limit = max([LEARNT_F1, *(value / 2 for value in linear if value is not None)])
        learnt = score >= limit
    else:
        vocabulary = number(next(iter(setting.completed(BASE).values())), "data.labels") or math.e
        limit = LEARNT_LOSS * math.log(vocabulary)
        learnt = score <= limit
    if learnt:
        return ""
    return (
        f"Caution, {chapter.title}: {BASE} itself has hardly learnt ({metric.title} {score:.4f}, where "
        f"{limit:.4f} is the least to ask); formats that look equal here need not be so in a trained model."
    )


def make_chapters(families: list[list[Setting]], resamples: int) -> list[Chapter]:
    chapters = []
    for settings in families:
        predictions = [Predictions(setting) for setting in settings]
        pairs = zip(settings, predictions, strict=True)
        summaries = [summarize(setting, found, resamples) for setting, found in pairs]
        task = settings[0].task
        earlier = sum(chapter.task == task for chapter in chapters)
        name, title = (f"{task}_{earlier + 1}" if earlier else task), TITLES[task]
        if len(others := [family[0].shared for family in families if family[0].task == task]) > 1:
            title += _what_differs(settings, others)
            same = sum(chapter.title.partition(" #")[0] == title for chapter in chapters)
            title += f" #{same + 1}" if same else ""
        chapters.append(Chapter(name, title, settings, predictions, summaries, resamples))
    return chapters


def _what_differs(settings: list[Setting], others: list[dict[str, Any]]) -> str:
    """Model, folder, and whatever else the families of a task do not share."""
    shared = settings[0].shared
    row = next(row for setting in settings for row in (*setting.rows, *setting.baselines))
    words = [f", {Path(shared['model.name']).name} ({Path(row['folder']).name})"]
    for name, value in shared.items():
        if name not in ("model.name", "data.fingerprint") and any(other[name] != value for other in others):
            words.append(f"{name} {'unknown' if value is None else value}")
    return ", ".join(words)


# ---------------------------------------------------------------- causes

MATRICES = ("embeddings", "attention", "mlp", "head")
UPDATE_GROUPS = ("embeddings", "attention", "mlp", "head", "norms", "biases", "other")


def update_share(setting: Setting, config: str, group: str, name: str) -> float | None:
    """`lost`, `progress` or `decay_no_op` of a group: mean over the probed steps, then over runs.

    Runs that failed count as well: an update lost before a divergence is lost.
    """
    by_run = []
    for row in setting.runs.get(config, {}).values():
        found = [number(record, f"groups.{group}.{name}") for record in row.get("lost_updates") or []]
        if found := [value for value in found if value is not None]:
            by_run.append(np.mean(found))
    return float(np.mean(by_run)) if by_run else None


def matrix_share(setting: Setting, config: str, name: str) -> float | None:
    """The mean over the groups of weight matrices."""
    found = [update_share(setting, config, group, name) for group in MATRICES]
    found = [value for value in found if value is not None]
    return float(np.mean(found)) if found else None


def underflow_share(setting: Setting, config: str, tensor: str, path: str) -> float | None:
    found = [number(row, f"underflow.{tensor}.{path}") for row in setting.runs.get(config, {}).values()]
    found = [value for value in found if value is not None]
    return float(np.mean(found)) if found else None
