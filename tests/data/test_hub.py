"""Data sets of the hub as inputs, against a small server that speaks as much of its protocol."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from epochal.cli.main import main
from epochal.data.hub import hub_files
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError

huggingface_hub = pytest.importorskip("huggingface_hub")
datasets = pytest.importorskip("datasets")

NAME, COMMIT = "someone/poems", "c0ffee" * 6 + "abcd"
ROWS = [f"A poem of number {n}, which is not long." for n in range(40)]
BYTES = PrepareOptions(tokenizer="bytes")


def lines_of(rows):
    return "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()


FILES = {
    "README.md": b"---\nconfigs:\n- config_name: long\n  data_files:\n  - split: train\n"
    b"    path: long/*.jsonl.gz\n  - split: test\n    path: long_test.jsonl\n---\n",
    "long/a.jsonl.gz": gzip.compress(lines_of(ROWS[:30]), mtime=0),
    "long/b.jsonl.gz": gzip.compress(lines_of(ROWS[30:]), mtime=0),
    "long/notes.xyz": b"none",
    "long_test.jsonl": lines_of(["A test."]),
}


def entry(path):
    content = FILES[path]
    sha = hashlib.sha256(content).hexdigest()
    lfs = {"oid": sha, "size": len(content), "pointerSize": 1} if path.endswith(".gz") else {}
    blob = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": blob} | (
        {"lfs": lfs} if lfs else {}
    )


def folder(path):
    return {"type": "directory", "path": path, "size": 0, "oid": "f" * 40}


class Hub(BaseHTTPRequestHandler):
    """The few requests that reading a data set makes; the commit of `main` is COMMIT."""

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
        found = [entry(p) for p in paths if p in FILES]
        found += [folder(p) for p in paths if any(f.startswith(p + "/") for f in FILES)]
        self.answer(json.dumps(found).encode(), Content_Type="application/json")

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/datasets/{NAME}/resolve/{COMMIT}/"):
            name = path.partition(f"{COMMIT}/")[2]
            if (content := FILES.get(name)) is None:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound")
            etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": COMMIT}
            if (wanted := self.headers.get("range")) is None:
                return self.answer(content, **etag)
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            return self.answer(content[first : last + 1], 206, **etag)
        revision, _, inside = path.removeprefix(f"/api/datasets/{NAME}").partition("/tree/")
        if inside:
            under = inside.partition("/")[2]
            here = [p for p in FILES if p.startswith(f"{under}/" if under else "")]
            deep = "recursive=true" in self.path.lower()
            rest = {p: p.removeprefix(under).lstrip("/").split("/") for p in here}
            listed = [entry(p) for p, parts in rest.items() if deep or len(parts) == 1]
            tops = {parts[0] for parts in rest.values() if len(parts) > 1}
            listed += [folder(f"{under}/{top}".lstrip("/")) for top in sorted(tops)]
            return self.answer(json.dumps(listed).encode(), Content_Type="application/json")
        if revision in ("", f"/revision/{COMMIT}", "/revision/main", "/revision/v1"):
            about = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": p} for p in FILES]}
            return self.answer(json.dumps(about).encode(), Content_Type="application/json")
        return self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.HfApi(), "endpoint", endpoint)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield endpoint
    server.shutdown()
    server.server_close()
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize("path", ["/long", "/long/train", "@v1", f"@{COMMIT}/long/a.jsonl.gz"])
def test_the_corpus_is_that_of_local_files(hub, path, tmp_path):
    """Folder, configuration and split, nothing, one file; and what they were is recorded."""
    corpus = prepare(f"hf://{NAME}{path}", tmp_path / "hub", BYTES)
    local = tmp_path / "local"
    local.mkdir()
    names = ["a"] if path.endswith(".gz") else ["a", "b"]
    for name in names:
        (local / f"{name}.jsonl.gz").write_bytes(FILES[f"long/{name}.jsonl.gz"])
    expected = prepare(local, tmp_path / "expected", BYTES)
    assert corpus.train.content_sha256 == expected.train.content_sha256
    listed = corpus.train.metadata.sources.listed
    assert [one.name for one in listed] == [
        f"hf://{NAME}@{COMMIT}/long/{name}.jsonl.gz" for name in names
    ]
    assert listed[0].sha256 == hashlib.sha256(FILES["long/a.jsonl.gz"]).hexdigest()


def test_other_splits_and_small_files(hub, tmp_path):
    [test] = hub_files(f"hf://datasets/{NAME}/long/test")
    assert test.sha256 is None
    corpus = prepare(test.url, tmp_path / "corpus", PrepareOptions(tokenizer="bytes", validation=0))
    content = FILES["long_test.jsonl"]
    [listed] = corpus.train.metadata.sources.listed
    assert (listed.bytes, listed.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    again = prepare(test.url, tmp_path / "corpus", PrepareOptions(tokenizer="bytes", validation=0))
    assert again.already_existed


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("hf://poems", "hf://OWNER/NAME"),
        (f"hf://{NAME}/long/dev", "train, test"),
        (f"hf://{NAME}@v9/long", "could not be reached"),
        ("hf://someone/else", "could not be reached"),
    ],
)
def test_what_is_not_there(hub, url, named):
    with pytest.raises(DataError, match=named):
        hub_files(url)


def test_without_network_or_library(hub, monkeypatch, tmp_path, capsys):
    place = f"hf://{NAME}/long"
    files = hub_files(place)
    monkeypatch.setattr(Hub, "do_GET", lambda self: self.answer(b"", 403))
    monkeypatch.setattr(Hub, "do_POST", lambda self: self.answer(b"", 403))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz could not be reached"):
        files[0].open("rb").read()
    command = ["data", "prepare", place, "--out", str(tmp_path / "corpus")]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "could not be reached" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "pip install 'epochal[hub]'" in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()
