"""WARC files: text and pages are read, other records counted, damage is one sentence."""

from __future__ import annotations

import io
import sys

import pytest

from epochal.data.inputs import TextInputs
from epochal.data.notes import CorpusNote
from epochal.errors import DataError


@pytest.fixture(scope="module")
def warc():
    """A WARC of text, an image, a failed request and a page."""
    writer = pytest.importorskip("warcio.warcwriter", reason="needs epochal[warc]")
    http = pytest.importorskip("warcio.statusandheaders", reason="needs epochal[warc]")

    def make(gzip, *records):
        out = io.BytesIO()
        warc = writer.WARCWriter(out, gzip=gzip)
        warc.write_record(warc.create_warcinfo_record("x", {"software": "test"}))
        for kind, mime, content, status in records:
            headers = None
            if kind == "response":
                headers = http.StatusAndHeaders(status, [("Content-Type", mime)], "HTTP/1.1")
            made = warc.create_warc_record(
                "http://example.org/", kind, io.BytesIO(content), len(content),
                warc_content_type=mime if headers is None else "", http_headers=headers,
            )  # fmt: skip
            warc.write_record(made)
        return out.getvalue()

    return make


RECORDS = [
    ("conversion", "text/plain", "Grüße aus dem Archiv.\n".encode(), ""),
    ("response", "text/plain; charset=iso-8859-1", "Grüße".encode("latin-1"), "200 OK"),
    ("response", "image/png", b"\x89PNG", "200 OK"),
    ("response", "text/plain", b"Not found", "404 Not Found"),
    ("resource", "text/plain", b"The last one.", ""),
]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.wet.gz"])
def test_text_records(warc, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(warc(name.endswith(".gz"), *RECORDS))
    inputs = TextInputs.find([tmp_path])
    texts = [text for text, _ in inputs.documents()]
    assert texts == ["Grüße aus dem Archiv.\n", "Grüße", "The last one."]
    [told] = inputs.notes()
    assert told.code == CorpusNote.OTHER_RECORDS
    assert told.values["read"] == 3
    assert told.values["kinds"] == {"image/png": 1, "HTTP 404": 1}


def test_a_page(warc, tmp_path):
    pytest.importorskip("trafilatura", reason="needs epochal[warc]")
    words = "This is a paragraph of a page, with words enough to be found in it. "
    page = (
        f"<html><body><nav><a href='/'>Home</a></nav><p>{words}</p><p>{words * 2}</p></body></html>"
    )
    path = tmp_path / "a.warc"
    path.write_bytes(warc(False, ("response", "text/html", page.encode(), "200 OK")))
    [(text, _)] = TextInputs.find([path]).documents()
    assert words.strip() in text
    assert "Home" not in text


@pytest.mark.parametrize("content", [None, b"WARC/1.0\r\nnothing", b"no archive\n"])
def test_damage(warc, tmp_path, content):
    path = tmp_path / "a.warc"
    path.write_bytes(content or warc(False, RECORDS[0])[:-20])
    with pytest.raises(DataError, match=r"a\.warc.* get it again"):
        list(TextInputs.find([path]).documents())


def test_without_the_library(tmp_path, monkeypatch):
    path = tmp_path / "a.warc"
    path.write_bytes(b"WARC/1.0\r\n")
    monkeypatch.setitem(sys.modules, "warcio.archiveiterator", None)
    with pytest.raises(DataError, match=r"pip install 'epochal\[warc\]'"):
        list(TextInputs.find([path]).documents())
