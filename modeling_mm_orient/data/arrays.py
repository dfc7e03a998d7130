# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Features that were extracted elsewhere, as the authors' are: `.npy` files with a row per row of the table.

Shapes: N rows of the table, R regions, T tokens, D features.
"""

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch.utils.data import Dataset

from .description import FEATURE_DIMENSIONS

BLOCK_VALUES = 2**22
SEQUENCES = {"region_features": ("region_mask", "image"), "token_features": ("token_mask", "text")}


class FeatureArrays:
    """Memory-mapped arrays by feature.

    Args:
        paths: feature -> `.npy` file: `image_embeds` and `text_embeds` (N, D), `region_features` (N, R, D) and
            `token_features` (N, T, D), their `region_mask` and `token_mask` (N, R) and (N, T), default all, and
            `task_features` (N, D).
        block_values: read at a time where all rows are looked through.

    Raises:
        ValueError: a feature is unknown, a file is none or has another number of dimensions, or their rows differ in number.
    """

    def __init__(self, paths: dict[str, str], block_values: int = BLOCK_VALUES):
        self.paths, self._block_values = paths, block_values
        self.arrays = {name: self._open(name, path) for name, path in paths.items()}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"feature arrays must have a row per row of the table, got {found}")
        for name, (mask, _) in SEQUENCES.items():
            if mask in self.arrays and (name not in self.arrays or self[mask].shape != self[name].shape[:2]):
                raise ValueError(f"{paths[mask]}: `{mask}` must have the rows and columns of `{name}`")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else 0

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def check_rows(self, count: int, where: str) -> None:
        """Raise ValueError unless the arrays have `count` rows, as many as the table `where`."""
        if self.arrays and len(self) != count:
            name, path = next(iter(self.paths.items()))
            raise ValueError(f"{path}: `{name}` has {len(self)} rows, and {where} has {count}")

    def problems(self) -> Iterator[tuple[int, str]]:
        """Rows with a value that is no finite number in single precision, and what is wrong; what a mask hides is not looked
        at. The arrays are read a block of rows at a time."""
        masks = {name: self[mask] for name, (mask, _) in SEQUENCES.items() if mask in self}
        for name, array in self.arrays.items():
            if array.dtype.kind != "f" or not len(array):
                continue
            step = max(1, self._block_values // max(1, array[0].size))
            for start in range(0, len(array), step):
                with np.errstate(over="ignore"):
                    finite = np.isfinite(np.asarray(array[start : start + step]).astype(np.float32))
                if name in masks:
                    finite |= ~masks[name][start : start + step].astype(bool)[..., None]
                for row in np.flatnonzero(~finite.reshape(len(finite), -1).all(1)):
                    yield (
                        start + int(row),
                        f"row {start + int(row)} of `{name}` ({self.paths[name]}) has NaN or infinity",
                    )

    def config_fields(self, has_joint: bool) -> dict[str, int]:
        """Widths for `MMOrientConfig`; without a joint encoder and arrays of their own embeddings are pooled."""
        fields = {}
        for name, (_, modality) in SEQUENCES.items():
            if name in self:
                fields[f"{name.removesuffix('s')}_dim"] = self[name].shape[-1]
                if not has_joint:
                    embeds = self[f"{modality}_embeds"] if f"{modality}_embeds" in self else self[name]
                    fields[f"{modality}_embed_dim"] = embeds.shape[-1]
        if "task_features" in self:
            fields["task_feature_dim"] = self["task_features"].shape[-1]
        return fields

    def _open(self, name: str, path: str) -> np.ndarray:
        if name not in FEATURE_DIMENSIONS:
            raise ValueError(f"{name!r} is no feature; there are {', '.join(FEATURE_DIMENSIONS)}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file of `{name}`")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} is no .npy file of numbers ({error})") from None
        if (
            not isinstance(array, np.ndarray)
            or array.ndim != FEATURE_DIMENSIONS[name]
            or array.dtype.kind not in "fiub"
        ):
            shape = getattr(array, "shape", "several arrays")
            raise ValueError(f"{path}: `{name}` must be numbers of {FEATURE_DIMENSIONS[name]} dimensions, got {shape}")
        return array


class ArrayPosts(Dataset):
    """Posts, or posts with stored features, with those of arrays beside or in place of them.

    Args:
        posts: posts with their `row` in the table. keys: of their content, as the table has it. arrays: `FeatureArrays`.
        encoder_names: the encoders that the model has; what they read decides whether a modality is there.
    """

    def __init__(self, posts, keys: list[str], arrays: FeatureArrays, encoder_names: list[str]):
        self.posts, self.keys, self.arrays = posts, keys, arrays
        self.pooled = "joint" not in encoder_names
        self.decided = {
            "image": {"joint", "vision"} & set(encoder_names),
            "text": {"joint", "text"} & set(encoder_names),
        }

    def __len__(self) -> int:
        return len(self.posts)

    def __getitem__(self, index: int) -> dict:
        post = dict(self.posts[index])
        row = post.pop("row")
        for name in ("image_embeds", "text_embeds", "task_features"):
            if name in self.arrays:
                post[name] = np.array(self.arrays[name][row])
        for name, (mask, modality) in SEQUENCES.items():
            if name in self.arrays:
                values = np.array(self.arrays[name][row])
                values = values[self.arrays[mask][row].astype(bool)] if mask in self.arrays else values
                post[name] = values
                if not self.decided[modality]:
                    post[f"has_{modality}"] = len(values) > 0
                if self.pooled and f"{modality}_embeds" not in self.arrays:
                    post[f"{modality}_embeds"] = values.mean(0) if len(values) else np.zeros(values.shape[-1])
        return post | {"post_key": self.keys[index]}  # what an encoder reads is only a part of the content
