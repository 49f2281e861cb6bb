"""Rows of results.jsonl as the report needs them: checked, grouped by what they share, with predictions."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.dtype_configs import CONFIGS, TASKS, configs_of
from training_utils import InputError

BASE = "fp32_baseline"
BASELINES = ("tfidf_linear",)  # rows of no number format
STATUSES = ("completed", "diverged", "oom", "unsupported")
# Runs that differ in configuration and seed alone make a setting; settings that differ in learning rate alone
# a family.
SHARED = (
    "task", "model.name", "data.fingerprint", "recipe", "pretrained", "head_bias_init", "max_steps",
    "max_epochs", "batch_size", "gradient_accumulation_steps", "dropout", "block_size", "max_length",
    "device", "world_size", "compile", "weight_decay", "grad_clip", "warmup_ratio", "num_heads",
    "eval_windows",
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A score of the test split; `sign` is -1 where less is better."""

    name: str
    title: str
    sign: int = 1


HEADLINES: dict[str, tuple[Metric, ...]] = {
    "classification": (Metric("micro_f1_tuned", "micro-F1"), Metric("precision_at_5", "P@5")),
    "language_modeling": (Metric("loss", "loss", -1),),
}
MORE_METRICS = {
    "classification": (
        "micro_f1", "macro_f1", "macro_f1_support", "precision_at_1", "precision_at_3", "r_precision_at_5",
        "ndcg_at_5",
    ),
    "language_modeling": ("perplexity",),
}  # fmt: skip
TITLES = {"classification": "Classification", "language_modeling": "Language modelling"}


@dataclass
class Setting:
    """Runs of one task that differ in configuration and seed alone: configuration -> seed -> row."""

    task: str
    learning_rate: float | None
    shared: dict[str, Any]
    runs: dict[str, dict[int, Row]] = field(default_factory=dict)
    baselines: list[Row] = field(default_factory=list)

    @property
    def headline(self) -> Metric:
        return HEADLINES[self.task][0]

    @property
    def rows(self) -> list[Row]:
        return [row for runs in self.runs.values() for row in runs.values()]

    @property
    def configs(self) -> list[str]:
        """All configurations of the task, run or not, and others that were run, in the study's order."""
        names = [config.name for config in configs_of(self.task)]
        return [*names, *sorted(set(self.runs) - set(names))]

    def completed(self, config: str) -> dict[int, Row]:
        return {
            seed: row
            for seed, row in sorted(self.runs.get(config, {}).items())
            if row["status"] == "completed"
        }

    def diverged(self, config: str, other: str) -> int:
        """Seeds on which `config` diverged and `other` completed."""
        runs = self.runs.get(config, {})
        return sum(runs[seed]["status"] == "diverged" for seed in runs.keys() & self.completed(other).keys())

    def values(self, config: str, path: str) -> dict[int, float]:
        """Seed -> a finite number of the completed runs."""
        found = {seed: number(row, path) for seed, row in self.completed(config).items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def score(self, config: str, metric: str, upcast: bool = False) -> dict[int, float]:
        return self.values(config, f"{'metrics_fp32' if upcast else 'metrics'}.test.{metric}")

    def mean(self, config: str, path: str) -> float | None:
        values = self.values(config, path)
        return float(np.mean(list(values.values()))) if values else None

    def cite(self, config: str) -> str:
        """The rows behind a figure, as results.jsonl names them."""
        seeds = ",".join(map(str, self.completed(config))) or "none"
        return f"{config} (lr {self.learning_rate:g}, seeds {seeds})" if self.learning_rate else config


# ---------------------------------------------------------------- reading


def at(row: Row, path: str) -> Any:
    """`metrics.test.loss` -> row["metrics"]["test"]["loss"]; None where any of them is missing."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(row: Row, path: str) -> float | None:
    value = at(row, path)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def read_results(folders: Sequence[Path]) -> list[Row]:
    """All rows under `folders`, each with the `folder` its predictions lie under; a cut last line is left."""
    rows = []
    for folder in folders:
        if not folder.exists():
            raise InputError(f"--results {folder}: no such folder; name the --out of run.py")
        files = [folder] if folder.is_file() else sorted(folder.rglob("results*.jsonl"))
        if not files:
            raise InputError(f"--results {folder}: no results.jsonl in it; run a configuration first")
        for path in files:
            rows += _read_file(path)
    if not rows:
        raise InputError(f"--results {folders[0]}: no finished run in it; run a configuration first")
    return rows


def _read_file(path: Path) -> list[Row]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name the --out of run.py") from None
    rows = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair cannot be shown
        except (ValueError, RecursionError):
            if place == len(lines):  # a kill cut it; a whole line ends in a line break
                continue
            raise InputError(f"{path}: line {place}: broken JSON; delete the line and run again") from None
        _check(row, f"{path}: line {place}")
        rows.append(row | {"folder": str(path.parent)})
    return rows


def _check(row: Any, place: str) -> None:
    wanted = {"task": TASKS, "status": STATUSES}
    for name, known in wanted.items():
        if not isinstance(row, dict) or row.get(name) not in known:
            found = row.get(name) if isinstance(row, dict) else row
            raise InputError(
                f"{place}: {name} {found!r} is none of {', '.join(known)}; was it written by run.py?"
            )
    if not isinstance(row.get("config"), str) or not isinstance(row.get("seed"), int):
        raise InputError(f"{place}: a row needs `config` and a whole `seed`; was it written by run.py?")
    for name, usable in USABLE.items():
        if (value := at(row, name)) is not None and not usable(value):
            raise InputError(f"{place}: {name} is {value!r:.40}; was it written by run.py?")
    for name in SHARED:
        if isinstance(at(row, name), list | dict):
            raise InputError(f"{place}: {name} is not one value; was it written by run.py?")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_object, value))


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, list) and len(each) == 2 for each in value)


def _is_curve(value: Any) -> bool:
    return _are_objects(value) and all(_is_number(point.get("step")) for point in value)


USABLE = {  # what the report looks into, where a row has it
    **dict.fromkeys(("data", "model", "versions"), _is_object),
    **dict.fromkeys(("learning_rate", "steps", "first_non_finite_step", "model.parameters"), _is_number),
    **dict.fromkeys(("gradient_norm", "max_logit", "scale_history"), _are_pairs),
    "curve": _is_curve,
    "lost_updates": _are_objects,
    "predictions": lambda value: isinstance(value, str),
}


# ---------------------------------------------------------------- grouping


def make_settings(rows: Iterable[Row]) -> list[list[Setting]]:
    """Families of settings; in each the one with most runs stands first, and so does the largest family."""
    families: dict[str, dict[float | None, Setting]] = {}
    baselines = []
    for row in rows:
        if row["config"] in BASELINES:
            baselines.append(row)
            continue
        shared = {name: at(row, name) for name in SHARED}
        rate = number(row, "learning_rate")
        settings = families.setdefault(json.dumps(shared, sort_keys=True, default=str), {})
        setting = settings.setdefault(rate, Setting(row["task"], rate, shared))
        setting.runs.setdefault(row["config"], {})[row["seed"]] = row  # a later row of a run replaces it
    found = []
    for settings in families.values():
        ordered = sorted(settings.values(), key=lambda setting: -len(setting.rows))
        for setting in ordered:
            setting.baselines = list(
                {row["config"]: row for row in baselines if _same_data(row, setting)}.values()
            )
        found.append(ordered)
    return sorted(found, key=lambda family: (TASKS.index(family[0].task), -sum(len(s.rows) for s in family)))


def _same_data(row: Row, setting: Setting) -> bool:
    return row["task"] == setting.task and at(row, "data.fingerprint") == setting.shared["data.fingerprint"]


def config_order(name: str) -> int:
    names = [config.name for config in CONFIGS]
    return names.index(name) if name in names else len(names)


# ---------------------------------------------------------------- predictions


def load_predictions(row: Row) -> dict[str, np.ndarray] | None:
    """The arrays of a run's prediction file; None where it has none or the file is gone."""
    if not row.get("predictions"):
        return None
    path = Path(row["folder"]) / row["predictions"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if not _fit(row["task"], found):
            raise ValueError("its arrays do not fit each other")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged zip fails in many ways
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: damaged ({reason}); delete it, and its figures show as missing") from None
    return found


def _fit(task: str, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a prediction file holds what `score_parts` reads, of as many documents or windows."""
    if task == "language_modeling":
        losses = arrays["losses"]
        return losses.ndim == 1 and losses.dtype.kind == "f" and len(losses) > 0
    names = ("top5", "gold", "gold_offsets", "tp", "fp", "fn")
    if any(arrays[name].dtype.kind not in "iu" or (arrays[name] < 0).any() for name in names):
        return False
    best, gold, ends, *counts = (arrays[name] for name in names)
    same = all(count.shape == best.shape[:1] for count in counts) and best.shape[1:] == (5,) and len(best) > 0
    whole = ends.shape == (len(best) + 1,) and gold.shape == (ends[-1],) and ends[0] == 0
    return bool(same and whole and (np.diff(ends.astype(np.int64)) >= 0).all())


def score_parts(task: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Headline metric -> (N, 2), whose column sums' ratio is the score (see report_statistics.py)."""
    if task == "language_modeling":
        losses = arrays["losses"].astype(np.float64)
        return {"loss": np.stack([losses, np.ones_like(losses)], 1)}
    documents = len(arrays["tp"])
    total = 2 * arrays["tp"] + arrays["fp"] + arrays["fn"]
    return {
        "micro_f1_tuned": np.stack([2 * arrays["tp"], total], 1).astype(np.float64),
        "precision_at_5": np.stack([top_5_hits(arrays), np.full(documents, 5)], 1).astype(np.float64),
    }


def top_5_hits(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(N,): how many of each document's best labels are true."""
    best, gold, offsets = (arrays[name].astype(np.int64) for name in ("top5", "gold", "gold_offsets"))
    labels = 1 + max(best.max(initial=0), gold.max(initial=0))
    rows = np.repeat(np.arange(len(best)), np.diff(offsets))
    true = rows * labels + gold  # one number a (document, label)
    return np.isin(np.arange(len(best))[:, None] * labels + best, true).sum(1)
