"""Every setting of an RQ-VAE run: one dataclass, whose fields are the train script's flags."""

import argparse
import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from semantic_ids.rqvae import RQVAE
from training_utils import InputError

HIGHER_IS_BETTER = {"val_loss": False, "reconstruction_cosine": True, "unique_ids_proportion": True}


def setting(default: Any, help: str, **kwargs: Any) -> Any:
    """A field of the configuration that is a flag as well."""
    metadata = {"help": help, **kwargs}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RQVAEConfig:
    """Each field is a flag of the same name."""

    # data
    category: str = setting("Video_Games", "names the default files")
    data_dir: str = setting("data", "folder that holds output/")
    embeddings_path: str | None = setting(
        None, "default: DATA_DIR/output/CATEGORY_items_with_embeddings.parquet"
    )
    checkpoint_dir: str = setting("checkpoints/rqvae", "folder of this run")
    val_split: float = setting(0.05, "share of the items kept for validation")
    # model
    item_embedding_dim: int = setting(1024, "width of the embeddings")
    encoder_hidden_dims: list[int] = setting([512, 256, 128], "hidden layers; the decoder mirrors them")
    codebook_embedding_dim: int = setting(32, "width of a code")
    codebook_quantization_levels: int = setting(3, "codes of an ID")
    codebook_size: int = setting(256, "codes a level")
    commitment_weight: float = setting(0.25, "beta of the commitment loss")
    use_rotation_trick: bool = setting(True, "rotate gradients through the codes (else straight-through)")
    use_ema_vq: bool = setting(False, "codes are moving averages instead of parameters")
    ema_decay: float = setting(0.99, "of those averages")
    ema_epsilon: float = setting(1e-5, "their Laplace smoothing")
    input_scale: str = setting(
        "unit", "unit: centre, and scale to variance 1; raw: as it is", choices=("unit", "raw")
    )
    input_noise: float = setting(
        0.0, "deviation of the noise added to scaled inputs in training; neighbours then share more codes"
    )
    # optimization
    batch_size: int = setting(32768, "items a micro-batch and process")
    gradient_accumulation_steps: int = setting(1, "micro-batches a step")
    num_epochs: int = setting(20000, "passes over the items")
    scheduler_type: str = setting(
        "cosine_with_warmup", "of the learning rate", choices=("cosine_with_warmup", "cosine")
    )
    warmup_start_lr: float = setting(1e-8, "first learning rate of the warm-up")
    warmup_steps: int = setting(200, "steps of the warm-up")
    max_lr: float = setting(3e-4, "peak learning rate")
    min_lr: float = setting(1e-6, "last learning rate")
    use_gradient_clipping: bool = setting(True, "clip to gradient_clip_norm")
    gradient_clip_norm: float = setting(1.0, "global norm")
    # codebooks
    use_kmeans_init: bool = setting(True, "start the codes from k-means, level by level")
    reset_unused_codes: bool = setting(True, "move unused codes to random items")
    steps_per_codebook_reset: int = setting(2, "steps between resets")
    codebook_usage_threshold: float = setting(1.0, "reset a level while its usage is below this share")
    # run
    steps_per_train_log: int = setting(10, "steps between training records")
    steps_per_val_log: int = setting(200, "steps between validations")
    patience: int = setting(0, "validations without a better --best_metric that end the run (0 = never)")
    best_metric: str = setting("val_loss", "chooses best_model.pth", choices=tuple(HIGHER_IS_BETTER))
    save_every_steps: int = setting(1000, "steps between checkpoint_step_N.pth")
    keep_last: int = setting(2, "of them kept (0 = all)")
    max_steps: int = setting(0, "end after so many steps in all; sizes the schedule too (0 = by epochs)")
    max_bad_steps: int = setting(10, "non-finite losses in a row that end the run")
    resume: str | None = setting(None, "a checkpoint_step_N.pth, or auto")
    seed: int = setting(42, "of split, order, weights, k-means")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    amp: bool = setting(False, "mixed precision in the MLPs: fp16 on CUDA, bfloat16 on a CPU")
    amp_dtype: str = setting("auto", "of --amp", choices=("auto", "float16", "bfloat16"))
    compile: bool = setting(False, "compile encoder and decoder")
    wandb: bool = setting(False, "mirror the records to Weights & Biases, and upload the best model")

    def __post_init__(self) -> None:
        if self.embeddings_path is None:
            name = f"{self.category}_items_with_embeddings.parquet"
            self.embeddings_path = str(Path(self.data_dir) / "output" / name)

    def check(self) -> None:
        """Numbers that no run can use are refused before anything is read."""
        for name in (
            "item_embedding_dim codebook_embedding_dim codebook_quantization_levels batch_size num_epochs "
            "gradient_accumulation_steps steps_per_codebook_reset steps_per_train_log steps_per_val_log "
            "max_bad_steps"
        ).split():
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be 1 or more")
        for name in (
            "warmup_steps patience save_every_steps keep_last max_steps seed commitment_weight input_noise"
        ).split():
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name} {getattr(self, name)}: must not be below 0")
        if self.codebook_size < 2 or self.codebook_size**self.codebook_quantization_levels >= 2**63:
            raise InputError(
                "--codebook_size, --codebook_quantization_levels: need 2 codes, and fewer than 2^63 IDs"
            )
        if self.seed >= 2**31 - self.codebook_quantization_levels:
            raise InputError(f"--seed {self.seed}: must be below 2^31, less the levels")
        if not self.encoder_hidden_dims or min(self.encoder_hidden_dims) < 1:
            raise InputError("--encoder_hidden_dims: one or more positive widths")
        if not 0 < self.min_lr <= self.max_lr < math.inf or not 0 <= self.warmup_start_lr <= self.max_lr:
            raise InputError("--min_lr, --warmup_start_lr: must lie between 0 and --max_lr")
        if not 0 <= self.val_split < 1 or not 0 < self.ema_decay < 1 or not self.ema_epsilon > 0:
            raise InputError("--val_split in [0, 1), --ema_decay in (0, 1), --ema_epsilon above 0")
        if not self.gradient_clip_norm > 0 or not 0 <= self.codebook_usage_threshold <= 1:
            raise InputError("--gradient_clip_norm above 0, --codebook_usage_threshold in [0, 1]")

    def build(self) -> RQVAE:
        return RQVAE(
            self.item_embedding_dim,
            tuple(self.encoder_hidden_dims),
            self.codebook_embedding_dim,
            self.codebook_quantization_levels,
            self.codebook_size,
            self.commitment_weight,
            self.use_rotation_trick,
            self.use_ema_vq,
            self.ema_decay,
            self.ema_epsilon,
        )


def parse_config(description: str | None) -> RQVAEConfig:
    """The configuration from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for each in fields(RQVAEConfig):
        default = each.default_factory() if each.default is MISSING else each.default
        shown = f"{each.metadata['help']} (default: {default})"
        if isinstance(default, bool):
            parser.add_argument(
                f"--{each.name}", action=argparse.BooleanOptionalAction, default=default, help=shown
            )
        elif isinstance(default, list):
            parser.add_argument(f"--{each.name}", type=whole_numbers, default=default, help=shown)
        else:
            kind = str if default is None else type(default)
            choices = each.metadata.get("choices")
            parser.add_argument(f"--{each.name}", type=kind, choices=choices, default=default, help=shown)
    config = RQVAEConfig(**vars(parser.parse_args()))
    config.check()
    return config


def whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
