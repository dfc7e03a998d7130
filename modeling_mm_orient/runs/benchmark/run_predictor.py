# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A finished run as one of the fitted methods that are compared on degraded posts.

Shapes: N posts, C labels of a task.
"""

from pathlib import Path

import numpy as np
import torch

from ...features.cache import CachedPosts
from ...features.collation import FeatureCollator, PostCollator
from ...features.inputs import reads_pictures
from ...tasks import kind_of, probabilities_of
from ..predictions import predict_logits
from ..run_folder import load_run, read_run


class RunPredictor:
    """A run, with the temperatures and rules of decision that it was saved with.

    Args:
        run: its folder. name: None takes the folder's.

    Raises:
        FileNotFoundError: there is no finished run.
    """

    def __init__(self, run: str, name: str | None = None, batch_size: int = 32):
        self.name, self.batch_size = name or Path(run).name, batch_size
        self.seed = read_run(run).get("training", {}).get("seed", 0)
        self.model, self.processor = load_run(run)

    def predict(self, posts) -> dict[str, np.ndarray]:
        """Task name -> probabilities (N, C), or values (N,), of posts as a data set or a list, or of `CachedPosts`."""
        collator = PostCollator(self.processor, [], labels=False)
        if isinstance(posts, CachedPosts):
            collator = FeatureCollator([], labels=False)
        elif not reads_pictures(self.model.config.encoder_names):
            posts = [posts[row] | {"image": None} for row in range(len(posts))]
        logits, _ = predict_logits(self.model, posts, collator, self.batch_size)
        return {name: values.numpy() for name, values in probabilities_of(self.model.config.tasks, logits).items()}

    def decide(self, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Task name -> labels (N,) or (N, C), or values (N,)."""
        return {
            task["name"]: kind_of(task).decided(task, torch.from_numpy(probabilities[task["name"]])).numpy()
            for task in self.model.config.tasks
        }
