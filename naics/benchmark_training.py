"""What the case train_step of benchmark.py times: a class a contender, built in a process of its own.

All train one backbone with LoRA, on codes of the same triplets, in half precision where that is faster. Ours
and the padded one have one loss, that of the triplets. `run()` sets `args.rows` to the codes that it encoded.

N codes, C channels, T tokens of a text, d dimensions.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from naics.config import Config, compose
from naics.data.curriculum import TripletBatch
from naics.data.texts import CodeTexts, load_corpus
from naics.data.tokenization_cache import Tokens
from naics.gradient_caching import backward
from naics.inference import build_model, make_tokenizer
from naics.model.backbones import lora_targets
from naics.model.encoder import NaicsEncoder
from naics.model.moe import balance_loss, global_choices
from naics.objective import Objective
from naics.train import make_batches
from naics.training import Batches, Run, make_optimizer
from training_utils import (
    ALONE,
    autocast,
    keep_freed_memory,
    make_grad_scaler,
    optimizer_step,
    pick_device,
)

STEPS = 3  # of a repeat
PROBE = (8, 128)  # texts and tokens to try precisions on


def settings(args: argparse.Namespace) -> Config:
    """The hard stage with about `args.rows` codes a step, and the loss of the triplets alone."""
    config = compose("03_stage_hard")
    config.model.base_model_name, config.paths.data_dir = args.model, str(args.data_dir)
    config.data.cache_dir = str(args.folder)
    config.data.batch_size, config.data.queries = max(1, args.rows // (2 + config.data.k_negatives)), 0
    config.loss.query_weight = config.loss.redirect_weight = config.loss.stress_weight = 0.0
    return config


def load(config: Config) -> tuple[CodeTexts, Batches]:
    texts = CodeTexts(load_corpus(config.paths.data_dir), make_tokenizer(config), config.data.cache_dir)
    return texts, make_batches(config, texts, ALONE)[0]


def distinct(triplets: TripletBatch) -> np.ndarray:
    return np.unique(np.concatenate([triplets.anchors, triplets.positives, triplets.negatives.ravel()]))


def half_is_faster(forward: Callable[[Tensor], Tensor], device: torch.device) -> bool:
    ids, seconds = torch.ones(PROBE, dtype=torch.int64, device=device), {False: [], True: []}
    for half in (False, True) * 3:
        started = time.perf_counter()
        with torch.no_grad(), autocast(device, half):
            forward(ids).sum().item()
        seconds[half].append(time.perf_counter() - started)
    return min(seconds[True]) < min(seconds[False])  # a disturbed try must not decide


def give_back_memory() -> None:
    """What glibc keeps after a run: all at once, contenders would hold 20 GB."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class Training:
    """Steps of train.py: a code once, absent channels not at all, texts of like length together."""

    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        config, device = settings(args), pick_device(args.device)
        texts, train = load(config)
        torch.manual_seed(0)
        model = build_model(config, len(texts.corpus.taxonomy)).to(device).train()
        body = model.encoder.backbone.body
        if not half_is_faster(lambda ids: body(input_ids=ids).last_hidden_state, device):
            config.training.trainer.precision = "32"
        objective = Objective.of(config.loss, texts.corpus.taxonomy, model.encoder.geometry, device)
        self.training = Run(
            config, ALONE, device, model, texts, objective, train, train, args.folder, 0, {"step": 0}
        )
        self.args, self.steps = args, STEPS

    def run(self) -> None:
        training, self.args.rows = self.training, 0
        for step in range(self.steps):
            triplets = training.train.triplets.batch(training.progress["step"], step)
            self.backward(triplets)
            parameters = [p for p in training.model.parameters() if p.requires_grad]
            optimizer_step(training.optimizer, training.scaler, parameters, max_grad_norm=1.0)
            self.args.rows += self.codes(triplets)
        training.progress["step"] += 1

    def backward(self, triplets: TripletBatch) -> float:
        """Gradients, and the loss of the triplets."""
        no_queries = self.training.texts.training_queries(False, False)
        return backward(self.training, triplets, no_queries)["triplet"]

    def codes(self, triplets: TripletBatch) -> int:
        return len(distinct(triplets))

    def result(self) -> None:
        give_back_memory()


# ---------------------------------------------------------------- the published shape


class PaddedTriplets(Training):
    """Every code of every triplet in each channel, padded to the maximum; one step, as all cost the same."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        encoder, self.steps = self.training.model.encoder, 1
        encoder.read = partial(read_padded, encoder, self.training.config.data.max_length)

    def backward(self, triplets: TripletBatch) -> float:
        """An anchor at a time, which is enough for the memory; their gradients add up."""
        training, count, total = self.training, len(triplets.anchors), 0.0
        moe = training.config.model.moe
        rows = np.column_stack((triplets.anchors, triplets.positives, triplets.negatives))
        places = np.arange(rows.shape[1])
        alone = TripletBatch(places[:1], places[1:2], places[None, 2:], triplets.hardness[:1])
        for codes in rows:
            with autocast(training.device, training.amp, training.amp_dtype):
                points, routing = training.model.encoder(training.texts.channels(codes))
            loss = training.objective.contrast(points, alone) / count
            total += loss.item()
            choices = global_choices([routing.choices], moe.num_experts)
            balance = balance_loss(routing.probabilities, *choices) / count
            training.scaler.scale(loss + moe.load_balancing_coef * balance).backward()
        return total

    def codes(self, triplets: TripletBatch) -> int:
        return triplets.anchors.size + triplets.positives.size + triplets.negatives.size


def read_padded(encoder: NaicsEncoder, length: int, channels: list[Tokens], present: np.ndarray) -> Tensor:
    """`NaicsEncoder.read` -> (N, C, W), zero where a text is absent; it is encoded all the same."""
    backbone, parts = encoder.backbone, []
    for number, tokens in enumerate(channels):
        backbone.use_adapter(number)
        lengths = torch.from_numpy(tokens.lengths)[:, None]
        real = torch.arange(length) < lengths  # (N, T)
        ids = torch.full(real.shape, backbone.pad)
        ids[real] = torch.from_numpy(tokens.ids).long()
        mask = (torch.arange(length) < lengths.clamp(min=1)).to(encoder.gain.device)
        hidden = backbone.body(input_ids=ids.to(mask.device), attention_mask=mask.long()).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(1).float() / mask.sum(1, keepdim=True)
        parts.append(nn.functional.normalize(mean, dim=-1))
    return torch.stack(parts, 1) * torch.from_numpy(present.T).to(encoder.gain)[:, :, None]


# ---------------------------------------------------------------- sentence-transformers


class SentenceTransformers:
    """Multiple-negatives ranking in the plain loop, without its trainer's own work; LoRA by `add_adapter`.

    A code is one text of its four channels, cut to the tokens that we allow a single channel. Batches are
    random, as its trainer's are, of our codes, paired as they come: that does not change the time. It gets
    what makes it faster: written-out attention on a CPU, no dropout but LoRA's, freed memory that is kept.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from peft import LoraConfig, TaskType
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.losses import MultipleNegativesRankingLoss

        keep_freed_memory()
        self.args, self.device, self.epoch = args, pick_device(args.device), 0
        config = settings(args)
        self.texts, self.train = load(config)
        kwargs = {"attn_implementation": "eager"} if self.device.type == "cpu" else {}
        self.model = SentenceTransformer(args.model, device=str(self.device), model_kwargs=kwargs)
        self.model.max_seq_length = config.data.max_length
        lora, names = config.model.lora, {name.rpartition(".")[2] for name in lora_targets(self.model)}
        adapter = LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION, r=lora.r, lora_alpha=lora.alpha,
            lora_dropout=config.model.dropout, target_modules=sorted(names),
        )  # fmt: skip
        self.model.add_adapter(adapter)
        self.loss = MultipleNegativesRankingLoss(self.model)
        self.optimizer = make_optimizer(self.model, config, self.device)
        self.half = half_is_faster(self.embed, self.device)
        self.scaler = make_grad_scaler(self.device, self.half)
        for name, module in self.model.train().named_modules():
            if isinstance(module, nn.Dropout) and "lora_" not in name:
                module.p = 0.0

    def embed(self, ids: Tensor) -> Tensor:
        return self.model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]

    def run(self) -> None:
        from sentence_transformers.util import batch_to_device

        self.args.rows = 0
        for step in range(STEPS):
            codes = distinct(self.train.triplets.batch(self.epoch, step))
            pairs = len(codes) // 2
            columns = [[self.text(code) for code in codes[part : 2 * pairs : 2]] for part in (0, 1)]
            columns = [batch_to_device(self.model.preprocess(column), self.device) for column in columns]
            with autocast(self.device, self.half):
                loss = self.loss(columns, None)
            self.scaler.scale(loss).backward()
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            optimizer_step(self.optimizer, self.scaler, parameters, max_grad_norm=1.0)
            self.args.rows += 2 * pairs
        self.epoch += 1

    def text(self, code: int) -> str:
        """Title, description, excluded and examples."""
        taxonomy, index = self.texts.corpus.taxonomy, self.texts.corpus.index
        examples = "; ".join(index.texts[row] for row in self.texts.entries_of[code])
        parts = taxonomy.titles[code], taxonomy.descriptions[code], taxonomy.excluded[code]
        return " ".join([*parts, examples or taxonomy.examples[code]])

    def result(self) -> None:
        give_back_memory()
