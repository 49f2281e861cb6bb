"""Settings: conf/*.yaml composed by Hydra, overrides checked against the dataclasses here."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_utils import InputError

CONF = Path(__file__).parent / "conf"


@dataclass
class Paths:
    data_dir: str
    output_dir: str
    checkpoint_dir: str


@dataclass
class DataConfig:
    backend: str
    rule: str
    triplets_path: str
    cache_dir: str
    batch_size: int
    k_negatives: int
    queries: int
    val_split: float
    max_length: int


@dataclass
class LoraSettings:
    r: int
    alpha: int


@dataclass
class NgramSettings:
    buckets: int
    width: int


@dataclass
class MoeSettings:
    enabled: bool
    num_experts: int
    top_k: int
    hidden_dim: int
    load_balancing_coef: float


@dataclass
class ModelConfig:
    backbone: str
    base_model_name: str
    dim: int
    learning_rate_scale: float
    dropout: float
    query_dropout: float
    token_budget: int
    lora: LoraSettings
    ngram: NgramSettings
    moe: MoeSettings


@dataclass
class LossConfig:
    geometry: str
    curvature: float
    max_radius: float
    temperature: float
    triplet_weight: float
    query_weight: float
    redirect_weight: float
    stress_weight: float
    listwise_weight: float
    query_scale: float


@dataclass
class TrainerConfig:
    max_epochs: int
    limit_train_batches: int
    limit_val_batches: int
    precision: str
    gradient_clip_val: float
    log_every_n_steps: int
    patience: int


@dataclass
class TrainingConfig:
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    max_bad_steps: int
    keep_last: int
    save_every_steps: int
    trainer: TrainerConfig


@dataclass
class CurriculumConfig:
    name: str
    previous: str | None
    positive_levels: list[int]
    positive_distance_max: float | None
    learning_rate_scale: float
    stress_weight: float
    max_fallback: float
    buckets: dict[int, float]


@dataclass
class Config:
    seed: int
    project_name: str
    experiment_name: str
    paths: Paths
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    training: TrainingConfig
    curriculum: CurriculumConfig
    stages: list[str] = field(
        default_factory=list
    )  # names of the stages that came before, filled in by a run


AT_LEAST = {
    1: "data.batch_size data.k_negatives data.max_length model.dim model.lora.r model.lora.alpha "
    "model.ngram.buckets model.ngram.width model.moe.num_experts model.moe.top_k model.moe.hidden_dim "
    "model.token_budget training.max_bad_steps training.trainer.max_epochs "
    "training.trainer.limit_val_batches training.trainer.log_every_n_steps",
    0: "seed data.queries model.dropout model.query_dropout model.moe.load_balancing_coef "
    "loss.triplet_weight loss.query_weight loss.redirect_weight loss.stress_weight loss.listwise_weight "
    "curriculum.stress_weight curriculum.max_fallback training.weight_decay training.warmup_steps "
    "training.keep_last "
    "training.save_every_steps training.trainer.limit_train_batches training.trainer.gradient_clip_val "
    "training.trainer.patience",
    1e-12: "model.learning_rate_scale curriculum.learning_rate_scale loss.curvature loss.max_radius "
    "loss.temperature loss.query_scale "
    "training.learning_rate",
}
CHOICES = {
    "data.backend": ("matrix", "parquet"),
    "data.rule": ("corrected", "compat"),
    "model.backbone": ("transformer", "ngram"),
    "loss.geometry": ("lorentz", "euclidean", "sphere"),
    "training.trainer.precision": ("16-mixed", "bf16-mixed", "32"),
}


def compose(curriculum: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of a stage, with Hydra overrides such as `training.trainer.max_epochs=20`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = sorted(path.stem for path in (CONF / "curriculum").glob("*.yaml"))
    if curriculum not in known:
        raise InputError(f"-c {curriculum}: no such curriculum{nearest(curriculum, known)}")
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise InputError(
                f"{override}: an override reads NAME=VALUE, such as training.trainer.max_epochs=20"
            )
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            plain = hydra_compose("config", [f"curriculum={curriculum}", *overrides])
        for name, value in leaves(OmegaConf.to_container(plain)):
            if value == "???":
                raise InputError(f"{name}: no value; give {name}=VALUE")
        resolved = OmegaConf.to_container(plain, resolve=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), resolved))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(explain(error, overrides)) from None
    check(config)
    return config


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("training.trainer.max_epochs", 5) for every setting."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {found[0]}?" if found else f" (there are: {', '.join(known)})"


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line that names the override at fault and the nearest valid name."""
    import yaml

    names = {}
    for path in CONF.glob("*/*.yaml"):
        names |= {f"{path.parent.name}.{name}": None for name, _ in leaves(yaml.safe_load(path.read_text()))}
    names |= {name: None for name, _ in leaves(yaml.safe_load((CONF / "config.yaml").read_text()))}
    names |= {folder.name: None for folder in CONF.iterdir() if folder.is_dir()}
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+~")
        if name not in names:
            return f"{name}: no such setting{nearest(name, list(names))}"
        folder = CONF / name
        if folder.is_dir() and not (folder / f"{value}.yaml").exists():
            return (
                f"{override}: no such choice{nearest(value, sorted(p.stem for p in folder.glob('*.yaml')))}"
            )
    reason = " ".join(str(error).split())[:200]
    key = getattr(error, "full_key", None)
    return f"{key or 'settings'}: {reason}"


def check(config: Config) -> None:
    """Numbers that no run can use are refused before anything is read."""
    from omegaconf import OmegaConf

    values = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(config)))
    for least, names in AT_LEAST.items():
        for name in names.split():
            value = OmegaConf.select(values, name)
            if not least <= value < float("inf"):
                raise InputError(
                    f"{name}={value}: must be {'above 0' if 0 < least < 1 else f'{least} or more'}"
                )
    for name, choices in CHOICES.items():
        if (value := OmegaConf.select(values, name)) not in choices:
            raise InputError(f"{name}={value}: use one of {', '.join(choices)}")
    if not 0 < config.data.val_split < 1 or max(config.model.dropout, config.model.query_dropout) >= 1:
        raise InputError("data.val_split must lie in (0, 1), model.dropout and model.query_dropout in [0, 1)")
    if config.model.moe.top_k > config.model.moe.num_experts:
        raise InputError(f"model.moe.top_k={config.model.moe.top_k}: there are fewer experts")
    if config.data.rule == "compat":
        raise InputError(
            "data.rule=compat: is counted and written (data triplets), not trained on; use corrected"
        )
    loss = config.loss
    of_codes = loss.triplet_weight + loss.stress_weight + loss.listwise_weight
    if not of_codes and not (loss.query_weight and config.data.queries):
        # Redirected activities alone would leave nothing to a validation, which asks index entries.
        raise InputError(
            "loss: no term that training and validation can both take; give triplet_weight, stress_weight, "
            "listwise_weight or (data.queries above 0) query_weight a value above 0"
        )
    if config.seed >= 2**31:
        raise InputError(f"seed={config.seed}: must be below 2^31")
