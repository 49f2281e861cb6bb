"""Write a text as token ids, once, for all runs.

    python experiments/language_modeling/prepare_data.py --input book.txt --out data/lm
    python experiments/language_modeling/prepare_data.py --input folder/ --tokenizer DIR
    python experiments/language_modeling/prepare_data.py --input Salesforce/wikitext

In: a text file, cut into 90 % training, 5 % validation and 5 % test text in this order; a folder of texts,
one or more a split, with train, valid (or dev) or test in their names; or a hub data set with a column
`text`. Without training text nine tenths of the first other split are. Out, in --out: SPLIT.tokens.npy and
metadata.json.

Texts are tokenized in pieces that end with a line. Rows of a hub data set are documents: the tokenizer's
end-of-text id stands after each.
"""

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.tokenization import TextTokenizer, load_tokenizer
from training_utils import InputError, run_script, write_json

SPLITS = ("train", "validation", "test")
_NAMES = re.compile(r"(?:^|[-_.])(train|valid|validation|val|dev|test)(?:[-_.]|$)")
SHARES = (0.90, 0.95)  # where validation and test text begin in a single file
PIECE = 2**20  # characters tokenized at a time
DOCUMENTS_AT_ONCE = 1024


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", default="Salesforce/wikitext", help="text file, folder of texts or hub data set")
    add("--subset", help="of a hub data set (wikitext: wikitext-103-raw-v1, unless named)")
    add("--out", type=Path, default=Path("data/lm"), help="folder to write; one of this script is replaced")
    add("--tokenizer", default="gpt2", help="hub name or folder")
    return parser.parse_args()


def pieces(path: Path) -> Iterator[str]:
    """The text in parts of about PIECE characters that end with a line break, where there is one."""
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            while piece := file.read(PIECE):
                piece += file.readline()
                empty = empty and piece.isspace()
                yield piece
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {damaged_line(path)}: not UTF-8; convert the file") from None
    if empty:
        raise InputError(f"{path}: an empty text")


def damaged_line(path: Path) -> int:
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        data = data[: error.start]
    return data.count(b"\n") + 1


def encode_text(path: Path, tokenizer: TextTokenizer) -> np.ndarray:
    ids = bytearray()  # grows in place, where arrays would be in memory twice when they are joined
    for piece in pieces(path):
        ids += tokenizer.encode([piece])[0].tobytes()
    return np.frombuffer(ids, dtype=tokenizer.dtype)


def from_files(source: Path, tokenizer: TextTokenizer) -> dict[str, np.ndarray]:
    """Token ids by split."""
    if source.is_file():
        return cut(encode_text(source, tokenizer))
    texts: dict[str, list[np.ndarray]] = {}
    for path in sorted(p for p in source.iterdir() if p.is_file() and not p.name.startswith(".")):
        found = _NAMES.search(path.stem.lower().replace("wikitext2", ""))
        if found is None:
            continue
        name = found[1] if found[1] in ("train", "test") else "validation"
        texts.setdefault(name, []).append(encode_text(path, tokenizer))
    if not texts:
        raise InputError(f"--input {source}: no file in it is named after train, valid or test")
    splits = {name: np.concatenate(parts) for name, parts in texts.items()}
    if "train" not in splits:  # WikiText-2's small files: the first one is trained on too
        first = "validation" if "validation" in splits else "test"
        end = int(SHARES[0] * len(splits[first]))
        splits["train"], splits[first] = splits[first][:end], splits[first][end:]
    return splits


def cut(tokens: np.ndarray) -> dict[str, np.ndarray]:
    ends = [int(share * len(tokens)) for share in SHARES]
    return dict(zip(SPLITS, np.split(tokens, ends), strict=True))


def from_hub(name: str, subset: str | None, tokenizer: TextTokenizer) -> dict[str, np.ndarray]:
    if Path(name).suffix or name.startswith((".", "/")):
        raise InputError(f"--input {name}: no such file or folder")
    if subset is None and name.endswith("wikitext"):
        subset = "wikitext-103-raw-v1"
    try:
        from datasets import load_dataset

        data = load_dataset(name, subset)
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"--input {name}: no such file, and the hub gave nothing ({reason}); name a text file"
        ) from None
    splits = {}
    for key, rows in data.items():
        found = _NAMES.search(key.lower())
        if found is None or "text" not in rows.column_names:
            raise InputError(
                f"--input {name}, split {key}: needed are train, validation, test, with a column text"
            )
        parts = [_encode_documents(batch["text"], tokenizer) for batch in rows.iter(DOCUMENTS_AT_ONCE)]
        splits[found[1] if found[1] in ("train", "test") else "validation"] = np.concatenate(parts)
    return splits if len(splits) == len(SPLITS) else cut(np.concatenate(list(splits.values())))


def _encode_documents(texts: list[str], tokenizer: TextTokenizer) -> np.ndarray:
    end = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], dtype=tokenizer.dtype)
    parts = [part for ids in tokenizer.encode(texts) for part in (ids, end)]
    return np.concatenate([*parts, np.zeros(0, tokenizer.dtype)])


def main() -> None:
    args = parse_args()
    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        if not (args.out / "metadata.json").is_file():
            raise InputError(f"--out {args.out}: holds something else; name another folder")
    tokenizer = load_tokenizer(args.tokenizer)
    source = Path(args.input)
    splits = (
        from_files(source, tokenizer) if source.exists() else from_hub(args.input, args.subset, tokenizer)
    )
    for name in SPLITS:
        if len(splits.get(name, ())) < 2:
            raise InputError(f"--input {args.input}: no text for the split {name}")

    aside = args.out.with_name(f".{args.out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for name in SPLITS:
        np.save(aside / f"{name}.tokens.npy", splits[name])
        digest.update(splits[name])
    metadata = {
        "source": str(args.input),
        "fingerprint": digest.hexdigest()[:16],
        "tokens": {name: len(splits[name]) for name in SPLITS},
        "tokenizer": tokenizer.describe(),
    }
    write_json(aside / "metadata.json", metadata)
    if args.out.exists():
        shutil.rmtree(args.out)
    aside.rename(args.out)
    print(json.dumps(metadata["tokens"]), f"fingerprint {metadata['fingerprint']}  {args.out}")


if __name__ == "__main__":
    run_script(main)
