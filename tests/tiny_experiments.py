"""A tiny EURLEX57K, a tiny text and a RoBERTa-like tokenizer, for the tests of experiments/."""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np

TOPICS = {
    "100": "fish catch quota vessel sea",
    "c_82916123": "animal disease herd veterinary slaughter",
    "1000": "import duty tariff customs quota",
    "20": "milk butter cheese price dairy",
    "3": "bank credit capital interest loan",
    "2999": "train rail road vehicle transport",
}
COUNTS = {"train": 60, "dev": 20, "test": 20}
CLASSIFICATION = Path(__file__).parent.parent / "experiments" / "classification"
LANGUAGE_MODELING = Path(__file__).parent.parent / "experiments" / "language_modeling"


def make_documents(counts: dict[str, int] = COUNTS, seed: int = 0) -> dict[str, list[dict]]:
    """Split -> documents in the original's fields; words of a document's one to three topics among others."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, count in counts.items():
        documents = []
        for number in range(count):
            labels = rng.choice(list(TOPICS), size=rng.integers(1, 4), replace=False).tolist()
            words = " ".join(TOPICS[label] for label in labels).split() + ["the", "of", "member", "states"]
            body = [" ".join(rng.choice(words, size=12)) for _ in range(3)]
            documents.append(
                {
                    "celex_id": f"3{1990 + number % 9}R{split}{number:04}",
                    "uri": f"http://example.org/{split}/{number}",
                    "type": "Regulation",
                    "concepts": labels,
                    "title": f"Regulation No {number}",
                    "header": "THE COUNCIL OF THE EUROPEAN COMMUNITIES",
                    "recitals": "Having regard to the proposal",
                    "main_body": body,
                    "attachments": "Annex",
                }
            )
        splits[split] = documents
    return splits


def write_zip(path: Path, splits: dict[str, list[dict]], label_file: dict | None = None) -> Path:
    """As the original: dataset/train/CELEX.json and so on, the label file beside."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, documents in splits.items():
            for document in documents:
                archive.writestr(f"dataset/{split}/{document['celex_id']}.json", json.dumps(document))
        if label_file is None:
            label_file = {
                label: {"label": words.split()[0], "parents": []} for label, words in TOPICS.items()
            }
        archive.writestr("dataset/EURLEX57K.json", json.dumps(label_file))
        archive.writestr("__MACOSX/dataset/train/._x.json", b"\0")
    return path


def as_dump(document: dict) -> dict:
    """The archive's field names."""
    names = {"type": "document_type", "concepts": "eurovoc_concepts"}
    return {names.get(name, name): value for name, value in document.items()}


def as_hub(document: dict) -> dict:
    """The hub's: the text in one field."""
    parts = [document["header"], document["recitals"], *document["main_body"]]
    return {
        "celex_id": document["celex_id"],
        "title": document["title"],
        "text": "\n".join(parts),
        "eurovoc_concepts": document["concepts"],
    }


def write_jsonl(folder: Path, splits: dict[str, list[dict]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, documents in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    return folder


def make_tokenizer(folder: Path) -> Path:
    """vocab.json and merges.txt of 400 tokens, RoBERTa's special ones among them."""
    from tokenizers import ByteLevelBPETokenizer

    texts = [" ".join(d["main_body"]) for documents in make_documents().values() for d in documents]
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(texts, vocab_size=400, special_tokens=special, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
    return folder


def make_text(path: Path, words: int = 12_000) -> Path:
    """Sentences whose next word mostly follows from the last one."""
    rng = np.random.default_rng(1)
    vocabulary = " ".join(TOPICS.values()).split()
    at, lines = 0, []
    for _ in range(words // 8):
        line = []
        for _ in range(8):
            at = (3 * at + 1) % len(vocabulary) if rng.random() < 0.8 else int(rng.integers(len(vocabulary)))
            line.append(vocabulary[at])
        lines.append(" ".join(line) + ".")
    path.write_text("\n".join(lines) + "\n")
    return path


def flags(**settings: object) -> list[str]:
    """`--name value` of each; True is a flag alone."""
    return [
        word
        for name, value in settings.items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def namespace(main_parse, description: str = "", *arguments: object) -> argparse.Namespace:
    """What a run.py's parse_args makes of `arguments`."""
    import sys

    argv, sys.argv = sys.argv, ["run.py", *map(str, arguments)]
    try:
        return main_parse(description)
    finally:
        sys.argv = argv
