"""Write EUR-Lex as token ids and label indices, once, for all runs.

    python experiments/classification/prepare_data.py                                (from the hub)
    python experiments/classification/prepare_data.py --input EURLEX57K.zip --out data/eurlex
    python experiments/classification/prepare_data.py --input documents.jsonl --allow_partial --tokenizer DIR

In: a hub data set, the zip of JSON documents, a dump of JSON lines, or one .jsonl (see documents.py). Out, in
--out, for each split: SPLIT.tokens.npy (all ids in one line), SPLIT.offsets.npy, SPLIT.labels.npy (indices),
SPLIT.label_offsets.npy, SPLIT.jsonl (celex_id, text, labels); label_map.json (EuroVoc id -> index),
descriptors.json, metadata.json. The folder is written aside and renamed: it is whole or not there.

EURLEX57K has 45,000 + 6,000 + 6,000 documents and 4,271 labels. Anything else is refused, as is a document
that cannot be used; with --allow_partial such documents are left out and counted.
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from experiments.classification.documents import (
    PARTS,
    SPLITS,
    Document,
    Unusable,
    parse_document,
    read_descriptors,
    read_rows,
)
from experiments.tokenization import TextTokenizer, load_tokenizer
from training_utils import InputError, run_script, write_json

EURLEX57K = {"train": 45_000, "validation": 6_000, "test": 6_000}
EURLEX57K_LABELS = 4_271  # in the documents of all three splits
FREQUENT = (
    50  # a label in more training documents than this is frequent; in fewer, few-shot; in none, zero-shot
)
TEXTS_AT_ONCE = 1024


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", default="NLP-AUEB/eurlex", help="hub data set, zip, folder or .jsonl")
    add(
        "--out",
        type=Path,
        default=Path("data/eurlex"),
        help="folder to write; one of this script is replaced",
    )
    add(
        "--label_file", type=Path, help="EuroVoc id -> name, JSON; a zip's or folder's own is found by itself"
    )
    add("--tokenizer", default="roberta-base", help="hub name or folder; that of the encoder to be trained")
    add("--max_length", type=int, default=512, help="tokens a document is cut to, the special ones included")
    add(
        "--parts", default="header,recitals,main_body", help=f"of {','.join(PARTS)}; where there is no `text`"
    )
    add("--allow_partial", action="store_true", help="take other counts, leave out what cannot be used")
    args = parser.parse_args()
    args.parts = tuple(args.parts.split(","))
    if unknown := set(args.parts) - set(PARTS):
        raise InputError(f"--parts {','.join(sorted(unknown))}: known are {','.join(PARTS)}")
    if args.max_length < 3:
        raise InputError(f"--max_length {args.max_length}: a document needs 3 or more")
    return args


def label_order(label: str) -> tuple[int, int, str]:
    """Numbers first, by value; then the rest (`c_82916123`), as text; `08133` and `8133` stay two labels."""
    return (0, int(label), label) if label.isascii() and label.isdigit() else (1, 0, label)


class Corpus:
    """The documents of all splits, and what was left out."""

    def __init__(self, allow_partial: bool, descriptors: dict[str, str] | None) -> None:
        self.allow_partial, self.descriptors = allow_partial, descriptors
        self.splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.places: dict[str, str] = {}  # celex_id -> where it was first
        self.mentions: Counter[bool] = Counter()  # of ids, by whether the label file knows them

    def add(self, split: str, place: str, fields: dict[str, Any] | str, parts: tuple[str, ...]) -> None:
        try:
            if isinstance(fields, str):
                raise Unusable(fields)
            document = parse_document(fields, place, parts)
            self._check(document)
        except Unusable as error:
            if not self.allow_partial:
                raise InputError(
                    f"{place}: {error}; mend it, or leave such documents out with --allow_partial"
                ) from None
            reason = str(error).split(" (")[0]
            self.left_out[reason] += 1
            self.first.setdefault(reason, place)
            return
        self.places[document.celex_id] = place
        self.splits[split].append(document)

    def _check(self, document: Document) -> None:
        if document.celex_id in self.places:
            raise Unusable(f"is there twice (celex_id of {self.places[document.celex_id]})")
        if self.descriptors is not None:
            unknown = [label for label in document.labels if label not in self.descriptors]
            self.mentions[False] += len(unknown)
            self.mentions[True] += len(document.labels) - len(unknown)
            if unknown:
                raise Unusable(f"has an unknown label id ({unknown[0]} is not in the label file)")


def check_label_file(corpus: Corpus, place: str) -> None:
    """A label file that knows fewer than half of the labels is of another data set."""
    known, unknown = corpus.mentions[True], corpus.mentions[False]
    if unknown > known:
        raise InputError(
            f"{place}: label file does not match: it knows {known} of the {known + unknown} labels "
            "in the documents; name another --label_file"
        )


def check_counts(corpus: Corpus, source: str) -> dict[str, int]:
    """EURLEX57K's own, unless --allow_partial; returns label -> index over all splits."""
    counts = {split: len(documents) for split, documents in corpus.splits.items()}
    labels = {label for documents in corpus.splits.values() for d in documents for label in d.labels}
    for split, count in counts.items():
        if count == 0:
            raise InputError(f"{source}: split {split} holds no document; the download is cut short")
        if count != EURLEX57K[split] and not corpus.allow_partial:
            cut = "cut short" if count < EURLEX57K[split] else "of another data set"
            raise InputError(
                f"{source}: split {split} holds {count:,} documents, EURLEX57K has {EURLEX57K[split]:,}: "
                f"it is {cut}; download it again, or take it as it is with --allow_partial"
            )
    if len(labels) != EURLEX57K_LABELS and not corpus.allow_partial:
        known = " (LexGLUE's set has 100)" if len(labels) == 100 else ""
        raise InputError(
            f"{source}: {len(labels):,} labels, EURLEX57K has {EURLEX57K_LABELS:,}{known}; "
            "take it as it is with --allow_partial"
        )
    return {label: index for index, label in enumerate(sorted(labels, key=label_order))}


def write_split(
    folder: Path, split: str, documents: list[Document], label_map: dict[str, int], tokenizer: TextTokenizer,
    max_length: int,
) -> dict[str, Any]:  # fmt: skip
    """The files of one split; returns its figures for metadata.json. Documents come by id, so that the order
    of files in a zip or of lines in a dump is no part of the data.
    """
    documents = sorted(documents, key=lambda document: document.celex_id)
    ids: list[np.ndarray] = []
    for start in range(0, len(documents), TEXTS_AT_ONCE):
        texts = [document.text for document in documents[start : start + TEXTS_AT_ONCE]]
        ids += tokenizer.encode(texts, max_length)
    labels = [np.array(sorted(label_map[x] for x in d.labels), dtype=np.int32) for d in documents]
    arrays = {
        "tokens": np.concatenate(ids),
        "offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
        "labels": np.concatenate(labels),
        "label_offsets": np.cumsum([0, *map(len, labels)], dtype=np.int64),
    }
    digest = hashlib.sha256()
    for name, array in arrays.items():
        np.save(folder / f"{split}.{name}.npy", array)
        digest.update(array.tobytes())
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for document in documents:
            fields = {"celex_id": document.celex_id, "text": document.text, "labels": document.labels}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    lengths = np.diff(arrays["offsets"])
    return {
        "documents": len(documents),
        "labels_per_document": round(len(arrays["labels"]) / len(documents), 4),
        "distinct_labels": int(len(np.unique(arrays["labels"]))),
        "tokens_per_document": round(float(lengths.mean()), 1),
        "cut_share": round(float((lengths == max_length).mean()), 4),
        "sha256": digest.hexdigest()[:16],
    }


def label_groups(train_labels: np.ndarray, count: int) -> dict[str, int]:
    """How many labels are frequent, few-shot and zero-shot, by their training documents."""
    documents = np.bincount(train_labels, minlength=count)
    return {
        "frequent": int((documents > FREQUENT).sum()),
        "few": int(((documents > 0) & (documents <= FREQUENT)).sum()),
        "zero": int((documents == 0).sum()),
    }


def write_corpus(corpus: Corpus, label_map: dict[str, int], tokenizer: TextTokenizer, args: Any) -> dict:
    """All files, into a folder beside --out that then takes its place."""
    aside = args.out.with_name(f".{args.out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        splits = {
            split: write_split(aside, split, documents, label_map, tokenizer, args.max_length)
            for split, documents in corpus.splits.items()
        }
        groups = label_groups(np.load(aside / "train.labels.npy"), len(label_map))
        settings = {"max_length": args.max_length, "parts": args.parts, "tokenizer": tokenizer.describe()}
        digest = json.dumps([splits, list(label_map), tokenizer.fingerprint, args.max_length])
        metadata = {
            "source": str(args.input),
            "fingerprint": hashlib.sha256(digest.encode()).hexdigest()[:16],
            "labels": len(label_map),
            "label_groups": groups,
            "complete": {s: len(d) for s, d in corpus.splits.items()} == EURLEX57K,
            "left_out": dict(corpus.left_out),
            "splits": splits,
            **settings,
        }
        write_json(aside / "label_map.json", label_map)
        names = corpus.descriptors or {}
        write_json(aside / "descriptors.json", {label: names.get(label, "") for label in label_map})
        write_json(aside / "metadata.json", metadata)
        if args.out.exists():
            shutil.rmtree(args.out)
        aside.rename(args.out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return metadata


def main() -> None:
    args = parse_args()
    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        if not (args.out / "metadata.json").is_file():
            raise InputError(f"--out {args.out}: holds something else; name another folder")

    # Documents
    rows, descriptors = read_rows(args.input)
    if args.label_file:
        if not args.label_file.is_file():
            raise InputError(f"--label_file {args.label_file}: no such file")
        descriptors = read_descriptors(args.label_file.read_bytes(), str(args.label_file))
    corpus = Corpus(args.allow_partial, descriptors)
    for split, place, fields in rows:
        if split not in SPLITS:
            raise InputError(f"{place}: split {split!r}; needed are train, validation (or dev) and test")
        corpus.add(split, place, fields, args.parts)
    check_label_file(corpus, str(args.label_file or args.input))
    label_map = check_counts(corpus, args.input)

    # Tokens
    tokenizer = load_tokenizer(args.tokenizer)
    metadata = write_corpus(corpus, label_map, tokenizer, args)
    for reason, count in corpus.left_out.items():
        print(f"left out: {count} x {reason} (first: {corpus.first[reason]})")
    for split, figures in metadata["splits"].items():
        size = f"{figures['documents']:6,} documents, {figures['labels_per_document']:.2f} labels each"
        print(
            f"{split:10} {size}, {figures['tokens_per_document']:.1f} tokens, {figures['cut_share']:.0%} cut"
        )
    groups = ", ".join(f"{count:,} {name}" for name, count in metadata["label_groups"].items())
    print(f"{metadata['labels']:,} labels ({groups})  fingerprint {metadata['fingerprint']}  {args.out}")


if __name__ == "__main__":
    run_script(main)
