"""Train the residual-quantized autoencoder that turns item embeddings into hierarchical semantic IDs.

    poetry run python semantic_ids/train_rqvae.py
    poetry run python semantic_ids/train_rqvae.py --embeddings_path items.parquet --resume auto

In: a Parquet file of embed_items.py (`parent_asin`, `embedding`). Out, in --checkpoint_dir:
checkpoint_step_N.pth, best_model.pth (by --best_metric on validation), final_model.pth, config.json,
metrics.jsonl, summary.json, learning_curve.png.
"""

import torch

from semantic_ids.item_batches import split_items
from semantic_ids.item_embeddings import EmbeddingDataset
from semantic_ids.rqvae import RQVAE, EMAVectorQuantizer, VectorQuantizer
from semantic_ids.rqvae_config import RQVAEConfig, parse_config
from semantic_ids.run_state import start_run
from semantic_ids.training import finish, train
from training_utils import init_distributed, pick_device, run_script, seed_everything

__all__ = ["RQVAE", "EMAVectorQuantizer", "EmbeddingDataset", "RQVAEConfig", "VectorQuantizer"]


def main() -> None:
    config = parse_config(__doc__)
    world = init_distributed()
    device = pick_device(config.device, world.local_rank)
    seed_everything(config.seed)

    # Data: the whole matrix lies on the device, and batches are rows of it
    dataset = EmbeddingDataset.from_parquet(config.embeddings_path, config.item_embedding_dim)
    items = torch.from_numpy(dataset.vectors).to(device)
    train_rows, validation_rows = split_items(len(items), config.val_split, config.seed)

    # Model
    model = config.build().to(device)
    if config.input_scale == "unit":
        model.fit_input_scale(items[train_rows])
    run = start_run(config, world, device, model, len(train_rows), dataset.fingerprint)
    if config.use_kmeans_init and run.progress["step"] == 0:
        sample = items[train_rows[: run.kmeans_items]]
        model.initialize_codebooks(sample, config.seed, world)

    # Train
    while not run.finished:
        train(run, items, train_rows, validation_rows)
    finish(run, items, validation_rows)


if __name__ == "__main__":
    run_script(main)
