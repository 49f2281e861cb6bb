"""IDs that need no training, to measure trained ones against. N items, E width, L levels, K codes a level."""

import numpy as np
import torch

from semantic_ids.rqvae import kmeans, nearest_codes

COMPONENTS = 32


def random_ids(vectors: np.ndarray, levels: int, num_codes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes that mean nothing, (N, L); each item is reconstructed as the mean of all, (N, E)."""
    codes = np.random.default_rng(seed).integers(num_codes, size=(len(vectors), levels))
    return codes, np.broadcast_to(vectors.mean(0), vectors.shape)


def residual_kmeans(
    vectors: np.ndarray, levels: int, num_codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """k-means, then k-means of what each level leaves: codes (N, L), reconstructions (N, E)."""
    residual, codes = torch.from_numpy(vectors), []
    for level in range(levels):
        centroids = kmeans(residual, num_codes, seed + level)
        codes.append(nearest_codes(residual, centroids))
        residual = residual - centroids[codes[-1]]
    return torch.stack(codes, 1).numpy(), vectors - residual.numpy()


def residual_kmeans_pca(
    vectors: np.ndarray, levels: int, num_codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same in the space of the first principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(min(COMPONENTS, *vectors.shape), random_state=seed)
    codes, found = residual_kmeans(pca.fit_transform(vectors).astype(np.float32), levels, num_codes, seed)
    return codes, pca.inverse_transform(found)


def product_quantization(
    vectors: np.ndarray, levels: int, num_codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """One k-means for each of L blocks of coordinates (Jegou et al. 2011): no code depends on another."""
    codes, found = [], []
    for level, block in enumerate(torch.from_numpy(vectors).tensor_split(levels, dim=1)):
        centroids = kmeans(block.contiguous(), num_codes, seed + level)
        codes.append(nearest_codes(block, centroids))
        found.append(centroids[codes[-1]])
    return torch.stack(codes, 1).numpy(), torch.cat(found, 1).numpy()


BASELINES = {
    "residual k-means, PCA-32": residual_kmeans_pca,
    "residual k-means": residual_kmeans,
    "product quantization": product_quantization,
    "random": random_ids,
}
