import numpy as np
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.arrays import ArrayPosts, FeatureArrays
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.data.splits import keys_by_split
from modeling_mm_orient.features.collation import FeatureCollator

from .helpers import ROWS, write_folder

RANDOM = np.random.default_rng(0)
ROWS_SPLIT = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5


def save(folder, **arrays) -> dict[str, str]:
    paths = {}
    for name, array in arrays.items():
        paths[name] = str(folder / f"{name}.npy")
        np.save(paths[name], array)
    return paths


def paper_arrays(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {"image_embeds": (512,), "text_embeds": (512,), "region_features": (7, 2048), "token_features": (5, 768)}
    shapes |= {"task_features": (784,)}
    return {name: generator.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}


def test_every_post_gets_its_own_row_even_where_rows_were_left_out(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[2]["split"] = "nonsense"
    arrays = paper_arrays(len(rows))
    paths = save(tmp_path, **arrays)
    folder = write_folder(tmp_path / "d", rows)
    description = DataDescription(str(folder), labels=["mood"], split_column="split", feature_arrays=paths)
    posts, tasks, left_out = read_posts(description, skip_bad_posts=True)
    assert len(left_out) == 1
    train = ArrayPosts(posts["train"], keys_by_split(posts)["train"], FeatureArrays(paths), [])
    assert [post["id"] for post in (train[i] for i in range(5))] == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    batch = FeatureCollator(tasks)([train[i] for i in range(5)])
    kept = [0, 1, 3, 4, 5]
    for name, array in arrays.items():
        assert torch.equal(batch[name], torch.from_numpy(array[kept])), name
    assert batch["has_image"].all() and batch["labels"]["mood"].tolist() == [1, 0, 0, 1, 0]


def test_posts_of_arrays_are_known_by_their_content(tmp_path, caplog):
    def write(name: str) -> list[str]:
        rows = [
            {"id": f"{name}{i}", "text": f"{name} {i}", "mood": "ab"[i % 2], "split": ROWS_SPLIT[i]} for i in range(30)
        ]
        folder = write_folder(tmp_path / name, [{"image": "", **row} for row in rows], pictures=False)
        shapes = {"region_features": (30, 4, 8), "token_features": (30, 5, 8)}
        (tmp_path / f"{name}.npy").mkdir()
        paths = save(tmp_path / f"{name}.npy", **{key: RANDOM.normal(size=shape) for key, shape in shapes.items()})
        return ["--data", str(folder), "--feature-arrays", *[f"{key}={path}" for key, path in paths.items()]]

    first, second, run = write("first"), write("second"), str(tmp_path / "run")
    options = [
        "--preset",
        "paper",
        *[f"--{role}-encoder=none" for role in ("joint", "text", "vision")],
        "--epochs",
        "2",
    ]
    options += ["--labels", "mood", "--patience", "0", "--split-column", "split", "--output", run]
    assert main(["train", *first, *options, "--set", "relation_scope=memory", "task_feature_dim=0"]) == 0
    assert main(["evaluate", run, *second, "--split", "test"]) == 0
    assert main(["memory", "add", run, *second, "--split", "test"]) == 0
    assert main(["evaluate", run, *second, "--split", "test"]) == 1
    assert main(["evaluate", run, *second, "--split", "test", "--known"]) == 0
    assert main(["evaluate", run, *second, "--split", "train"]) == 0
    caplog.clear()
    assert main(["evaluate", run, *first, "--split", "train"]) == 0
    assert "20 of these posts the run has learned from" in caplog.text


def test_masks_cut_padding_off(tmp_path):
    arrays = paper_arrays(3) | {"region_mask": np.array([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [0] * 7], bool)}
    arrays.pop("image_embeds")
    paths = save(tmp_path, **arrays)
    posts = ArrayPosts([{"row": row} for row in range(3)], ["0", "1", "2"], FeatureArrays(paths), [])
    assert [len(posts[row]["region_features"]) for row in range(3)] == [7, 2, 0]
    assert [posts[row]["has_image"] for row in range(3)] == [True, True, False]
    np.testing.assert_allclose(posts[1]["image_embeds"], arrays["region_features"][1, :2].mean(0))  # pooled


def test_widths_for_the_configuration(tmp_path):
    arrays = FeatureArrays(save(tmp_path, **paper_arrays(2)))
    assert arrays.config_fields(has_joint=False) == {
        "region_feature_dim": 2048, "image_embed_dim": 512, "token_feature_dim": 768, "text_embed_dim": 512,
        "task_feature_dim": 784,
    }  # fmt: skip
    assert set(arrays.config_fields(True)) == {"region_feature_dim", "token_feature_dim", "task_feature_dim"}


def test_wrong_arrays_are_refused_by_name(tmp_path):
    good = save(tmp_path, **paper_arrays(4))
    cases = {
        "is no feature": {"regions": good["region_features"]},
        "no such file of `text_embeds`": {"text_embeds": str(tmp_path / "none.npy")},
        "must be numbers of 3 dimensions, got \\(4, 512\\)": {"region_features": good["image_embeds"]},
    }
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    cases["is no .npy file of numbers"] = {"image_embeds": str(tmp_path / "objects.npy")}
    (tmp_path / "text.npy").write_text("no array")
    cases["text.npy is no .npy file of numbers"] = {"image_embeds": str(tmp_path / "text.npy")}
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no archive")
    cases["zip.npy is no .npy file of numbers"] = {"image_embeds": str(tmp_path / "zip.npy")}
    np.save(tmp_path / "three.npy", np.zeros((3, 784)))
    cases["got image_embeds 4, task_features 3"] = {
        "image_embeds": good["image_embeds"], "task_features": str(tmp_path / "three.npy")
    }  # fmt: skip
    np.save(tmp_path / "mask.npy", np.ones((4, 6)))
    cases["must have the rows and columns of `region_features`"] = {
        "region_features": good["region_features"], "region_mask": str(tmp_path / "mask.npy")
    }  # fmt: skip
    for message, paths in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            FeatureArrays(paths)
    folder = write_folder(tmp_path / "d")
    with pytest.raises(ValueError, match=r"has 4 rows, and .*d has 10"):
        read_posts(DataDescription(str(folder), labels=["mood"], feature_arrays=good))
