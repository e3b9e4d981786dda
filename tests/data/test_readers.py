"""Documents of files of every kind, and the sentence for every fault of one."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.inputs import TextInputs
from epochal.data.options import PrepareOptions
from epochal.errors import DataError, OptionError


def read(path, **options):
    corpus = TextInputs.find([path], PrepareOptions(**options))
    texts = [text for text, _ in corpus.documents()]
    assert texts == [text for text, _ in corpus.documents()]  # again and again
    return texts


def save(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pack(content, suffix):
    if suffix == ".gz":
        return gzip.compress(content)
    return zstandard.compress(content) if suffix == ".zst" else content


TEXT = "One.\nStill one.\r\n\r\n  \nTwo ä.\n\n\nThree"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("file", [TEXT]),
        ("line", ["One.", "Still one.", "", "", "Two ä.", "", "", "Three"]),
        ("blank-line", ["One.\nStill one.", "Two ä.", "Three"]),
    ],
)
def test_what_is_a_document_in_plain_text(tmp_path, suffix, rule, expected):
    path = save(tmp_path / f"x.txt{suffix}", pack(TEXT.encode(), suffix))
    assert read(path, documents=rule) == expected


@pytest.mark.parametrize("rule", ["file", "line", "blank-line"])
def test_a_byte_order_mark_is_no_text(tmp_path, rule):
    assert read(save(tmp_path / "x.txt", b"\xef\xbb\xbfabc"), documents=rule) == ["abc"]
    path = save(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"text": "abc"}')
    assert read(path, documents=rule) == ["abc"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
@settings(deadline=None, max_examples=40)
def test_any_text_passes_through_json_lines_and_parquet(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert read(save(folder / "x.jsonl", lines)) == texts
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / "x.parquet")
    assert read(folder / "x.parquet") == texts


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json", "x.json.gz", "x.jsonl.zst"])
def test_json_lines_in_every_packing(tmp_path, name):
    lines = b'{"id": 1, "body": "a"}\n\n  \n{"body": null}\n{"body": ""}\n{"body": "\\u00e4"}'
    path = save(tmp_path / name, pack(lines, path_suffix(name)))
    assert read(path, text_field="body") == ["a", "", "", "ä"]


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_json_values_over_several_lines(tmp_path, indent):
    rows = [{"id": 1, "text": "a\n{"}, {"text": None}, {"text": "b"}]
    written = "\n".join(json.dumps(row, indent=indent) for row in rows)
    assert read(save(tmp_path / "x.json", written)) == ["a\n{", "", "b"]
    with pytest.raises(DataError, match="value 3 is not valid JSON"):
        read(save(tmp_path / "y.json", json.dumps(rows[0], indent=4) * 2 + "{"))


def path_suffix(name):
    return "." + name.rpartition(".")[2]


def test_packed_files_of_several_members(tmp_path):
    for suffix in (".gz", ".zst"):
        content = pack(b'{"text": "a"}\n', suffix) + pack(b'{"text": "b"}\n', suffix)
        assert read(save(tmp_path / f"x.jsonl{suffix}", content)) == ["a", "b"]


def test_a_large_zstd_file(tmp_path):
    lines = "".join(json.dumps({"text": f"{n} " * 50}) + "\n" for n in range(20_000))
    path = save(tmp_path / "x.jsonl.zst", zstandard.compress(lines.encode()))
    texts = read(path)
    assert len(texts) == 20_000
    assert texts[-1] == "19999 " * 50


FAULTS = [
    ("x.jsonl", '{"text": "a"}\n{"text"\n', r"x.jsonl, line 2 is not valid JSON"),
    ("x.jsonl", '{"text": "a"}\n["a"]', r"line 2 is an array, not an object like \{\"text\": …\}"),
    ("x.jsonl", "3", r"line 1 is the value 3, not an object"),
    (
        "x.jsonl",
        '{"txt": "a", "id": 3}',
        r"line 1 has no field 'text'; its fields are 'txt', 'id'. Did you mean `txt`\? ",
    ),
    ("x.jsonl", "{}", r"has no field 'text'; its fields are none\."),
    ("x.jsonl", '{"text": 7}', r"the field 'text' holds int 7, not text"),
    ("x.jsonl", '{"text": ["a"]}', r"holds list \['a'\], not text"),
    (
        "x.jsonl",
        '{"text": "\\ud800"}',
        r"line 1 spells half a character .*`invalid_utf8` = replace",
    ),
    ("x.jsonl", b'{"text": "ok"}\n{"text": "\xff"}', r"not valid UTF-8 at byte 25.*`invalid_utf8`"),
    ("x.jsonl", '{"n": ' + "9" * 5000 + "}", r"line 1 is not valid JSON"),
    ("x.jsonl", '{"a":' * 100_000, r"line 1 is not valid JSON"),
    ("x.txt", b"abc\xff", r"x.txt is not valid UTF-8 at byte 3; .*fix .*`invalid_utf8` = replace"),
    ("x.txt", b"\xef\xbb\xbfabc\xff", r"at byte 6;"),
    ("x.txt", "text".encode("utf-16"), r"at byte 0; it looks like utf-16 \(`encoding`"),
    ("x.txt.gz", gzip.compress(b"text" * 999)[:-9], r"x.txt.gz is truncated or damaged"),
    ("x.txt.gz", b"plain text", r"x.txt.gz is not gzip, in spite of its name; if it is"),
    ("x.txt.gz", gzip.compress(b"text" * 99)[:12] + b"\xff" * 20, r"truncated or damaged"),
    ("x.txt.zst", zstandard.compress(b"text" * 999)[:-3], r"truncated or damaged .*has no end"),
    ("x.txt.zst", b"plain text", r"x.txt.zst is not zstd, in spite of its name; if it is"),
    ("x.parquet", b"no parquet", r"x.parquet is truncated or damaged"),
    ("x.parquet", b"", r"x.parquet is truncated or damaged"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FAULTS, ids=range(len(FAULTS)))
def test_faults_of_files(tmp_path, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read(save(tmp_path / name, content))


@pytest.mark.parametrize("rule", ["line", "blank-line"])
def test_the_place_of_a_wrong_byte_in_a_later_line(tmp_path, rule):
    path = save(tmp_path / "x.txt", b"\xef\xbb\xbfgood\n\nba\xffd\n")
    with pytest.raises(DataError, match="at byte 11;"):
        read(path, documents=rule)


def test_wrong_bytes_replaced(tmp_path):
    replace = {"invalid_utf8": "replace"}
    assert read(save(tmp_path / "x.txt", b"a\xffb"), **replace) == ["a\ufffdb"]
    path = save(tmp_path / "x.jsonl", b'{"text": "a\xffb"}\n{"text": "x\\udc00y\\ud83d\\ude00"}')
    assert read(path, **replace) == ["a\ufffdb", "x\ufffdy\U0001f600"]


def column(path, array):
    pq.write_table(pa.table({"id": pa.array(range(len(array))), "text": array}), path)
    return path


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_columns_of_text(tmp_path, kind):
    array = pa.array(["ä", None, "", "b"], pa.string()).cast(kind)
    assert read(column(tmp_path / "x.parquet", array)) == ["ä", "", "", "b"]


def test_parquet_in_row_groups(tmp_path):
    table = pa.table({"text": [f"text {n}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    corpus = TextInputs.find([tmp_path / "x.parquet"])
    consumed = [done for _, done in corpus.documents()]
    assert consumed == sorted(consumed)
    assert consumed[-1] == corpus.bytes
    assert len(consumed) == 5000


def test_parquet_columns_that_are_not_there_or_no_text(tmp_path):
    path = column(tmp_path / "x.parquet", pa.array([1, 2]))
    with pytest.raises(DataError, match=r"the column 'text' holds int64, not text.*`text_field`"):
        read(path)
    with pytest.raises(
        DataError, match=r"no column 'texts'; its columns are 'id', 'text'. Did you"
    ):
        read(path, text_field="texts")


def test_parquet_with_wrong_bytes(tmp_path):
    wrong = pa.array([b"fine", b"a\xff"], pa.binary()).view(pa.string())
    path = column(tmp_path / "x.parquet", wrong)
    with pytest.raises(DataError, match=r"row 1, column 'text' is not valid UTF-8 at byte 1"):
        read(path)
    assert read(path, invalid_utf8="replace") == ["fine", "a\ufffd"]


def test_a_parquet_file_damaged_inside(tmp_path):
    table = pa.table({"text": [f"some text {n} {'x' * 200}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", compression="snappy", use_dictionary=False)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    with pytest.raises(DataError, match=r"x.parquet is truncated or damaged|cannot read .*parquet"):
        read(save(tmp_path / "x.parquet", bytes(content)))


def test_options_that_do_not_exist():
    with pytest.raises(OptionError, match="documents = 'word': give one of file, line, blank-line"):
        PrepareOptions(documents="word")
    with pytest.raises(OptionError, match="invalid_utf8 = 'skip': give one of error, replace"):
        PrepareOptions(invalid_utf8="skip")
