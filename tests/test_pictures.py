"""Pictures from whatever they come as, each an upright RGB image."""

import io

import numpy as np
import pytest
from PIL import Image

from modeling_mm_orient.pictures import post_key, read_image

from .helpers import MODES, as_bytes, picture


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    image = read_image(picture(mode))
    assert image.mode == "RGB" and image.size == (20, 30)


def test_transparency_is_white():
    assert read_image(picture("RGBA", colour=(200, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = picture("P")
    assert read_image(as_bytes(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert [read_image(Image.fromarray(values)).getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


def test_exif_orientation_is_applied():
    image, exif = picture(size=(20, 30)), Image.Exif()
    exif[0x0112] = 6
    assert read_image(as_bytes(image, "JPEG", exif=exif)).size == (30, 20)


def test_the_first_frame_of_an_animation():
    frames = [picture(colour=(255, 0, 0)), picture(colour=(0, 0, 255))]
    animation = as_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(animation).getpixel((0, 0)) == (255, 0, 0)
    moved = Image.open(io.BytesIO(animation))
    moved.seek(1)
    assert read_image(moved).getpixel((0, 0)) == (255, 0, 0)


def test_sources(tmp_path):
    path = tmp_path / "a.png"
    picture(colour=(1, 2, 3)).save(path)
    sources = [
        path,
        str(path),
        path.read_bytes(),
        {"path": str(path), "bytes": None},
        {"path": None, "bytes": path.read_bytes()},
    ]
    assert {read_image(source).getpixel((0, 0)) for source in sources} == {(1, 2, 3)}
    with path.open("rb") as file:
        assert read_image(file).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"not a picture", "cannot be read"),
        (as_bytes(Image.effect_noise((64, 64), 90), "JPEG")[:700], "cannot be read"),
        (b"", "cannot be read"),
    ],
    ids=["words", "half a picture", "nothing"],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.jpg.*{message}"):
        read_image(path)


def test_pictures_with_a_palette_are_known_by_their_colours():
    flat = [Image.new("RGB", (8, 8), colour).quantize(2) for colour in ("red", "blue", "red")]
    keys = [post_key({"image": image}) for image in flat]
    assert keys[0] == keys[2] != keys[1] and flat[0].tobytes() == flat[1].tobytes()
    clear = Image.new("RGB", (8, 8), "red")
    clear.info["transparency"] = (255, 0, 0)
    assert post_key({"image": clear}) != post_key({"image": Image.new("RGB", (8, 8), "red")})


def test_arrays_of_any_depth_show_what_a_file_of_them_shows(tmp_path):
    grey = np.linspace(0, 1, 600).reshape(20, 30)
    expected = grey * 255
    forms = {
        "uint16": (grey * 65535).astype(np.uint16),
        "int64": (grey * 65535).astype(np.int64),
        "uint8": (grey * 255).astype(np.uint8),
        "float": grey,
        "three": np.stack([(grey * 65535).astype(np.uint16)] * 3, -1),
    }
    for name, values in forms.items():
        assert np.abs(np.asarray(read_image(values))[..., 0] - expected).max() <= 1.5, name
    assert {*np.unique(np.asarray(read_image(grey > 0.5)))} == {0, 255}
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(forms["uint16"]).save(tmp_path / "deep.png")
    for name in ("unit.tif", "deep.png"):
        assert np.abs(np.asarray(read_image(tmp_path / name))[..., 0] - expected).max() <= 1.5, name
    wrong = grey.astype(np.float32)
    wrong[3, 3] = np.nan
    Image.fromarray(wrong).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="values that are no numbers"):
        read_image(tmp_path / "nan.tif")
