"""The flags that every train script of this project has, and the encoder they describe."""

import argparse
import math

from category_classification.embedding_classifier import EncoderConfig


def add_training_args(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="folder written by prepare_lspc.py")
    data.add_argument("--out", required=True, help="folder of this run: checkpoints, metrics, plots")
    data.add_argument("--tokenizer", default="Qwen/Qwen3-Embedding-0.6B", help="hub name or local folder")
    data.add_argument("--seq_len", type=positive, default=256, help="tokens a text is cut to")
    data.add_argument(
        "--train_split", default="train", help="'full' holds the test rows as well: ask for it by name"
    )
    data.add_argument("--max_rows", type=positive, help="train on so many random rows; nested by --seed")

    optim = parser.add_argument_group("optimization")
    optim.add_argument("--epochs", type=positive, default=5)
    optim.add_argument(
        "--max_steps", type=positive, help="stop after N optimizer steps in all; sizes the schedule too"
    )
    optim.add_argument("--batch_size", type=positive, default=256, help="texts a micro-batch and process")
    optim.add_argument("--grad_accum", type=positive, default=1, help="micro-batches a step")
    optim.add_argument("--lr", type=positive_float, default=2e-4)
    optim.add_argument("--lr_schedule", choices=("constant", "cosine"), default="cosine")
    optim.add_argument("--lr_warmup_steps", type=not_negative, help="default: a twentieth of all steps")
    optim.add_argument(
        "--lr_min_scale", type=share, default=0.05, help="last learning rate, as a part of --lr"
    )
    optim.add_argument("--weight_decay", type=not_negative_float, default=0.01)
    optim.add_argument("--max_grad_norm", type=not_negative_float, default=1.0, help="0 = no clipping")
    optim.add_argument(
        "--embedding_update", choices=("dense", "rows"), default="dense", help="rows: see row_adamw.py"
    )
    optim.add_argument(
        "--length_window",
        type=positive,
        default=1,
        help="batches sorted by length together (1 = random rows)",
    )
    optim.add_argument(
        "--embedding_dropout", type=rate, default=0.0, help="on features of the token embeddings"
    )
    optim.add_argument(
        "--token_dropout", type=rate, default=0.0, help="share of tokens left out of a training text"
    )
    optim.add_argument("--max_drop_path", type=rate, default=0.1, help="of the last block; the first has 0")

    size = parser.add_argument_group("encoder size (the defaults are the published model)")
    size.add_argument("--num_layers", type=positive, default=10)
    size.add_argument(
        "--hidden_size", type=multiple_of_192, default=384, help="64 a head, 3 heads a key-value head"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--resume", help="a checkpoint-*.pt, or 'auto' for the newest sound one in --out")
    run.add_argument("--save_every", type=positive, default=1, help="epochs between checkpoint-epochN.pt")
    run.add_argument(
        "--save_every_steps", type=not_negative, default=0, help="steps between checkpoint-last.pt (0 = off)"
    )
    run.add_argument("--keep_last", type=not_negative, default=0, help="epoch checkpoints kept (0 = all)")
    run.add_argument("--log_every", type=positive, default=50, help="steps between training records")
    run.add_argument(
        "--max_bad_steps", type=positive, default=10, help="non-finite losses in a row that end the run"
    )
    run.add_argument("--amp", action="store_true", help="mixed precision: fp16 on CUDA, bfloat16 on a CPU")
    run.add_argument("--amp_dtype", choices=("auto", "float16", "bfloat16"), default="auto")
    run.add_argument("--compile", action="store_true", help="compile the encoder's blocks")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    run.add_argument("--seed", type=seed, default=42)
    run.add_argument("--wandb", action="store_true", help="mirror the records to Weights & Biases")
    run.add_argument(
        "--lang_min_samples", type=not_negative, default=1000, help="rows a reported language needs"
    )
    run.add_argument("--lang_top_k", type=not_negative, default=5, help="languages reported (0 = all)")


def add_head_args(parser: argparse.ArgumentParser) -> None:
    """v2's head and loss, which v3 shares."""
    head = parser.add_argument_group("head and loss")
    add = head.add_argument
    add("--classifier_hidden", type=positive, default=768, help="width of the head's bottleneck")
    add("--classifier_dropout", type=rate, default=0.15, help="in the head")
    add(
        "--classifier_residual",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="around the bottleneck",
    )
    add("--label_smoothing", type=rate, default=0.0)
    add("--focal_gamma", type=not_negative_float, default=0.0, help="0 = cross-entropy; see losses.py")


def add_language_args(parser: argparse.ArgumentParser) -> None:
    """Sampling, weights and anchors of languages; see languages.py."""
    add = parser.add_argument_group("languages").add_argument
    add("--language_alpha", type=share, default=1.0, help="sample language l in proportion to rows^alpha")
    add("--language_weights", type=weights, default={}, help="loss weights, such as de=2,fr=1.5 (others: 1)")
    add("--finetune_languages", type=names, default=[], help="train on these alone: de,fr or not-en")
    add("--init", help="a checkpoint of the same model to start from")
    add("--kl_teacher", help="a checkpoint whose answers the model keeps, on rows not fine-tuned")
    add("--kl_weight", type=not_negative_float, default=1.0)


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def weights(text: str) -> dict[str, float]:
    pairs = [item.partition("=") for item in names(text)]
    return {name: positive_float(value) for name, _, value in pairs}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def seed(text: str) -> int:
    value = not_negative(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is more than 2^63 - 1")
    return value


def not_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def multiple_of_192(text: str) -> int:
    value = positive(text)
    if value % 192:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 192")
    return value


def rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def encoder_config(args: argparse.Namespace, vocab_size: int) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=vocab_size,
        hidden_size=args.hidden_size,
        num_layers=args.num_layers,
        num_attention_heads=args.hidden_size // 64,
        num_key_value_heads=args.hidden_size // 192,
        embedding_dropout=args.embedding_dropout,
        max_drop_path=args.max_drop_path,
        sparse_embedding_gradient=args.embedding_update == "rows",
    )
