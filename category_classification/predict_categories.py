"""Add a category and its probability to every row of a table.

    python category_classification/predict_categories.py --checkpoint RUN/best.pt --input offers.csv.gz \
        --text_column title,description --output categories.parquet
    zcat offers.jsonl.gz | python category_classification/predict_categories.py --checkpoint RUN/best.pt \
        --input - --format jsonl --output - | head

In: CSV, TSV, JSON lines (each also .gz) or Parquet, or standard input. Out: the same rows in the same order
with their columns unchanged, in the form that the name of --output tells, which may be another one; and the
columns label, probability, label_2, probability_2, ... up to --top_k. A JSON object keeps its bytes and gets
these keys at its end.

The probability is softmax(logits / temperature) to six decimals, the temperature fitted on the validation
split when best.pt was written. With --abstain P the label is empty (null) where the probability is below P;
the other columns stay. A row without text gets only empty columns. Texts are cleaned as prepare_lspc.py
cleans them.

--output appears when it is whole, or not at all; a bad row anywhere in the input means not at all. Standard
output carries rows as they come.

Memory, whatever the size of the input: 0.9 GB for libraries and the published model, and 0.5 GB for a chunk
of 20,480 rows, or of fewer where they reach 32 MB. In a chunk texts are sorted by length, so that padding is
about one per cent.
"""

import argparse
import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from tqdm import tqdm

from category_classification.batches import evaluation_batches, on_device
from category_classification.evaluation import BATCH_TOKENS, Classifier, load_classifier
from category_classification.language_id import identify
from category_classification.lspc import Split, tokenize
from category_classification.metrics import add_language_bias
from category_classification.prepare_inputs import plain_string
from category_classification.table_input import (
    TableBatch,
    read_table_batches,
    require_columns,
    table_format,
)
from category_classification.table_output import TableWriter, json_schema
from category_classification.training_flags import positive
from training_utils import ALONE, InputError, autocast, pick_device, replacing, run_script

CHUNK_ROWS = 20_480
CHUNK_BYTES = 32 * 2**20
TOKENIZE_ROWS = 256  # at once: the tokenizer holds some 100 bytes a token before it cuts
CHARACTERS_PER_TOKEN = 128  # the longest token there is; what lies beyond seq_len of them cannot matter
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best.pt; a checkpoint-*.pt has no fitted temperature")
    add("--input", required=True, help=".csv, .tsv, .jsonl (each also .gz), .parquet; - is standard input")
    add("--output", required=True, help="the same choice; - is standard output")
    add("--format", choices=("csv", "tsv", "jsonl", "parquet"), help="of standard input and output")
    add(
        "--text_column",
        action="append",
        default=[],
        help="several (a,b or repeated) are joined by a space (default: text, else title and description)",
    )
    add("--prefix", default="", help="put before the names of the added columns")
    add("--top_k", type=positive, default=3, help="classes a row, at most as many as there are")
    add("--abstain", type=float, default=0.0, help="no label below this probability (0 = always a label)")
    add(
        "--language_bias", action="store_true", help="identify languages, add the bias best.pt holds for each"
    )
    add("--tokenizer", help="hub name or folder (default: tokenizer/ beside the checkpoint)")
    add("--batch_tokens", type=positive, help="padded tokens a batch (default: 1024 on a CPU, 65536 on CUDA)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="half precision (default: on CUDA, and on a CPU with bfloat16 instructions: 2.6 times as fast, "
        "and 99.96 %% of 16,550 real titles got the label that they get in float32)",
    )
    add("--amp_dtype", choices=("auto", "float16", "bfloat16"), default="auto")
    args = parser.parse_args()
    args.text_column = [name for names in args.text_column for name in names.split(",") if name]
    if not 0 <= args.abstain <= 1:
        raise InputError(f"--abstain {args.abstain}: is a probability, from 0 to 1")
    return args


# ---------------------------------------------------------------- files


def input_form(args: argparse.Namespace) -> str:
    if args.format and "-" not in (args.input, args.output):
        raise InputError("--format tells the form of standard input and output; files tell theirs by name")
    return table_format(args.input, args.format if args.input == "-" else None)


def output_form(args: argparse.Namespace, read: str) -> str:
    """The form to write, once it is sure that the output may be written."""
    if args.output == "-":
        return args.format or read
    output = Path(args.output)
    form = table_format(args.output)
    if form == "parquet" and output.suffix == ".gz":
        raise InputError(f"--output {output}: Parquet is compressed already: leave out .gz")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}")
    if output.exists() and not output.is_file():
        raise InputError(f"--output {output}: is no ordinary file (- is standard output)")
    if output.exists() and args.input != "-" and Path(args.input).exists() and output.samefile(args.input):
        raise InputError(f"--output {output}: is the input; name another file")
    return form


@contextmanager
def open_output(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replacing(Path(os.path.realpath(name))) as file:  # through a symbolic link, not over it
        yield file


def seekable(source: str, form: str, stack: ExitStack) -> str:
    """Parquet is read from its end: standard input goes to a temporary file first."""
    if source != "-" or form != "parquet":
        return source
    spooled = stack.enter_context(tempfile.NamedTemporaryFile(prefix="standard-input-", suffix=".parquet"))
    shutil.copyfileobj(sys.stdin.buffer, spooled)
    spooled.flush()
    return spooled.name


def count_rows(source: str, form: str) -> int | None:
    """About how many rows there are, for the progress bar; None where that costs too much to know."""
    if not sys.stderr.isatty() or source == "-" or source.endswith(".gz"):
        return None
    if form == "parquet":
        return pq.read_metadata(source).num_rows
    with open(source, "rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return lines - (form != "jsonl")


# ---------------------------------------------------------------- texts and columns


def pick_text_columns(source: str, chosen: list[str], present: list[str]) -> list[str]:
    if not chosen:
        chosen = ["text"] if "text" in present else ["title"]
        chosen += ["description"] if chosen == ["title"] and "description" in present else []
        if chosen[0] not in present:
            listed = ", ".join(map(repr, present[:20])) or "none"
            raise InputError(f"{source}: no column 'text' or 'title'; --text_column names one of {listed}")
    require_columns(source, chosen, present)
    return chosen


def texts_of(batch: TableBatch, columns: list[str], seq_len: int) -> list[str]:
    """One cleaned text a row, empty where there is none."""
    if isinstance(batch.data, pa.RecordBatch):
        values = [batch.column(name) for name in columns]
    else:
        values = [[row.get(name) for row in batch.data] for name in columns]
    rows = zip(*values, strict=True)
    texts = (" ".join(filter(None, (plain_string(value) for value in row))) for row in rows)
    return [text[: CHARACTERS_PER_TOKEN * seq_len] for text in texts]


def check_free(batch: TableBatch, added: list[str]) -> None:
    """No column that came in may have the name of an added one."""
    if isinstance(batch.data, pa.RecordBatch):
        taken = set(batch.column_names) & set(added)
    else:
        taken = set().union(*(row.keys() & set(added) for row in batch.data))
    if taken:
        raise InputError(
            f"{batch.source}: has a column {min(taken)!r} already; give the new ones --prefix predicted_"
        )


def added_columns(prefix: str, top_k: int) -> pa.Schema:
    numbers = ["", *(f"_{rank}" for rank in range(2, top_k + 1))]
    kinds = {"label": pa.string(), "probability": pa.float64()}
    return pa.schema([(f"{prefix}{name}{n}", kind) for n in numbers for name, kind in kinds.items()])


# ---------------------------------------------------------------- the model


def half_precision_is_fast(device: torch.device) -> bool:
    """A CPU without bfloat16 instructions emulates them, slower than float32."""
    if device.type != "cpu":
        return device.type == "cuda"
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def stored_language_bias(args: argparse.Namespace, classifier: Classifier) -> dict[str, list[float]]:
    bias = classifier.progress.get("language_bias")
    try:
        shape = np.array(list(bias.values()), np.float64).reshape(len(bias), -1).shape
        if shape == (len(bias), len(classifier.class_names)):
            return bias
    except (AttributeError, TypeError, ValueError):
        pass
    raise InputError(f"{args.checkpoint}: holds no language bias; best.pt does, or leave out --language_bias")


class Predictor:
    """Texts -> calibrated probabilities, in the order of the texts."""

    def __init__(self, classifier: Classifier, device: torch.device, args: argparse.Namespace) -> None:
        self.classifier, self.device, self.amp_dtype = classifier, device, args.amp_dtype
        self.amp = half_precision_is_fast(device) if args.amp is None else args.amp
        self.language_bias = stored_language_bias(args, classifier) if args.language_bias else None
        self.batch_tokens = args.batch_tokens or BATCH_TOKENS[device.type]
        if self.amp and device.type == "cpu":
            for module in classifier.model.modules():  # autocast would convert the weights in every batch
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """N texts that are not empty -> (N, classes) float64."""
        classifier = self.classifier
        split = self._as_split(texts)
        logits = torch.zeros(len(texts), len(classifier.class_names))
        for batch in on_device(evaluation_batches(split, ALONE, self.batch_tokens), self.device):
            with torch.inference_mode(), autocast(self.device, self.amp, self.amp_dtype):
                out = classifier.model(batch["input_ids"], batch["attention_mask"])
            logits[batch["rows"].cpu()] = out.float().cpu()
        if not logits.isfinite().all():
            raise InputError("the model's answers overflow half precision; add --no-amp")
        if self.language_bias is not None:
            biased = add_language_bias(logits.numpy(), identify(texts)[0], self.language_bias)
            logits = torch.from_numpy(biased)
        return (logits.double() / classifier.temperature).softmax(1).numpy()

    def _as_split(self, texts: list[str]) -> Split:
        """The texts as token ids; what evaluation knows besides is left blank."""
        tokenizer, seq_len = self.classifier.tokenizer, self.classifier.seq_len
        ids = [
            np.array(row, dtype=np.uint32)
            for start in range(0, len(texts), TOKENIZE_ROWS)
            for row in tokenize(tokenizer, texts[start : start + TOKENIZE_ROWS], seq_len)
        ]
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        blank = np.zeros(len(texts), dtype=np.int64)
        return Split(
            name="input",
            tokens=np.concatenate(ids),
            offsets=offsets,
            labels=blank,
            languages=blank,
            clusters=blank,
            seen=np.zeros(0, dtype=bool),
            class_names=self.classifier.class_names,
            language_names=["und"],
            fingerprint="",
            pad_id=tokenizer.pad_token_id,
        )


class Counts:
    def __init__(self) -> None:
        self.rows = self.without_text = self.abstained = 0


def label_rows(
    predict: Predictor, texts: list[str], added: pa.Schema, abstain: float, counts: Counts
) -> dict[str, list]:
    """The added columns of a chunk."""
    filled = [row for row, text in enumerate(texts) if text]
    columns: dict[str, list] = {name: [None] * len(texts) for name in added.names}
    counts.rows += len(texts)
    counts.without_text += len(texts) - len(filled)
    if not filled:
        return columns
    probabilities = predict([texts[row] for row in filled])
    order = np.argsort(-probabilities, axis=1, kind="stable")
    for rank in range(len(added) // 2):
        labels, values = columns[added.names[2 * rank]], columns[added.names[2 * rank + 1]]
        best = order[:, rank]
        chances = probabilities[np.arange(len(best)), best]
        chances = chances.round(6).tolist()
        for row, number, chance in zip(filled, best.tolist(), chances, strict=True):
            values[row] = chance
            if rank or chance >= abstain:
                labels[row] = predict.classifier.class_names[number]
            else:
                counts.abstained += 1
    return columns


# ---------------------------------------------------------------- the script


def end_on_signal(number: int, _frame: FrameType | None) -> None:
    """Leave through every `finally`, so that no half-written file stays."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    args = parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_on_signal)
    try:
        predict(args)
    except BrokenPipeError:  # the reader of standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise InputError(f"{error.filename or args.input}: {error.strerror or error}") from None


def predict(args: argparse.Namespace) -> None:
    read = input_form(args)
    write = output_form(args, read)
    device = pick_device(args.device)
    with ExitStack() as stack:
        # Input
        source = seekable(args.input, read, stack)
        chunk = dict(batch_rows=CHUNK_ROWS, batch_bytes=CHUNK_BYTES, format=read)

        def chunks() -> Iterator[TableBatch]:
            return read_table_batches(source, keep_lines=write == "jsonl", **chunk)

        batches = chunks()
        first = next(batches, None)
        if first is None:
            raise InputError(f"{args.input}: holds no row")
        text_columns = pick_text_columns(first.source, args.text_column, first.column_names)

        # Model
        classifier = load_classifier(args.checkpoint, device, args.tokenizer)
        if "temperature" not in classifier.progress:
            print(f"{args.checkpoint}: no fitted temperature; best.pt has one", file=sys.stderr)
        predictor = Predictor(classifier, device, args)

        # Output columns
        added = added_columns(args.prefix, min(args.top_k, len(classifier.class_names)))
        schema = pa.schema([]) if isinstance(first.data, list) else first.data.schema
        if isinstance(first.data, list) and write != "jsonl":
            # A table has the same columns in every row: those of a file are known once it is read through.
            schema = json_schema([first] if source == "-" else chunks(), write)

        # Predict
        started, counts = time.perf_counter(), Counts()
        bar = stack.enter_context(
            tqdm(total=count_rows(source, read), unit=" rows", unit_scale=True, disable=None)
        )
        file = stack.enter_context(open_output(args.output))
        zipped = args.output.endswith(".gz")
        writer = stack.enter_context(TableWriter(file, write, zipped, schema, added))
        batch = first
        while batch is not None:
            check_free(batch, added.names)
            texts = texts_of(batch, text_columns, classifier.seq_len)
            writer.write(batch, label_rows(predictor, texts, added, args.abstain, counts))
            if args.output == "-":
                sys.stdout.buffer.flush()
            bar.update(len(batch))
            batch = next(batches, None)
    seconds = time.perf_counter() - started
    print(
        f"{counts.rows:,} rows in {seconds:.1f} s ({counts.rows / seconds:,.0f} rows/s)"
        + (f", {counts.without_text:,} without text" if counts.without_text else "")
        + (f", {counts.abstained:,} below --abstain {args.abstain:g}" if args.abstain else "")
        + (f": {args.output}" if args.output != "-" else ""),
        file=sys.stderr,
    )


if __name__ == "__main__":
    run_script(main)
