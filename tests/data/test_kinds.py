"""Files of every kind as people have them: tables, JSON arrays, saved data sets, archives."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_helpers import CASES, TEXTS

from epochal.data.inputs import TextInputs
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.errors import DataError, OptionError
from epochal.report.text import describe


def read(path, **options):
    """(texts, codes of the notes) of a file or folder; read twice, which must give the same."""
    inputs = TextInputs.find([path], PrepareOptions(**options))
    texts = [text for text, _ in inputs.documents()]
    assert texts == [text for text, _ in inputs.documents()]
    notes = list(inputs.notes())
    assert all(describe(note) for note in notes)
    return texts, [note.code for note in notes]


ODD = [
    "plain",
    'with "quotes", and commas',
    "two\nlines\n",
    "tab\tand;semicolon|pipe",
    "ä 日本",
    " ",
]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
def test_a_column_of_csv(tmp_path, separator, name):
    table = io.StringIO()
    writer = csv.writer(table, delimiter=separator)
    writer.writerows([["id", "text", "note"], *([n, text, "x"] for n, text in enumerate(ODD))])
    content = b"\xef\xbb\xbf" + table.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path / name) == (ODD, [])
    assert read(tmp_path) == (ODD, [])
    assert read(tmp_path / name, text_field="note")[0] == ["x"] * len(ODD)


def test_long_fields_of_csv(tmp_path):
    (tmp_path / "x.csv").write_text(f'text\n"{"a" * 200_000}"\n\nb\n')
    assert read(tmp_path / "x.csv")[0] == ["a" * 200_000, "b"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,body\n1,a\n", r"x.csv has no column 'text'; its columns are 'id', 'body'\. Name the"),
        ("text,text\na,b\n", r"x.csv has 2 columns named 'text'; rename or remove all but one"),
        ("id,text\n1,a\n2,b,c\n", r"line 3 has 3 columns, its header 2; put fields .* into quotes"),
        ('id,text\n1,"a"b\n', r"x.csv, line 2 is not valid CSV"),
        ('id,text\n1,"a\n', r"x.csv, line 2 is not valid CSV \(unexpected end of data\)"),
        ("", r"has no column 'text'; its columns are none"),
        (
            b"id,text\n1,caf\xe9 au lait\n",
            r"at byte 13; it looks like cp1252 \(`encoding` = cp1252\)",
        ),
    ],
)
def test_faults_of_csv(tmp_path, content, sentence):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence):
        read(path)


@pytest.mark.parametrize("indent", [None, 2])
def test_one_json_array(tmp_path, indent):
    rows = [{"id": number, "text": text} for number, text in enumerate(ODD * 9)]
    (tmp_path / "x.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False))
    assert read(tmp_path / "x.json") == read(tmp_path) == (ODD * 9, [])
    (tmp_path / "x.json").rename(tmp_path / "x.jsonl")
    assert read(tmp_path / "x.jsonl")[0] == ODD * 9
    (tmp_path / "y.json").write_text(json.dumps(ODD))
    assert read(tmp_path / "y.json")[0] == ODD
    (tmp_path / "z.json").write_text(" [ ] \n")
    assert read(tmp_path / "z.json")[0] == []


def test_a_json_array_larger_than_what_is_read_at_once(tmp_path):
    rows = [{"text": f"{number} " + "ä" * (number % 7) * 300_000} for number in range(15)]
    (tmp_path / "x.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert read(tmp_path / "x.json")[0] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"text": "a"}, {"text": "b"', r"element 2 of the array is not valid JSON"),
        ('[{"text": "a"} {"text": "b"}]', r"element 1 of the array has '\{' behind it"),
        ('[{"text": "a"}', r"element 1 .* is the last, but `\]` is missing"),
        ('[{"text": "a"}]\n[{"text": "b"}]', r"goes on behind its JSON array, with '\['"),
        ("[7]", r"element 1 of the array is the value 7, not an object like"),
        ('[{"txt": "a"}]', r"element 1 of the array has no field 'text'; its fields are 'txt'"),
        (b'[{"text": "a\xff"}]', r"not valid UTF-8 at byte 12"),
    ],
)
def test_faults_of_json_arrays(tmp_path, content, sentence):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence):
        read(path)


# Fields


def test_nested_fields_by_path(tmp_path):
    rows = [
        {"meta": {"text": "inner", "deep": {"x.y": "dot"}}, "turns": [{"say": "a"}, {"say": "b"}]},
        {"meta": None, "turns": []},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        assert read(tmp_path / name, text_field="meta.text")[0] == ["inner", ""]
        assert read(tmp_path / name, text_field="meta.deep.x.y")[0] == ["dot", ""]
        joined = read(tmp_path / name, text_field="turns.say", lists="line")[0]
        assert joined == ["a\nb", ""]
        with pytest.raises(DataError, match=r"holds (dict|an object)?.*for example 'meta\.text'"):
            read(tmp_path / name, text_field="meta")
    with pytest.raises(DataError, match=r"no field 'meta.txt'.*'meta.text'.*Did you mean `meta.te"):
        read(tmp_path / "x.jsonl", text_field="meta.txt")
    rows = [{"meta.text": "literal", "meta": {"text": "nested"}}]
    (tmp_path / "y.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "y.parquet")
    for name in ("y.jsonl", "y.parquet"):
        assert read(tmp_path / name, text_field="meta.text")[0] == ["literal"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_lists_of_texts(tmp_path, name):
    rows = [{"text": ["a", None, "b"]}, {"text": []}, {"text": None}, {"text": ["c"]}]
    if name == "x.jsonl":
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    expected = {
        "line": ["a\nb", "", "", "c"],
        "blank-line": ["a\n\nb", "", "", "c"],
        "space": ["a b", "", "", "c"],
        "documents": ["a", "b", "", "", "c"],
    }
    for rule, texts in expected.items():
        assert read(tmp_path / name, lists=rule)[0] == texts
    with pytest.raises(DataError, match=r"holds list .*not text; .*`lists` = line"):
        read(tmp_path / name)
    with pytest.raises(OptionError, match=r"lists = 'comma': give one of line, blank-line, space"):
        PrepareOptions(lists="comma")


def test_columns_of_bytes_and_of_nulls(tmp_path):
    for kind in (pa.binary(), pa.large_binary()):
        column = pa.array([b"a", None, "ä".encode()], kind)
        pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
        assert read(tmp_path / "x.parquet") == (["a", "", "ä"], [CorpusNote.BINARY_AS_TEXT])
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "y.parquet")
    texts, codes = read(tmp_path)
    assert texts == ["a", "", "ä", "", "", ""]
    assert codes == [CorpusNote.BINARY_AS_TEXT, CorpusNote.NULL_COLUMN]


def test_notes_of_many_files_are_one(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"text": pa.nulls(1)}), tmp_path / f"{number}.parquet")
    inputs = TextInputs.find([tmp_path])
    list(inputs.documents())
    [note] = inputs.notes()
    assert describe(note).startswith(f"{tmp_path / '0.parquet'} (and 2 more files): the column")


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet has 2 columns named 'text'; rename or remove"):
        read(tmp_path)


# Arrow and `datasets`


def arrow(path, texts, stream=True):
    table = pa.table({"id": range(len(texts)), "text": texts})
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files(tmp_path, stream):
    path = arrow(tmp_path / "x.arrow", ODD, stream)
    assert read(path) == (ODD, [])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"x.arrow is truncated or damaged"):
        print(read(path))


def test_a_saved_data_set(tmp_path):
    for split, texts in (("train", ODD), ("test", ["held out"])):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        arrow(folder / "data-00000-of-00001.arrow", texts)
        arrow(folder / "cache-0123.arrow", ["of an earlier map"])
        listed = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / "state.json").write_text(json.dumps(listed))
        (folder / "dataset_info.json").write_text("{}")
    assert read(tmp_path / "saved" / "train")[0] == ODD
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(tmp_path / "saved") == (ODD, [CorpusNote.ONE_SPLIT])
    assert read(tmp_path / "saved" / "test")[0] == ["held out"]


def test_what_datasets_itself_saves(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    datasets.Dataset.from_dict({"text": ODD}).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[0] == ODD


# Packings and archives


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".zst", zstandard.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
    ],
)
def test_packed_files_are_known_by_their_content(tmp_path, suffix, pack):
    lines = b'{"text": "a"}\n{"text": "b"}\n'
    for name in (f"x.jsonl{suffix}", "x.jsonl"):
        (tmp_path / name).write_bytes(pack(lines))
        assert read(tmp_path / name)[0] == ["a", "b"]
    (tmp_path / "x.txt").write_bytes(b"BZh is no bzip2")
    assert read(tmp_path / "x.txt")[0] == ["BZh is no bzip2"]


def test_zstd_with_a_long_window(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    line = json.dumps({"text": "word " * 50}).encode() + b"\n"
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = packer.compress(line * 9) + packer.flush()
    with pytest.raises(zstandard.ZstdError, match="memory"):
        zstandard.ZstdDecompressor().decompressobj().decompress(content)
    (tmp_path / "x.jsonl.zst").write_bytes(content)
    assert read(tmp_path)[0] == ["word " * 50] * 9


def table_bytes(texts):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


MEMBERS = {
    "a/one.txt": b"one",
    "a/.hidden.txt": b"not this",
    "b.jsonl.gz": gzip.compress(b'{"text": "two"}\n'),
    "c.parquet": table_bytes(["three", "four"]),
    "image.png": b"\x89PNG",
}


def save_archive(path, mode):
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, mode) as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.zip", "zip"),
        ("x.tar", "w"),
        ("x.tar.gz", "w:gz"),
        ("x.tgz", "w:gz"),
        ("x.tar.xz", "w:xz"),
    ],
)
def test_archives(tmp_path, name, mode):
    save_archive(tmp_path / name, mode)
    expected = (["one", "two", "three", "four"], [CorpusNote.SKIPPED_MEMBERS])
    assert read(tmp_path / name) == read(tmp_path) == expected
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 4])
    with pytest.raises(DataError, match=rf"{name}.* (is truncated or damaged|cannot be unpacked)"):
        read(tmp_path / name)


def test_a_fault_inside_an_archive_names_the_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/bad.jsonl", '{"text": 1}')
    with pytest.raises(DataError, match=r"x.zip, d/bad.jsonl, line 1: the field 'text' holds int"):
        read(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("a.png", "")
    with pytest.raises(DataError, match=r"y.zip holds no file of a known kind; known are .txt"):
        read(tmp_path / "y.zip")


# Which files of a folder, and files of unknown suffix


def test_other_kinds_beside_text_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("text\nb\n")
    (tmp_path / "c.json").write_text("{}")
    inputs = TextInputs.find([tmp_path])
    assert [text for text, _ in inputs.documents()] == ["a"]
    assert inputs.skipped == {".csv": 1, ".json": 1}
    (tmp_path / "a.txt").unlink()
    assert read(tmp_path) == (["b"], [CorpusNote.SKIPPED_FILES])


def test_an_unknown_suffix_is_never_taken_silently(tmp_path):
    (tmp_path / "code.py").write_text("print()")
    assert read(tmp_path / "code.py") == (["print()"], [CorpusNote.UNKNOWN_SUFFIX])
    (tmp_path / "table.dat").write_bytes(table_bytes(["a"]))
    assert read(tmp_path / "table.dat") == (["a"], [CorpusNote.UNKNOWN_SUFFIX])


def test_a_name_that_is_not_utf8(tmp_path):
    folder = tmp_path / "names"
    folder.mkdir()
    for number, text in enumerate(TEXTS[:20]):
        (folder / os.fsdecode(b"caf\xe9%d.txt" % number)).write_text(text)
    made = prepare(folder, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    assert made.train.metadata.sources.listed[0].name == r"caf\xe90.txt"
    assert made.train.documents + made.validation.documents == 20


# Encodings and line ends

SAMPLES = {
    "cp1252": "Le café où l'été s'achève: garçon, naïve, voilà déjà l'hôtel de l'œuvre.",
    "cp1251": "Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк.",
    "koi8-r": "Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк.",
    "shift_jis": "日本語のテキスト、漢字とカナ。今日は良い天気ですね。",
    "gb18030": "中文文本、今天天气很好、我们去公园散步。",
    "utf-16": "Any text at all.",
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_another_encoding_is_named_and_the_option_reads_it(tmp_path, encoding):
    text = SAMPLES[encoding]
    (tmp_path / "x.txt").write_bytes(text.encode(encoding))
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for _ in range(9))
    (tmp_path / "x.jsonl").write_bytes(rows.encode(encoding))
    for name, texts in (("x.txt", [text]), ("x.jsonl", [text] * 9)):
        with pytest.raises(DataError, match=r"; it looks like [\w-]+ \(`encoding` = ") as failed:
            read(tmp_path / name)
        guess = next(part for part in failed.value.args if getattr(part, "name", "") == "encoding")
        assert read(tmp_path / name, encoding=guess.value)[0] == texts
        assert read(tmp_path / name, encoding=encoding)[0] == texts


def test_a_damaged_utf8_file_is_no_other_encoding(tmp_path):
    (tmp_path / "x.txt").write_bytes("Zwölf Bäume, schöne Grüße".encode() + b"\xff")
    with pytest.raises(DataError, match=r"at byte 30; fix the file, or have"):
        read(tmp_path / "x.txt")


def test_an_encoding_that_does_not_fit_or_exist(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a" * (1 << 20) + b"\xe9!")
    with pytest.raises(
        DataError, match=r"x.txt is not valid ascii at byte 1,048,576; give another"
    ):
        read(tmp_path / "x.txt", encoding="ascii")
    assert (
        read(tmp_path / "x.txt", encoding="ascii", invalid_utf8="replace")[0][0][-2:] == "\ufffd!"
    )
    for wrong in ("klingon", "base64"):
        with pytest.raises(OptionError, match=rf"encoding = '{wrong}': give a name that Python kn"):
            PrepareOptions(encoding=wrong)


def test_the_encoding_belongs_to_the_corpus(tmp_path):
    (tmp_path / "x.txt").write_bytes("\n".join(f"café {n}" for n in range(40)).encode("cp1252"))
    usual = {"tokenizer": "bytes", "documents": "line"}
    made = prepare(tmp_path / "x.txt", tmp_path / "c", PrepareOptions(**usual, encoding="cp1252"))
    assert made.train.metadata.preparation["encoding"] == "cp1252"
    again = prepare(
        tmp_path / "x.txt", tmp_path / "c", PrepareOptions(**usual, encoding="windows-1252")
    )
    assert again.already_existed
    with pytest.raises(DataError, match=r"made with `encoding` = cp1252"):
        prepare(tmp_path / "x.txt", tmp_path / "c", PrepareOptions(**usual))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("line", ["a", "", "b"]), ("blank-line", ["a", "b"]), ("file", ["a\r\rb\r"])],
)
def test_line_ends_of_old_macs(tmp_path, rule, expected):
    (tmp_path / "x.txt").write_bytes(b"a\r\rb\r")
    assert read(tmp_path / "x.txt", documents=rule)[0] == expected
    (tmp_path / "y.txt").write_bytes(b"one\rline\nsecond")
    assert read(tmp_path / "y.txt", documents="line")[0] == ["one\rline", "second"]


def test_a_byte_order_mark_between_joined_files(tmp_path):
    lines = b'\xef\xbb\xbf{"text": "a"}\n'
    (tmp_path / "x.jsonl").write_bytes(lines * 2)
    assert read(tmp_path / "x.jsonl") == (["a", "a"], [CorpusNote.MARK_INSIDE])


# The files that failed for users

SAME = {"train": 9377, "validation": 544}  # tokens of the sixty documents in any container
CASE_OPTIONS = {
    "cr_only": {"documents": "line"},
    "jsonl_nested": {"text_field": "meta.text"},
    "pq_list": {"lists": "line"},
}
WHOLE = ["cr_only", "ds_csv", "ds_disk", "pq_binary", "pq_shards", "zst_long"]
REFUSED = {
    "pq_dupcol": r"has 2 columns named 'text'",
    "jsonl_gzplain": r"a\.jsonl\.gz is not gzip, in spite of its name",
}
PARTS = {
    "csv": ['Spot said, "Wow". ', "Once upon"],
    "json_array": ["hello one", "two two"],
    "jsonl_nested": ["hello world one", "hello two"],
}


@pytest.fixture
def cases():
    if not CASES.is_dir():
        pytest.skip(f"the collection of files that failed is not here ({CASES})")
    return CASES


@pytest.mark.parametrize("name", WHOLE)
def test_cases_with_the_same_sixty_documents(cases, tmp_path, name):
    options = PrepareOptions(tokenizer="bytes", **CASE_OPTIONS.get(name, {}))
    prepare(cases / name, tmp_path, options)
    found = {side: TokenStore.open(tmp_path / side).unique_tokens for side in SAME}
    assert found == SAME


@pytest.mark.parametrize("name", PARTS)
def test_cases_of_a_few_documents(cases, name):
    assert read(cases / name, **CASE_OPTIONS.get(name, {}))[0] == PARTS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_cases_that_are_refused(cases, name):
    with pytest.raises(DataError, match=REFUSED[name]):
        read(cases / name)


def test_the_other_cases(cases):
    texts, codes = read(cases / "jsonl_bom_mid")
    assert (len(texts), codes) == (61, [CorpusNote.MARK_INSIDE])
    texts, _ = read(cases / "pq_list", lists="line")
    assert len(texts) == 60
    parts, _ = read(cases / "pq_list", lists="documents")
    assert "\n".join(parts[: texts[0].count("\n") + 1]) == texts[0]
    assert np.mean([len(text) for text in texts]) > 100
    known = {*WHOLE, *PARTS, *REFUSED, "jsonl_bom_mid", "pq_list", "tokenizers", "unicode"}
    assert {path.name for path in cases.iterdir() if path.is_dir()} <= known
