"""What lifts minority languages: which rows an epoch shows, how much each counts, and what holds the rest.

    plan = plan_languages(args, model, train, vocab_size, device)     # training_flags.add_language_args
    loader = TrainingBatches(..., rows=plan.rows)
    loss = classification_loss(..., plan.weights_of(batch)) + plan.anchor(logits, batch)

All of it is a function of (flags, seed, epoch), so that a resumed run goes on exactly.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from category_classification.evaluation import load_classifier
from category_classification.losses import teacher_loss
from category_classification.lspc import Split
from training_utils import InputError

MOST_REPEATS = 10  # of a row in an epoch: one offer of a rare language must not be a tenth of it


class LanguageRows:
    """Rows of an epoch, n_l^alpha of language l in proportion (Conneau & Lample 2019, arXiv 1901.07291).

    A language's rows come in whole rounds of all of them, then a random part; none more than ten times.
    """

    width = 1

    def __init__(self, languages: np.ndarray, alpha: float) -> None:
        self.rows_of = [np.flatnonzero(languages == code) for code in np.unique(languages)]
        sizes = np.array([len(rows) for rows in self.rows_of])
        shares = sizes**alpha / (sizes**alpha).sum()
        self.quotas = np.minimum(np.rint(shares * sizes.sum()), MOST_REPEATS * sizes).clip(1).astype(int)

    def __len__(self) -> int:
        return int(self.quotas.sum())

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        parts = []
        for rows, quota in zip(self.rows_of, self.quotas, strict=True):
            rounds, rest = divmod(quota, len(rows))
            parts += [rows] * rounds + [generator.permutation(rows)[:rest]]
        return generator.permutation(np.concatenate(parts))[:, None]


class TunedRows:
    """All rows of some languages, and for each of them `replay` random rows of the others."""

    width = 1

    def __init__(self, tuned: np.ndarray, replay: float) -> None:
        self.tuned, self.others = np.flatnonzero(tuned), np.flatnonzero(~tuned)
        self.replayed = min(round(replay * len(self.tuned)), len(self.others))

    def __len__(self) -> int:
        return len(self.tuned) + self.replayed

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        others = generator.permutation(self.others)[: self.replayed]
        return generator.permutation(np.concatenate((self.tuned, others)))[:, None]


class ClusterPairs:
    """All rows in pairs of one cluster as far as they go, in two languages where there are; (pairs, 2)."""

    width = 2

    def __init__(self, clusters: np.ndarray, languages: np.ndarray) -> None:
        self.clusters, self.languages = clusters, languages

    def __len__(self) -> int:
        return -(-len(self.clusters) // 2)

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        shuffled = generator.permutation(len(self.clusters))
        # Of a cluster's rows sorted by language, the first half meets the last; the middle one may be left.
        order = shuffled[np.lexsort((self.languages[shuffled], self.clusters[shuffled]))]
        starts = np.flatnonzero(np.diff(self.clusters[order], prepend=self.clusters[order[0]] - 1))
        sizes = np.diff(np.append(starts, len(order)))
        halves = sizes // 2
        first = (
            np.repeat(starts, halves) + np.arange(halves.sum()) - np.repeat(halves.cumsum() - halves, halves)
        )
        pairs = np.stack((order[first], order[first + np.repeat(sizes - halves, halves)]), axis=1)
        left = generator.permutation(order[(starts + halves)[sizes % 2 == 1]])
        if len(left) % 2:
            left = np.append(left, left[0] if len(left) == 1 else left[-2])
        return generator.permutation(np.concatenate((pairs, left.reshape(-1, 2))))


@dataclass
class LanguagePlan:
    """What the language flags ask for. L languages, B rows of a batch."""

    rows: Any = None  # the epoch's rows, for TrainingBatches; None = each once
    weights: Tensor | None = None  # (L) of the classification loss; None = all 1
    anchored: Tensor | None = None  # (L) True where the teacher holds the model
    teacher: nn.Module | None = None
    kl_weight: float = 0.0

    def weights_of(self, batch: dict[str, Any]) -> Tensor | None:
        return None if self.weights is None else self.weights[batch["languages"]]

    def anchor(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """kl_weight * KL(teacher || model) of the anchored rows; 0 without a teacher."""
        if self.teacher is None:
            return logits.new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            target = self.teacher(batch["input_ids"], batch["attention_mask"])
        return self.kl_weight * teacher_loss(logits, target, self.anchored[batch["languages"]])


def plan_languages(
    args: argparse.Namespace, model: nn.Module, train: Split, vocab_size: int, device: torch.device
) -> LanguagePlan:
    """Checks the language flags against the data, and loads `--init` into the model."""
    if args.finetune_languages and args.language_alpha != 1:
        raise InputError("--finetune_languages, --language_alpha: both choose the rows; give one of them")
    names = train.language_names
    present = [names[code] for code in np.unique(train.languages)]
    plan = LanguagePlan(kl_weight=args.kl_weight)
    if args.kl_teacher:
        plan.teacher = _load(args.kl_teacher, "--kl_teacher", train, vocab_size, device)
        plan.teacher.requires_grad_(False)
        plan.anchored = torch.ones(len(names), dtype=torch.bool, device=device)
    if args.init or (args.finetune_languages and args.kl_teacher):
        flag, path = ("--init", args.init) if args.init else ("--kl_teacher", args.kl_teacher)
        _start_from(path, flag, model, train, vocab_size, device)
    elif args.finetune_languages and not args.resume:
        raise InputError("--finetune_languages: name the model to tune with --init or --kl_teacher")
    weights = np.ones(len(names))
    for name, weight in args.language_weights.items():
        if name not in present:
            raise InputError(
                f"--language_weights {name}: not a language of the training rows ({_some(present)})"
            )
        weights[names.index(name)] = weight
    if args.language_weights:
        weights /= weights[train.languages].mean()  # the loss keeps its size
    if args.finetune_languages:
        tuned = _tuned(args.finetune_languages, names, present)
        plan.rows = TunedRows(tuned[train.languages], 1.0 if args.kl_teacher else 0.0)
        weights = weights * tuned
        if plan.anchored is not None:
            plan.anchored = torch.from_numpy(~tuned).to(device)
    elif args.language_alpha != 1:
        plan.rows = LanguageRows(train.languages, args.language_alpha)
    if not (weights == 1).all():
        plan.weights = torch.from_numpy(weights).float().to(device)
    return plan


def _tuned(asked: list[str], names: list[str], present: list[str]) -> np.ndarray:
    """(L) True for the languages asked for; `not-en` is every other one."""
    tuned = np.zeros(len(names), dtype=bool)
    for item in asked:
        name = item.removeprefix("not-")
        if name not in present:
            raise InputError(
                f"--finetune_languages {name}: not a language of the training rows ({_some(present)})"
            )
        tuned |= (np.array(names) == name) != (item != name)
    if not tuned[[names.index(name) for name in present]].any():
        raise InputError(f"--finetune_languages {','.join(asked)}: leaves no training row")
    return tuned


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _load(path: str, flag: str, train: Split, vocab_size: int, device: torch.device) -> nn.Module:
    found = load_classifier(path, device)
    if found.class_names != train.class_names:
        raise InputError(f"{flag} {path}: knows the classes {_some(found.class_names)}, not those of --data")
    if found.model.encoder.config.vocab_size != vocab_size:
        raise InputError(f"{flag} {path}: was trained with another tokenizer")
    return found.model


def _start_from(
    path: str, flag: str, model: nn.Module, train: Split, vocab_size: int, device: torch.device
) -> None:
    stored = _load(path, flag, train, vocab_size, device).state_dict()
    try:
        model.load_state_dict(stored)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{flag} {path}: does not fit this model ({reason}); give its --classifier flags"
        ) from None
