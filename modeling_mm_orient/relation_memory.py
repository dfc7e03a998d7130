# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation memory (ours): reference posts with their embeddings, ids and labels, looked up as neighbours.

With it a verdict depends on the post and the memory, not on the other posts of the batch, and can name the known posts it
rests on. `memory_file` keeps it beside the weights.

Shapes: M reference posts, B posts, K neighbours, D features, C labels of a task.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

from .memory_file import MOST_BYTES_IN_CHECKPOINT, in_one_state, memory_path, read_memory, save_memory
from .names import MODALITIES
from .optional_dependencies import FAISS_AVAILABLE
from .similarity_search import DECIMALS, MOST_EXACT, ExactSearch, IndexSearch, in_order, index_kind, require_faiss
from .tasks import kind_of

logger = logging.get_logger(__name__)

MOST_NEIGHBOURS = 1024
CPU = torch.device("cpu")
ROOM_FOR_EQUALS = 128  # in a look-up of one shape
TIE = 1e-6
SAME = 1e-5


class Neighbours(NamedTuple):
    """What a look-up found in one modality.

    `entries` (B, K) int64: positions in the memory, nearest first, -1 where there are fewer. `similarity` (B, K) float32:
    their cosines, 0 there.
    """

    entries: Tensor
    similarity: Tensor


class RelationMemory:
    """Reference posts.

    Args:
        embeds: `"image"` and `"text"` -> (M, D) E_img and E_txt; kept in half precision.
        present: the same -> (M,) bool, False where a post lacks the modality.
        ids: M different names.
        keys: (M,) int64, a number for each post's content, 0 where unknown; equal content, equal key.
        tasks: task descriptions that `labels` are of.
        labels: task name -> labels in the forms of `TaskHeads.loss`, missing ones included.
        fingerprints: of the encoders that made `embeds`, see `encoder_fingerprints`; empty for feature arrays.
        of_training: whether all posts that the model has learned from are among them, as far as is known.

    Raises:
        ValueError: shapes do not agree, or an id is there twice.
    """

    def __init__(
        self,
        embeds: dict[str, Tensor],
        present: dict[str, Tensor],
        ids: list[str],
        keys: Tensor,
        tasks: list[dict],
        labels: dict[str, Tensor],
        fingerprints: list[str],
        of_training: bool = False,
    ):
        self.embeds = {modality: _half(embeds[modality]) for modality in MODALITIES}
        self.present, self.ids, self.keys = dict(present), list(ids), keys
        self.tasks = [{part: task[part] for part in ("name", "kind", "labels")} for task in tasks]
        self.labels, self.fingerprints = dict(labels), list(fingerprints)
        self.of_training = of_training
        self._searches: dict[str, ExactSearch | IndexSearch] = {}
        self._summaries: dict[str, tuple[Tensor, Tensor]] | None = None
        self._averages: dict[str, tuple[Tensor, Tensor]] | None = None
        self._check()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Size of the embeddings in bytes, nearly all that the file holds."""
        return sum(value.numel() * value.element_size() for value in self.embeds.values())

    @property
    def is_large(self) -> bool:
        """Whether it is too large for a checkpoint: above 512 MiB."""
        return self.num_bytes > MOST_BYTES_IN_CHECKPOINT

    def to(self, device: torch.device) -> "RelationMemory":
        """Move to a device, unless too big to be kept in a checkpoint: then only what is looked up moves."""
        if self.keys.device != device and not self.is_large:
            self._searches = dict(self.indexes)
            self.embeds = {name: value.to(device) for name, value in self.embeds.items()}
            self.present = {name: value.to(device) for name, value in self.present.items()}
            self.keys, self._summaries, self._averages = self.keys.to(device), None, None
            self.labels = {name: value.to(device) for name, value in self.labels.items()}
        return self

    @property
    def indexes(self) -> dict[str, IndexSearch]:
        """Modality -> the index in use."""
        return {m: engine for m, engine in self._searches.items() if isinstance(engine, IndexSearch)}

    def search(self, modality: str) -> ExactSearch | IndexSearch:
        """The search engine of one modality: exact unless `build_index` made another."""
        if modality not in self._searches:
            if len(self) > MOST_EXACT:
                advice = "build_index() makes it fast" if FAISS_AVAILABLE else "faiss-cpu would make it fast"
                logger.warning("exact search among %d reference posts is slow: %s", len(self), advice)
            self._searches[modality] = ExactSearch(self.embeds[modality], self.present[modality])
        return self._searches[modality]

    def build_index(self, kind: str | None = None, count: int = 32) -> dict[str, float]:
        """Replace exact search by a FAISS index; worth it beyond about 100,000 posts.

        Args:
            kind: `"hnsw"` or `"ivf"`; None takes HNSW up to 300,000 posts and IVF above.
            count: neighbours for which recall is measured.

        Returns:
            Modality -> share of the exact nearest neighbours that the index finds, measured on a sample.

        Raises:
            ImportError: FAISS is not installed.
        """
        require_faiss()
        recalls = {}
        for modality in MODALITIES:
            if self.present[modality].any():
                index = IndexSearch.build(self.embeds[modality], self.present[modality], kind or index_kind(len(self)))
                recalls[modality] = index.recall(ExactSearch(self.embeds[modality], self.present[modality]), count)
                self._searches[modality] = index
        return recalls

    @torch.no_grad()
    def look_up(
        self,
        modality: str,
        queries: Tensor,
        has_modality: Tensor,
        top_k: int | None,
        threshold: float | None,
        left_out: Callable[[Tensor], Tensor] | None = None,
        most: int = MOST_NEIGHBOURS,
    ) -> Neighbours:
        """The reference posts near each query: the `top_k` nearest, those above `threshold`, or both conditions.

        Posts tied with the k-th nearest count too, so that the answer does not depend on the order of equals. At most `most`
        come back, the nearest and of equals the first in the memory; that some were cut off is logged.

        Args:
            modality: whose embeddings are compared.
            queries: (B, D). has_modality: (B,) bool, False for a post without neighbours.
            left_out: function of entries (B, K) that says in bool (B, K) which must not be found.
        """
        self.to(queries.device)
        engine, size = self.search(modality), len(self)
        has_modality = has_modality & queries.isfinite().all(-1)  # what is no number is near to nobody
        wanted = min(size, (64 if top_k is None else top_k) + 8)
        while wanted:
            cosines, entries = _nearest_of(engine, queries, has_modality, wanted)
            allowed = (cosines > -torch.inf) & has_modality[:, None]
            if left_out is not None:
                allowed &= ~left_out(entries)
            near = cosines.masked_fill(~allowed, -torch.inf)
            least = cosines.new_full((len(cosines), 1), -torch.inf)
            if threshold is not None:
                least = least.fill_(
                    threshold + TIE
                )  # so that a threshold that is a pair's own cosine excludes it, in any batch
            if top_k is not None and top_k <= wanted:
                least = torch.maximum(least, near.topk(top_k).values[:, -1:] - TIE)
            chosen = allowed & (near > least)
            # whoever comes next is too far, or there is room for no more; of those that follow in this order some may be
            # nearer than the last, though equal to so many decimals
            too_far = cosines[:, -1:] + 10.0**-DECIMALS <= least
            enough = too_far | ~has_modality[:, None] | (chosen.sum(-1, keepdim=True) > most)
            if wanted == size or enough.all():
                return _compact(entries, near, chosen, most)
            wanted = min(size, 4 * wanted)
        empty = queries.new_zeros(len(queries), 0)
        return Neighbours(empty.long(), empty.float())

    def look_up_static(
        self, modality: str, queries: Tensor, has_modality: Tensor, top_k: int | None, threshold: float | None
    ) -> Neighbours:
        """`look_up` in one shape whatever the posts, for `torch.export`: by one product with every entry. Of equals at the
        last place there is room for `ROOM_FOR_EQUALS`, of more the rest is cut off."""
        vectors, present = self.embeds[modality].float(), self.present[modality]
        cosines = F.linear(F.normalize(queries.float(), dim=-1), F.normalize(vectors, dim=-1))
        cosines = cosines.nan_to_num(-1.0).masked_fill(~present, -torch.inf)
        room = min(len(self), MOST_NEIGHBOURS if top_k is None else top_k + ROOM_FOR_EQUALS)
        similarity, entries = cosines.topk(room)
        kept = (similarity > (-2.0 if threshold is None else threshold + TIE)) & has_modality[:, None]
        if top_k is not None and top_k < room:
            kept &= similarity > similarity[:, top_k - 1 : top_k] - TIE
        kept &= queries.isfinite().all(-1, keepdim=True)
        return Neighbours(torch.where(kept, entries, -1), torch.where(kept, similarity, 0.0))

    def embeds_of(self, modality: str, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, K, D), float32, and presence (B, K) of `entries` (B, K), zeros and False for -1."""
        rows = entries.clamp(min=0).to(self.keys.device)
        found = (entries >= 0) & self.present[modality][rows].to(entries.device)
        # index_select: an index in brackets is several times slower
        values = self.embeds[modality].index_select(0, rows.flatten()).to(entries.device).float()
        return values.view(*entries.shape, values.shape[-1]) * found[..., None], found

    def same_posts(self, entries: Tensor, post_keys: Tensor | None, embeds: dict, present: dict) -> Tensor:
        """Which of `entries` (B, K) are the post itself or its exact duplicate: equal key, or equal embeddings throughout.

        Args:
            post_keys: (B,) int64, or None. embeds, present: the posts' own, as in the constructor.
        """
        entries = entries.clamp(min=0)
        rows = entries.to(self.keys.device)
        same = torch.ones_like(entries, dtype=torch.bool)
        for modality in MODALITIES:
            same &= self.present[modality][rows].to(entries.device) == present[modality][:, None]
        # the cheapest comparison first: few are left for the others
        for modality in sorted(MODALITIES, key=lambda name: self.embeds[name].shape[-1]):
            posts, places = (same & present[modality][:, None]).nonzero(as_tuple=True)
            theirs, _ = self.embeds_of(modality, entries[posts, places])
            cosine = torch.cosine_similarity(theirs, embeds[modality].detach().float()[posts], dim=-1)
            same[posts, places] = cosine > 1 - SAME
        if post_keys is not None:
            same |= (self.keys[rows].to(entries.device) == post_keys[:, None]) & (post_keys != 0)[:, None]
        return same

    def label_summaries(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Task name -> what each entry says beyond the average (M, C), 0 where unknown, and what it knows (M, C) of 0 and 1;
        see `TaskKind.summary`."""
        if self._summaries is not None:
            return self._summaries
        summaries = {task["name"]: kind_of(task).summary(task, self.labels[task["name"]]) for task in self.tasks}
        if not torch.compiler.is_exporting():  # what is traced is no number to keep
            self._summaries = summaries
        return summaries

    def label_averages(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Task name -> mean and standard deviation (C,) of its labels; see `TaskKind.averages`."""
        if self._averages is not None:
            return self._averages
        averages = {task["name"]: kind_of(task).averages(task, self.labels[task["name"]]) for task in self.tasks}
        if not torch.compiler.is_exporting():
            self._averages = averages
        return averages

    def with_content(self, keys: dict[str, int]) -> set[str]:
        """Of ids with the keys of posts' content those of which an entry has that content, or one that is not known: other
        data may have the same ids."""
        entries = zip(self.ids, self.keys.tolist(), strict=True)
        return {name for name, key in entries if name in keys and key in (0, keys[name])}

    def label(self, task: dict, entry: int):
        """One entry's label as a reader knows it: a name, a list of names, a number; None where missing."""
        return kind_of(task).label(task, self.labels[task["name"]][entry])

    def evidence(self, entries: Tensor, similarity: Tensor, most: int | None = None) -> list[dict]:
        """One post's neighbours (K,) as `{"id", "similarity", "labels": {task: label}}`, nearest first; unknown labels left
        out, -1 skipped, at most `most`."""
        found: list[dict] = []
        for entry, cosine in zip(entries.tolist(), similarity.tolist(), strict=True):
            if entry >= 0 and (most is None or len(found) < most):
                labels = {task["name"]: self.label(task, entry) for task in self.tasks}
                labels = {name: label for name, label in labels.items() if label is not None}
                # a rounded cosine can exceed 1
                found.append({"id": self.ids[entry], "similarity": min(cosine, 1.0), "labels": labels})
        return found

    def with_tasks(self, tasks: list[dict]) -> "RelationMemory":
        """The same posts labelled for other tasks: those that stay keep their labels, of the others nothing is known."""
        known = {task["name"]: (task["kind"], task["labels"]) for task in self.tasks}
        labels = {}
        for task in tasks:
            stays = known.get(task["name"]) == (task["kind"], task["labels"])
            labels[task["name"]] = (
                self.labels[task["name"]]
                if stays
                else kind_of(task).collate(task, [None] * len(self)).to(self.keys.device)
            )
        posts = self.embeds, self.present, self.ids, self.keys
        memory = RelationMemory(*posts, tasks, labels, self.fingerprints, self.of_training)
        memory._searches = dict(self._searches)
        return memory

    def add(self, other: "RelationMemory") -> None:
        """Append the posts of `other`, which comes from the same encoders; an index is dropped.

        Raises:
            ValueError: an id is there already, or encoders, widths or tasks differ; nothing is changed then.
        """
        self.to(CPU), other.to(CPU)
        if known := set(self.ids) & set(other.ids):
            raise ValueError(f"the relation memory has a post {sorted(known)[0]!r} already; remove it first")
        if self.fingerprints and other.fingerprints and not set(self.fingerprints) & set(other.fingerprints):
            raise ValueError("the posts to add were encoded by other encoders than those of the relation memory")
        if self.tasks != other.tasks:
            raise ValueError("the posts to add are labelled for other tasks than those of the relation memory")
        for modality in MODALITIES:
            if self.embeds[modality].shape[1:] != other.embeds[modality].shape[1:]:
                raise ValueError(f"the posts to add have {modality} embeddings of another width")
        self._take(
            RelationMemory(
                {m: torch.cat([self.embeds[m], other.embeds[m]]) for m in MODALITIES},
                {m: torch.cat([self.present[m], other.present[m]]) for m in MODALITIES},
                self.ids + other.ids,
                torch.cat([self.keys, other.keys]),
                self.tasks,
                {name: torch.cat([value, other.labels[name]]) for name, value in self.labels.items()},
                self.fingerprints or other.fingerprints,
                self.of_training,
            )
        )

    def remove(self, ids) -> None:
        """Forget the posts of these ids, or of one; an index is dropped.

        Raises:
            ValueError: an id is not there; nothing is changed then.
        """
        gone = {str(ids)} if isinstance(ids, (str, int)) else {str(name) for name in ids}
        if unknown := gone - set(self.ids):
            raise ValueError(f"the relation memory has no post {sorted(unknown)[0]!r}")
        self.to(CPU)
        rows = torch.tensor([row for row, name in enumerate(self.ids) if name not in gone], dtype=torch.long)
        self._take(
            RelationMemory(
                {m: self.embeds[m][rows] for m in MODALITIES},
                {m: self.present[m][rows] for m in MODALITIES},
                [self.ids[row] for row in rows.tolist()],
                self.keys[rows],
                self.tasks,
                {name: value[rows] for name, value in self.labels.items()},
                self.fingerprints,
            )
        )

    def save(self, folder) -> None:
        """Write `relation_memory.safetensors`, and indexes where there are, to `folder`; see `memory_file.save_memory`."""
        save_memory(self, folder)

    @classmethod
    def load(cls, path) -> "RelationMemory":
        """Read a memory from its file or the folder that has it; embeddings are memory-mapped.

        An index beside it is used where FAISS is installed.

        Raises:
            FileNotFoundError: there is none. ValueError: the file is damaged or no relation memory.
        """
        return in_one_state(path, lambda: cls._load(path))

    @classmethod
    def _load(cls, path) -> "RelationMemory":
        arguments, indexes = read_memory(path)
        try:
            memory = cls(**arguments)
        except ValueError as error:
            raise ValueError(f"{memory_path(path)} is no sound relation memory: {error}") from error
        for modality, index in indexes.items() if FAISS_AVAILABLE else ():
            found = IndexSearch.load(index, memory.embeds[modality], memory.present[modality])
            memory._searches[modality] = found
        return memory

    def _take(self, other: "RelationMemory") -> None:
        self.__dict__.update(other.__dict__)

    def _check(self) -> None:
        count = len(self.ids)
        if len(set(self.ids)) != count:
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(f"the relation memory has the id {twice!r} twice")
        for modality in MODALITIES:
            embeds, present = self.embeds[modality], self.present[modality]
            _require(f"{modality} embeddings", embeds, count, 2, torch.float16)
            _require(f"has_{modality}", present, count, 1, torch.bool)
            if len(lost := (~torch.isfinite(embeds).all(-1)).nonzero()):
                raise ValueError(f"the {modality} embedding of the post {self.ids[int(lost[0])]!r} is not finite")
        _require("keys", self.keys, count, 1, torch.int64)
        names = [task.get("name") for task in self.tasks]
        if len(set(names)) != len(names) or set(names) - set(self.labels):
            missing = sorted(set(map(str, names)) - set(self.labels)) or names
            raise ValueError(f"the relation memory has no labels for its task {missing[0]!r}")
        for task in self.tasks:
            labels, wanted = self.labels[task["name"]], kind_of(task).collate(task, [None])
            what = f"labels of {task['name']!r}"
            _require(what, labels, count, wanted.dim(), wanted.dtype)
            if labels.shape[1:] != wanted.shape[1:] or not kind_of(task).are_labels(task, labels):
                raise ValueError(f"the {what} of a relation memory are none of that task ({task['kind']})")


def _nearest_of(engine, queries: Tensor, asks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`engine.nearest` of those queries that ask, (B,) bool; for the others nobody is sought: to nothing all are alike."""
    if bool(asks.all()):
        return engine.nearest(queries, count)
    cosines = queries.new_full((len(queries), count), -torch.inf, dtype=torch.float32)
    entries = torch.zeros(len(queries), count, dtype=torch.long, device=queries.device)
    if bool(asks.any()):
        cosines[asks], entries[asks] = engine.nearest(queries[asks], count)
    return cosines, entries


def _require(name: str, value: Tensor, count: int, dimensions: int, dtype: torch.dtype) -> None:
    if value.dim() != dimensions or value.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} of {dimensions} dimensions, got {value.dtype} {tuple(value.shape)}")
    if len(value) != count:
        raise ValueError(f"a relation memory of {count} ids has {len(value)} {name}")


def _half(values: Tensor) -> Tensor:
    """In half precision; what is too large for it becomes its largest, what is no number stays none."""
    largest = torch.finfo(torch.float16).max
    if values.dtype == torch.float16 or not values.is_floating_point():
        return values
    return torch.where(values.isfinite(), values.clamp(-largest, largest), values).half()


def _compact(entries: Tensor, similarity: Tensor, chosen: Tensor, most: int) -> Neighbours:
    """The chosen ones of each row, at most `most`, in order, without the columns that no row needs."""
    similarity, entries = in_order(similarity.masked_fill(~chosen, -torch.inf), entries)
    counts = chosen.sum(-1)
    if bool((counts > most).any()):
        logger.warning_once(
            f"more than {most} reference posts are equally near or above the threshold: the first {most} count"
        )
    width = min(int(counts.amax()), most)
    similarity, entries = similarity[:, :width], entries[:, :width]
    kept = similarity > -torch.inf
    return Neighbours(torch.where(kept, entries, -1), torch.where(kept, similarity, 0.0))
