import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modeling_mm_orient.features.collation import FeatureCollator, ReadAheadLoader, pad_sequences
from modeling_mm_orient.pictures import key_number

from .helpers import TASKS, tiny_model


def test_a_stored_post_key_becomes_a_number_in_the_batch():
    post = {"region_features": np.ones((2, 10)), "token_features": np.ones((1, 12)), "post_key": "c" * 64}
    assert FeatureCollator(TASKS)([post, post])["post_keys"].tolist() == [key_number("c" * 64)] * 2


def test_padding():
    padded, mask = pad_sequences([torch.ones(2, 3), torch.ones(0, 3), torch.ones(4, 3)])
    assert padded.shape == (3, 4, 3) and mask.sum(1).tolist() == [2, 0, 4]
    assert pad_sequences([torch.ones(0, 3)])[0].shape == (1, 1, 3)


def test_arrays_of_pre_extracted_features_make_a_batch_for_the_model():
    rng = np.random.default_rng(0)
    posts = [
        {
            "image_embeds": rng.normal(size=8), "text_embeds": rng.normal(size=6).astype(np.float16),
            "region_features": rng.normal(size=(count, 10)), "token_features": rng.normal(size=(3, 12)),
            "task_features": rng.normal(size=3), "offensive": count % 2,
        }
        for count in (4, 2, 1)
    ]  # fmt: skip
    batch = FeatureCollator(TASKS)(posts)
    assert batch["region_mask"].sum(1).tolist() == [4, 2, 1] and batch["region_features"].dtype == torch.float32
    assert torch.isfinite(tiny_model()(**batch).loss)


class Watched(torch.utils.data.Dataset):
    """Numbers, and who asked for them."""

    def __init__(self, broken: int | None = None):
        self.broken, self.threads = broken, []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        self.threads.append(threading.current_thread())
        if index == self.broken:
            raise ValueError(f"post {index} is damaged")
        return index


def test_reading_ahead_gives_the_same_batches_from_a_thread():
    def batches(kind) -> list[list[int]]:
        loader = DataLoader(Watched(), 3, shuffle=True, generator=torch.Generator().manual_seed(0))
        loader = loader if kind is DataLoader else kind.in_place_of(loader)
        return [batch.tolist() for _ in range(2) for batch in loader]

    assert batches(ReadAheadLoader) == batches(DataLoader)
    dataset = Watched()
    reading = iter(ReadAheadLoader.in_place_of(DataLoader(dataset, 2)))
    next(reading)
    reading.close()  # ends the thread
    assert len(dataset.threads) == 6 and threading.main_thread() not in dataset.threads  # two more batches were ready
    assert not any(thread.is_alive() for thread in dataset.threads)


def test_an_error_in_a_batch_that_is_read_ahead_is_raised():
    reading = iter(ReadAheadLoader.in_place_of(DataLoader(Watched(broken=5), 2)))
    assert [next(reading).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="post 5 is damaged"):
        next(reading)
