"""A picture unlike every reference post's is left out of account."""

import json
from functools import partial

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image

from modeling_mm_orient import MultimodalClassificationPipeline, pipeline_mm_orient
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.familiarity import least_familiarity, nearest_cosine
from modeling_mm_orient.runs.continuation import check_conflicts, open_start
from modeling_mm_orient.runs.continuation import model_of as model_of_start
from modeling_mm_orient.runs.ray_jobs import Worker, predict_batch, predictions_schema
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import (
    feature_batch,
    label_batch,
    reference_posts,
    save_encoders,
    tiny_config,
    tiny_model,
    train_on,
    write_folder,
)

FIELDS = {"relation_scope": "memory", "memory_top_k": 4, "neighbour_labels": True, "experts": ["image", "network"]}


def model_of(**fields):
    model = tiny_model(**FIELDS | fields).eval()
    model.build_relation_memory(reference_posts(40))
    return model


def batch_of() -> dict:
    """Nine posts; the pictures of the first four are those of reference posts, the last has no text."""
    batch = feature_batch()
    references = reference_posts(40)
    for row in range(4):
        batch["image_embeds"][row] = references[row]["image_embeds"]
    batch["has_text"] = torch.arange(9) < 8
    batch["has_image"] = torch.arange(9) != 3
    return batch


def test_a_strange_picture_counts_as_none_where_there_is_a_text():
    model, batch = model_of(picture_familiarity=0.99), batch_of()
    found = model(**batch, output_components=True, output_relations=True)
    assert found.has_image.tolist() == [True, True, True, *[False] * 5, True] and found.has_text[:8].all()
    assert bool((found.image_neighbours[4:8] == -1).all()) and bool((found.image_neighbours[8] >= 0).any())
    lacking = batch | {"has_image": found.has_image}
    plain = model_of()(**lacking)
    for task, logits in plain.logits.items():
        torch.testing.assert_close(found.logits[task], logits)
    everything = model_of()(**batch, output_components=True)
    assert everything.has_image.tolist() == batch["has_image"].tolist()


def test_it_depends_on_the_post_alone_and_is_not_for_training():
    model, batch = model_of(picture_familiarity=0.6), batch_of()
    whole = model(**batch, output_components=True)
    assert 3 < int(whole.has_image.sum()) < 8
    for row in range(9):
        alone = model(**{name: value[row : row + 1] for name, value in batch.items()})
        for task, logits in whole.logits.items():
            torch.testing.assert_close(alone.logits[task][0], logits[row], atol=2e-6, rtol=1e-5)
    found = model.train()(**batch, labels=label_batch(), output_components=True)
    assert found.has_image.tolist() == batch["has_image"].tolist()


def test_new_examples_make_a_picture_familiar():
    model, batch = model_of(picture_familiarity=0.99), batch_of()
    assert not model(**batch, output_components=True).has_image[5]
    example = reference_posts(1, first=90)[0] | {"image_embeds": batch["image_embeds"][5]}
    model.relation_memory.add(model.encode_reference_posts([example]))
    assert model(**batch, output_components=True).has_image[5]


def test_without_neighbours_the_same_pictures_count():
    model, batch = model_of(picture_familiarity=0.99), batch_of()
    plain = model(**batch, output_components=True)
    found = model(**batch, output_components=True, output_relations=True, without_neighbours=True)
    assert torch.equal(found.has_image, plain.has_image) and bool((found.image_neighbours == -1).all())


def test_of_nobody_nothing_is_known():
    model = model_of()
    posts = model.base_model.encode_posts(**batch_of())
    found = model.base_model.look_up_references(posts)["image"]
    cosines = nearest_cosine(found)
    assert float(cosines[3]) == float("inf") and torch.allclose(cosines[:3], torch.ones(3), atol=1e-5)
    memory = torch.nn.functional.normalize(torch.stack([post["image_embeds"] for post in reference_posts(40)]), dim=-1)
    wanted = (torch.nn.functional.normalize(posts.image_embeds, dim=-1) @ memory.T).amax(1)
    torch.testing.assert_close(cosines[4:], wanted[4:], atol=2e-3, rtol=1e-2)
    empty = found._replace(entries=found.entries[:, :0], similarity=found.similarity[:, :0])
    assert nearest_cosine(empty).tolist() == [float("inf")] * 9


def test_how_near_pictures_are_copies_aside():
    references = [post for post in reference_posts(40) for _ in range(3)]  # a template under three captions
    for number, post in enumerate(references):
        references[number] = post | {"id": str(number), "text_embeds": torch.randn(6)}
    model = model_of()
    memory = model.build_relation_memory(references)
    pictures = torch.nn.functional.normalize(
        torch.stack([post["image_embeds"] for post in reference_posts(40)]), dim=-1
    )
    nearest = (pictures @ pictures.T).fill_diagonal_(-1).amax(1)
    assert least_familiarity(memory, 0.1) == pytest.approx(float(nearest.quantile(0.1)), abs=0.01)
    assert least_familiarity(model.build_relation_memory(reference_posts(40)), 0.1) is None  # too few


@pytest.mark.parametrize("fields", [{"memory_lookup": "both"}, {"memory_lookup": "threshold"}, {"text_alone": True}])
def test_where_nothing_is_known_of_pictures_none_is_left_out(fields):
    alone = fields.pop("text_alone", False)
    model, batch = model_of(picture_familiarity=0.99, **fields), batch_of()
    if alone:
        model.build_relation_memory([post | {"has_image": False} for post in reference_posts(40)])
    assert model(**batch, output_components=True).has_image.tolist() == batch["has_image"].tolist()


def test_a_run_sets_it_by_its_own_pictures_and_says_what_it_leaves_out(tmp_path, caplog, monkeypatch):
    rows = [
        {"image": f"{i}.png", "text": f"caption {i % 7}", "mood": ["sad", "happy"][i % 2]}
        | {"split": "train" if i < 70 else "val" if i < 80 else "test"}
        for i in range(90)
    ]
    data = write_folder(tmp_path / "data", rows)
    draw = np.random.default_rng(0)
    for i in range(90):
        noise = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((16, 16)).save(data / "images" / f"{i}.png")
    options = ["--labels", "mood", "--split-column", "split", "--epochs", "1", *save_encoders(tmp_path)]
    options += ["--feature-cache", tmp_path / "cache"]
    assert train_on(data, tmp_path / "run", *options) == 0
    model, _ = load_run(str(tmp_path / "run"))
    least = model.config.picture_familiarity
    memory = torch.nn.functional.normalize(model.relation_memory.embeds["image"].float(), dim=-1)
    nearest = (memory @ memory.T).fill_diagonal_(-1).amax(1)
    assert 0 < float((nearest < least + 2e-3).float().mean()) < 0.06
    start = open_start(str(tmp_path / "run"))
    check_conflicts(start, {"unfamiliar_pictures": 0.0}, {})  # may be otherwise in a run that goes on
    went_on = model_of_start(start, model.config.tasks, {"unfamiliar_pictures": 0.0}).config
    assert went_on.unfamiliar_pictures == 0 and went_on.picture_familiarity is None
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings | {"picture_familiarity": 1.0}))
    for i in range(80, 90):
        Image.new("RGB", (16, 16), (i, 200, 0)).save(data / "images" / f"{i}.png")
    command = ["predict", str(tmp_path / "run"), "--data", str(data), "--split", "test", "--output"]
    assert main([*command, str(tmp_path / "p.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and all(line["strange_picture"] for line in lines)
    tables = [tmp_path / "p.csv", tmp_path / "p.parquet"]
    assert all(main([*command, str(table)]) == 0 for table in tables)
    assert all(pandas.read_csv(tables[0])["strange_picture"]) and all(pandas.read_parquet(tables[1])["strange_picture"])
    assert caplog.text.count("10 pictures of 10 posts left out of account") == 3
    load = partial(load_run, str(tmp_path / "run"))
    worker = Worker(load, predict_batch, predictions_schema(model.config), DataDescription(str(data)), 4, 1, "cpu")
    posts = pyarrow.Table.from_pylist([{"id": str(n), "image": f"images/{n}.png", "text": "a"} for n in (81, 85)])
    assert [row["strange_picture"] for row in worker(posts).to_pylist()] == [True, True]
    pipe = MultimodalClassificationPipeline(
        **dict(zip(("model", "processor"), load_run(str(tmp_path / "run")), strict=True))
    )
    said: list[str] = []
    monkeypatch.setattr(
        pipeline_mm_orient.logger, "warning", lambda text, *values: said.append((text % values).split(":")[0])
    )
    pipe({"image": Image.new("RGB", (16, 16), (9, 200, 0)), "text": "a caption"})
    assert said == ["1 picture(s) of 1 posts left out of account"]
    assert train_on(data, tmp_path / "off", *options, "--set", "unfamiliar_pictures=0") == 0
    assert load_run(str(tmp_path / "off"))[0].config.picture_familiarity is None


@pytest.mark.parametrize(
    "wrong", [{"picture_familiarity": 2}, {"picture_familiarity": "near"}, {"unfamiliar_pictures": -1}]
)
def test_a_configuration_checks_it(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        tiny_config(**wrong)
