"""The sections of one chapter; those on causes are in report_causes.py."""

from itertools import combinations
from typing import Any

import numpy as np

from experiments.report_analysis import (
    TARGET_SHARE,
    Chapter,
    Summary,
    matrix_share,
    target_loss,
)
from experiments.report_causes import head_section, lost_updates_section, stability_section, underflow_section
from experiments.report_data import BASE, HEADLINES, MORE_METRICS, number
from experiments.report_statistics import RESOLUTION, top_k_jaccard
from experiments.report_text import (
    MISSING,
    Picture,
    Section,
    Table,
    between,
    describe_delta,
    percent,
    plain,
    signed,
    significant,
    with_spread,
)

CURVES = "Training and validation loss, means over the seeds that all configurations have"


def describe_setting(chapter: Chapter) -> str:
    """One paragraph: what all rows of the chapter share."""
    row = next(iter(chapter.main.rows), {})
    data, model = row.get("data") or {}, row.get("model") or {}
    named = {"labels": "labels" if chapter.task == "classification" else "tokens known"}
    sizes = ", ".join(f"{n:,} {named.get(k, k)}" for k, n in data.items() if isinstance(n, int))
    known = {
        "model": f"{model.get('name', MISSING)}, {model.get('parameters', 0):,} parameters",
        "weights": "pretrained" if row.get("pretrained") else "random",
        "data": f"{sizes} (fingerprint {data.get('fingerprint', MISSING)})",
        "recipe": str(row.get("recipe", MISSING)),
        "learning rate": ", ".join(f"{s.learning_rate:g}" for s, _ in chapter.by_rate() if s.learning_rate),
        "steps": str(max((r.get("steps") or 0 for r in chapter.main.rows), default=0)),
        "device": str(row.get("device", MISSING)),
        "seeds": ", ".join(map(str, sorted({r["seed"] for r in chapter.main.rows}))),
    }
    return "; ".join(f"{name}: {value}" for name, value in known.items()) + "."


# ---------------------------------------------------------------- quality and cost


def quality_table(chapter: Chapter, position: int = 0) -> Table:
    table = []
    for summary in chapter.summaries[position].values():
        status = summary.status + (", emulated" if summary.emulated else "")
        row = {
            "configuration": summary.config,
            "seeds": str(len(summary.seeds)) if summary.seeds else MISSING,
        }
        row["status"] = status + (f": {summary.reason}" if summary.reason else "")
        for metric in HEADLINES[chapter.task]:
            score, delta = summary.scores.get(metric.name), summary.deltas.get(metric.name)
            row[metric.title] = with_spread(*score) if score else MISSING
            row[f"Δ {metric.title}"] = signed(delta.mean) if delta and delta.count else MISSING
            row[f"Δ {metric.title}, seeds"] = between(delta.low, delta.high) if delta else MISSING
            row[f"Δ {metric.title}, documents"] = between(*delta.documents) if delta else MISSING
        first = summary.deltas.get(chapter.main.headline.name)
        row["seeds needed"] = f"{first.seeds_needed:,}" if first and first.seeds_needed else MISSING
        row["reads as"] = first.verdict if first and first.known else MISSING
        row[f"{chapter.main.headline.title}, fp32 weights"] = plain(
            summary.upcast.get(chapter.main.headline.name)
        )
        table.append(row)
    for row in chapter.settings[position].baselines:
        cells = {"configuration": row["config"], "seeds": "1", "status": row["status"]}
        for metric in HEADLINES[chapter.task]:
            cells[metric.title] = plain(number(row, f"metrics.test.{metric.name}"))
        table.append(cells)
    return table


def metrics_table(chapter: Chapter) -> Table:
    """All scores, means over seeds, with the ceilings where the data have some."""
    setting, names = chapter.main, [m.name for m in HEADLINES[chapter.task]]
    names += MORE_METRICS[chapter.task]
    table = []
    for config in setting.configs:
        if setting.completed(config):
            cells = {name: plain(setting.mean(config, f"metrics.test.{name}")) for name in names}
            table.append({"configuration": config} | cells)
    for row in setting.baselines:
        cells = {name: plain(number(row, f"metrics.test.{name}")) for name in names}
        table.append({"configuration": row["config"]} | cells)
    ceilings = {name: setting.mean(BASE, f"metrics.test.ceilings.{name}") for name in names}
    if any(value is not None for value in ceilings.values()):
        table.append({"configuration": "ceiling"} | {name: plain(value) for name, value in ceilings.items()})
    return table


def cost_table(chapter: Chapter) -> Table:
    setting, table = chapter.main, []
    for config, summary in chapter.summaries[0].items():
        reached, ran = summary.reached_target
        seconds = significant(summary.seconds_to_target)
        if summary.seconds_to_target is None and reached < ran:
            seconds = f"- ({reached} of {ran} seeds)"
        row = {
            "configuration": config,
            "samples/s": significant(summary.samples_per_second),
            "x fp32": plain(summary.speed_ratio, 2),
            "step ms p10": MISSING,
            "median": MISSING,
            "p90": MISSING,
            "MFU": percent(summary.mfu),
            "peak GB": significant(summary.peak_memory_gb),
            "memory x fp32": plain(summary.memory_ratio, 2),
            "equal quality, s": seconds,
            "compile s": MISSING,
        }
        if not summary.emulated:
            for name, path in (("step ms p10", "p10"), ("median", "median"), ("p90", "p90")):
                row[name] = significant(setting.mean(config, f"step_ms.{path}"))
            row["compile s"] = significant(setting.mean(config, "compile_seconds"))
        table.append(row)
    return table


def quality_section(chapter: Chapter) -> list[Section]:
    target = target_loss(chapter.main)
    where = (
        f"Equal quality is a validation loss of {target:.4f}, where {BASE} has made {TARGET_SHARE:.0%} of "
        "its fall; the time is the step at which a run gets there times its median step."
        if target
        else f"Equal quality needs a curve of {BASE} with two evaluations."
    )
    about = (
        ("the threshold of micro-F1 tuned on validation", "documents")
        if chapter.task == "classification"
        else ("nats a token", "windows")
    )
    return [
        Section("Quality", 3, [
            f"Test split, {about[0]}. Δ is paired with {BASE} by seed: same weights, order and dropout. "
            "Its first interval is Student's at 95% over seeds, the second a paired bootstrap over the "
            f"test {about[1]}. `equal` lies within ±{RESOLUTION}, `open` is not resolved; so many "
            "`seeds needed` would bring the interval to that width.",
            quality_table(chapter),
        ]),
        Section("All scores", 3, [metrics_table(chapter)]),
        Section("Speed and memory", 3, [
            f"{where} Emulated formats have no cost of their own.",
            cost_table(chapter),
            Picture(f"pareto_{chapter.name}.png", "Quality against throughput and memory"),
            Picture(f"memory_{chapter.name}.png", "Peak memory by part"),
        ]),
    ]  # fmt: skip


# ---------------------------------------------------------------- predictions and rates


def consistency_section(chapter: Chapter) -> Section:
    """Classification: top-5 Jaccard; language modelling: mean absolute difference of window losses."""
    arrays = chapter.predictions[0].arrays
    seeds = sorted({seed for _, seed in arrays})
    name, digits = ("top-5 Jaccard", 4) if chapter.task == "classification" else ("|Δ window loss|", 4)
    agree = _agreement(chapter.task)
    table = []
    for config in chapter.main.configs:
        own = [seed for seed in seeds if (config, seed) in arrays]
        to_base = [agree(arrays[config, s], arrays[BASE, s]) for s in own if (BASE, s) in arrays]
        by_seed = [agree(arrays[config, a], arrays[config, b]) for a, b in combinations(own, 2)]
        if not own:
            continue
        table.append({
            "configuration": config,
            f"{name} with {BASE}, equal seed": plain(float(np.mean(to_base)), digits) if to_base else MISSING,
            f"{name} between seeds": plain(float(np.mean(by_seed)), digits) if by_seed else MISSING,
            "within seed noise": _within(to_base, by_seed, chapter.task) if config != BASE else MISSING,
        })  # fmt: skip
    text = (
        "Two configurations at equal seed beside two seeds of one configuration: where the first agree as "
        "well as the second, the format changes no more than the seed does."
    )
    return Section("Prediction consistency", 3, [text, table])


def _agreement(task: str) -> Any:
    if task == "classification":
        return lambda a, b: top_k_jaccard(a["top5"], b["top5"])
    return lambda a, b: float(np.abs(a["losses"].astype(np.float64) - b["losses"]).mean())


def _within(to_base: list[float], by_seed: list[float], task: str) -> str:
    if not (to_base and by_seed):
        return MISSING
    a, b = np.mean(to_base), np.mean(by_seed)
    return "yes" if (a >= b if task == "classification" else a <= b) else "no"


def rates_section(chapter: Chapter) -> Section:
    """The mini-grid: each learning rate's score, delta to fp32 at the same rate, and lost updates."""
    metric, table = chapter.main.headline, []
    grid = chapter.by_rate()
    for config in chapter.main.configs:
        row = {"configuration": config}
        for setting, summaries in grid:
            rate = f"{setting.learning_rate:g}" if setting.learning_rate else MISSING
            summary = summaries.get(config) or Summary(config)
            score, delta = summary.scores.get(metric.name), summary.deltas.get(metric.name)
            row[f"{metric.title}, lr {rate}"] = plain(score[0]) if score else MISSING
            row[f"Δ, lr {rate}"] = (
                describe_delta(delta, "").strip().split(", n=")[0] if delta and delta.count else MISSING
            )
            row[f"lost, lr {rate}"] = percent(matrix_share(setting, config, "lost"))
        if set(row.values()) != {config, MISSING}:
            table.append(row)
    text = (
        "The two tasks' usual rates differ thirtyfold, so a difference between tasks is read here, at equal "
        "rates."
        if len(grid) > 1
        else "One learning rate only: run both tasks at 2e-5 and 6e-4 to tell the task from the rate."
    )
    return Section("Learning rate x format", 3, [text, table])


def chapter_sections(chapter: Chapter) -> list[Section]:
    return [
        Section(chapter.title, 2, [describe_setting(chapter)]),
        *quality_section(chapter),
        Section("Loss curves", 3, [Picture(f"curves_{chapter.name}.png", CURVES)]),
        stability_section(chapter),
        lost_updates_section(chapter),
        underflow_section(chapter),
        head_section(chapter),
        consistency_section(chapter),
        rates_section(chapter),
    ]
