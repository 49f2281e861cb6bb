"""The sections on causes: stability, lost updates, underflow, precision of the head."""

from typing import Any

import numpy as np

from experiments.report_analysis import UPDATE_GROUPS, Chapter, matrix_share, underflow_share, update_share
from experiments.report_comparison import HEAD_PAIRS
from experiments.report_data import BASE, number
from experiments.report_text import MISSING, Section, between, percent, plain, signed, significant

CONTROL_PAIRS = (*HEAD_PAIRS, ("amp_bf16_head_out32", "amp_bf16"), ("bf16_head_only", BASE))
TENSORS = ("logits", "logit_gradients", "activations", "gradients", "weights")
FORMATS = {"float16": "fp16", "bfloat16": "bf16", "float8_e4m3": "e4m3", "float8_e5m2": "e5m2"}


def stability_section(chapter: Chapter) -> Section:
    table = []
    for config, summary in chapter.summaries[0].items():
        rows = list(chapter.main.runs.get(config, {}).values())
        if not rows or all(row["status"] == "unsupported" for row in rows):
            continue
        table.append({
            "configuration": config,
            "status": summary.status,
            "first non-finite step": MISSING if (step := summary.first_non_finite) is None else str(step),
            "skipped steps": plain(summary.skipped_steps, 1),
            "last loss scale": significant(_last(rows, "scale_history")),
            "largest logit": significant(_largest(rows, "max_logit")),
            "largest gradient norm": significant(_largest(rows, "gradient_norm")),
            "reason": summary.reason or MISSING,
        })  # fmt: skip
    return Section("Stability", 3, [table])


def _pairs(row: dict[str, Any], name: str) -> list[float]:
    """The finite values of a history of [step, value]."""
    values = [value for _, value in row.get(name) or []]
    return [v for v in values if isinstance(v, int | float) and np.isfinite(v)]


def _last(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [found[-1] for row in rows if (found := _pairs(row, name))]
    return min(values) if values else None


def _largest(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [max(found) for row in rows if (found := _pairs(row, name))]
    return max(values) if values else None


def lost_updates_section(chapter: Chapter) -> Section:
    section = Section("Lost updates", 3, [
        "Share of the weights that a step means to move and that stay as they were, mean over the probed "
        "steps and seeds; a weight kept with a compensation or a 32-bit master counts as the sum. "
        "`progress`: the step taken along the one meant, of the weight matrices. `decay no-op`: weights "
        "that weight decay alone would not move.",
    ])  # fmt: skip
    for setting, summaries in chapter.by_rate():
        table = []
        for config, summary in summaries.items():
            shares = {group: update_share(setting, config, group, "lost") for group in UPDATE_GROUPS}
            if all(share is None for share in shares.values()):
                continue
            delta = summary.deltas.get(chapter.main.headline.name)
            table.append(
                {"configuration": config}
                | {group: percent(share) for group, share in shares.items() if share is not None}
                | {
                    "progress": percent(matrix_share(setting, config, "progress")),
                    "decay no-op": percent(matrix_share(setting, config, "decay_no_op")),
                    f"Δ {chapter.main.headline.title}": signed(delta.mean)
                    if delta and delta.count
                    else MISSING,
                }
            )
        if table:
            rate = f"{setting.learning_rate:g}" if setting.learning_rate else MISSING
            section.blocks += [f"Learning rate {rate}:", table]
    return section


def underflow_section(chapter: Chapter) -> Section:
    """What each format would lose of the values of fp32_baseline, and what the runs' own formats lost."""
    setting, table, own = chapter.main, [], []
    for tensor in TENSORS:
        row = {"tensor": tensor.replace("_", " ")}
        for name, short in FORMATS.items():
            for part in ("zero", "subnormal", "overflow"):
                share = underflow_share(setting, BASE, tensor, f"{name}.{part}")
                if share is not None:
                    row[f"{short} {part}"] = percent(share, 2)
        if len(row) > 1:
            table.append(row)
    for config in setting.configs:
        row = {"configuration": config}
        for tensor in ("logit_gradients", "gradients", "activations"):
            for part in ("zeros", "non_finite"):
                share = underflow_share(setting, config, tensor, part)
                row[f"{tensor.replace('_', ' ')}, {part.replace('_', '-')}"] = percent(share, 2)
        if set(row.values()) != {config, MISSING}:
            own.append(row)
    return Section("Underflow", 3, [
        f"Of the values other than 0 that {BASE} sees in one step: what would become 0 in a format, be "
        "subnormal (kept with fewer bits) or overflow.",
        table,
        "Zeros and non-finite values that each configuration holds itself (a loss scale included):",
        own,
    ])  # fmt: skip


def head_section(chapter: Chapter) -> Section:
    setting, table, metric = chapter.main, [], chapter.main.headline
    for config, other in CONTROL_PAIRS:
        delta, summaries = chapter.pair(config, other), chapter.summaries[0]
        if not delta.known:
            continue
        a, b = summaries[config], summaries[other]
        speed = (
            a.samples_per_second / b.samples_per_second
            if a.samples_per_second and b.samples_per_second
            else None
        )
        memory = a.peak_memory_gb - b.peak_memory_gb if a.peak_memory_gb and b.peak_memory_gb else None
        table.append({
            "pair": f"{config} over {other}",
            "seeds": str(delta.count),
            f"Δ {metric.title}": signed(delta.mean) if delta.count else MISSING,
            "seeds interval": between(delta.low, delta.high),
            "documents interval": between(*delta.documents),
            "reads as": delta.verdict,
            "speed ratio": plain(speed, 2),
            "memory, GB": signed(memory, 3),
        })  # fmt: skip
    share = next((s for row in setting.rows if (s := number(row, "head_flops_share")) is not None), None)
    text = f"The head is {percent(share, 3)} of a sample's operations. Pairs differ in the head alone."
    return Section("Head precision", 3, [text, table])
