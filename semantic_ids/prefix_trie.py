"""All IDs of a catalogue as a prefix tree in flat arrays, for decoding that can only end in a real item.

    trie = PrefixTrie.build(codes)                      # (N, L)
    trie.allowed([12, 7])                               # codes that may follow
    model.generate(..., prefix_allowed_tokens_fn=trie.allowed_tokens(start, level_offsets, end))

Nodes are numbered level by level in the order of their prefixes, so that the children of a node stand
together: node n's are `first_child[n]` to `first_child[n + 1]`, reached by their `code` (compressed rows).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training_utils import InputError, replacing


@dataclass
class PrefixTrie:
    first_child: np.ndarray  # (nodes + 1) int64
    code: np.ndarray  # (nodes) int32, of the edge to the node; -1 at the root
    levels: int

    @classmethod
    def build(cls, codes: np.ndarray) -> "PrefixTrie":
        """(N, L) codes; equal rows are one leaf."""
        codes = np.unique(np.asarray(codes, dtype=np.int32), axis=0)  # sorted as prefixes are
        count, levels = codes.shape
        code, children = [np.array([-1], dtype=np.int32)], []
        node_of = np.zeros(count, dtype=np.int64)  # within its level
        for level in range(levels):
            new = np.ones(count, dtype=bool)
            new[1:] = (node_of[1:] != node_of[:-1]) | (codes[1:, level] != codes[:-1, level])
            parents = node_of[new]
            children.append(np.bincount(parents, minlength=len(code[-1])))
            code.append(codes[new, level])
            node_of = np.cumsum(new) - 1
        children.append(np.zeros(len(code[-1]), dtype=np.int64))
        first_child = np.concatenate(([1], 1 + np.cumsum(np.concatenate(children))))
        return cls(first_child, np.concatenate(code), levels)

    def node(self, prefix: Sequence[int]) -> int | None:
        """The node of a prefix, None where no ID begins so."""
        node = 0
        for value in prefix:
            start, end = self.first_child[node], self.first_child[node + 1]
            place = start + np.searchsorted(self.code[start:end], value)
            if place == end or self.code[place] != value:
                return None
            node = int(place)
        return node

    def allowed(self, prefix: Sequence[int]) -> np.ndarray:
        """The codes that may follow a prefix, ascending; none after a whole ID or a prefix of no ID."""
        node = self.node(prefix)
        if node is None:
            return self.code[:0]
        return self.code[self.first_child[node] : self.first_child[node + 1]]

    def allowed_tokens(
        self, start: int, offsets: Sequence[int], end: int
    ) -> Callable[[int, object], list[int]]:
        """For generate(): after `start`, level l's code c is the token offsets[l] + c, then `end`."""

        def allow(_batch: int, tokens) -> list[int]:
            ids = tokens.tolist()
            if start not in ids:
                return [start]
            written = ids[len(ids) - ids[::-1].index(start) :]
            prefix = [token - offset for token, offset in zip(written, offsets, strict=False)]
            found = self.allowed(prefix) if len(written) < self.levels else []
            return [offsets[len(written)] + int(code) for code in found] or [end]

        return allow

    def save(self, path: Path) -> None:
        with replacing(path) as file:
            np.savez(file, first_child=self.first_child, code=self.code, levels=np.array(self.levels))

    @classmethod
    def load(cls, path: Path) -> "PrefixTrie":
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["first_child"], file["code"], int(file["levels"]))
        except Exception as error:  # a damaged zip fails in many ways
            raise InputError(f"{path}: not a prefix tree ({type(error).__name__}); export it again") from None
