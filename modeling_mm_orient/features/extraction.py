# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Feature extraction: posts through frozen encoders into Arrow shards, as fast as the encoders go, in bounded memory.

Workers decode pictures and tokenise texts while the encoders are busy with the batch before; posts of like length share a
batch. A shard is named after the posts in it and gets that name when it is complete: work that was killed at any moment goes
on without a lost or a double post, in any number of processes.

Shapes: R regions, T tokens, D features, F task features.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..data.description import DataDescription
from ..data.json_files import write_json
from ..data.problems import Problem
from ..data.reading import stream_posts
from ..partial_files import whole_file
from ..pictures import pictures_of, post_key
from ..task_features import task_features
from .pretrained_sources import digest_of_source

FORMAT = 4  # of the shards; part of the fingerprint
NO_MATTER = (  # of an encoder's configuration, to what it makes of a post
    "_name_or_path", "architectures", "attn_implementation", "dtype", "torch_dtype", "gradient_checkpointing", "id2label",
    "label2id", "num_labels", "problem_type", "transformers_version", "use_cache",
)  # fmt: skip
SHARD_POSTS = 512
VECTORS = ("image_embeds", "text_embeds", "text_layers", "task_features")
OF_ENCODERS = VECTORS[:-1]
SEQUENCES = {"region_features": "region_mask", "token_features": "token_mask"}
NGRAM_IDS = "ngram_ids"
COLUMNS = datasets.Features(
    {
        "id": datasets.Value("string"),
        "key": datasets.Value("string"),
        **{name: datasets.Sequence(datasets.Value("float16")) for name in (*VECTORS, *SEQUENCES)},
        NGRAM_IDS: datasets.Sequence(datasets.Value("int32")),
        "has_image": datasets.Value("bool"),
        "has_text": datasets.Value("bool"),
    }
)
REPORT_FILE = "extraction.json"


@dataclass
class Shard:
    """Posts whose features lie in one file: its name, the posts (`id`, `image`, `text`, perhaps `post_key`), where each
    stands in the data, what is already known to be wrong with it, or None, and the shard's number in the data."""

    name: str
    posts: list[dict]
    places: list[str]
    problems: list[str | None]
    number: int = 0


@dataclass
class PreparedBatch:
    """A batch on its way from a worker: `inputs` of the encoders for the posts that can be read, and about each of these
    its position in the shard, id, key, treated text, numbers and place in the data."""

    shard: str
    last: bool
    inputs: dict | None
    positions: list[int]
    ids: list[str]
    keys: list[str]
    texts: list[str]
    places: list[str]
    problems: list[Problem]
    numbers: list[list[float] | None] = field(default_factory=list)


def encoder_fingerprint(model, processor) -> str:
    """Fingerprint of what turns a post into features: encoders, with their weights and configurations, classifiers of task
    features, and the processor's settings and vocabularies."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for name, encoder in model.encoders.items():
        digest.update(json.dumps([name, _computed_by(encoder.config)], sort_keys=True, default=str).encode())
        for key, value in encoder.state_dict().items():
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(model.config.embedding_pooling.encode())
    for part in (processor, processor.joint_processor):
        if part is not None:
            settings = part.to_dict()
            for name in ("numeric_columns", "ngrams"):  # they change no stored feature
                settings.pop(name, None)
            settings["task_features"] = [
                entry | {"source": digest_of_source(entry["source"], entry["revision"]), "revision": None}
                for entry in settings.get("task_features") or []
            ]
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
            vocabulary = part.tokenizer.get_vocab() if part.tokenizer is not None else {}
            digest.update(json.dumps(sorted(vocabulary.items())).encode())
    return digest.hexdigest()[:32]


def _computed_by(config) -> dict:
    """What an encoder's configuration says of how it computes and is not usual: a library's new field changes nothing."""
    try:
        usual = _of_matter(type(config)().to_dict())
    except Exception:  # a configuration that is nothing by itself
        usual = {}
    said, unknown = _of_matter(config.to_dict()), object()
    return {name: value for name, value in said.items() if usual.get(name, unknown) != value}


def _of_matter(said):
    """A configuration's entries without those of `NO_MATTER`, inside others too."""
    if not isinstance(said, dict):
        return said
    return {name: _of_matter(value) for name, value in said.items() if name not in NO_MATTER}


def extract_features(
    description: DataDescription,
    model,
    processor,
    output,
    batch_size: int = 32,
    workers: int | None = None,
    bf16: bool = False,
    shard_posts: int = SHARD_POSTS,
) -> dict:
    """Features of all posts of a data set, in the order of its rows, for `datasets.load_from_disk` and as a feature cache.

    Under `accelerate launch` every process takes the shards that are its own by number. What is there already is not
    encoded again; rows, pictures or encoders that have changed since are.

    Args:
        description: the data; labels and splits are not looked at.
        model: `MMOrientModel`. processor: `MMOrientProcessor`.
        output: a feature cache; the data set is its folder named after the encoders' fingerprint.
        batch_size: posts per forward pass.
        workers: processes that prepare batches, 0 for none (default `default_workers`).
        bf16: run the encoders in bfloat16 autocast.
        shard_posts: rows of a file, and what is encoded again where a run was interrupted.

    Returns:
        `{"folder", "rows", "stored", "encoded_now", "problems"}`; the last a list of `{"where", "what"}`. It is also written
        to the folder, as `extraction.json`.
    """
    state = process_state()
    folder = Path(output) / encoder_fingerprint(model, processor)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(state.device)
    done = frozenset(path.name for path in folder.glob("rows-*.arrow"))
    shares = {"share": state.process_index, "shares": state.num_processes, "shard_posts": shard_posts}
    shards = DataShards(description, **shares, done=done)
    written = 0
    for count, _ in write_shards(model, processor, shards, folder, batch_size, workers, bf16):
        written += count
    mine = DataShards(description, **shares, done=frozenset(), with_posts=False)
    own = [(shard.number, shard.name) for shard in mine]
    written = sum(gather_object([written]))  # waits for everyone
    names = [name for _, name in sorted(gather_object(own))]
    stored, problems = 0, []
    for name in names:
        try:
            with pa.memory_map(str(folder / name)) as file:
                found = json.loads(pa.ipc.open_stream(file).schema.metadata[b"mm_orient"])
        except (pa.ArrowException, OSError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder / name} is damaged ({error}): remove it, and the same command encodes it again"
            ) from None
        stored += found["posts"]
        problems += found["problems"]
    report = {"folder": str(folder), "rows": stored + len({p["where"] for p in problems}), "stored": stored}
    report |= {"encoded_now": written, "problems": problems}
    if state.is_main_process:
        write_json(folder / "dataset_info.json", {"features": COLUMNS.to_dict()})
        listing = {"_data_files": [{"filename": name} for name in names], "_fingerprint": folder.name, "_split": None}
        listing |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
        write_json(folder / "state.json", listing)
        write_json(folder / REPORT_FILE, report)
    state.wait_for_everyone()
    return report


def process_state() -> PartialState:
    """This process among those of `accelerate launch`; they may wait for each other for days.

    Raises:
        ValueError: several processes were started, and accelerate did not join them.
    """
    # `PartialState` does not read this variable by itself, as `Accelerator` does
    state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(weeks=4))
    if state.num_processes < (started := int(os.environ.get("WORLD_SIZE", 1))):
        raise ValueError(
            f"WORLD_SIZE says {started} processes, and each would do all the work: without an accelerator, set "
            "ACCELERATE_USE_CPU=true"
        )
    return state


class DataShards:
    """The shards of a data set that a process has to encode, read from its rows as they are taken.

    Args:
        share, shares: take the shards whose number leaves `share` when divided by `shares`.
        done: names of shards to leave out. with_posts: False for the names alone. shard_posts: rows of a shard.
    """

    def __init__(
        self,
        description: DataDescription,
        share: int,
        shares: int,
        done: frozenset,
        with_posts: bool = True,
        shard_posts: int = SHARD_POSTS,
    ):
        self.description, self.share, self.shares, self.done = description, share, shares, done
        self.with_posts, self.shard_posts = with_posts, shard_posts

    def __iter__(self) -> Iterator[Shard]:
        number, rows = self.share, []
        for row in stream_posts(self.description, lambda index: index // self.shard_posts % self.shares == self.share):
            rows.append(row)
            if len(rows) == self.shard_posts:
                yield from self._shard(number, rows)
                number, rows = number + self.shares, []
        if rows:
            yield from self._shard(number, rows)

    def _shard(self, number: int, rows: list) -> Iterator[Shard]:
        digest = hashlib.sha256(str(number).encode())
        for where, post, problem in rows:
            digest.update(json.dumps([where, post["id"], post["text"], problem]).encode())
            for image in [post["image"], *post.get("more_images", ())]:
                digest.update(_image_state(image))
        name = f"rows-{digest.hexdigest()[:32]}.arrow"
        if name not in self.done:
            places, posts, problems = zip(*rows, strict=True) if self.with_posts else ((), (), ())
            yield Shard(name, list(posts), list(places), list(problems), number)


def write_shards(
    model,
    processor,
    shards: Iterable[Shard],
    folder: Path,
    batch_size: int = 32,
    workers: int | None = None,
    bf16: bool = False,
    total: int | None = None,
) -> Iterator[tuple[int, list[Problem]]]:
    """Encode shards and write each to `folder` under its name; yields a shard's number of stored posts and its problems.

    Args:
        shards: may be iterated by several workers at once, and then gives each the same.
        total: posts, for the progress bar.
    """
    model.eval()
    workers = default_workers(model.device) if workers is None else workers
    loader = DataLoader(
        ShardBatches(shards, processor, batch_size),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_start_worker,
        # the engines that read pictures have threads, which do not survive a fork
        multiprocessing_context="spawn" if workers and _uses_engines(processor) else None,
    )
    quiet = total == 0 or not process_state().is_main_process
    parts, problems = [], []
    with tqdm(total=total, desc="encoding posts", unit="post", disable=quiet) as progress:
        for batch in loader:
            if batch.inputs is not None:
                parts.append(encode_batch(model, processor, batch, bf16))
            problems += batch.problems
            progress.update(len(batch.ids) + len(batch.problems))
            if batch.last:
                _write_shard(folder / batch.shard, parts, problems)
                yield sum(len(part["id"]) for part in parts), problems
                parts, problems = [], []


class ShardBatches(IterableDataset):
    """Prepared batches of shards; of several workers each prepares its own of them, and they arrive in order."""

    def __init__(self, shards: Iterable[Shard], processor, batch_size: int):
        self.shards, self.processor, self.batch_size = shards, processor, batch_size
        self.bare = copy.copy(processor)  # for posts that are treated already
        self.bare.text_cleaning, self.bare.task_features, self.bare.numeric_columns = [], [], []
        self.bare.remove_overlaid_text = self.bare.read_missing_text = False
        self.bare.ngrams = True  # stored whoever reads them

    def __iter__(self) -> Iterator[PreparedBatch]:
        worker = get_worker_info()
        own, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = 0
        for shard in self.shards:
            # posts of like length together: less padding
            order = sorted(range(len(shard.posts)), key=lambda p: len(shard.posts[p]["text"] or ""))
            for start in range(0, len(order), self.batch_size):
                if number % workers == own:
                    yield self._prepared(shard, order[start : start + self.batch_size], start)
                number += 1

    def _prepared(self, shard: Shard, positions: list[int], start: int) -> PreparedBatch:
        last = start + self.batch_size >= len(shard.posts)
        batch = PreparedBatch(shard.name, last, None, [], [], [], [], [], [])
        images = []
        for position in positions:
            post, problem = shard.posts[position], shard.problems[position]
            try:
                if problem is not None:
                    raise ValueError(problem)
                # read one by one: no large picture waits for others in full size
                pictures = [self.processor.read_picture(picture) for picture in pictures_of(post)]
                treated, text = self.processor.treat([pictures], [post["text"]])
                key = post.get("post_key") or post_key(post)
            except ImportError:  # an engine that is not installed is no post's fault
                raise
            except Exception as error:  # engines that read pictures raise anything
                what = str(error)[:500] or type(error).__name__
                batch.problems.append(Problem(shard.places[position], "unreadable post", what))
                continue
            images += treated
            batch.texts += text
            batch.positions.append(position)
            batch.ids.append(str(post.get("id")))
            batch.keys.append(key)
            batch.numbers.append(post.get("numbers"))
            batch.places.append(shard.places[position])
        if images:
            batch.inputs = dict(self.bare(images=images, text=batch.texts, return_tensors="pt"))
        return batch


def default_workers(device: torch.device) -> int:
    """Processes that prepare batches, at most 8: beside an accelerator half of this process's cores, at least 1.

    Where the encoders run on the cores themselves an eighth of them: on few cores a worker costs more than it brings.
    """
    cores = (os.cpu_count() or 1) // process_state().num_processes
    return min(8, cores // 8 if device.type == "cpu" else max(1, cores // 2))


@torch.inference_mode()
def encode_batch(model, processor, batch: PreparedBatch, bf16: bool = False) -> dict[str, list]:
    """Columns of a batch, `position` among them: of features one flat half-precision array per post, without padding.

    A post whose features are not finite is taken out of the batch, and has a problem there.
    """
    device = model.device
    ngrams = batch.inputs.get(NGRAM_IDS)
    inputs = {name: value.to(device, non_blocking=True) for name, value in batch.inputs.items() if name != NGRAM_IDS}
    inputs |= _stand_ins(model.config, inputs, len(batch.ids))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        encoded = model.encode_posts(**inputs)
    sources = processor.task_features
    extra = task_features(batch.texts, sources, device) if sources else None
    sound = _finite_rows(encoded, extra)
    if not sound.all():
        kept = _take_out(batch, sound).to(device)
        encoded = {name: None if values is None else values[kept] for name, values in encoded.items()}
        ngrams = None if ngrams is None else ngrams[kept.cpu()]
        extra = None if extra is None else extra[kept]
    return _columns(encoded, extra, ngrams, batch)


def _finite_rows(encoded, extra: torch.Tensor | None) -> torch.Tensor:
    """Which posts (B,) have finite features, padding left aside."""
    found = [encoded[name] for name in OF_ENCODERS if encoded.get(name) is not None] + (
        [] if extra is None else [extra]
    )
    found += [encoded[name].masked_fill(~encoded[mask][..., None], 0) for name, mask in SEQUENCES.items()]
    return torch.stack([values.float().flatten(1).isfinite().all(1).cpu() for values in found]).all(0)


def _take_out(batch: PreparedBatch, sound: torch.Tensor) -> torch.Tensor:
    """Leave the posts of a batch that are `sound` (B,) in it, the others as problems; returns the rows that stay."""
    for row in (~sound).nonzero().flatten().tolist():
        what = "the encoders give features that are no finite numbers"
        batch.problems.append(Problem(batch.places[row], "unreadable post", what))
    kept = sound.nonzero().flatten()
    for name in ("positions", "ids", "keys", "texts", "places", "numbers"):
        values = getattr(batch, name)
        values[:] = [values[row] for row in kept.tolist()]
    return kept


def _columns(encoded, extra: torch.Tensor | None, ngrams: torch.Tensor | None, batch: PreparedBatch) -> dict[str, list]:
    if not batch.ids:
        return {name: [] for name in ("position", *COLUMNS)}
    columns = {"id": batch.ids, "key": batch.keys, "position": batch.positions}
    empty = [np.zeros(0, np.float16)] * len(batch.ids)
    for name, values in {**{name: encoded.get(name) for name in OF_ENCODERS}, "task_features": extra}.items():
        columns[name] = empty if values is None else list(_half(values))
    numbers = np.zeros((len(batch.ids), 0), np.int32) if ngrams is None else ngrams.numpy().astype(np.int32)
    columns[NGRAM_IDS] = [row[row > 0] for row in numbers]
    for name, mask in SEQUENCES.items():
        kept = encoded[mask]
        ends = kept.sum(1).cumsum(0).cpu().numpy()[:-1]
        columns[name] = [rows.reshape(-1) for rows in np.split(_half(encoded[name][kept]), ends)]
    for name in ("has_image", "has_text"):
        columns[name] = encoded[name].tolist()
    return columns


def _stand_ins(config, inputs: dict, count: int) -> dict[str, torch.Tensor]:
    """Zeros for regions or tokens that no encoder reads but the joint one: the model wants both, arrays replace them."""
    stand_ins = {}
    if "joint_pixel_values" in inputs and config.vision_config is None:
        stand_ins["region_features"] = inputs["joint_pixel_values"].new_zeros(count, 1, config.region_feature_dim)
    if "joint_input_ids" in inputs and config.text_config is None:
        device = inputs["joint_input_ids"].device
        stand_ins["token_features"] = torch.zeros(count, 1, config.token_feature_dim, device=device)
    return stand_ins


def feature_table(parts: list[dict[str, list]]) -> pa.Table:
    """What `encode_batch` gave for some batches, in the order of the positions."""
    columns = {name: [value for part in parts for value in part[name]] for name in ("position", *COLUMNS)}
    order = np.argsort(columns["position"], kind="stable")
    arrays = []
    for entry in COLUMNS.arrow_schema:
        values = [columns[entry.name][row] for row in order]
        if entry.name in (*VECTORS, *SEQUENCES, NGRAM_IDS):
            ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
            flat = np.concatenate([np.zeros(0, np.int32 if entry.name == NGRAM_IDS else np.float16), *values])
            arrays.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)).cast(entry.type))
        else:
            arrays.append(pa.array(values, type=entry.type))
    return pa.Table.from_arrays(arrays, schema=COLUMNS.arrow_schema)


def _write_shard(path: Path, parts: list[dict], problems: list[Problem]) -> None:
    table = feature_table(parts)
    content = {"posts": len(table), "problems": [{"where": p.where, "what": p.what} for p in problems]}
    table = table.replace_schema_metadata(table.schema.metadata | {b"mm_orient": json.dumps(content).encode()})
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        if not path.exists():  # else another job of this process has finished the same shard
            raise


def _image_state(image: dict | None) -> bytes:
    """What changes when a picture does, without reading it where it is a file."""
    if image is None:
        return b"none"
    if image.get("bytes") is not None:
        return hashlib.sha256(image["bytes"]).digest()
    try:
        found = os.stat(image["path"])
    except (OSError, ValueError):
        return image["path"].encode()
    return f"{image['path']} {found.st_size} {found.st_mtime_ns}".encode()


def _uses_engines(processor) -> bool:
    return processor.remove_overlaid_text or processor.read_missing_text


def _start_worker(_) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _half(values: torch.Tensor) -> np.ndarray:
    largest = torch.finfo(torch.float16).max
    return values.float().clamp(-largest, largest).half().cpu().numpy()
