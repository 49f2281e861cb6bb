"""The losses of a step, on points: which distances are asked of which codes and queries.

B anchors with K negatives, U codes of the step, Q queries, n codes in all, d dimensions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naics.config import LossConfig
from naics.data.census import Taxonomy
from naics.data.curriculum import TripletBatch
from naics.data.distances import tree_distances
from naics.data.texts import Queries
from naics.model.encoder import NaicsModel
from naics.model.geometry import Geometry
from naics.model.loss import info_nce, listwise_loss, query_loss, stress_loss


@dataclass
class Objective:
    """Weighted mean of the terms whose weight is not 0; each is a mean, whatever the batch's size."""

    config: LossConfig
    geometry: Geometry
    tree: Tensor  # (n, n) float32 distances in the tree
    leaves: Tensor  # rows of the six-digit codes
    leaf_column: Tensor  # (n,) place of a code among the leaves, -1 for others

    @classmethod
    def of(
        cls, config: LossConfig, taxonomy: Taxonomy, geometry: Geometry, device: torch.device
    ) -> "Objective":
        column = np.full(len(taxonomy), -1)
        column[taxonomy.leaves] = np.arange(len(taxonomy.leaves))
        tree = torch.from_numpy(tree_distances(taxonomy).astype(np.float32))
        leaves = torch.from_numpy(taxonomy.leaves)
        return cls(config, geometry, tree.to(device), leaves.to(device), torch.from_numpy(column).to(device))

    def __call__(
        self,
        model: NaicsModel,
        codes: Tensor,  # (U,) rows of the taxonomy
        points: Tensor,  # (U, d) of them
        triplets: TripletBatch,
        query_points: Tensor,  # (Q, d)
        queries: Queries,
    ) -> dict[str, Tensor]:
        """The terms, unweighted. Codes that the step did not encode stand where they were last seen."""
        config, found = self.config, {}
        everything = model.points.index_copy(0, codes, points)  # (n, d)
        if config.triplet_weight:
            found["triplet"] = self.contrast(everything, triplets)
        if len(queries) and (config.query_weight or config.redirect_weight):
            found |= self.look_up(everything, query_points, queries, model.query_scale)
        if config.stress_weight or config.listwise_weight:
            distances, targets = self.geometry.pairwise(points, points), self.tree[codes][:, codes]
            if config.stress_weight:
                found["stress"] = stress_loss(distances, targets)
            if config.listwise_weight:
                found["listwise"] = listwise_loss(distances, targets, model.query_scale, 1.0, targets > 0)
        return found

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted mean: beside it the coefficient of the experts' balance means the same for all weights."""
        weights = {name: getattr(self.config, f"{name}_weight") for name in terms}
        return sum(weights[name] * value for name, value in terms.items()) / sum(weights.values())

    def contrast(self, everything: Tensor, triplets: TripletBatch) -> Tensor:
        """InfoNCE over each anchor's positive and K negatives."""
        anchors, positives, negatives = (
            torch.from_numpy(rows).to(everything.device)
            for rows in (triplets.anchors, triplets.positives, triplets.negatives)
        )
        others = everything[torch.cat((positives[:, None], negatives), dim=1)]  # (B, 1 + K, d)
        distances = self.geometry.distance(everything[anchors][:, None], others)
        return info_nce(distances[:, 0], distances[:, 1:], self.config.temperature)

    def look_up(
        self, everything: Tensor, query_points: Tensor, queries: Queries, scale: Tensor
    ) -> dict[str, Tensor]:
        """Entries among the six-digit codes; redirected activities among all, away from the referring one."""
        device = everything.device
        entry = torch.from_numpy(queries.entries >= 0).to(device)
        targets, refused = (torch.from_numpy(rows).to(device) for rows in (queries.targets, queries.refused))
        found = {}
        if self.config.query_weight and entry.any():
            distances = self.geometry.pairwise(query_points[entry], everything[self.leaves])
            found["query"] = query_loss(distances, self.leaf_column[targets[entry]], scale)
        if self.config.redirect_weight and not entry.all():
            distances = self.geometry.pairwise(query_points[~entry], everything)
            found["redirect"] = query_loss(distances, targets[~entry], scale, refused[~entry])
        return found
