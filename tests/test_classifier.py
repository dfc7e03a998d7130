"""`MMOrientClassifier`: ten lines from what somebody holds in Python to a model."""

import datasets
import numpy as np
import pandas
import pytest
from PIL import Image
from transformers import pipeline

from modeling_mm_orient import MMOrientClassifier
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.pictures import read_image

from .helpers import as_bytes, picture, write_folder

COLOURS = ["red", "blue"]


def frame(count: int = 24, **columns) -> pandas.DataFrame:
    rows = [{"caption": f"a {COLOURS[i % 2]} thing {i}", "mood": COLOURS[i % 2], "likes": i, "joy": i % 2,
             "fear": i // 2 % 2} for i in range(count)]  # fmt: skip
    return pandas.DataFrame(rows, index=[f"row {i}" for i in range(count)]).assign(**columns)


def classifier(folder=None, **settings) -> MMOrientClassifier:
    return MMOrientClassifier(folder, epochs=1, batch_size=8, **settings)


@pytest.fixture(scope="module")
def fitted():
    pictures = [picture(size=(9, 9), colour=i) for i in range(24)]
    return classifier().fit(
        frame(photo=pictures), ["mood", "emotions=joy,fear"], regression="likes", text="caption", image="photo"
    )


def test_verdicts_are_frames_in_the_order_of_the_posts(fitted):
    new = frame(3, photo=[as_bytes(picture()), None, picture("RGBA")])
    decided, probable = fitted.predict(new), fitted.predict_proba(new)
    assert list(decided.index) == list(probable.index) == ["row 0", "row 1", "row 2"]
    assert list(decided.columns) == ["mood", "emotions", "likes"] and set(decided["mood"]) <= set(COLOURS)
    assert all(isinstance(labels, list) and set(labels) <= {"joy", "fear"} for labels in decided["emotions"])
    assert list(probable.columns) == ["mood:blue", "mood:red", "emotions:joy", "emotions:fear", "likes"]
    assert probable[["mood:blue", "mood:red"]].sum(axis=1).tolist() == pytest.approx([1] * 3, abs=1e-5)
    assert fitted.predict({"text": "a red thing", "image": picture()}).shape == (1, 3)
    assert fitted.predict([{"caption": "a red thing", "photo": None}] * 2).shape == (2, 3)
    with pytest.raises(TypeError, match="'skip_bad_posts' is no argument here, and no field of `DataDescription`"):
        fitted.predict(new, skip_bad_posts=True)


def test_it_explains(fitted, tmp_path):
    found = fitted.explain({"image": picture(), "text": "a red thing"})
    found.save_html(tmp_path / "why.html")
    assert "mood" in found._repr_html_() and "mood" in (tmp_path / "why.html").read_text()


def test_it_explains_a_row_and_shows_what_it_learned_from(tmp_path):
    for i in range(24):
        Image.new("RGB", (9, 9), COLOURS[i % 2]).save(tmp_path / f"{i}.png")
    table = frame(photo=[f"{i}.png" for i in range(24)])
    made = classifier(config={"relation_scope": "memory"})
    made.fit(table, "mood", text=["caption", "joy"], image="photo", numeric=["likes"], root=tmp_path)
    found = made.explain(table.iloc[1].to_dict(), root=tmp_path)
    assert found.found["text"] == "caption: a blue thing 1\njoy: 1" and len(found.pictures) == 1
    shown = {post["id"] for posts in found.found["neighbours"].values() for post in posts}
    assert shown and set(found.thumbnails) == shown  # of a frame, which has no folder
    assert all(thumbnail["picture"] for thumbnail in found.thumbnails.values())
    for post, said in (("x", "a post is a dict"), ({"caption": "x"}, "no column likes")):
        with pytest.raises(ValueError, match=said):
            made.explain(post)
    with pytest.raises(ValueError, match="at least 0"):
        made.explain({"text": "x"}, neighbours=-1)
    with pytest.raises(FileNotFoundError, match="no such folder, and no id of the Hub"):
        MMOrientClassifier.load(tmp_path / "none")
    kept = made.save(tmp_path / "kept")
    assert main(["report", str(kept)]) == 1


def test_it_measures_saves_and_loads(fitted, tmp_path):
    assert set(fitted.metrics) == {"validation", "test"}
    known = fitted.evaluate(frame(photo=[picture(size=(9, 9), colour=i) for i in range(24)]))
    assert known["mood"]["posts"] == fitted.metrics["test"]["mood"]["posts"]
    kept = MMOrientClassifier.load(fitted.save(tmp_path / "kept"))
    new = frame(3, photo=None)
    pandas.testing.assert_frame_equal(kept.predict_proba(new), fitted.predict_proba(new))
    with pytest.raises(FileExistsError, match="choose another folder"):
        fitted.save(tmp_path / "kept")
    with pytest.raises(FileExistsError, match="finished run"):
        kept.fit(frame(), "mood", text="caption")
    assert main(["predict", str(tmp_path / "kept"), "--data", str(write_folder(tmp_path / "x", [{"caption": "a"}])),
                 "--output", str(tmp_path / "x.csv"), "--image-column", "none"]) == 0  # fmt: skip


@pytest.mark.parametrize("form", ["paths", "absolute", "dataset", "dataset of paths", "dict", "folder"])
def test_posts_in_every_form(tmp_path, form):
    (tmp_path / "photos").mkdir()
    names = [f"photos/{i}.png" for i in range(20)]
    for i, name in enumerate(names):
        Image.new("RGB", (6, 6), COLOURS[i % 2]).save(tmp_path / name)
    table = frame(20, image=names)
    absolute = [str(tmp_path / name) for name in names]
    whole = datasets.Dataset.from_dict(table.assign(image=absolute).to_dict("list"))
    whole = whole.cast_column("image", datasets.Image())
    write_folder(tmp_path / "folder", [row | {"image": None} for row in table.to_dict("records")], pictures=False)
    data = {
        "paths": table,
        "absolute": table.assign(image=absolute),
        "dataset": whole,
        "dataset of paths": datasets.Dataset.from_dict(table.to_dict("list")),
        "dict": datasets.DatasetDict(train=whole.select(range(14)), validation=whole.select(range(14, 20))),
        "folder": tmp_path / "folder",
    }[form]
    made = classifier(tmp_path / "run").fit(data, "mood", text=["caption", "mood"], root=tmp_path)
    assert made.processor is not None and (tmp_path / "run" / "model.safetensors").exists()
    assert len(made.predict(data, root=tmp_path)) == 20
    assert made.metrics["validation"]["mood"]["posts"] == (6 if form == "dict" else 2)


def test_a_picture_is_the_same_in_every_form(tmp_path):
    exif, grey = Image.Exif(), Image.linear_gradient("L").resize((16, 8))
    exif[0x0112] = 6
    picture(size=(16, 8), colour=3).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    made = classifier(config={"relation_scope": "memory"}).fit(
        frame(photo=[picture(size=(9, 9), colour=i) for i in range(24)]), "mood", text="caption", image="photo"
    )
    pipe = pipeline("multimodal-classification", model=made.model, processor=made.processor)
    for name in ("turned.jpg", "deep.png"):
        opened = Image.open(tmp_path / name)
        forms = [opened, str(tmp_path / name), (tmp_path / name).read_bytes(), np.asarray(read_image(opened))]
        frames = [made.predict_proba([{"caption": "a thing", "photo": form}]) for form in forms]
        wanted = pipe({"image": str(tmp_path / name), "text": "a thing"})["mood"]
        for found in frames:
            assert found["mood:red"].item() == pytest.approx(wanted["red"], abs=1e-5)
    with pytest.raises(ValueError, match=r"row 1, column 'photo': .* is no picture"):
        made.predict([{"caption": "a thing", "photo": None}, {"caption": "a thing", "photo": 3}])


def test_posts_as_the_pipeline_takes_them_have_their_numbers(tmp_path):
    made = classifier().fit(frame(), "mood", text="caption", image=None, numeric=["likes"])
    row = made.predict_proba([{"caption": "a thing", "likes": 5}])
    assert made.predict_proba({"text": "a thing", "numbers": {"likes": 5}}).equals(row)
    assert made.predict_proba([{"text": "a thing", "numbers": {"likes": 5}}]).equals(row)
    without = made.predict_proba({"text": "a thing"})
    assert without.equals(made.predict_proba([{"caption": "a thing", "likes": None}])) and not without.equals(row)
    assert made.predict_proba({"text": "a thing", "numbers": [5]}).equals(row)
    mixed = made.predict_proba([{"text": "a thing", "numbers": {"likes": 5}}, {"text": "a thing", "likes": 5}])
    for number in (0, 1):
        assert mixed.iloc[number].tolist() == pytest.approx(row.iloc[0].tolist(), abs=1e-6)
    wrong = [({"views": 5}, "'views'; the columns are likes"), ([1, 2], r"must be 1 numbers \(likes\), got 2")]
    for numbers, said in (*wrong, ({"likes": 10**400}, "'likes' is larger")):
        with pytest.raises(ValueError, match=f"`numbers.0.`.*{said}"):
            made.predict({"text": "a thing", "numbers": numbers})
    with pytest.raises(DataProblems, match="likes is '1000"):
        made.predict([{"text": "a thing", "likes": 10**400}])
    called_so = classifier().fit(
        frame().assign(numbers=range(24)), "mood", text="caption", image=None, numeric=["numbers"]
    )
    assert called_so.predict([{"caption": "a thing", "numbers": 3}]).shape == (1, 1)


def test_half_a_character_is_repaired_and_told(fitted, caplog):
    posts = [{"caption": text, "photo": None} for text in ("whole", "a\ud800b", "a\ufffdb")]
    found = fitted.predict_proba(posts)
    assert found.iloc[1].tolist() == pytest.approx(found.iloc[2].tolist(), abs=1e-5)
    assert "1 row(s) repaired, say row 1: half a character" in caplog.text


def test_paths_of_a_data_set_from_a_frame_are_below_root(tmp_path):
    for i in range(24):
        picture(size=(9, 9), colour=i).save(tmp_path / f"{i}.png")
    table = frame(photo=[f"{i}.png" for i in range(24)])
    several = datasets.Dataset.from_list([{"caption": "a thing", "photo": ["0.png", "1.png"]}])
    made = classifier().fit(datasets.Dataset.from_pandas(table), "mood", text="caption", image="photo", root=tmp_path)
    assert made.predict(datasets.Dataset.from_pandas(table), root=tmp_path).shape == (24, 1)
    assert made.predict(several, root=tmp_path).shape == (1, 1)
    pandas.DataFrame({"caption": ["a thing"] * 2, "photo": [["0.png", "1.png"], []]}).to_parquet(tmp_path / "t.parquet")
    of_parquet = made.predict_proba(pandas.read_parquet(tmp_path / "t.parquet"), root=tmp_path)
    wanted = made.predict_proba(several, root=tmp_path)
    assert of_parquet.iloc[0].tolist() == pytest.approx(wanted.iloc[0].tolist(), abs=1e-5)


def test_what_is_wrong_is_told(tmp_path):
    with pytest.raises(ValueError, match="did you mean `epochs`"):
        MMOrientClassifier(epoch=3)
    with pytest.raises(ValueError, match="`eval_strategy` is not yours to say"):
        MMOrientClassifier(eval_strategy="no")
    with pytest.raises(ValueError, match="name the label columns"):
        classifier().fit(frame(), text="caption")
    with pytest.raises(TypeError, match="not int"):
        classifier().fit(3, "mood")
    with pytest.raises(ValueError, match="captoin; its columns are caption"):
        classifier().fit(frame(), "mood", text="captoin")
    with pytest.raises(DataProblems, match=r"gone\.png' does not exist"):
        classifier().fit(frame(image="gone.png"), "mood", text="caption", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        classifier(tmp_path / "none").predict(frame())


def test_columns_are_taken_for_what_they_are(tmp_path):
    twice = frame(12)
    twice["also"] = "x"
    twice.columns = [*twice.columns[:-1], "caption"]
    with pytest.raises(ValueError, match="the column 'caption' stands there twice"):
        classifier().fit(twice, "mood", text="caption")
    numbered = frame(24).rename(columns={"mood": 5})
    numbered["__split__"] = "test"  # a user's own, and no split of ours
    made = classifier().fit(numbered, [5], text="caption")
    assert list(made.predict(numbered).columns) == ["5"] and made.metrics["validation"]["5"]["posts"] > 0


def test_the_trainers_settings_are_settings(tmp_path):
    made = MMOrientClassifier(tmp_path / "run", num_train_epochs=2, max_grad_norm=0.5)
    assert made._settings.epochs == 2 and made._settings.trainer == {"max_grad_norm": 0.5}


def test_a_post_of_the_pipelines_form_is_read_as_it_stands(tmp_path):
    made = classifier().fit(frame().assign(text="some", title="a title"), "mood", text=["title", "text"], image=None)
    joined = {"text": "title: a title\ntext: some"}
    row = made.predict_proba([{"title": "a title", "text": "some"}])
    assert made.predict_proba(joined).equals(row) and made.predict_proba([joined]).equals(row)
    assert not made.predict_proba({"text": "some"}).equals(row)


def test_later_pictures_are_looked_for_where_the_first_were(tmp_path, monkeypatch):
    for i in range(24):
        Image.new("RGB", (9, 9), COLOURS[i % 2]).save(tmp_path / f"{i}.png")
    table = frame(photo=[f"{i}.png" for i in range(24)])
    made = classifier().fit(table, "mood", text="caption", image="photo", root=tmp_path)
    assert made.predict(table).equals(made.predict(table, root=tmp_path))
    (tmp_path / "more").mkdir()
    with pytest.raises(DataProblems, match="does not exist"):
        made.predict(table, root=tmp_path / "more")


def test_posts_of_a_data_set_are_called_by_their_place_and_not_by_their_pictures(tmp_path):
    (tmp_path / "secret" / "home").mkdir(parents=True)
    for i in range(20):
        picture(colour=i).save(tmp_path / "secret" / "home" / f"{i}.png")
    paths = [str(tmp_path / "secret" / "home" / f"{i}.png") for i in range(20)]
    data = datasets.Dataset.from_dict(
        {"text": frame(20)["caption"].tolist(), "mood": frame(20)["mood"].tolist(), "image": paths}
    )
    made = classifier(tmp_path / "run", config={"relation_scope": "memory"}).fit(data, "mood")
    assert {int(name) for name in made.model.relation_memory.ids} <= {*range(20)}
    assert b"secret" not in (tmp_path / "run" / "relation_memory.safetensors").read_bytes()


def test_the_index_of_a_frame_is_kept_as_it_is(fitted):
    new = frame(4, photo=None)
    several = pandas.MultiIndex.from_tuples([("a", 0), ("a", 1), ("b", 0), ("b", 1)], names=["part", "number"])
    dated = pandas.date_range("2026-01-01", periods=4, name="day")
    for index in (several, dated, pandas.Index(list("wxyz"), name="post_id")):
        for found in (fitted.predict(new.set_axis(index)), fitted.predict_proba(new.set_axis(index))):
            pandas.testing.assert_index_equal(found.index, index)


def test_a_column_that_no_file_can_hold_is_none_of_the_models(fitted):
    new = frame(2, photo=None)
    for meta in ({}, [{}], {"a": {}}):
        odd = new.assign(meta=[meta] * 2)
        pandas.testing.assert_frame_equal(fitted.predict_proba(odd), fitted.predict_proba(new))


def test_posts_without_a_part_are_judged_whatever_the_columns_were_called(tmp_path, caplog):
    table = frame(24, title="red or blue", photo=[picture(size=(9, 9), colour=i) for i in range(24)])
    made = classifier(tmp_path / "run").fit(table, "mood", text=["title", "caption"], image="photo")
    of_text, of_picture = {"text": "a red thing"}, {"image": picture()}
    assert len(made.predict(of_text)) == len(made.predict(of_picture)) == 1
    both = made.predict_proba([of_text, of_picture]).to_numpy()
    for row, post in enumerate((of_text, of_picture)):
        assert made.predict_proba(post).to_numpy()[0] == pytest.approx(both[row], abs=1e-6)
    assert [*made.predict([of_text | {"id": "3"}, of_text | {"id": "4"}]).index] == ["3", "4"]
    caplog.clear()
    assert len(made.predict(table[["title"]])) == 24
    assert "the posts have no column photo, which the pictures were learned from" in caplog.text
    assert "has no column caption: its texts are those of title" in caplog.text
    for wrong, message in (({"text": 5}, "`text` of a post must be a text, got 5"), ({"text": "x"}, "`neighbours`")):
        with pytest.raises(ValueError, match=message):
            made.explain(wrong, neighbours="2" if wrong["text"] == "x" else 1)
    for size in ("3", 2.5, True):
        with pytest.raises(ValueError, match="`batch_size` must be a whole number"):
            made.predict(table, batch_size=size)


def test_a_column_that_was_learned_from_and_is_not_there_is_told(tmp_path, caplog):
    table = frame(20).rename(columns={"caption": "text"})
    made = classifier(tmp_path / "run").fit(table, "mood", text="text", image=None)
    made.predict(table)
    assert "no column" not in caplog.text
    made.predict(table.drop(columns="text").assign(image=[picture() for _ in range(20)]))
    assert "the posts have no column text, which the texts were learned from" in caplog.text
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        made.predict(table, batch_size=0)
