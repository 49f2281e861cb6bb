"""What benchmark.py times: a class a contender, built in a process of its own, then `run()` again and again.

`result()` is what the runs computed, where contenders have to agree. All contenders of a case see the same
rows, drawn in each process from one seed.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_ids.embed_items import VectorStore, compile_model, embed_missing, load_model, pool
from semantic_ids.id_metrics import unique_ids_proportion
from semantic_ids.rqvae import RQVAE, kmeans
from semantic_ids.tokenize_items import load_tokenizer, text_hash
from training_utils import ALONE, autocast, keep_freed_memory, make_grad_scaler, optimizer_step, pick_device

MAX_LENGTH = 256  # tokens that all-MiniLM-L6-v2 is meant for
MEDIAN_LENGTH, LENGTH_SPREAD = 110, 0.8  # of the log-normal
ITEM_CLUSTERS, CLUSTER_SPREAD = 2000, 0.7
CODES, LEVELS, LATENT = 256, 3, 32
INIT_ITEMS = 8192  # to start codebooks from


def draw_items(rows: int, width: int = 1024) -> Tensor:
    """(rows, width) of length 1, in clusters, as embeddings of a catalogue lie."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(ITEM_CLUSTERS, width, generator=generator)
    which = torch.randint(ITEM_CLUSTERS, (rows,), generator=generator)
    noise = torch.randn(rows, width, generator=generator)
    return F.normalize(centres[which] + CLUSTER_SPREAD * noise, dim=1)


def draw_latents(rows: int) -> Tensor:
    """(rows, 32): what an untrained encoder makes of `draw_items`."""
    torch.manual_seed(0)
    model, items = RQVAE(), draw_items(rows)
    model.fit_input_scale(items)
    with torch.no_grad():
        return model.encoder(model.scale(items))


def draw_texts(rows: int, tokenizer: Any) -> list[str]:
    """Random words, a token each, in about as many as item texts have. Some texts have longer words than
    others, so that batches of 8 sorted by characters are 13% padding, as they are of real items."""
    rng = np.random.default_rng(0)
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    short = np.array([word for word in words if len(word) < 5])
    long = np.array([word for word in words if len(word) > 6])
    texts = []
    for length in rng.lognormal(math.log(MEDIAN_LENGTH), LENGTH_SPREAD, rows).round().clip(3, 4 * MAX_LENGTH):
        count = int(length) - 2  # [CLS] and [SEP] are tokens too
        pairs = rng.choice(short, count), rng.choice(long, count)
        texts.append(" ".join(np.where(rng.random(count) < rng.uniform(0.2, 0.8), *pairs)))
    return texts


def residual_vq(**options: Any) -> nn.Module:
    """Three levels as the documentation of vector-quantize-pytorch builds them: moving averages, k-means."""
    from vector_quantize_pytorch import ResidualVQ

    return ResidualVQ(
        dim=LATENT, num_quantizers=LEVELS, codebook_size=CODES, kmeans_init=True, kmeans_iters=10,
        rotation_trick=True, commitment_weight=0.25, **options,
    )  # fmt: skip


# ---------------------------------------------------------------- training steps


class Step:
    """Forward, backward, clip and fused AdamW, as train_rqvae.py does them."""

    def __init__(self, args: argparse.Namespace, amp: bool = False, compiled: bool = False) -> None:
        keep_freed_memory()  # as run_script does for every script
        self.amp, self.device = amp, pick_device(args.device)
        self.items = draw_items(args.rows).to(self.device)
        self.model = RQVAE().to(self.device)
        self.model.fit_input_scale(self.items)
        self.model.initialize_codebooks(self.items[:INIT_ITEMS], seed=0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)
        self.scaler = make_grad_scaler(self.device, amp)
        if compiled:
            self.model.encoder.compile()
            self.model.decoder.compile()

    def run(self) -> None:
        with autocast(self.device, self.amp):
            output = self.model(self.items)
        self.scaler.scale(self.model.loss(output)[0]).backward()
        optimizer_step(self.optimizer, self.scaler, self.model.parameters(), max_grad_norm=1.0)
        for quantizer in self.model.quantizers:
            quantizer.update()

    def result(self) -> None: ...


class PeerStep:
    """The same encoder, decoder, scaling and optimizer around ResidualVQ."""

    def __init__(self, args: argparse.Namespace) -> None:
        device = pick_device(args.device)
        self.items = draw_items(args.rows).to(device)
        self.model = RQVAE().to(device)
        self.model.fit_input_scale(self.items)
        self.model.quantizers = residual_vq().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)

    def run(self) -> None:
        x = self.model.scale(self.items)
        quantized, _, losses = self.model.quantizers(self.model.encoder(x)[None])
        decoded = self.model.decoder(quantized[0])
        (F.mse_loss(decoded, x) + losses.sum()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def result(self) -> None: ...


# ---------------------------------------------------------------- quantizers alone


class Quantizers:
    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        device = pick_device(args.device)
        self.latents = draw_latents(args.rows).to(device)
        self.model = RQVAE(LATENT, (LATENT,)).to(device)
        self.model.encoder = nn.Identity()
        self.model.initialize_codebooks(self.latents[:INIT_ITEMS], seed=0)
        self.latents.requires_grad_()

    def run(self) -> None:
        quantized, _, codebook, commitment, _ = self.model.quantize(self.latents)
        losses = torch.stack(codebook).sum() + 0.25 * torch.stack(commitment).sum()
        (quantized.square().mean() + losses).backward()
        self.latents.grad = None
        self.model.zero_grad()

    def result(self) -> None: ...


class PeerQuantizers:
    def __init__(self, args: argparse.Namespace) -> None:
        device = pick_device(args.device)
        self.quantizers = residual_vq().to(device)
        self.latents = draw_latents(args.rows).to(device).requires_grad_()

    def run(self) -> None:
        quantized, _, losses = self.quantizers(self.latents[None])
        (quantized.square().mean() + losses.sum()).backward()
        self.latents.grad = None

    def result(self) -> None: ...


# ---------------------------------------------------------------- embedding


def embed_tokens(flags: argparse.Namespace, model: nn.Module, lists: list, names: list[str]) -> np.ndarray:
    """Token lists -> (N, flags.dim), by embed_items.py's path; shards are written and read as ever."""
    hashes = np.array(names)
    tokens = {
        "ids": np.concatenate([np.array(row, dtype=np.int32) for row in lists]),
        "offsets": np.concatenate(([0], np.cumsum([len(row) for row in lists]))),
        "text_hashes": hashes,
        "item_ids": hashes,
    }
    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore(Path(folder), flags.dim)
        embed_missing(flags, model, tokens, store, ALONE)
        places = store.read()
    return np.stack([store.shards[shard][row] for shard, row in map(places.get, names)])


class Embedding:
    """tokenize_items.py and embed_items.py, on texts in memory."""

    def __init__(self, args: argparse.Namespace, dtype: str = "float32", compiled: bool = False) -> None:
        keep_freed_memory()
        flags = dict(pooling="mean", dim=1, batch_tokens=None)
        self.flags = argparse.Namespace(model=args.model, dtype=dtype, **flags)
        self.model = load_model(self.flags, pick_device(args.device))
        self.flags.dim = self.model.config.hidden_size
        if compiled:
            compile_model(self.model)
        self.tokenizer = load_tokenizer(args.model)
        self.texts = draw_texts(args.rows, self.tokenizer)

    def run(self) -> None:
        settings = dict(truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)
        lists = self.tokenizer(self.texts, **settings)["input_ids"]
        self.vectors = embed_tokens(self.flags, self.model, lists, [text_hash(text) for text in self.texts])

    def result(self) -> np.ndarray:
        return self.vectors


class FixedPadding:
    """Our model with every text padded to the maximum, 64 a batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = pick_device(args.device)
        flags = argparse.Namespace(model=args.model, dim=1, dtype="float32")
        self.model = load_model(flags, self.device)
        self.tokenizer = load_tokenizer(args.model)
        self.texts = draw_texts(args.rows, self.tokenizer)

    @torch.inference_mode()
    def run(self) -> None:
        vectors = []
        for start in range(0, len(self.texts), 64):
            batch = self.tokenizer(
                self.texts[start : start + 64], truncation=True, padding="max_length",
                max_length=MAX_LENGTH, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            hidden = self.model(**batch).last_hidden_state
            vectors.append(F.normalize(pool(hidden, batch["attention_mask"], "mean"), dim=1).cpu())
        self.vectors = torch.cat(vectors).numpy()

    def result(self) -> np.ndarray:
        return self.vectors


class SentenceTransformers:
    def __init__(self, args: argparse.Namespace, batch_size: int) -> None:
        from sentence_transformers import SentenceTransformer

        self.batch_size = batch_size
        self.model = SentenceTransformer(args.model, device=str(pick_device(args.device)))
        self.model.max_seq_length = MAX_LENGTH
        self.texts = draw_texts(args.rows, load_tokenizer(args.model))

    def run(self) -> None:
        self.vectors = self.model.encode(
            self.texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    def result(self) -> np.ndarray:
        return self.vectors


# ---------------------------------------------------------------- k-means and counting


class KMeans:
    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        self.latents = draw_latents(args.rows)

    def run(self) -> None:
        self.centroids = kmeans(self.latents, CODES, seed=0)

    def result(self) -> float:
        """Inertia: the sum of squared distances to the nearest centroid."""
        return float(torch.cdist(self.latents, self.centroids).amin(1).double().square().sum())


class ScikitLearnKMeans(KMeans):
    def run(self) -> None:
        from sklearn.cluster import KMeans as Peer

        found = Peer(CODES, n_init=10, random_state=0).fit(self.latents.numpy())
        self.centroids = torch.from_numpy(found.cluster_centers_)


class UniqueShare:
    def __init__(self, args: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(0)
        self.codes = torch.randint(CODES, (args.rows, LEVELS), generator=generator)

    def run(self) -> None:
        self.share = unique_ids_proportion(self.codes, CODES)

    def result(self) -> float:
        return self.share


class NumpyUniqueRows(UniqueShare):
    def run(self) -> None:
        self.share = len(np.unique(self.codes.numpy(), axis=0)) / len(self.codes)
