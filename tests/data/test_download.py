"""Downloads against a hub made of local folders: whole, interrupted, damaged, and offline."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_helpers import FILES, lines

from epochal.cli.main import main
from epochal.data import download as module
from epochal.data.corpus import Corpus
from epochal.data.download import GPT2, QUICKSTART, download
from epochal.data.options import DownloadOptions
from epochal.errors import DataError, UserError

huggingface_hub = pytest.importorskip("huggingface_hub")


class FakeHub:
    """What `huggingface_hub` gives for repositories that are folders, with calls counted."""

    def __init__(self, root):
        self.root, self.fetched, self.damage, self.offline = root, [], set(), False

    def _reach(self):
        if self.offline:
            raise ConnectionError("Name or service not known")

    def info(self, name):
        self._reach()
        if not (self.root / name).is_dir():
            raise OSError(f"404: {name}")
        return SimpleNamespace(sha="c0ffee")

    def paths(self, name, wanted, *, repo_type, revision):
        self._reach()
        assert revision == "c0ffee"
        assert repo_type in ("model", "dataset")
        for path in (self.root / name / one for one in wanted):
            if path.exists():
                content = path.read_bytes()
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                lfs = None
                if path.suffix == ".bin":
                    sha256 = hashlib.sha256(content).hexdigest()
                    lfs = {"size": len(content), "oid": sha256, "pointerSize": 1}
                yield huggingface_hub.hf_api.RepoFile(
                    path=path.name, size=len(content), oid=blob, lfs=lfs
                )

    def download(self, name, filename, *, repo_type, revision, local_dir, force_download):
        self._reach()
        self.fetched.append(filename)
        target = Path(local_dir) / filename
        shutil.copy(self.root / name / filename, target)
        if filename in self.damage and not force_download:
            target.write_bytes(b"?" + target.read_bytes()[1:])
        return str(target)


@pytest.fixture
def fake(tmp_path, monkeypatch, shared):
    root = tmp_path / "hub"
    (root / GPT2).mkdir(parents=True)
    (root / QUICKSTART).mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / "samples" / "bpe500" / name, root / GPT2 / name)
    for name in ("gpt2tok_c4_100_text_document", "gpt2tok_c4_val_text_document"):
        for suffix in (".bin", ".idx"):
            shutil.copy(
                FILES / f"bpe500_pub_text_document{suffix}", root / QUICKSTART / f"{name}{suffix}"
            )
    made = FakeHub(root)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda _, name: made.info(name))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda _, name: made.info(name))
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "get_paths_info",
        lambda _, name, wanted, **more: list(made.paths(name, wanted, **more)),
    )
    return made


def test_the_published_tokens_become_a_corpus(fake, tmp_path):
    found = download("c4:100M", tmp_path / "c4")
    assert (found.kind, found.documents, found.already_existed) == ("corpus", 59, False)
    corpus = Corpus.open(tmp_path / "c4")
    assert corpus.train.unique_tokens == found.unique_tokens == 13622
    assert corpus.validation is not None
    assert corpus.tokenizer.vocabulary == 500
    note = json.loads((tmp_path / "c4" / "download.json").read_text())
    assert note["revision"] == "c0ffee"
    content = (tmp_path / "c4" / "train.bin").read_bytes()
    assert note["files"]["gpt2tok_c4_100_text_document.bin"]["sha256"] == (
        hashlib.sha256(content).hexdigest()
    )
    before = list(fake.fetched)
    assert download("c4:100M", tmp_path / "c4").already_existed
    assert fake.fetched == before
    assert sorted(path.name for path in (tmp_path / "c4").iterdir()) == [
        "download.json",
        "tokenizer.json",
        "train.bin",
        "train.idx",
        "validation.bin",
        "validation.idx",
    ]


def test_what_was_fetched_before_a_cut_is_not_fetched_again(fake, tmp_path, monkeypatch):
    plain = fake.download

    def cut(name, filename, **more):
        if filename == "gpt2tok_c4_val_text_document.bin":
            raise ConnectionError("reset by peer")
        return plain(name, filename, **more)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", cut)
        with pytest.raises(DataError, match=r"reset by peer.*resumes where it ended.*copy the"):
            download("c4:100M", tmp_path / "c4")
    fake.fetched.clear()
    download("c4:100M", tmp_path / "c4")
    assert fake.fetched == ["gpt2tok_c4_val_text_document.bin", "gpt2tok_c4_val_text_document.idx"]


@pytest.mark.parametrize("name", ["gpt2tok_c4_100_text_document.bin", "vocab.json"])
def test_a_damaged_file_is_fetched_once_more(fake, tmp_path, name, monkeypatch):
    fake.damage.add(name)
    download("c4:100M", tmp_path / "c4")
    assert fake.fetched.count(name) == 2
    plain = fake.download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *a, force_download, **k: plain(*a, force_download=False, **k),
    )
    with pytest.raises(DataError, match=f"{name} .* other content than the hub lists"):
        download("c4:100M", tmp_path / "other")


def test_tokenizer_and_validation_alone(fake, tmp_path):
    assert download("gpt2", tmp_path / "gpt2").kind == "tokenizer"
    assert (tmp_path / "gpt2" / "vocab.json").is_file()
    assert download("c4-validation", tmp_path / "val").kind == "store"
    assert (tmp_path / "val" / "validation.idx").is_file()
    with pytest.raises(DataError, match=r"no file vocab.json.*`repo`"):
        download("gpt2", tmp_path / "x", DownloadOptions(repo=QUICKSTART))


def test_offline_says_what_to_do_and_ends_with_two(fake, tmp_path, capsys):
    fake.offline = True
    with pytest.raises(SystemExit) as ended:
        main(["data", "download", "c4:100M", "--out", str(tmp_path / "c4")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    for words in ("Name or service not known", "another machine", QUICKSTART, "`--repo`"):
        assert words in error


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A data set of 25 documents in a folder, in two files; ten documents to a part of ours."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines(folder, [f"text number {n} ä" for n in range(13)], "a.jsonl")
    lines(folder, [f"text number {n} ä" for n in range(13, 25)], "b.jsonl")
    monkeypatch.setattr(module, "PART", 10)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return str(folder)


def parts(folder):
    read = []
    for path in sorted(folder.glob("part-*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            read.append([json.loads(line)["text"] for line in file])
    return read


@pytest.mark.filterwarnings("ignore")
def test_the_first_documents_as_text(texts, tmp_path):
    pytest.importorskip("datasets")
    out = tmp_path / "out"
    found = download("c4", out, DownloadOptions(documents=23, repo=texts))
    assert (found.kind, found.documents) == ("text", 23)
    assert [len(part) for part in parts(out)] == [10, 10, 3]
    assert [text for part in parts(out) for text in part] == [
        f"text number {n} ä" for n in range(23)
    ]
    assert download("c4", out, DownloadOptions(documents=23, repo=texts)).already_existed
    with pytest.raises(DataError, match="holds another download"):
        download("c4", out, DownloadOptions(documents=24, repo=texts))
    with pytest.raises(DataError, match="ended after 25 documents, but c4 needs 26"):
        download("c4", tmp_path / "more", DownloadOptions(documents=26, repo=texts))
    # A tenth more than 478.6 tokens a document say.
    assert (
        download("c4", tmp_path / "u", DownloadOptions(unique_tokens=9000, repo=texts)).documents
        == 21
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("after", [10, 14, 20])
def test_a_stream_that_breaks_off_goes_on(texts, tmp_path, monkeypatch, after):
    datasets = pytest.importorskip("datasets")
    plain = datasets.load_dataset

    class Broken:
        def __init__(self, *given, **more):
            self.stream = plain(*given, **more)
            self.state_dict = self.stream.state_dict

        def __iter__(self):
            yield from itertools.islice(self.stream, after)
            raise ConnectionError("gone")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", Broken)
        with pytest.raises(DataError, match="resumes where it ended"):
            download("c4", out, DownloadOptions(documents=23, repo=texts))
    assert sum(len(part) for part in parts(out)) == after - after % 10
    download("c4", out, DownloadOptions(documents=23, repo=texts))
    assert [text for part in parts(out) for text in part] == [
        f"text number {n} ä" for n in range(23)
    ]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("the-pile", {}, "nothing to download has the name 'the-pile'"),
        ("c4", {}, "hundreds of GB; give `documents`"),
        ("c4", {"documents": 3, "unique_tokens": 5}, "give one of the two"),
        ("c4:100N", {}, "Did you mean `c4:100M`"),
    ],
)
def test_mistakes(tmp_path, name, more, message):
    with pytest.raises(UserError, match=message):
        download(name, tmp_path / "x", DownloadOptions(**more))
