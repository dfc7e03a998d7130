# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation memory (ours): reference posts with their embeddings, ids and labels, looked up as neighbours.

With it a verdict depends on the post and the memory, not on the other posts of the batch, and can name the known posts it
rests on. It is a safetensors file of its own beside the weights, memory-mapped when loaded.

Shapes: M reference posts, B posts, K neighbours, D features, C labels of a task.
"""

import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import cached_file, logging

from .encoders import encoder_fingerprints
from .optional_dependencies import FAISS_AVAILABLE
from .processing_mm_orient import key_number, post_key
from .similarity_search import MOST_EXACT, ExactSearch, IndexSearch, index_kind, require_faiss
from .task_heads import MISSING_LABEL, collate_labels

logger = logging.get_logger(__name__)

MEMORY_FILE = "relation_memory.safetensors"
INDEX_FILE = "relation_memory.{modality}.faiss"
FORMAT = "mm-orient relation memory 1"
LARGE_MEMORY = "relation_memory"  # the folder, inside a model's, of a memory that is not copied into every checkpoint
MODALITIES = ("image", "text")
MOST_BYTES_IN_CHECKPOINT = 512 * 2**20
MOST_NEIGHBOURS = 1024
CPU = torch.device("cpu")
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
    ):
        self.embeds = {modality: _half(embeds[modality]) for modality in MODALITIES}
        self.present, self.ids, self.keys = dict(present), list(ids), keys
        self.tasks = [{part: task[part] for part in ("name", "kind", "labels")} for task in tasks]
        self.labels, self.fingerprints = dict(labels), list(fingerprints)
        self._searches, self._summaries = {}, None
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
            self._searches = {
                name: engine for name, engine in self._searches.items() if isinstance(engine, IndexSearch)
            }
            self.embeds = {name: value.to(device) for name, value in self.embeds.items()}
            self.present = {name: value.to(device) for name, value in self.present.items()}
            self.keys, self._summaries = self.keys.to(device), None
            self.labels = {name: value.to(device) for name, value in self.labels.items()}
        return self

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
        left_out=None,
    ) -> Neighbours:
        """The reference posts near each query: the `top_k` nearest, those above `threshold`, or both conditions.

        Posts tied with the k-th nearest count too, so that the answer does not depend on the order of equals; at most
        `MOST_NEIGHBOURS` come back.

        Args:
            modality: whose embeddings are compared.
            queries: (B, D). has_modality: (B,) bool, False for a post without neighbours.
            left_out: function of entries (B, K) that says in bool (B, K) which must not be found.
        """
        self.to(queries.device)
        engine, most = self.search(modality), min(len(self), MOST_NEIGHBOURS)
        lowest = torch.full((len(queries), 1), -torch.inf if threshold is None else threshold, device=queries.device)
        wanted = min(most, (64 if top_k is None else top_k) + 8)
        while wanted:
            nearest, entries = engine.nearest(queries, wanted)
            allowed = (nearest > -torch.inf) if left_out is None else (nearest > -torch.inf) & ~left_out(entries)
            similarity, cut = nearest.masked_fill(~allowed, -torch.inf), lowest
            if top_k is not None and top_k <= wanted:
                cut = torch.maximum(lowest, similarity.topk(top_k).values[:, -1:] - TIE)
            complete = (nearest[:, -1:] <= cut) | ~has_modality[:, None]
            if wanted == most or complete.all():
                return _compact(entries, similarity, allowed & (similarity > cut) & has_modality[:, None])
            wanted = min(most, 4 * wanted)
        empty = queries.new_zeros(len(queries), 0)
        return Neighbours(empty.long(), empty.float())

    def embeds_of(self, modality: str, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, K, D), float32, and presence (B, K) of `entries` (B, K), zeros and False for -1."""
        rows = entries.clamp(min=0).to(self.keys.device)
        found = (entries >= 0) & self.present[modality][rows].to(entries.device)
        return self.embeds[modality][rows].to(entries.device).float() * found[..., None], found

    def same_posts(self, entries: Tensor, post_keys: Tensor | None, embeds: dict, present: dict) -> Tensor:
        """Which of `entries` (B, K) are the post itself or its exact duplicate: equal key, or equal embeddings throughout.

        Args:
            post_keys: (B,) int64, or None. embeds, present: the posts' own, as in the constructor.
        """
        entries = entries.clamp(min=0)
        same = torch.ones_like(entries, dtype=torch.bool)
        for modality in MODALITIES:
            theirs, found = self.embeds_of(modality, entries)
            ours = embeds[modality].detach().float()
            cosine = torch.cosine_similarity(theirs, ours[:, None], dim=-1)
            here = present[modality][:, None]
            same &= (found == here) & (~here | (cosine > 1 - SAME))
        if post_keys is not None:
            same |= (self.keys[entries.to(self.keys.device)].to(entries.device) == post_keys[:, None]) & (
                post_keys != 0
            )[:, None]
        return same

    def label_summaries(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Task name -> what each entry says beyond the average (M, C), 0 where unknown, and what it knows (M, C) of 0 and 1.

        Single label: one-hot minus the classes' shares. Multi label: 0 or 1 minus the label's share. Regression: the
        standardised value, C being 1.
        """
        if self._summaries is None:
            self._summaries = {task["name"]: _label_summary(task, self.labels[task["name"]]) for task in self.tasks}
        return self._summaries

    def label(self, task: dict, entry: int):
        """One entry's label as a reader knows it: a name, a list of names, a number; None where missing."""
        label = self.labels[task["name"]][entry]
        if task["kind"] == "single_label":
            return None if label == MISSING_LABEL else task["labels"][int(label)]
        if label.isnan().any():
            return None
        if task["kind"] == "regression":
            return float(label)
        return [name for name, value in zip(task["labels"], label.tolist(), strict=True) if value]

    def evidence(self, entries: Tensor, similarity: Tensor, most: int | None = None) -> list[dict]:
        """One post's neighbours (K,) as `{"id", "similarity", "labels": {task: label}}`, nearest first; unknown labels left
        out, -1 skipped, at most `most`."""
        found = []
        for entry, cosine in zip(entries.tolist(), similarity.tolist(), strict=True):
            if entry >= 0 and (most is None or len(found) < most):
                labels = {task["name"]: self.label(task, entry) for task in self.tasks}
                labels = {name: label for name, label in labels.items() if label is not None}
                # a rounded cosine can exceed 1
                found.append({"id": self.ids[entry], "similarity": min(cosine, 1.0), "labels": labels})
        return found

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
            )
        )

    def remove(self, ids) -> None:
        """Forget the posts of these ids; an index is dropped.

        Raises:
            ValueError: an id is not there; nothing is changed then.
        """
        gone = set(ids)
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
        """Write `relation_memory.safetensors`, and an index where there is one, to `folder`: each complete or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        encoded = [name.encode() for name in self.ids]
        tensors = {f"{m}_embeds": self.embeds[m] for m in MODALITIES} | {
            f"has_{m}": self.present[m] for m in MODALITIES
        }
        tensors |= {f"labels.{name}": value for name, value in self.labels.items()}
        tensors |= {
            "keys": self.keys,
            "ids": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
            "id_lengths": torch.tensor([len(name) for name in encoded], dtype=torch.int64),
        }
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        described = {
            "format": FORMAT,
            "fingerprints": json.dumps(self.fingerprints),
            "tasks": json.dumps(self.tasks),
            "indexes": json.dumps([m for m in MODALITIES if isinstance(self._searches.get(m), IndexSearch)]),
            "checksum": _checksum(tensors),
        }
        partial = folder / f".{MEMORY_FILE}.partial"
        save_file(tensors, partial, metadata=described)
        os.replace(partial, folder / MEMORY_FILE)
        for modality in MODALITIES:
            path, engine = folder / INDEX_FILE.format(modality=modality), self._searches.get(modality)
            if isinstance(engine, IndexSearch):
                partial = path.with_name(f".{path.name}.partial")
                engine.save(partial)
                os.replace(partial, path)
            else:
                path.unlink(missing_ok=True)

    @classmethod
    def load(cls, path) -> "RelationMemory":
        """Read a memory from its file or the folder that has it; embeddings are memory-mapped.

        An index beside it is used where FAISS is installed.

        Raises:
            FileNotFoundError: there is none. ValueError: the file is damaged or no relation memory.
        """
        path = Path(path)
        path = path / MEMORY_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no relation memory there")
        tensors, described = _read(path)
        if described.get("format") != FORMAT:
            raise ValueError(f"{path} is no relation memory of format {FORMAT!r}: it says {described.get('format')!r}")
        # beyond a checkpoint's size, reading every byte at each start would undo the memory mapping; `verify` does it
        if sum(value.numel() * value.element_size() for value in tensors.values()) <= MOST_BYTES_IN_CHECKPOINT:
            _verify(path, tensors, described)
        content, ends = tensors["ids"].numpy().tobytes(), tensors["id_lengths"].cumsum(0).tolist()
        memory = cls(
            {m: tensors[f"{m}_embeds"] for m in MODALITIES},
            {m: tensors[f"has_{m}"] for m in MODALITIES},
            [content[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else [],
            tensors["keys"],
            json.loads(described["tasks"]),
            {name.removeprefix("labels."): value for name, value in tensors.items() if name.startswith("labels.")},
            json.loads(described["fingerprints"]),
        )
        for modality in json.loads(described["indexes"]) if FAISS_AVAILABLE else []:
            index = path.with_name(INDEX_FILE.format(modality=modality))
            if index.is_file():
                memory._searches[modality] = IndexSearch.load(index, memory.present[modality])
            else:
                logger.warning("%s is missing: exact search instead", index)
        return memory

    def _take(self, other: "RelationMemory") -> None:
        self.__dict__.update(other.__dict__)

    def _check(self) -> None:
        count = len(self.ids)
        sized = {f"{m} embeddings": self.embeds[m] for m in MODALITIES} | {
            f"has_{m}": self.present[m] for m in MODALITIES
        }
        sized |= {"keys": self.keys} | {f"labels of {name!r}": value for name, value in self.labels.items()}
        for name, value in sized.items():
            if len(value) != count:
                raise ValueError(f"a relation memory of {count} ids has {len(value)} {name}")
        if missing := [task["name"] for task in self.tasks if task["name"] not in self.labels]:
            raise ValueError(f"the relation memory has no labels for its task {missing[0]!r}")
        if len(set(self.ids)) != count:
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(f"the relation memory has the id {twice!r} twice")


def find_memory(name_or_path, required: bool, **hub_options) -> str | None:
    """Path of the memory file of a folder or Hub repository, downloaded with its indexes where it has to be.

    Args:
        required: raise OSError where there is none, and do not return None.
        hub_options: of `transformers.utils.cached_file`: `revision`, `token`, `cache_dir`, `subfolder` and so on.
    """
    if required and not os.path.isdir(name_or_path) and (os.path.isabs(name_or_path) or name_or_path.startswith(".")):
        raise FileNotFoundError(f"{name_or_path} is no folder: no {MEMORY_FILE} there")
    try:
        path = cached_file(
            name_or_path,
            MEMORY_FILE,
            _raise_exceptions_for_missing_entries=required,
            _raise_exceptions_for_connection_errors=required,
            **hub_options,
        )
    except OSError as error:
        raise OSError(f"no {MEMORY_FILE} in {name_or_path}: {error}") from error
    if path is not None and not os.path.isdir(name_or_path):
        for name in index_files(path):
            cached_file(name_or_path, name, **hub_options)
    return path


def reference_posts(model, posts, processor=None, batch_size: int = 32) -> RelationMemory:
    """Encode posts for a relation memory of `model`; see `MMOrientModel.build_relation_memory`."""
    tasks, tensors, labels, ids, keys = model.config.tasks, [], [], [], []
    progress = logging.tqdm(total=len(posts), desc="encoding reference posts", unit="post", leave=False)
    for start in range(0, len(posts), batch_size):
        batch = [posts[row] for row in range(start, min(start + batch_size, len(posts)))]
        tensors.append(_encode(model, batch, processor))
        labels.append(collate_labels(batch, tasks))
        keys += [post.get("post_key") or _content_key(post) for post in batch]
        ids += [None if post.get("id") is None else str(post["id"]) for post in batch]
        progress.update(len(batch))
    if not tensors:
        raise ValueError("a relation memory needs at least one post")
    return RelationMemory(
        {m: torch.cat([part[f"{m}_embeds"] for part in tensors]) for m in MODALITIES},
        {m: torch.cat([part[f"has_{m}"] for part in tensors]) for m in MODALITIES},
        _complete_ids(ids, keys),
        torch.tensor([0 if key is None else key_number(key) for key in keys]),
        tasks,
        {task["name"]: torch.cat([part[task["name"]] for part in labels]) for task in tasks},
        encoder_fingerprints(model),
    )


def _encode(model, posts: list[dict], processor) -> dict[str, Tensor]:
    if posts[0].get("image_embeds") is not None:
        inputs = {f"{m}_embeds": [torch.as_tensor(post[f"{m}_embeds"]) for post in posts] for m in MODALITIES}
        inputs = {name: torch.stack(rows).float() for name, rows in inputs.items()}
        return inputs | {
            f"has_{m}": torch.tensor([bool(post.get(f"has_{m}", True)) for post in posts]) for m in MODALITIES
        }
    if processor is None:
        raise ValueError("posts of pictures and texts need a `processor`; without one they must have `image_embeds`")
    images, texts = [post.get("image") for post in posts], [post.get("text") for post in posts]
    inputs = dict(processor(images=images, text=texts, return_tensors="pt").to(model.device))
    inputs.pop("task_features", None)
    for name in ("region_features", "token_features"):
        if posts[0].get(name) is not None:  # of encoders that the model lacks
            rows = [torch.as_tensor(post[name]).float() for post in posts]
            inputs[name] = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    encoded = model.encode_posts(**inputs)
    names = [f"{m}_embeds" for m in MODALITIES] + [f"has_{m}" for m in MODALITIES]
    return {name: encoded[name].cpu() for name in names}


def _content_key(post: dict) -> str | None:
    return post_key(post) if post.get("image") is not None or post.get("text") else None


def _complete_ids(ids: list[str | None], keys: list[str | None]) -> list[str]:
    """A post without an id is named by its content, or where that is unknown by its row; a second one of a name gets #2."""
    names, seen = [], Counter(name for name in ids if name is not None)
    for row, (name, key) in enumerate(zip(ids, keys, strict=True)):
        if name is None:
            base = str(row) if key is None else key[:16]
            seen[base] += 1
            name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        names.append(name)
    return names


def remove_memory(folder) -> None:
    """Delete a memory and its indexes from a folder that may have one."""
    for name in (MEMORY_FILE, *(INDEX_FILE.format(modality=modality) for modality in MODALITIES)):
        (Path(folder) / name).unlink(missing_ok=True)


def index_files(path) -> list[str]:
    """Names of the index files that belong to a memory file."""
    with safe_open(path, framework="pt") as file:
        return [INDEX_FILE.format(modality=m) for m in json.loads((file.metadata() or {}).get("indexes", "[]"))]


def verify_memory(path) -> None:
    """Compare a memory file, or the one in a folder, with its checksum, whatever its size. Raises ValueError if damaged."""
    path = Path(path)
    path = path / MEMORY_FILE if path.is_dir() else path
    _verify(path, *_read(path))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, memory-mapped, and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _verify(path: Path, tensors: dict[str, Tensor], described: dict[str, str]) -> None:
    if _checksum(tensors) != described.get("checksum"):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(memoryview(tensors[name].contiguous().flatten().view(torch.uint8).numpy()), value)
    return f"{value:08x}"


def _half(values: Tensor) -> Tensor:
    largest = torch.finfo(torch.float16).max
    return values if values.dtype == torch.float16 else values.clamp(-largest, largest).half()


def _compact(entries: Tensor, similarity: Tensor, chosen: Tensor) -> Neighbours:
    """The chosen ones of each row, in order, without the columns that no row needs."""
    order = chosen.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[:, : int(chosen.sum(-1).amax())]
    kept = chosen.gather(-1, order)
    return Neighbours(
        torch.where(kept, entries.gather(-1, order), -1), torch.where(kept, similarity.gather(-1, order), 0.0)
    )


def _label_summary(task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
    if task["kind"] == "single_label":
        known = (labels != MISSING_LABEL)[:, None].expand(-1, len(task["labels"]))
        values = F.one_hot(labels.clamp(min=0), len(task["labels"])).float()
    else:
        labels = labels.float().reshape(len(labels), -1)
        known, values = ~labels.isnan(), labels.nan_to_num(0.0)
    count = known.sum(0).clamp(min=1)
    values = (values - (values * known).sum(0) / count) * known
    if task["kind"] == "regression":
        values = values / (values.square().sum(0) / count).sqrt().clamp(min=1e-6)
    return values, known.float()
