# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Pictures unlike every reference post's, which a verdict leaves out of account (ours): noise, damage, what is new to it.

Shapes: B posts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .encoders import PostFeatures
from .relation_layers import ReferencePosts
from .relation_memory import RelationMemory

FEWEST_PICTURES = 50  # from which it is said how near pictures are
MOST_ASKED, MOST_COMPARED, QUERIES = 1024, 100_000, 64
COPY = 1e-3  # of a cosine, by which copies of a picture differ


def least_familiarity(memory: RelationMemory, share: float) -> float | None:
    """The cosine that this share of the memory's pictures does not reach to another picture, copies of it aside; None where
    there are too few. Of many pictures some are asked of some."""
    places = memory.present["image"].nonzero()[:, 0].cpu()
    if len(places) < FEWEST_PICTURES:
        return None
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:MOST_COMPARED]]
    pictures = F.normalize(memory.embeds["image"][places.to(memory.embeds["image"].device)].float(), dim=-1)
    nearest = []
    for some in pictures[:MOST_ASKED].split(QUERIES):
        cosines = some @ pictures.T
        nearest.append(cosines.masked_fill(cosines > 1 - COPY, -torch.inf).amax(1))
    found = torch.cat(nearest)
    found = found[found > -torch.inf]
    return None if len(found) < FEWEST_PICTURES else round(float(found.quantile(share)), 3)


def nearest_cosine(found: ReferencePosts) -> Tensor:
    """(B,): the cosine of the nearest reference post, infinite where none was found: then nothing is known of it."""
    cosines = F.pad(found.similarity.masked_fill(found.entries < 0, -torch.inf), (0, 1), value=-torch.inf).amax(1)
    return cosines.masked_fill(cosines == -torch.inf, torch.inf)


def without_strange_pictures(
    posts: PostFeatures, references: dict[str, ReferencePosts], least: float
) -> tuple[PostFeatures, dict[str, ReferencePosts]]:
    """Posts without a picture that is unlike every reference post's, and their neighbours (ours). Without a text a picture
    stays.

    Args:
        references: of `neighbours_in_memory`. least: the cosine to the nearest below which a picture is unlike.
    """
    lost = posts.has_image & posts.has_text & (nearest_cosine(references["image"]) < least)
    by_image, kept = references["image"], ~lost[:, None]
    by_image = by_image._replace(
        weights=by_image.weights * kept,
        entries=by_image.entries.masked_fill(~kept, -1),
        similarity=by_image.similarity * kept,
        present={name: here & kept for name, here in by_image.present.items()},
    )
    without = posts.without({"image": lost, "text": torch.zeros_like(lost)})
    return without, references | {"image": by_image}
