"""Verdicts on the hypotheses of PLAN.md and on our own prediction, with the rows behind each."""

from experiments.report_analysis import UNTRAINED, Chapter, caution, matrix_share
from experiments.report_comparison import EIGHT_BIT_PAIRS, HEAD_PAIRS, first_of
from experiments.report_data import BASE, TITLES
from experiments.report_statistics import RESOLUTION, pareto_front
from experiments.report_text import describe_delta

REPAIRS = ("bf16_kahan", "bf16_sr", "bf16_master")
LOW_RATE, HIGH_RATE = 1e-4, 3e-4  # the prediction is for 2e-5 and 6e-4
MANY_LOST, FEW_LOST = 0.5, 0.3


def verdicts(chapters: list[Chapter]) -> list[dict[str, str]]:
    """A line a hypothesis and task."""
    found = []
    for chapter in chapters:
        found += [
            _h1(chapter),
            _h2(chapter),
            _h3(chapter),
            _lost(chapter),
            _repaired(chapter),
        ]
    found.append(_h4(chapters))
    return sorted(found, key=lambda row: row["hypothesis"].split(":")[0])  # H1 to H4, ours 1 and 2


def _verdict(hypothesis: str, chapter: Chapter | None, verdict: str, evidence: str) -> dict[str, str]:
    task = chapter.title if chapter else "both"
    return {"hypothesis": hypothesis, "task": task, "verdict": verdict, "evidence": evidence or "no rows"}


def _by_pairs(hypothesis: str, chapter: Chapter, pairs: tuple, supports: str) -> dict[str, str]:
    """Supported where one pair's verdict is `supports`; refuted where all others are resolved."""
    deltas = {pair: delta for pair in pairs if (delta := chapter.pair(*pair)).known}
    evidence = "; ".join(
        f"{a} over {b}: {describe_delta(d, chapter.main.headline.title)} ({d.verdict})"
        for (a, b), d in deltas.items()
    )
    found = [delta.verdict for delta in deltas.values()]
    if not found:
        verdict = "-"
    elif supports in found:
        verdict = "supported" if set(found) == {supports} else "supported in part"
    elif "open" in found:
        verdict = f"not resolved at n={min(delta.count for delta in deltas.values())}"
    else:
        verdict = UNTRAINED if caution(chapter) else "refuted"
    return _verdict(hypothesis, chapter, verdict, evidence)


def _h1(chapter: Chapter) -> dict[str, str]:
    return _by_pairs("H1: the large output layer needs float32", chapter, HEAD_PAIRS, "better")


def _h2(chapter: Chapter) -> dict[str, str]:
    name = "H2: fp16_naive is unstable"
    runs = {
        config: [
            row
            for row in chapter.main.runs.get(config, {}).values()
            if row["status"] in ("completed", "diverged")
        ]
        for config in ("fp16_naive", "fp16_naive_fused")
    }
    if not runs["fp16_naive"]:
        return _verdict(name, chapter, "-", "")
    parts, shares = [], []
    for config, rows in runs.items():
        if not rows:
            continue
        diverged = [row for row in rows if row["status"] == "diverged"]
        shares.append(len(diverged) / len(rows))
        steps = [
            row["first_non_finite_step"] for row in diverged if row.get("first_non_finite_step") is not None
        ]
        when = f", first non-finite at step {min(steps)}" if steps else ""
        parts.append(f"{config}: {len(diverged)} of {len(rows)} diverged{when}")
    if shares == [1, 0]:
        parts.append("the same format with eps added in 32 bits does not: the cause is eps")
    verdict = "supported" if shares[0] == 1 else "refuted" if shares[0] == 0 else "supported in part"
    return _verdict(name, chapter, verdict, "; ".join(parts))


def _h3(chapter: Chapter) -> dict[str, str]:
    return _by_pairs("H3: 8-bit Adam harms the large head", chapter, EIGHT_BIT_PAIRS, "worse")


def _h4(chapters: list[Chapter]) -> dict[str, str]:
    name = "H4: the memory-throughput frontier is the same in both tasks"
    fronts = {}
    for task in TITLES:
        chapter = first_of(chapters, task)
        known = [
            s
            for s in (chapter.summaries[0].values() if chapter else ())
            if s.samples_per_second and s.peak_memory_gb
        ]
        kept = pareto_front([s.peak_memory_gb for s in known], [s.samples_per_second for s in known])
        fronts[task] = [s.config for s, front in zip(known, kept, strict=True) if front]
    evidence = "; ".join(f"{TITLES[task]}: {', '.join(front)}" for task, front in fronts.items() if front)
    if not all(fronts.values()):
        return _verdict(name, None, "-", evidence)
    a, b = map(set, fronts.values())
    verdict = "supported" if a == b else "supported in part" if a & b else "refuted"
    return _verdict(name, None, verdict, f"{evidence}; they share {len(a & b)} of {len(a | b)}")


def _lost(chapter: Chapter) -> dict[str, str]:
    """Low rates lose most updates of bf16_pure's matrices, high ones few."""
    name = "ours 1: weights kept in bf16 lose most updates at lr 2e-5 and few at 6e-4"
    shares = {s.learning_rate or 0.0: matrix_share(s, "bf16_pure", "lost") for s, _ in chapter.by_rate()}
    shares = {rate: share for rate, share in shares.items() if share is not None}
    evidence = ", ".join(f"lr {rate:g}: {share:.0%} lost" for rate, share in shares.items())
    low = [share for rate, share in shares.items() if rate <= LOW_RATE]
    high = [share for rate, share in shares.items() if rate >= HIGH_RATE]
    if not (low and high):
        return _verdict(name, chapter, "needs both rates" if shares else "-", evidence)
    right = [min(low) > MANY_LOST, max(high) < FEW_LOST]
    verdict = "supported" if all(right) else "supported in part" if any(right) else "refuted"
    return _verdict(name, chapter, verdict, evidence)


def _repaired(chapter: Chapter) -> dict[str, str]:
    """At the lowest rate: bf16_pure is worse than fp32, and what keeps the lost bits is better than it."""
    number = min(range(len(chapter.settings)), key=lambda n: chapter.settings[n].learning_rate or 0.0)
    rate = chapter.settings[number].learning_rate or 0.0
    name = f"ours 2: Kahan, stochastic rounding or a master repair it (lr {rate:g})"
    title = chapter.main.headline.title
    harm = chapter.pair("bf16_pure", BASE, number)
    gains = {config: chapter.pair(config, "bf16_pure", number) for config in REPAIRS}
    gains = {config: delta for config, delta in gains.items() if delta.known}
    if not (harm.known and gains):
        return _verdict(name, chapter, "-", "")
    evidence = f"bf16_pure over {BASE}: {describe_delta(harm, title)} ({harm.verdict}); " + "; ".join(
        f"{config} over bf16_pure: {describe_delta(d, title)} ({d.verdict})" for config, d in gains.items()
    )
    found = [delta.verdict for delta in gains.values()]
    if harm.verdict in ("equal", "better"):
        verdict = UNTRAINED if caution(chapter, number) else f"nothing to repair (within {RESOLUTION})"
    elif all(v == "better" for v in found) and harm.verdict == "worse":
        verdict = "supported"
    elif "better" in found:
        verdict = "supported in part"
    elif "open" in found or harm.verdict == "open":
        verdict = f"not resolved at n={min(d.count for d in (harm, *gains.values()))}"
    else:
        verdict = "refuted"
    return _verdict(name, chapter, verdict, evidence)
