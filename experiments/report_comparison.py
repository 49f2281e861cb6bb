"""Classification beside language modelling: rank correlation and flips; and what to take when."""

import math
from typing import Any

import numpy as np

from experiments.report_analysis import UNTRAINED, Chapter, Summary, caution
from experiments.report_data import BASE, TITLES, Metric, Setting, config_order
from experiments.report_statistics import flips, resampled_means, spearman, spearman_interval
from experiments.report_text import MISSING, describe_delta

HEAD_PAIRS = (("amp_bf16_fp32_head", "amp_bf16"), ("bf16_body_fp32_head", "bf16_pure"))
EIGHT_BIT_PAIRS = (("amp_bf16_8bit_adam", "amp_bf16"), ("amp_fp16_8bit_adam", "amp_fp16"))
FLIP = 0.9

# ---------------------------------------------------------------- ranks and flips


def first_of(chapters: list[Chapter], task: str) -> Chapter | None:
    """The chapter with most runs of a task."""
    return next((chapter for chapter in chapters if chapter.task == task), None)


def compare_tasks(chapters: list[Chapter], resamples: int) -> dict[str, Any]:
    """`ranking_correlation` and `flips` between the largest chapters of the two tasks."""
    both = [first_of(chapters, task) for task in TITLES]
    nothing = {"spearman": None, "interval": None, "configurations": [], "spearman_with_diverged": None}
    if None in both:
        return {"ranking_correlation": nothing, "flips": []}
    common = [
        config
        for config in sorted(set(both[0].main.configs) & set(both[1].main.configs), key=config_order)
        if all(chapter.summaries[0][config].scores for chapter in both)
    ]
    gains = [[_gain(chapter, config) for config in common] for chapter in both]
    found = nothing | {"configurations": common, "spearman": _finite(spearman(*gains))}
    found["spearman_with_diverged"] = _finite(_with_diverged(both))
    draws = _draws(both, common, resamples)
    if draws is None:
        return {"ranking_correlation": found, "flips": []}
    low, high = spearman_interval(*draws)
    found["interval"] = [low, high] if math.isfinite(low) else None
    return {
        "ranking_correlation": found,
        "flips": [
            {
                "better_in_classification": common[i],
                "better_in_language_modeling": common[j],
                "probability": round(probability, 4),
            }
            for i, j, probability in flips(*draws, least=FLIP)
        ],
    }


def _gain(chapter: Chapter, config: str) -> float:
    scores = chapter.summaries[0][config].scores.get(chapter.main.headline.name)
    return chapter.main.headline.sign * scores[0] if scores else math.nan


def _with_diverged(both: list[Chapter]) -> float:
    """Over all configurations that ran in both tasks; one that only diverged or ran out of memory is last."""
    ran = [config for config in both[0].main.configs if all(_ran(chapter, config) for chapter in both)]
    sides = [[_gain(chapter, config) for config in ran] for chapter in both]
    worst = [[-math.inf if math.isnan(gain) else gain for gain in side] for side in sides]
    return spearman(*[np.unique(side, return_inverse=True)[1] for side in worst])


def _ran(chapter: Chapter, config: str) -> bool:
    rows = chapter.main.runs.get(config, {}).values()
    return any(row["status"] != "unsupported" for row in rows)


def _draws(both: list[Chapter], common: list[str], resamples: int) -> list[np.ndarray] | None:
    """Resampled gains (R, C) of each task; None where predictions are missing."""
    if not common or not resamples:
        return None
    draws = []
    for number, chapter in enumerate(both):
        metric = chapter.main.headline
        parts = [chapter.predictions[0].of(config, metric.name) for config in common]
        if not all(parts):
            return None
        rng = np.random.default_rng(number)
        draws.append(metric.sign * resampled_means(parts, resamples, rng))
    return draws


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---------------------------------------------------------------- decisions


def decide(chapters: list[Chapter]) -> list[dict[str, str]]:
    """What to take in which situation, and the rows that say so."""
    found = []
    for chapter in chapters:
        summaries = chapter.summaries[0]
        half = [name for name in summaries if "fp16" in name]
        low_bits = [name for name in summaries if name.startswith("bf16_") and name != "bf16_head_only"]
        rows = [
            (0, _cheapest(chapter, 0, "memory is short", list(summaries), "peak_memory_gb", 1)),
            (0, _cheapest(chapter, 0, "time is short", list(summaries), "samples_per_second", -1)),
            (0, _cheapest(chapter, 0, "the device has float16 alone", half, "samples_per_second", -1)),
        ]
        for number, setting in enumerate(chapter.settings):
            situation = f"weights must be kept in 16 bits, lr {setting.learning_rate or 0.0:g}"
            rows.append((number, _cheapest(chapter, number, situation, low_bits, "peak_memory_gb", 1)))
        for situation, pairs, wanted in (
            ("the head is in 16 bits: give it float32?", HEAD_PAIRS, "better"),
            ("optimizer state is too large: keep it in 8 bits?", EIGHT_BIT_PAIRS, "equal"),
        ):
            rows.append((0, _pairs(chapter, situation, pairs, wanted)))
        for number, row in rows:
            hidden = row["take"] != MISSING and caution(chapter, number)
            found.append(row | {"take": UNTRAINED} if hidden else row)
    return found


def _cheapest(
    chapter: Chapter, number: int, situation: str, configs: list[str], cost: str, sign: int
) -> dict[str, str]:
    """The cheapest configuration that costs less than fp32_baseline and is shown to be no worse.

    `sign`: 1 where less of `cost` is better, -1 where more is.
    """
    setting, summaries = chapter.settings[number], chapter.summaries[number]
    metric = chapter.main.headline
    row = {"task": chapter.title, "situation": situation}
    known = [summaries[name] for name in configs if getattr(summaries[name], cost) is not None]
    known = sorted(
        (s for s in known if metric.name in s.deltas and s.deltas[metric.name].count),
        key=lambda s: sign * getattr(s, cost),
    )
    base = getattr(summaries[BASE], cost)
    if not known or base is None:
        return row | {"take": MISSING, "because": "no rows"}
    cheaper = [s for s in known if sign * getattr(s, cost) < sign * base]
    if not cheaper:
        reason = f"nothing costs less; next is {_because(setting, known[0], metric)}"
        return row | {"take": BASE, "because": reason}
    safe = [s for s in cheaper if s.deltas[metric.name].verdict in ("equal", "better")]
    if safe:
        return row | {"take": safe[0].config, "because": _because(setting, safe[0], metric)}
    hopeful = [s for s in cheaper if s.deltas[metric.name].verdict == "open"]
    if hopeful:
        reason = f"cheapest not shown to be worse: {_because(setting, hopeful[0], metric)}"
        count = hopeful[0].deltas[metric.name].count
        return row | {"take": f"not resolved at n={count}", "because": reason}
    reason = f"what costs less is worse, the cheapest: {_because(setting, cheaper[0], metric)}"
    return row | {"take": BASE, "because": reason}


def _because(setting: Setting, summary: Summary, metric: Metric) -> str:
    costs = []
    if summary.speed_ratio:
        costs.append(f"{summary.speed_ratio:.2f}x samples/s")
    if summary.memory_ratio:
        costs.append(f"{summary.memory_ratio:.2f}x memory")
    delta = describe_delta(summary.deltas[metric.name], metric.title)
    return "; ".join([setting.cite(summary.config), delta, *costs])


def _pairs(chapter: Chapter, situation: str, pairs: tuple, wanted: str) -> dict[str, str]:
    """`wanted`: the verdict of the first over the second that means yes."""
    row = {"task": chapter.title, "situation": situation}
    deltas = {pair: chapter.pair(*pair) for pair in pairs}
    deltas = {pair: delta for pair, delta in deltas.items() if delta.known}
    if not deltas:
        return row | {"take": MISSING, "because": "no rows"}
    title = chapter.main.headline.title
    because = "; ".join(
        f"{chapter.main.cite(a)} over {b}: {describe_delta(d, title)}" for (a, b), d in deltas.items()
    )
    verdicts = {delta.verdict for delta in deltas.values()}
    good = {"better"} if wanted == "better" else {"equal", "better"}
    if verdicts <= good:
        take = "yes"
    elif verdicts & good and "open" not in verdicts:
        take = "it depends"
    elif verdicts <= ({"equal", "worse"} if wanted == "better" else {"worse"}):
        take = "no"
    else:
        take = f"not resolved at n={min(delta.count for delta in deltas.values())}"
    return row | {"take": take, "because": because}
