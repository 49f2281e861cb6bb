"""Every command that reads files, with sound files for it: what test_broken_inputs.py breaks one by one.

A new reader is one line of READERS. In its flags IN/ is the folder of its project's sound files, FILE the one
that is broken, OUT/ where the command may write.
"""

import gzip
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from conftest import CLASS_WORDS, make_dataset, make_texts, make_tokenizer, run_main

# ---------------------------------------------------------------- the readers


@dataclass(frozen=True)
class Reader:
    """Of `files` (patterns) one is broken a case; `caches` may be written beside it, `kept` in a refusal."""

    name: str
    script: str  # a module with main(), or dispatch()
    flags: str
    files: str
    caches: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    passes: bool = False  # other columns are written as they came, whatever they hold

    @property
    def project(self) -> str:
        return self.script.partition(".")[0]

    @property
    def main(self) -> Callable[[], None]:
        module = import_module(self.script)
        return getattr(module, "dispatch", None) or module.main


LABELS = "--zip IN/lspc.zip --workers 1 --out OUT/data --labels"
COLUMNS = "--text_column title --label_column category --workers 1 --out OUT/data --table"
SMALL = "--hidden_size 192 --num_layers 1 --batch_size 16 --seq_len 16 --max_steps 1 --device cpu"
TRAIN = f"--data IN/data --tokenizer IN/tokenizer {SMALL}"
PREDICT = "--device cpu --text_column title --output OUT/answers"
DATASET = " ".join(
    f"data/{name}"
    for name in (
        *("train/data-00000-of-00001.arrow", "train/dataset_info.json", "train/state.json"),
        *("dataset_dict.json", "test/data-00000-of-00001.arrow", "validation/state.json"),
    )
)
TOKENIZER = "tokenizer/tokenizer.json tokenizer/tokenizer_config.json"
TOKENS = ("in/data/.tokens-*",)
PARTIAL = ("out/data.partial*",)  # what a corpus run goes on from

RQVAE = (
    "--item_embedding_dim 16 --encoder_hidden_dims 16 --codebook_embedding_dim 8 --codebook_size 8 "
    "--batch_size 64 --warmup_steps 2 --device cpu --val_split 0.2 --embeddings_path IN/embedded.parquet"
)
IDS = "--device cpu --checkpoint IN/rqvae/best_model.pth --embeddings IN/embedded.parquet"
EMBED = "--tokenized IN/tokens.npz --items IN/items.parquet --model IN/model --dim 32 --device cpu --output"

RUN = "--batch_size 4 --gradient_accumulation_steps 1 --max_steps 2 --eval_steps 9 --device cpu --threads 1"
CLASSIFY = f"--data IN/eurlex --encoder tiny-random --max_length 16 {RUN}"
MODEL_TEXT = (
    f"--data IN/lm --num_layers 1 --hidden_size 16 --num_heads 2 --block_size 8 --eval_windows 9 {RUN}"
)
EURLEX = "--allow_partial --tokenizer IN/bpe --max_length 32 --out OUT/eurlex --input"
PREPARED = " ".join(
    f"eurlex/{name}"
    for name in (
        *("train.tokens.npy", "train.offsets.npy", "train.labels.npy", "validation.label_offsets.npy"),
        *("test.tokens.npy", "test.labels.npy", "metadata.json", "label_map.json"),
    )
)

STAGE = (
    "train -c 01_stage_easy model=ngram model.ngram.buckets=509 model.ngram.width=16 model.dim=8 "
    "model.moe.hidden_dim=16 training.warmup_steps=2 training.trainer.max_epochs=1 "
    "training.trainer.limit_train_batches=2 data.batch_size=1 data.queries=6 data.k_negatives=4 "
    "data.val_split=0.3 data.cache_dir=IN/token_cache paths.data_dir=IN"
)
FOLDERS = "paths.output_dir=OUT/outputs paths.checkpoint_dir=OUT/checkpoints"
CENSUS = "naics_descriptions.parquet naics_index.parquet naics_cross_references.parquet"
BEST = "--checkpoint IN/run/best.pt --data_dir IN --device cpu"
WORKBOOKS = "raw/*_Codes.xlsx raw/*_Descriptions.xlsx raw/*_Index_File.xlsx raw/*_Cross_References.xlsx"
CACHES = ("in/token_cache*",)
CALIBRATED = ("in/run/search_calibration.json", "in/search_calibration.json")

READERS = [
    Reader("corpus", "category_classification.prepare_lspc", f"{LABELS} IN/map.tsv", "lspc.zip map.tsv",
           kept=PARTIAL),
    Reader("votes", "category_classification.prepare_lspc", f"{LABELS} FILE", "votes.json.gz", kept=PARTIAL),
    Reader("table", "category_classification.prepare_lspc", f"{COLUMNS} FILE",
           "rows.csv rows.csv.gz rows.jsonl rows.parquet"),
    Reader("classes", "category_classification.prepare_lspc", f"{COLUMNS} IN/rows.csv --classes FILE",
           "classes.txt"),
    Reader("dataset", "category_classification.train_embedding_classifier", f"{TRAIN} --out OUT/run",
           f"{DATASET} {TOKENIZER} data/.tokens-*/*", caches=TOKENS, kept=TOKENS),
    Reader("resume", "category_classification.train_embedding_classifier",
           f"{TRAIN} --max_steps 2 --out OUT/run --resume FILE", "run/checkpoint-last.pt", caches=TOKENS,
           kept=TOKENS),
    Reader("teacher", "category_classification.train_embedding_classifier_v3",
           f"{TRAIN} --out OUT/run --kl_teacher FILE", "run/best.pt", caches=TOKENS, kept=TOKENS),
    Reader("predict a table", "category_classification.predict_categories",
           f"{PREDICT}.jsonl --checkpoint IN/run/best.pt --input FILE",
           "rows.csv rows.csv.gz rows.jsonl rows.parquet", passes=True),
    Reader("predict by a checkpoint", "category_classification.predict_categories",
           f"{PREDICT}.parquet --checkpoint FILE --tokenizer IN/run/tokenizer --input IN/rows.csv",
           "run/best.pt"),
    Reader("predict with a tokenizer", "category_classification.predict_categories",
           f"{PREDICT}.csv --checkpoint IN/run/best.pt --tokenizer IN/tokenizer --input IN/rows.csv",
           TOKENIZER),
    Reader("evaluate", "category_classification.evaluate_embedding_classifier",
           "--checkpoint IN/run/best.pt --data IN/data --out OUT/evaluation --device cpu --resamples 5",
           f"run/best.pt {DATASET}", caches=TOKENS, kept=TOKENS),
    Reader("linear", "category_classification.baseline_linear",
           "--data IN/data --out OUT/linear --max_features 4096 --resamples 5", DATASET),
    Reader("export a classifier", "category_classification.export_model",
           "--checkpoint IN/run/best.pt --out OUT/model", f"run/best.pt run/{TOKENIZER.split()[0]}"),
    Reader("metadata", "semantic_ids.prepare_items", "--input FILE --output OUT/items.parquet",
           "meta.jsonl meta.jsonl.gz meta.json meta.csv meta.tsv meta.parquet"),
    Reader("texts", "semantic_ids.tokenize_items",
           "--input IN/items.parquet --output OUT/tokens.npz --model IN/model --max_length 32",
           "items.parquet model/tokenizer.json model/tokenizer_config.json"),
    Reader("tokens", "semantic_ids.embed_items", f"{EMBED} OUT/embedded.parquet",
           "tokens.ragged.npz items.parquet model/config.json model/model.safetensors",
           kept=("out/.embedded-*",), passes=True),
    Reader("texts for TF-IDF", "semantic_ids.embed_items_tfidf",
           "--items IN/items.parquet --output OUT/embedded.parquet --dim 8", "items.parquet", passes=True),
    Reader("embeddings", "semantic_ids.train_rqvae", f"{RQVAE} --num_epochs 2 --checkpoint_dir OUT/rqvae",
           "embedded.parquet"),
    Reader("resume an RQ-VAE", "semantic_ids.train_rqvae",
           f"{RQVAE} --num_epochs 4 --checkpoint_dir OUT/rqvae --resume FILE",
           "rqvae/checkpoint_step_2.pth"),
    Reader("export IDs", "semantic_ids.export_semantic_ids",
           f"{IDS} --collision_size 99 --previous IN/ids.parquet --output OUT/ids.parquet",
           "rqvae/best_model.pth embedded.parquet ids.parquet"),
    Reader("evaluate IDs", "semantic_ids.evaluate_semantic_ids",
           f"{IDS} --ids IN/ids.parquet --compare IN/other.json --sequences IN/bought.jsonl "
           "--label_column brand --out OUT/evaluation",
           "ids.parquet other.json bought.jsonl embedded.parquet rqvae/best_model.pth"),
    Reader("EUR-Lex", "experiments.classification.prepare_data", f"{EURLEX} FILE", "eurlex.zip train.jsonl"),
    Reader("labels of EUR-Lex", "experiments.classification.prepare_data",
           f"{EURLEX} IN/train.jsonl --label_file FILE", "EURLEX57K.json"),
    Reader("a text", "experiments.language_modeling.prepare_data",
           "--input IN/book.txt --tokenizer IN/bpe --out OUT/lm", "book.txt bpe/vocab.json bpe/merges.txt"),
    Reader("prepared EUR-Lex", "experiments.classification.run", f"{CLASSIFY} --out OUT/results", PREPARED),
    Reader("prepared text", "experiments.language_modeling.run", f"{MODEL_TEXT} --out OUT/results",
           "lm/train.tokens.npy lm/validation.tokens.npy lm/test.tokens.npy lm/metadata.json"),
    Reader("resume an experiment", "experiments.language_modeling.run",
           f"{MODEL_TEXT} --out OUT/results --resume FILE", "results/checkpoint-last.pt",
           kept=("out/results", "out/results/runs", "out/results/runs/.*.lock")),
    Reader("EUR-Lex for TF-IDF", "experiments.baseline_tfidf",
           "--data IN/eurlex --out OUT/results --threads 1",
           f"{PREPARED} eurlex/train.jsonl eurlex/test.jsonl"),
    Reader("results", "experiments.report", "--results IN/results --out OUT/report --resamples 5",
           "results/results.jsonl results/predictions/first.npz"),
    Reader("weights", "experiments.sensitivity",
           "--checkpoint FILE --data IN/lm --out OUT/sensitivity --device cpu --threads 1",
           "results/weights.pt"),
    Reader("workbooks", "naics.cli", "data preprocess --raw_dir IN/raw --data_dir OUT/naics", WORKBOOKS),
    Reader("codes for distances", "naics.cli", "data distances --data_dir IN", CENSUS.split()[0],
           caches=("in/naics_distances.parquet",)),
    Reader("codes for triplets", "naics.cli", "data triplets --limit 500 --data_dir IN", CENSUS.split()[0],
           caches=("in/naics_training_pairs*",)),
    Reader("census", "naics.cli", f"{STAGE} {FOLDERS}", CENSUS, caches=CACHES, kept=CACHES),
    Reader("a token cache", "naics.cli", f"{STAGE} {FOLDERS}", "token_cache/*", caches=CACHES,
           kept=CACHES),
    Reader("triplets", "naics.cli", f"{STAGE} {FOLDERS} data.backend=parquet data.triplets_path=IN/triplets",
           "triplets/triplets-00000.parquet", caches=CACHES, kept=CACHES),
    Reader("resume a stage", "naics.cli", f"{STAGE} {FOLDERS} --resume FILE".replace("OUT", "IN"),
           "checkpoints/*/checkpoint-last.pt",
           caches=(*CACHES, "in/checkpoints/*", "in/outputs/*"), kept=CACHES),
    Reader("the stage before", "naics.cli", f"{STAGE} {FOLDERS} --from FILE", "run/best.pt", caches=CACHES,
           kept=CACHES),
    Reader("evaluate a space", "naics.cli", f"evaluate {BEST} --out OUT", f"run/best.pt {CENSUS}"),
    Reader("search", "naics.cli", f"search {BEST} --file FILE --out OUT/coded.EXT",
           "firms.csv firms.jsonl firms.parquet", caches=CALIBRATED, kept=CALIBRATED, passes=True),
    Reader("search by a checkpoint", "naics.cli", f"search {BEST} dogs",
           f"run/best.pt run/search_calibration.json {CENSUS}", caches=CALIBRATED, kept=CALIBRATED),
    Reader("export a space", "naics.cli", f"export {BEST} --out OUT/export", f"run/best.pt {CENSUS}"),
    Reader("page of a space", "naics.cli", f"report {BEST} --results IN/run/results.json --out OUT/page",
           f"run/best.pt run/results.json {CENSUS}", caches=CALIBRATED, kept=CALIBRATED),
]  # fmt: skip


# ---------------------------------------------------------------- sound files


def run(reader: Reader | str, folder: Path, flags: str) -> None:
    """A command that makes some of the sound files; IN/ and OUT/ are one folder here."""
    main = next(each.main for each in READERS if each.name == reader)
    result = run_main(main, *flags.replace("IN", str(folder)).replace("OUT", str(folder)).split())
    assert result.returncode == 0, result.stderr[-3000:]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_forms(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    """The same rows in every form of a table."""
    write_lines(folder / f"{name}.jsonl", rows)
    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        lines = [
            delimiter.join(row.values()) + "\n" for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]
        ]
        (folder / f"{name}.{form}").write_text("".join(lines))
    for form in ("csv", "jsonl"):
        (folder / f"{name}.{form}.gz").write_bytes(
            gzip.compress((folder / f"{name}.{form}").read_bytes(), mtime=0)
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def category_classification(folder: Path) -> None:
    texts, labels, _ = make_texts(120, seed=5)
    names = list(CLASS_WORDS)
    rows = [{"title": text, "category": names[label]} for text, label in zip(texts, labels, strict=True)]
    write_forms(folder, "rows", rows)
    offers = [{"cluster_id": n, "title": text, "description": None} for n, text in enumerate(texts)]
    with zipfile.ZipFile(folder / "lspc.zip", "w") as archive:
        for part in range(2):
            lines = [json.dumps(offer).encode() + b"\n" for offer in offers[60 * part : 60 * part + 60]]
            archive.writestr(f"part_{part}.json.gz", gzip.compress(b"".join(lines), mtime=0))
    key = "predicted_CategoryLabel_majority_voted"
    votes = [json.dumps({"cluster_id": n, key: names[label]}) + "\n" for n, label in enumerate(labels)]
    (folder / "votes.json.gz").write_bytes(gzip.compress("".join(votes).encode(), mtime=0))
    (folder / "map.tsv").write_text("".join(f"{n}\t{names[label]}\n" for n, label in enumerate(labels)))
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    make_dataset(folder / "data", train=40, other=12)
    make_tokenizer(folder / "tokenizer")
    run("dataset", folder, f"{TRAIN} --out OUT/run")


def semantic_ids(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3Model

    texts = make_texts(80, seed=1)[0]
    items = [
        {"parent_asin": f"B{n:03}", "title": text, "description": f"{text} again", "brand": f"b{n % 5}"}
        for n, text in enumerate(texts)
    ]
    write_forms(folder, "meta", items)
    (folder / "meta.json").write_text(json.dumps({item["parent_asin"]: item for item in items}))
    make_tokenizer(folder / "model")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    Qwen3Model(Qwen3Config(vocab_size=300, head_dim=8, num_key_value_heads=1, **sizes)).save_pretrained(
        folder / "model"
    )
    run("metadata", folder, "--input IN/meta.jsonl --output OUT/items.parquet")
    run("texts", folder, "--input IN/items.parquet --output OUT/tokens.npz --model IN/model --max_length 32")
    run("texts for TF-IDF", folder, "--items IN/items.parquet --output OUT/embedded.parquet --dim 16")
    steps = "--num_epochs 2 --save_every_steps 1 --steps_per_val_log 1 --keep_last 0"
    run("embeddings", folder, f"{RQVAE} {steps} --checkpoint_dir OUT/rqvae")
    run("export IDs", folder, f"{IDS} --collision_size 99 --output OUT/ids.parquet")
    ids = [item["parent_asin"] for item in items]
    (folder / "other.json").write_text(
        json.dumps({item: [n % 4, n % 7, n % 3] for n, item in enumerate(ids)})
    )
    write_lines(
        folder / "bought.jsonl", [{"history": ids[n : n + 2], "target": ids[n + 3]} for n in range(40)]
    )


def experiments(folder: Path) -> None:
    from experiment_rows import write_results
    from tiny_experiments import TOPICS, make_documents, make_text, write_zip
    from tiny_experiments import make_tokenizer as make_bpe

    from experiments.dtype_configs import CONFIGS

    make_bpe(folder / "bpe")
    documents = make_documents()
    write_zip(folder / "eurlex.zip", documents)
    write_lines(folder / "train.jsonl", documents["train"])
    named = {label: {"label": words.split()[0], "parents": []} for label, words in TOPICS.items()}
    (folder / "EURLEX57K.json").write_text(json.dumps(named))
    make_text(folder / "book.txt", words=2_000)
    run("EUR-Lex", folder, f"{EURLEX} IN/eurlex.zip")
    run("a text", folder, "--input IN/book.txt --tokenizer IN/bpe --out OUT/lm")
    write_results(folder / "results", "classification", seeds=2, grid=False, configs=CONFIGS[:4])
    with patch("pathlib.Path.unlink"):  # a finished run drops its checkpoints
        run("prepared text", folder, f"{MODEL_TEXT} --save_every_steps 1 --out OUT/trained")
    for name, kept in (("weights/*.pt", "weights.pt"), ("runs/*/checkpoint-last.pt", "checkpoint-last.pt")):
        next((folder / "trained").glob(name)).rename(folder / "results" / kept)
    shutil.rmtree(folder / "trained")
    first = min((folder / "results/predictions").iterdir())
    path = folder / "results/results.jsonl"
    path.write_text(path.read_text().replace(first.name, "first.npz"))
    first.rename(first.with_name("first.npz"))


def naics(folder: Path) -> None:
    from tiny_census import write_workbooks
    from tiny_naics import write_data

    from naics.data.census import load_taxonomy
    from naics.data.triplets import write_triplets

    write_workbooks(folder / "raw")
    write_data(folder)
    write_triplets(load_taxonomy(folder), folder / "triplets", row_group=500)
    run("census", folder, f"{STAGE} {FOLDERS}")
    shutil.copytree(folder / "checkpoints/01_stage_easy", folder / "run")
    run("evaluate a space", folder, f"evaluate {BEST} --out OUT/run")
    run("search by a checkpoint", folder, f"search {BEST} dogs")
    texts = ["mobile dog grooming", "baking bread", "x", ""] * 3
    write_forms(folder, "firms", [{"id": str(n), "text": text} for n, text in enumerate(texts)])


MAKERS = dict(
    category_classification=category_classification,
    semantic_ids=semantic_ids,
    experiments=experiments,
    naics=naics,
)
