"""Texts -> NAICS codes, answered as deep in the hierarchy as the evidence goes.

    naics-gemini search "mobile dog grooming"
    naics-gemini search --file firms.csv --column activity --out coded.csv     (also .jsonl and .parquet)

The probability of each six-digit code joins BM25 and the learned space (BM25 alone where the checkpoint is
not there), weighed on the validation entries of the index; search_calibration.json beside the checkpoint
keeps the weights, and by level how far the probabilities can be believed. A code of a higher level has the
sum of those below it. The answer is the deepest code whose probability reaches --threshold, of several the
likeliest. As evidence, the likeliest six-digit codes come with the index entry that is most like the query,
and with cross-references of theirs that send such an activity elsewhere.

With --file the rows come out in order with these columns added: naics_code, naics_title, naics_probability
(of the answer), naics_best, naics_best_title, naics_best_probability (of the likeliest six-digit code),
naics_evidence and naics_note. A row without text gets empty ones. --out appears when it is whole.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from naics.search_engine import Answer, Searcher, load_searcher
from naics.search_files import TableWriter, check_files, read_chunks
from training_utils import InputError

SURELY, PROBABLY = 0.9, 0.5
SHOWN_LEVEL, SHOWN_CODE = 0.1, 0.002  # probabilities below these are left out of the table
TEXTS = ("naics_code", "naics_title", "naics_best", "naics_best_title", "naics_evidence", "naics_note")
ADDED = (
    *("naics_code", "naics_title", "naics_probability", "naics_best", "naics_best_title"),
    *("naics_best_probability", "naics_evidence", "naics_note"),
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="naics-gemini search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("query", nargs="*", help="what a firm does, in any words; several in quotes")
    add("--checkpoint", type=Path, default=Path("checkpoints/03_stage_hard/best.pt"), help="a trained model")
    add("--data_dir", type=Path, default=Path("data/naics"), help="folder that `data preprocess` wrote")
    add("--top_k", type=int, default=5, help="six-digit codes to show")
    add("--threshold", type=float, default=PROBABLY, help="probability that the answer must reach, 0 to 1")
    add("--json", action="store_true", help="one JSON object a query instead of a table")
    add("--file", type=Path, help="a table of texts: .csv, .jsonl or .parquet")
    add("--column", default="text", help="its column of texts")
    add("--out", type=Path, help="the table with the answers, in the same form")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    args = parser.parse_args(argv)
    if bool(args.query) == bool(args.file):
        raise InputError("give a query in quotes, or a table with --file")
    if bool(args.file) != bool(args.out):
        raise InputError("--file and --out go together: name both")
    if not 0 <= args.threshold <= 1:
        raise InputError(f"--threshold {args.threshold}: is a probability, from 0 to 1")
    if args.top_k < 1:
        raise InputError(f"--top_k {args.top_k}: must be 1 or more")
    if args.file:
        check_files(args.file, args.out)
    elif not all(query.strip() for query in args.query):
        raise InputError("an empty query: say in a few words what a firm does")
    return args


def certainty(probability: float) -> str:
    return "surely" if probability >= SURELY else "probably" if probability >= PROBABLY else "perhaps"


# ---------------------------------------------------------------- one query


def summary(answer: Answer) -> str:
    """ "surely 812, probably 8129": the deepest code of each certainty."""
    deepest = {certainty(level.probability): level.code for level in answer.levels}
    said = [f"{word} {deepest[word]}" for word in ("surely", "probably") if word in deepest]
    return ", ".join(said) or "no clear answer; say more of what the firm does"


def show(answer: Answer) -> str:
    """The levels with their probabilities, then the likeliest six-digit codes with their evidence."""
    lines = [f"{answer.query}: {summary(answer)}"]
    for level in answer.levels:
        if level.probability >= SHOWN_LEVEL:
            mark = "=>" if answer.code == level.code else "  "
            lines.append(f"  {mark} {level.code:6}{level.probability:>7.1%}  {level.title}")
    lines.append("  six-digit codes")
    for number, found in enumerate(answer.codes):
        if number and found.probability < SHOWN_CODE:
            break
        lines.append(f"     {found.code:6}{found.probability:>7.1%}  {found.title}")
        if found.evidence:
            lines.append(f"{'':20}index: {found.evidence.text} ({found.evidence.role})")
    lines += [f"  note: {note}" for note in answer.notes]
    return "\n".join(lines)


# ---------------------------------------------------------------- tables


def search_file(args: argparse.Namespace, searcher: Searcher) -> int:
    """Answer every row of args.file; returns how many got a code."""
    coded = 0
    with TableWriter(args.out) as writer, tqdm(unit=" rows", disable=None) as progress:
        for chunk in read_chunks(args.file, args.column):
            answers = searcher.answer(chunk.texts, 1, args.threshold)
            coded += sum(answer is not None and answer.code is not None for answer in answers)
            rows = [row_of(answer) for answer in answers]
            writer.write(
                chunk,
                {
                    name: pa.array(
                        [row.get(name) for row in rows], pa.string() if name in TEXTS else pa.float64()
                    )
                    for name in ADDED
                },
            )
            progress.update(len(rows))
    return coded


def row_of(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    chosen = next((level for level in answer.levels if level.code == answer.code), None)
    best = answer.codes[0]
    return {
        "naics_code": answer.code,
        "naics_title": chosen and chosen.title,
        "naics_probability": chosen and chosen.probability,
        "naics_best": best.code,
        "naics_best_title": best.title,
        "naics_best_probability": best.probability,
        "naics_evidence": best.evidence and best.evidence.text,
        "naics_note": "; ".join(answer.notes) or None,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    searcher = load_searcher(args.checkpoint, args.data_dir, args.device)
    if searcher.hybrid.model is None:
        print(
            f"{args.checkpoint}: no such checkpoint, so BM25 alone answers (see naics-gemini train)",
            file=sys.stderr,
        )
    if args.file:
        coded = search_file(args, searcher)
        print(f"{args.out}: {coded:,} rows have a code")
        return
    for number, answer in enumerate(searcher.answer(args.query, args.top_k, args.threshold)):
        if args.json:
            print(json.dumps(answer.as_dict(), ensure_ascii=False))
        else:
            print(("\n" if number else "") + show(answer))
