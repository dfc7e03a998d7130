"""Published data sets' tables: the real ones row by row, the others from files made after their published formats."""

import csv
import json

import pytest
from PIL import Image

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.labels import label_column
from modeling_mm_orient.data.published_tables import MET_MEME_CODES
from modeling_mm_orient.data.reading import account_for_rows, read_posts
from modeling_mm_orient.runs.preset_files import load_preset

from .helpers import shared


def describe(folder, *presets, **changes) -> DataDescription:
    return DataDescription(**{"data": str(folder)} | load_preset(*presets)["data"] | changes)


def account(folder, *presets, **changes) -> dict:
    return account_for_rows(describe(folder, *presets, **changes), check_images=False)


def posts_of(folder, *presets, **changes) -> dict:
    splits, tasks, _ = read_posts(describe(folder, *presets, **changes), check_images=False, training=False)
    names = {task["name"]: task["labels"] for task in tasks}
    found = {}
    for split, posts in splits.items():
        for post in posts:
            labels = {}
            for name, classes in names.items():
                value = post[label_column(name)]
                if isinstance(value, list):
                    value = [label for label, given in zip(classes, value, strict=True) if given]
                labels[name] = classes[value] if isinstance(value, int) else value
            found[post["id"]] = {"split": split, "text": post["text"], **labels}
    return found


@pytest.mark.parametrize(
    "table, rows, repaired, rejected, funny",
    [
        ("data_7000_new.csv", 6991, 95, 1, 2456),
        ("data_6512.csv", 6538, 7, 1, 2298),
        ("data1.csv", 1000, 19, 0, None),
        ("prob_test.csv", 453, 80, 0, None),
        ("merged_txt_train.csv", 6990, 0, 0, 2456),
        ("merged_txt_trial.csv", 1000, 0, 0, 343),
    ],
)
def test_every_line_of_the_real_memotion_files(table, rows, repaired, rejected, funny):
    folder = shared("data", "memotion_semeval2020")
    lines = [line for line in (folder / table).read_text(encoding="utf-8").splitlines() if line.strip()]
    has_header = not lines[0].split(",")[-1].strip().startswith(("very", "positive", "negative", "neutral", "image"))
    found = account(folder, "memotion_task_c", labels_file=table)
    assert found["rows"] == rows == len(lines) - has_header
    assert (len(found["repaired"]), len(found["rejected"]), found["read"]) == (repaired, rejected, rows - rejected)
    assert all("is also that of" in entry["what"] for entry in found["rejected"])  # one post stands there twice
    for counts in found["labels"].values():
        assert sum(counts.values()) == rows - rejected
    if funny is not None:
        assert found["labels"]["humour"]["funny"] == funny


def test_shifted_memotion_rows_are_read_from_both_ends():
    folder = shared("data", "memotion_semeval2020")
    posts = posts_of(folder, "memotion_task_c", labels_file="prob_test.csv")
    assert posts["barney_753019_1.jpg"]["text"] == "BE AWESOME"
    assert posts["barney_753019_1.jpg"]["humour"] == "funny"
    # csv alone takes these 453 lines for 80 rows
    assert len(list(csv.reader((folder / "prob_test.csv").open(encoding="utf-8", newline="")))) == 80


def test_the_same_post_has_the_same_labels_in_both_forms():
    folder = shared("data", "memotion_semeval2020")
    by_name, by_number = (
        posts_of(folder, "memotion_task_c", labels_file=table, text_column="text_corrected")
        for table in ("prob_test.csv", "merged_txt_trial.csv")
    )
    both = set(by_name) & set(by_number)
    same = [by_name[name]["offensive"] == by_number[name]["offensive"] for name in both]
    assert len(both) > 20 and sum(same) / len(same) > 0.9


@pytest.mark.parametrize(
    "folder, degrees, repaired",
    [("Harm-C", [2295, 1036, 213], 0), ("Harm-P", [1722, 1605, 142], 13)],
)
def test_every_row_of_harmeme(folder, degrees, repaired):
    found = account(shared("data", "harmeme", folder), "harmeme")
    assert list(found["labels"]["harm"].values()) == degrees
    assert found["rows"] == found["read"] == sum(degrees) + (folder == "Harm-P")  # one degree is empty
    assert len(found["repaired"]) == repaired and not found["rejected"]
    assert found["posts"]["validation"] == 177


@pytest.mark.slow
def test_every_row_of_met_meme_in_both_languages():
    folder = shared("data", "met_meme")
    found = account(folder, "met_meme")
    assert found["rows"] == found["read"] == 3994 + 6045 and not found["rejected"]
    assert len(found["repaired"]) == 2 and "表达情感" in found["repaired"][0]["what"]
    assert all(sum(counts.values()) == 10039 for counts in found["labels"].values())
    posts = posts_of(folder, "met_meme")
    assert (
        posts["Image_(10).jpg"]["text"] == "我只是一个宝宝却要承受这么多"
        and posts["Image_(10).jpg"]["sentiment"] == "sorrow"
    )
    english = account(folder, "met_meme", labels_file="label_E.csv")
    assert english["rows"] == 3994 and english["labels"]["offensiveness"]["very"] == 30


@pytest.mark.parametrize(
    "table",
    [
        "Image_name,Labels\na.jpg,1_1101_2301\nb.jpg,-1_0000_0000\nc.jpg,0_1000_1200\n",
        "Image_name,T1,T2,T3\na.jpg,1,1101,2301\nb.jpg,-1,0,0\nc.jpg,0,1000,1200\nd.jpg,0,10,20\n",
    ],
)
def test_memotion_test_gold(tmp_path, table):
    (tmp_path / "gold.csv").write_text(table)
    (tmp_path / "2000_testdata.csv").write_text(
        "Image_name,Image_URL,OCR_extracted_text,corrected_text\na.jpg,u,A,hello\n"
    )
    found = account(tmp_path, "memotion_task_c", labels_file="gold.csv")
    # c: task B calls it not sarcastic, task C twisted
    wanted = "a.jpg" if "Labels" in table else "d.jpg"
    assert [entry["what"] for entry in found["rejected"]] != [] and found["rows"] - found["read"] == len(
        found["rejected"]
    )
    assert any("sarcasm: task B says" in entry["what"] for entry in found["rejected"])
    posts = {}
    splits, _, _ = read_posts(
        describe(tmp_path, "memotion_task_c", labels_file="gold.csv"), True, check_images=False, training=False
    )
    for split in splits.values():
        posts |= {post["id"]: post for post in split}
    assert wanted in posts and "c.jpg" not in posts and posts["b.jpg"]["label.humour"] == 0
    if "T1" in table:
        assert posts["d.jpg"]["label.offensive"] == 2 and posts["d.jpg"]["label.humour"] == 0
        assert "leading zeros given back" in {entry["what"] for entry in found["repaired"]}


def test_gold_has_its_texts_from_the_table_beside_it(tmp_path):
    (tmp_path / "gold.csv").write_text("Image_name,Labels\na.jpg,1_1101_2301\nb.jpg,-1_0000_0000\n")
    (tmp_path / "data_test.csv").write_text("Image_name,Image_URL,OCR_extracted_text,corrected_text\na.jpg,u,A,hello\n")
    posts = posts_of(tmp_path, "memotion_task_a", labels_file="gold.csv")
    assert posts["a.jpg"]["text"] == "hello" and posts["a.jpg"]["sentiment"] == "positive"
    assert posts["b.jpg"]["text"] is None and posts["b.jpg"]["sentiment"] == "negative"


def test_hateful_memes(tmp_path):
    for name, rows in {"train": [1, 0], "dev_seen": [0], "test_seen": [None], "dev_unseen": [1]}.items():
        lines = [
            {"id": f"{n:05}", "img": f"img/{n:05}.png", "text": f"meme {n}"}
            | ({} if label is None else {"label": label})
            for n, label in enumerate(rows, sum(map(ord, name)))
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    posts = posts_of(tmp_path, "hateful_memes")
    assert [post["hateful"] for post in posts.values()] == ["hateful", "not_hateful", "not_hateful", None]
    assert [post["split"] for post in posts.values()] == ["train", "train", "validation", "test"]
    assert all(post["text"].startswith("meme") for post in posts.values())


def test_multioff(tmp_path):
    for name in ("Training", "Validation", "Testing"):
        (tmp_path / f"{name}_meme_dataset.csv").write_text(
            f"image_name,sentence,label\n{name}1.png,two words,offensive\n{name}2.png,one,Non-offensiv\n"
        )
    posts = posts_of(tmp_path, "multioff")
    assert posts["Training1.png"] == {"split": "train", "text": "two words", "offensive": "offensive"}
    assert posts["Testing2.png"] == {"split": "test", "text": "one", "offensive": "not_offensive"}
    assert posts["Validation2.png"]["split"] == "validation"


def test_a_tweet_that_stands_twice_is_told(tmp_path):
    (tmp_path / "MMHS150K_GT.json").write_text('{"11": {"labels": [0]}, "11": {"labels": [1]}}')
    with pytest.raises(ValueError, match=r"MMHS150K_GT\.json: not JSON \('11' stands there twice\)"):
        account_for_rows(describe(tmp_path, "mmhs150k"))


def test_mmhs150k(tmp_path):
    tweets = {
        "11": {"labels": [4, 1, 1], "tweet_text": "a tweet", "img_url": "u", "tweet_url": "t", "labels_str": []},
        "12": {"labels": [0, 0, 3], "tweet_text": "", "img_url": "u", "tweet_url": "t", "labels_str": []},
        "13": {"labels": [0, 1, 2], "tweet_text": "c", "img_url": "u", "tweet_url": "t", "labels_str": []},
        "14": {"labels": [0, 9], "tweet_text": "d", "img_url": "u", "tweet_url": "t", "labels_str": []},
    }
    (tmp_path / "MMHS150K_GT.json").write_text(json.dumps(tweets))
    for folder in ("splits", "img_txt", "img_resized"):
        (tmp_path / folder).mkdir()
    for split, names in {"train": "11\n", "val": "12\n", "test": "13\n14\n"}.items():
        (tmp_path / "splits" / f"{split}_ids.txt").write_text(names)
    (tmp_path / "img_txt" / "12.json").write_text('{"img_text": "on the picture"}')
    for name in tweets:
        Image.new("RGB", (8, 8)).save(tmp_path / "img_resized" / f"{name}.jpg")
    found = account_for_rows(describe(tmp_path, "mmhs150k"))
    assert [entry["where"] for entry in found["rejected"]] == ["MMHS150K_GT.json[14]"]
    assert [entry["what"] for entry in found["repaired"]] == ["three annotators, three labels: hate is missing"]
    del tweets["14"]
    (tmp_path / "MMHS150K_GT.json").write_text(json.dumps(tweets))
    posts = posts_of(tmp_path, "mmhs150k")
    assert posts["11"] == {"split": "train", "text": "a tweet", "hate": "racist", "hateful": "hateful"}
    assert posts["12"] == {
        "split": "validation",
        "text": "on the picture",
        "hate": "not_hate",
        "hateful": "not_hateful",
    }
    assert posts["13"]["hate"] is None and posts["13"]["hateful"] == "hateful"


def test_mami(tmp_path):
    header = "file_name\tmisogynous\tshaming\tstereotype\tobjectification\tviolence\tText Transcription\n"
    (tmp_path / "training.csv").write_text(
        header + '1.jpg\t1\t0\t1\t0\t0\tshe said "no", twice\n2.jpg\t0\t0\t0\t0\t0\thi\n'
    )
    (tmp_path / "Test.csv").write_text("file_name\tText Transcription\n15001.jpg\tlater\n")
    (tmp_path / "test_labels.txt").write_text("15001.jpg\t1\t0\t0\t1\t0\n")
    posts = posts_of(tmp_path, "mami")
    assert posts["1.jpg"]["text"] == 'she said "no", twice' and posts["1.jpg"]["stereotype"] == "stereotype"
    assert posts["15001.jpg"]["split"] == "test" and posts["15001.jpg"]["objectification"] == "objectification"
    assert posts["15001.jpg"]["violence"] == "not_violence" and posts["2.jpg"]["misogynous"] == "not_misogynous"


def test_labels_of_mami_that_are_missing_are_told(tmp_path):
    (tmp_path / "Test.csv").write_text("file_name\tText Transcription\n1.jpg\ta\n2.jpg\tb\n3.jpg\tc\n")
    (tmp_path / "test_labels.txt").write_text("1.jpg\t1\t0\t0\t1\t0\n2.jpg\t1\t0\t0\t1\n")
    found = {problem["where"]: problem["what"] for problem in account(tmp_path, "mami")["rejected"]}
    assert found == {
        "Test.csv:3": "the labels' file has 4 labels instead of 5 for '2.jpg'",
        "Test.csv:4": "the labels' file has no line for '3.jpg'",
    }


def test_labels_that_contradict_themselves_are_told(tmp_path):
    header = ["file_name", *(column for column, *_ in MET_MEME_CODES.values())]
    cells = ["3(happiness),1(slightly)", "3(anger),1(very)", "2.5,1", "1abc,1", "3(anger),1(slightly)", "3,1", "1,2"]
    lines = [f"{n}.jpg,{cell},1(interactive),0,1\n" for n, cell in enumerate(cells)]
    (tmp_path / "label_E.csv").write_text(",".join(header) + "\n" + "".join(lines))
    texts = [f"{n}.jpg,text {n}\n" for n in range(7)] + ["6.jpg,another\n", "5.jpg,text 5\n"]
    (tmp_path / "E_text.csv").write_text("file_name,text\n" + "".join(texts))
    found = account(tmp_path, "met_meme", image_column=None)
    assert found["read"] == 2 and found["labels"]["sentiment"]["anger"] == 2
    said = {entry["where"]: entry["what"] for entry in found["rejected"]}
    assert "sentiment category is '3(happiness)', none of 1(happiness), 2(love)" in said["label_E.csv:2"]
    assert (
        "sentiment degree is '1(very)'" in said["label_E.csv:3"] and "several texts of 6.jpg" in said["label_E.csv:8"]
    )
    assert len(said) == 5


def test_lines_and_lists_that_contradict_each_other_are_told(tmp_path):
    (tmp_path / "mami").mkdir()
    (tmp_path / "mami" / "Test.csv").write_text("file_name\tText Transcription\n1.jpg\ta\n2.jpg\tb\n")
    gold = "1.jpg\t1\t0\t0\t1\t0\n1.jpg\t0\t0\t0\t0\t0\n" + "2.jpg\t1\t0\t0\t1\t0\n" * 2
    (tmp_path / "mami" / "test_labels.txt").write_text(gold)
    found = account(tmp_path / "mami", "mami")
    assert [entry["what"] for entry in found["rejected"]] == ["the labels' file has lines that differ for '1.jpg'"]
    tweets = {str(n): {"labels": [1, 1, 1], "tweet_text": "a"} for n in (11, 12)}
    (tmp_path / "mmhs" / "splits").mkdir(parents=True)
    (tmp_path / "mmhs" / "MMHS150K_GT.json").write_text(json.dumps(tweets))
    for split in ("train", "val"):
        (tmp_path / "mmhs" / "splits" / f"{split}_ids.txt").write_text("11\n" + "12\n" * (split == "val"))
    found = account(tmp_path / "mmhs", "mmhs150k", image_column=None)
    assert [entry["what"] for entry in found["rejected"]] == ["it is in the lists of train and val"]


def test_met_meme_with_columns_of_other_names_is_told(tmp_path):
    (tmp_path / "E_text.csv").write_text("file_name,text\n1.jpg,a\n")
    (tmp_path / "label_E.csv").write_text("file_name,Sentiment Category\n1.jpg,1(happiness)\n")
    with pytest.raises(ValueError, match=r"label_E\.csv has no column '.*'; it has 'file_name', 'Sentiment Category'"):
        account(tmp_path, "met_meme")


def test_pridemm(tmp_path):
    (tmp_path / "PrideMM.csv").write_text(
        "name,text,hate,target,stance,humour,split\n1.png,love,0,,1,1,train\n2.png,hm,1,2,2,0,val\n3.png,x,1,0,0,0,test\n"
    )
    posts = posts_of(tmp_path, "pridemm")
    assert posts["1.png"]["hate"] == "not_hateful" and posts["1.png"]["target"] is None
    whole = (tmp_path / "PrideMM.csv").read_text()
    rows = [[f" {cell}.0" if cell.isdecimal() else cell for cell in line.split(",")] for line in whole.splitlines()]
    (tmp_path / "PrideMM.csv").write_text("".join(",".join(row) + "\n" for row in rows))  # as pandas writes them
    assert posts_of(tmp_path, "pridemm") == posts
    (tmp_path / "PrideMM.csv").write_text(whole)
    assert posts["2.png"] == {
        "split": "validation", "text": "hm", "hate": "hateful", "target": "community", "stance": "oppose",
        "humour": "not_humorous",
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["harmeme", "met_meme", "mmhs150k", "mami", "memotion_task_a"])
def test_a_folder_without_the_tables_is_refused_by_name(tmp_path, preset):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_posts(describe(tmp_path, preset))


def test_an_unknown_reader_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`reader` must be one of memotion, harmeme"):
        read_posts(DataDescription(str(tmp_path), reader="memotoin"))


def test_wrong_encodings_are_named_by_line(tmp_path):
    (tmp_path / "labels.csv").write_bytes("image,text,mood\na.png,fine,1\nb.png,Stra\xdfe,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv:3: not UTF-8"):
        read_posts(DataDescription(str(tmp_path), labels=["mood"]), check_images=False)
    splits, _, _ = read_posts(
        DataDescription(str(tmp_path), labels=["mood"], encoding="latin-1"), check_images=False, training=False
    )
    assert {post["text"] for split in splits.values() for post in split} == {"fine", "Straße"}


def test_every_row_of_multioffs_real_tables():
    found = account(shared("data", "multioff"), "multioff", image_column=None, id_column="image_name")
    assert (found["rows"], found["read"], found["rejected"]) == (743, 743, [])
    assert found["posts"] == {"train": 445, "validation": 149, "test": 149}
    assert found["labels"]["offensive"] == {"not_offensive": 440, "offensive": 303}
