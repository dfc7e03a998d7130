import numpy as np
import pytest
from PIL import Image

from modeling_mm_orient.data.augmentation import AugmentedPosts, ImageAugmentation
from modeling_mm_orient.features.collation import PostCollator

from .helpers import as_bytes, make_processor

OFF = {"flip": None, "brightness": None, "contrast": None, "hue": None, "saturation": None}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(60, 190, (24, 32, 3), dtype=np.uint8))


def variants(count: int = 200, **ranges) -> list[np.ndarray]:
    augment = ImageAugmentation(**OFF | ranges)
    return [np.asarray(augment(picture(), 0, visit)).astype(int) for visit in range(count)]


def test_switched_off_nothing_changes():
    assert all((variant == np.asarray(picture())).all() for variant in variants(3))


def test_flips_about_as_often_as_said():
    plain = np.asarray(picture())
    mirrored = [(variant == plain[:, ::-1]).all() for variant in variants(flip=0.3)]
    assert 40 < sum(mirrored) < 80
    assert all(
        (variant == plain).all()
        for variant, is_mirrored in zip(variants(flip=0.3), mirrored, strict=True)
        if not is_mirrored
    )


def test_brightness_and_contrast_span_their_ranges():
    plain = np.asarray(picture()).astype(int)
    shifts = [np.median(variant - plain) / 255 for variant in variants(brightness=0.2)]
    assert -0.2 <= min(shifts) < -0.17 and 0.17 < max(shifts) <= 0.2
    factors = [variant.std() / plain.std() for variant in variants(contrast=(0.5, 1.2))]
    assert 0.49 <= min(factors) < 0.53 and 1.17 < max(factors) < 1.21


def test_hue_and_saturation_keep_the_value():
    plain = np.asarray(picture().convert("HSV")).astype(int)
    for variant in variants(5, hue=0.2, saturation=(2.0, 3.0)):
        changed = np.asarray(Image.fromarray(variant.astype(np.uint8)).convert("HSV")).astype(int)
        assert np.abs(changed[..., 2] - plain[..., 2]).max() <= 1
        assert np.median(changed[..., 1] / plain[..., 1].clip(1)) > 1.5


def test_every_epoch_differs_and_the_same_seed_repeats_them():
    posts = [{"image": {"bytes": as_bytes(picture(n)), "path": None}, "text": "a"} for n in range(2)]
    runs = []
    for seed in (1, 1, 2):
        data, run = AugmentedPosts(posts, ImageAugmentation(seed=seed)), []
        for data.epoch in range(2):
            run += [np.asarray(data[index]["image"]) for index in range(2)]
        runs.append(run)
    assert all((first == second).all() for first, second in zip(runs[0], runs[1], strict=True))
    assert not (runs[0][0] == runs[0][2]).all() and not (runs[0][0] == runs[2][0]).all()


def test_a_variant_is_still_the_same_post():
    post = {"image": {"bytes": as_bytes(picture()), "path": None}, "text": "a"}
    collate = PostCollator(make_processor(), [], labels=False)
    changed, plain = collate([AugmentedPosts([post], ImageAugmentation())[0]]), collate([post])
    assert (changed["post_keys"] == plain["post_keys"]).all() and not (
        changed["pixel_values"] == plain["pixel_values"]
    ).all()


@pytest.mark.parametrize("wrong", [{"flip": 2}, {"hue": 0.7}, {"contrast": (2, 1)}, {"saturation": (-1, 1)}])
def test_wrong_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be None or"):
        ImageAugmentation(**wrong)
