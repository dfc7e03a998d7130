"""Tables as they circulate: a bad row is that row's problem, a bad table beside a good one is passed over with a word."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts
from modeling_mm_orient.data.tables import table_columns, table_rows


def texts(folder, **fields) -> list[str]:
    return read_posts(DataDescription(str(folder), **fields), training=False)[0]["all"]["text"]


def account(folder, **fields) -> tuple[int, list[str]]:
    found = account_for_rows(DataDescription(str(folder), **fields))
    return found["read"], [problem["where"] for problem in found["rejected"]]


def test_half_a_character_is_mended_and_said(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"text": "a \\ud83d b", "id": "\\udc00"}\n{"text": "\\ud83d\\ude00 whole", "id": "2"}\n'
    )
    assert texts(tmp_path) == ["a \ufffd b", "\U0001f600 whole"]
    assert [repair["where"] for repair in account_for_rows(DataDescription(str(tmp_path)))["repaired"]] == ["t.jsonl:1"]


def test_a_long_field_is_a_text(tmp_path):
    (tmp_path / "t.csv").write_text(f"id,text\n1,{'x' * 200_000}\n2,short\n")
    assert [len(text) for text in texts(tmp_path)] == [200_000, 5]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends(tmp_path, encoding, end):
    lines = ["id,text", "1,café \u4e0a", '2,"of two\nlines, quoted"', "3,last"]
    (tmp_path / "t.csv").write_bytes((end.join(lines) + end).encode(encoding))
    assert texts(tmp_path) == ["café \u4e0a", "of two\nlines, quoted", "last"]
    (tmp_path / "t.csv").unlink()
    rows = [{"id": str(n), "text": f"café {n}"} for n in range(3)]
    (tmp_path / "t.jsonl").write_bytes(end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    assert texts(tmp_path) == [row["text"] for row in rows]


def test_the_encoding_can_be_named(tmp_path):
    for encoding in ("latin-1", "utf-16-le", "gb18030"):
        (tmp_path / "t.csv").write_bytes("id,text\n1,café\n".encode(encoding))
        assert texts(tmp_path, encoding=encoding) == ["café"]
    with pytest.raises(ValueError, match="no encoding 'klingon'"):
        texts(tmp_path, encoding="klingon")


def test_a_row_in_another_encoding_is_that_rows_problem(tmp_path):
    (tmp_path / "t.csv").write_bytes("id,text\n1,good\n2,café\n3,good\n".encode("latin-1"))
    assert account(tmp_path) == (2, ["t.csv:3"])
    with pytest.raises(DataProblems, match=r"t\.csv:3: not UTF-8; name the encoding \(--encoding\)"):
        texts(tmp_path)


@pytest.mark.parametrize(
    "name, content",
    [
        ("._labels.csv", b"\0\5\26\7\0\2\0\0Mac OS X   \xff\xfe"),
        ("other.csv", "größe,höhe\n1,2\n".encode("latin-1")),
        ("other.tsv", b""),
        ("other.jsonl", b"[1]\nnot json\n"),
        ("other.parquet", b"PAR1 no more"),
        ("other.csv", b'"' + b"x" * 200_000),
    ],
)
def test_a_bad_table_beside_a_good_one(tmp_path, name, content, caplog):
    (tmp_path / "labels.csv").write_text("id,text\n1,good\n")
    (tmp_path / name).write_bytes(content)
    assert texts(tmp_path) == ["good"] and f"not read: {name}" in caplog.text


def test_a_key_that_stands_twice_is_a_problem(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "mood": "x"}\n{"text": "b", "text": "c", "mood": "y"}\n')
    with pytest.raises(DataProblems, match=r"t\.jsonl:2: not JSON \('text' stands there twice\)"):
        read_posts(DataDescription(str(tmp_path), labels=["mood"]))


def test_bad_rows_of_jsonl(tmp_path):
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    rows = [
        '{"text": "a"}',
        deep,
        "[1]",
        "not json",
        '{"text": "b"}',
        '{"text": ["a", "b"]}',
        '{"text": ' + "9" * 5000 + "}",
    ]
    nested = '{"text": "c", "more": ' + "[" * 700 + "]" * 700 + "}"
    (tmp_path / "t.jsonl").write_text("\n".join([*rows, nested]))
    read, wrong = account(tmp_path)
    assert read + len(wrong) == 8 and set(wrong) - {"t.jsonl:8"} == {f"t.jsonl:{n}" for n in (2, 3, 4, 6, 7)}


def test_deep_json_in_a_cell_of_labels(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,text,mood\n"
        + "".join(f"{n},x{n},{'ab'[n % 2]}\n" for n in range(20))
        + "z,x,"
        + "[" * 90_000
        + "]" * 90_000
    )
    with pytest.raises(DataProblems, match=r"t\.csv:22"):
        read_posts(DataDescription(str(tmp_path), labels=["mood"]))


def test_a_huge_header_is_no_traceback_and_no_huge_message(tmp_path):
    (tmp_path / "t.csv").write_text(f"id,{'x' * 200_000}\n1,2\n")
    with pytest.raises(ValueError, match="has no column") as caught:
        texts(tmp_path)
    assert len(str(caught.value)) < 1000
    (tmp_path / "t.csv").write_text(",".join(f"column{n}" for n in range(50_000)))
    with pytest.raises(ValueError, match="and 49970 more") as caught:
        texts(tmp_path)


def test_a_quote_that_is_nowhere_closed_swallows_one_row(tmp_path):
    rows = [f"{n},text {n}" for n in range(1, 8)]
    rows[2] = '3,"never closed'
    (tmp_path / "t.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
    assert account(tmp_path) == (6, ["t.csv:4"])
    assert [row.where for row in table_rows(tmp_path / "t.csv")] == [f"t.csv:{n}" for n in range(2, 9)]


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t")])
def test_two_stray_quotes_swallow_no_rows(tmp_path, name, mark):
    rows = [f"{n}{mark}text {n}" for n in range(1, 9)]
    rows[1], rows[5] = f'2{mark}"text 2', f'6{mark}"text 6'
    rows[7] = f'8{mark}"two\nlines, ""quoted"""'
    (tmp_path / name).write_text(f"id{mark}text\n" + "\n".join(rows) + "\n")
    assert account(tmp_path) == (6, [f"{name}:3", f"{name}:7"])
    assert [*table_rows(tmp_path / name)][-1].values["text"] == 'two\nlines, "quoted"'


def test_a_stray_carriage_return_is_one_rows_problem(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id,text\n1,a\n2,b\rc\n3,d\n")
    assert account(tmp_path) == (2, ["t.csv:3"])


def test_suffixes_in_capitals(tmp_path):
    (tmp_path / "T.CSV").write_text("id,text\n1,a\n")
    assert texts(tmp_path) == ["a"]


def test_parquet_that_is_damaged_in_the_middle_or_not_utf8(tmp_path):
    path = tmp_path / "t.parquet"
    strings = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"id": ["1", "2"], "text": strings}), path)
    assert account(tmp_path) == (1, ["t.parquet[1]"])
    pa.parquet.write_table(pa.table({"text": [f"text {n}" * 20 for n in range(2000)]}), path, compression="none")
    content = bytearray(path.read_bytes())
    content[100:900] = b"\xff" * 800
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.parquet"):
        texts(tmp_path)


def test_columns_of_an_empty_table(tmp_path):
    (tmp_path / "t.csv").write_text("")
    assert table_columns(tmp_path / "t.csv") == [] and list(table_rows(tmp_path / "t.csv")) == []


def test_a_published_table_goes_on_past_a_bad_line(tmp_path):
    good = "{}.jpg,http://x,a b,a b,funny,general,slight,motivational,positive\n"
    lines = [good.format(n).encode() for n in range(3)]
    lines[1] = lines[1].replace(b"a b", b"caf\xe9")
    (tmp_path / "labels.csv").write_bytes(b"".join(lines))
    description = DataDescription(str(tmp_path), reader="memotion", image_column=None, text_column="text_corrected")
    assert account_for_rows(description)["read"] == 2


def test_rows_without_an_id_take_none_from_others(tmp_path):
    rows = [{"id": "2", "text": "a"}, {"text": "b"}, {"text": "c"}, {"id": "1", "text": "d"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = read_posts(DataDescription(str(tmp_path)), training=False)[0]["all"]["id"]
    assert ids == ["2", "t.jsonl:2", "t.jsonl:3", "1"]


def test_a_post_without_picture_and_id_is_called_by_its_number(tmp_path):
    (tmp_path / "t.csv").write_text("image,text\n,a\n,b\n")
    assert read_posts(DataDescription(str(tmp_path)), training=False)[0]["all"]["id"] == ["0", "1"]


def test_an_encoding_that_needs_a_mark_is_refused_without_one(tmp_path):
    (tmp_path / "t.csv").write_bytes("text,y\nhello,a\nyou,b\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"t\.csv has no byte order mark: say utf-16-le or utf-16-be"):
        read_posts(DataDescription(str(tmp_path), labels=["y"], encoding="utf-16"))
    assert read_posts(DataDescription(str(tmp_path), labels=["y"], encoding="utf-16-le"), training=False)
