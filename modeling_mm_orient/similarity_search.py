# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The nearest of many embeddings by cosine (ours): exact by blocked matrix products, or a FAISS index.

Exact search needs no building and suits about 100,000 entries. Beyond, a FAISS index answers a query without looking at
every entry: HNSW up to 300,000 (fastest, but each entry is linked in one by one), IVF above (builds faster, smaller).

Shapes: B queries, M entries, K results, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .optional_dependencies import faiss

MOST_EXACT = 100_000
MOST_HNSW = 300_000
BLOCK = 65_536  # similarities at a time
CONVERTED = 1024  # rows at a time
INDEX_KINDS = ("hnsw", "ivf")
RECALL_QUERIES = 200


class ExactSearch:
    """Every entry is compared. Entries stay as they are stored, in half precision and possibly memory-mapped: converting a
    small block that stays in the processor's cache reads half of what a float32 copy would.

    Args:
        vectors: (M, D) floating point. present: (M,) bool, False for an entry that is never found.
    """

    kind = "exact"

    def __init__(self, vectors: Tensor, present: Tensor):
        self.vectors, self._absent = vectors, ~present
        self._scale = torch.empty(len(vectors), device=vectors.device)
        for first, block in self._blocks(0, len(vectors), vectors.device):
            torch.linalg.vector_norm(block, dim=-1, out=self._scale[first : first + len(block)])
        self._scale.clamp_(min=1e-12).reciprocal_()

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest entries of `queries` (B, D), best first: cosines and entries (B, count).

        A cosine is -inf where there are not that many entries.
        """
        if self._scale.device != queries.device:
            self._scale, self._absent = self._scale.to(queries.device), self._absent.to(queries.device)
        queries = F.normalize(queries.float(), dim=-1)
        best = queries.new_full((len(queries), count), -torch.inf), queries.new_zeros(len(queries), count).long()
        for start in range(0, len(self.vectors), BLOCK):
            stop = min(start + BLOCK, len(self.vectors))
            similarity = queries.new_empty(len(queries), stop - start)
            for first, block in self._blocks(start, stop, queries.device):
                similarity[:, first - start : first - start + len(block)] = queries @ block.T
            similarity.mul_(self._scale[start:stop]).masked_fill_(self._absent[start:stop], -torch.inf)
            found, entries = similarity.topk(min(count, stop - start))
            joined = torch.cat([best[0], found], -1), torch.cat([best[1], entries + start], -1)
            similarity, order = joined[0].topk(count)
            best = similarity, joined[1].gather(-1, order)
        return best

    def _blocks(self, start: int, stop: int, device: torch.device):
        """Rows from `start` to `stop` in float32, block by block, in one buffer: fresh ones would fragment the heap."""
        buffer = torch.empty(CONVERTED, self.vectors.shape[-1], device=device)
        for first in range(start, stop, CONVERTED):
            rows = self.vectors[first : min(first + CONVERTED, stop)]
            yield first, buffer[: len(rows)].copy_(rows)


class IndexSearch:
    """A FAISS index over the entries that are present; nearly all of the nearest are found.

    Args:
        index: FAISS index by inner product over unit vectors. rows: (N,) int64, the entry of each indexed vector.
    """

    def __init__(self, index, rows: Tensor):
        self.index, self.rows = index, rows

    @property
    def kind(self) -> str:
        return "ivf" if hasattr(self.index, "nlist") else "hnsw"

    @classmethod
    def build(cls, vectors: Tensor, present: Tensor, kind: str) -> "IndexSearch":
        """Index `vectors` (M, D) where `present` (M,); half-precision copies are kept in the index."""
        rows = present.nonzero().squeeze(-1)
        if kind == "hnsw":
            index = faiss.index_factory(vectors.shape[-1], "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
        else:
            lists = max(1, min(round(len(rows) ** 0.5), len(rows) // 39))  # FAISS wants 39 vectors to train each
            index = faiss.index_factory(vectors.shape[-1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        most = 64 * getattr(index, "nlist", 64)  # a sample spread evenly over the entries is enough to train on
        index.train(_unit_rows(vectors, rows[:: max(1, len(rows) // most)]))
        for block in rows.split(BLOCK):
            index.add(_unit_rows(vectors, block))
        return cls(index, rows)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `ExactSearch.nearest`."""
        unit = F.normalize(queries.float(), dim=-1).cpu().contiguous().numpy()
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(128, 2 * count))
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(32, self.index.nlist // 16))
        similarity, found = self.index.search(unit, min(count, len(self.rows)), params=parameters)
        similarity, found = torch.from_numpy(similarity), torch.from_numpy(found)
        entries = self.rows[found.clamp(min=0)]
        similarity = similarity.masked_fill(found < 0, -torch.inf)
        missing = count - found.shape[-1]
        similarity, entries = F.pad(similarity, (0, missing), value=-torch.inf), F.pad(entries, (0, missing))
        return similarity.to(queries.device), entries.to(queries.device)

    def recall(self, exact: ExactSearch, count: int = 32) -> float:
        """The share of the exact `count` nearest entries that the index finds, for a sample of its own entries."""
        sample = self.rows[:: max(1, len(self.rows) // RECALL_QUERIES)][:RECALL_QUERIES]
        queries = exact.vectors[sample].float()
        count = min(count, len(self.rows))
        _, expected = exact.nearest(queries, count)
        _, found = self.nearest(queries, count)
        return float((expected[:, :, None] == found[:, None, :]).any(-1).float().mean())

    def save(self, path) -> None:
        """Write the index to `path`."""
        faiss.write_index(self.index, str(path))

    @classmethod
    def load(cls, path, present: Tensor) -> "IndexSearch":
        """Read an index; an IVF's lists stay on disk, memory-mapped.

        Raises:
            ImportError: FAISS is not installed. ValueError: the file is no index, or of other entries than `present`.
        """
        require_faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ValueError(f"{path} is damaged or no FAISS index: {error}") from error
        rows = present.nonzero().squeeze(-1)
        if index.ntotal != len(rows):
            raise ValueError(f"{path} has {index.ntotal} vectors, and the memory {len(rows)} posts: build it anew")
        return cls(index, rows)


def require_faiss() -> None:
    """Raise ImportError, saying how to get it, where FAISS is not installed."""
    if faiss is None:
        raise ImportError("an index needs FAISS: pip install faiss-cpu")


def index_kind(entries: int) -> str:
    """`"hnsw"` or `"ivf"`, the documented choice for a number of entries."""
    return "hnsw" if entries <= MOST_HNSW else "ivf"


def _unit_rows(vectors: Tensor, rows: Tensor):
    return F.normalize(vectors[rows].float(), dim=-1).contiguous().numpy()
