# ruff: noqa: RUF001 (texts in many scripts)
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_mm_orient.text_cleaning import PAPER_STEPS, STEPS, clean_text, normalized

from .helpers import make_processor, picture


@pytest.mark.parametrize(
    "step, text, expected",
    [
        ("urls", "see https://a.b/c?d=e#f, or www.x.y and me@mail.org now", "see or and now"),
        ("handles", "thanks @narendramodi ji, 5 @ 3", "thanks ji, 5 @ 3"),
        ("watermarks", "LOOK THERE imgflip.com", "LOOK THERE"),
        ("watermarks", "made with mematic", ""),
        ("watermarks", "quickmeme. com says hi", "says hi"),
        ("watermarks", "9gag.com/gag/4559161 oh i know", "oh i know"),
        ("watermarks", "via 9GAG.COM", ""),
        (
            "watermarks",
            "Stop.it Mr.Smith, e.g. in the U.S.A. at home.me",
            "Stop.it Mr.Smith, e.g. in the U.S.A. at home.me",
        ),
        ("special_characters", "#10 <b> $$$ [x] 100% don’t", "10 b x 100% don’t"),
        ("special_characters", "👨‍👩‍👧 LOL 👍🏽 ❤️", "👨‍👩‍👧 LOL 👍🏽 ❤️"),
        ("lower_case", "ÄRGER Über İ", "ärger über i̇"),
    ],
)
def test_steps(step, text, expected):
    assert clean_text(text, [step]) == expected


@pytest.mark.parametrize(
    "text",
    [
        "我只是一个宝宝却要承受这么多！",
        "नमस्ते दुनिया",
        "مرحبا بالعالم",
        "สวัสดีชาวโลก",
        "γειά σου κόσμε",
        "こんにちは、世界。",
    ],
)
def test_scripts_survive_all_steps(text):
    assert clean_text(text, PAPER_STEPS) == text


def test_no_steps_change_nothing_and_unknown_ones_are_refused():
    assert clean_text("  A  @b ", ()) == "  A  @b "
    with pytest.raises(ValueError, match="'emoji'; the steps are urls, handles"):
        clean_text("x", ["emoji"])


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_marks_in_a_row_are_put_in_order_in_parts(form):
    few = "a" + "\u0301\u0316" * 15 + "é\u0316\u0301"
    assert normalized(few, form) == unicodedata.normalize(form, few) != few
    many = "a" + "\u0301\u0316" * 100
    parts = [many[place : place + 30] for place in range(1, 201, 30)]
    expected = unicodedata.normalize(form, "a" + parts[0]) + "".join(unicodedata.normalize(form, p) for p in parts[1:])
    assert normalized(many + "b", form) == expected + "b"


@given(st.text())
def test_texts_of_few_marks_are_as_unicode_has_them(text):
    if not re.search(r"[\u0300-\u036f]{30}", text):
        assert normalized(text, "NFC") == unicodedata.normalize("NFC", text)


@given(st.text(), st.lists(st.sampled_from(sorted(STEPS)), unique=True))
def test_cleaning_twice_is_cleaning_once_or_less(text, steps):
    once = clean_text(text, steps)
    assert len(clean_text(once, steps)) <= len(once)
    assert clean_text(text, steps[::-1]) == once  # the order is that of the table


def test_the_processor_cleans_and_remembers(tmp_path):
    processor = make_processor(text_cleaning=PAPER_STEPS)
    plain = make_processor()
    cleaned = processor(text=["A CAT @you imgflip.com"], return_tensors="pt").input_ids
    assert cleaned.tolist() == plain(text=["a cat"], return_tensors="pt").input_ids.tolist()
    processor.save_pretrained(tmp_path)
    assert type(processor).from_pretrained(tmp_path).text_cleaning == list(PAPER_STEPS)
    with pytest.raises(ValueError, match="`text_cleaning` has 'url'"):
        make_processor(text_cleaning=["url"])


def test_a_text_that_nothing_is_left_of_is_missing_unless_it_is_all_there_is():
    processor = make_processor(text_cleaning=PAPER_STEPS)
    inputs = processor(images=[picture(), None], text=["imgflip.com", "imgflip.com"], return_tensors="pt")
    assert inputs["has_text"].tolist() == [False, True]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("piece", ["a", "a.", "-a", "-a.com", "a@", "com.", "x.com ", "@a", "9 gag", "made with "])
def test_a_long_text_takes_no_longer_per_letter(piece, step):
    clean_text(piece * 30_000, [step])  # in squares of that it would take hours


def test_addresses_go_and_words_stay():
    text = "see http://a.b/c or me@home.de, 9gag.com/gag/1 via quickmeme.com a.b.c.com but stop.it x.com.de"
    assert clean_text(text, ["urls", "watermarks"]) == "see or , but stop.it x.com.de"
