# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Image augmentation (paper section 4.1): pictures are flipped and their colours jittered while training, reproducibly.

Shapes: H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..pictures import pictures_of, post_key, read_image


@dataclass(frozen=True)
class ImageAugmentation:
    """Ranges to draw from, each on its own; the defaults are the paper's, None switches one off.

    Args:
        flip: probability of a mirror image.
        brightness: what is added to every channel is drawn from -brightness to brightness, black being 0 and white 1.
        contrast: (least, most) factor of a channel's distance from its mean.
        hue: what is added to the hue is drawn from -hue to hue, the whole circle being 1.
        saturation: (least, most) factor of the saturation.
        seed: of all draws.
    """

    flip: float | None = 0.5
    brightness: float | None = 0.5
    contrast: tuple[float, float] | None = (0.2, 1.8)
    hue: float | None = 0.2
    saturation: tuple[float, float] | None = (5.0, 10.0)
    seed: int = 0

    def __post_init__(self):
        for name, most in (("flip", 1.0), ("brightness", 1.0), ("hue", 0.5)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"`{name}` must be None or from 0 to {most}, got {value!r}")
        for name in ("contrast", "saturation"):
            value = getattr(self, name)
            if value is not None and not (len(value) == 2 and 0 <= value[0] <= value[1]):
                raise ValueError(f"`{name}` must be None or (least, most) of at least 0, got {value!r}")

    def __call__(self, picture: Image.Image, index: int, visit: int) -> Image.Image:
        """The variant of an RGB picture that post `index` gets on its `visit`-th reading; always the same one."""
        draw = np.random.default_rng([self.seed, index, visit])
        if self.flip is not None and draw.random() < self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(picture, np.float32) / 255
        if self.brightness is not None:
            pixels = pixels + draw.uniform(-self.brightness, self.brightness)
        if self.contrast is not None:
            mean = pixels.mean((0, 1), keepdims=True)
            pixels = (pixels - mean) * draw.uniform(*self.contrast) + mean
        picture = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
        if self.hue is None and self.saturation is None:
            return picture
        hsv = np.array(picture.convert("HSV"))
        if self.hue is not None:
            shift = round(256 * draw.uniform(-self.hue, self.hue))
            hsv[..., 0] = ((hsv[..., 0].astype(int) + shift) % 256).astype(np.uint8)
        if self.saturation is not None:
            hsv[..., 1] = (hsv[..., 1] * draw.uniform(*self.saturation)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(hsv, "HSV").convert("RGB")


class AugmentedPosts(torch.utils.data.Dataset):
    """Training posts whose pictures come out different in every `epoch`, which whoever trains sets.

    Args:
        posts: data set in the schema of `data.reading`. augmentation: `ImageAugmentation`.
    """

    def __init__(self, posts, augmentation: ImageAugmentation):
        self.posts, self.augmentation, self.epoch = posts, augmentation, 0

    def __len__(self) -> int:
        return len(self.posts)

    def __getitem__(self, index: int) -> dict:
        post = dict(self.posts[index])
        if post.get("image") is not None:
            key = post.get("post_key") or post_key(post)
            changed = [self.augmentation(read_image(picture), index, self.epoch) for picture in pictures_of(post)]
            post |= {"image": changed[0], "more_images": changed[1:], "post_key": key}
        return post
