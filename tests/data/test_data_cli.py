"""`epochal data …`: what it prints, and that every fault is one sentence and exit code 2."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys

import pytest
from data_helpers import FILES, TEXTS, contents, lines, write_pair

from epochal.cli.main import main
from epochal.data.corpus import Corpus
from epochal.data.store import TokenStore

SAMPLE = str(FILES / "bpe500_pub_text_document")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in a fresh folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["data", *map(str, words)])
        output = capsys.readouterr()
        return stopped.value.code, output.out, output.err

    return run


@pytest.fixture
def corpus(run, tmp_path):
    lines(tmp_path, TEXTS)
    assert run("prepare", "x.jsonl", "--out", "corpus", "--tokenizer", "bytes")[0] == 0
    return tmp_path / "corpus"


def test_the_whole_way(run, tmp_path):
    lines(tmp_path, TEXTS)
    code, out, _ = run("prepare", "x.jsonl", "--out", "corpus", "--tokenizer", "bpe:300")
    assert code == 0
    made = Corpus.open("corpus")
    assert f"{made.train.unique_tokens:,}" in out
    assert "tokenizer bpe:300: 300 tokens, in corpus" in out
    assert out.endswith("Next: epochal data inspect corpus\n")
    code, out, err = run("subset", "corpus", "small", "--unique-tokens", "0.5k")
    assert (code, err) == (0, "")
    assert TokenStore.open("small/train").unique_tokens == 500
    code, out, err = run("verify", "small")
    assert (code, err) == (0, "")
    assert out.count("\n") == 15
    assert all(line.startswith("ok ") for line in out.splitlines())
    code, out, err = run("inspect", "small", "--samples", 2)
    assert (code, err) == (0, "")
    assert out.count("document number") >= 2


def test_json(run, tmp_path):
    lines(tmp_path, TEXTS)
    code, out, _ = run("prepare", "x.jsonl", "--out", "c", "--tokenizer", "bytes", "--json")
    found = json.loads(out)
    made = Corpus.open("c")
    assert code == 0
    assert found["train"]["unique_tokens"] == made.train.unique_tokens
    assert found["validation"]["content_sha256"] == made.validation.content_sha256
    assert found["tokenizer"]["vocabulary"] == 257
    assert found["already_existed"] is False
    again = json.loads(run("prepare", "x.jsonl", "--out", "c", "--tokenizer", "bytes", "--json")[1])
    assert again == found | {"already_existed": True}
    assert (
        json.loads(run("subset", "c", "s", "--unique-tokens", 99, "--json")[1])["unique_tokens"]
        == 99
    )
    assert json.loads(run("inspect", "c", "--json")[1])["documents"] == made.train.documents
    assert all(finding["ok"] for finding in json.loads(run("verify", "c", "--json")[1]))


def test_options_of_prepare_arrive(run, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\none\n\ntwo \xff\n\nthree\n\nthree\n")
    (tmp_path / "v.txt").write_text("four")
    code, _, err = run(
        *("prepare", "x.txt", "--out", "c", "--tokenizer", "bytes", "--documents", "blank-line"),
        *("--invalid-utf8", "replace", "--drop-duplicates", "--validation-inputs", "v.txt"),
        *("--seed", 5, "--workers", 1),
    )
    assert code == 0, err
    made = Corpus.open("c")
    found = [made.tokenizer.decode(made.train.document(number)) for number in range(3)]
    assert found == [f"{text}<|endoftext|>" for text in ("one\none", "two \ufffd", "three")]
    assert made.validation.documents == 1
    assert made.train.metadata.duplicates.dropped == 1
    assert made.train.metadata.preparation["seed"] == 5


def test_inspect_prints_the_metadata(run, corpus):
    code, out, _ = run("inspect", "corpus")
    metadata = TokenStore.open(corpus / "train").metadata
    assert code == 0
    for known in (
        f"{metadata.unique_tokens:,}",
        metadata.content_sha256,
        metadata.index_sha256,
        metadata.tokenizer.sha256,
        f"{metadata.text_bytes:,} bytes",
        "id 256, id 257",
        "x.jsonl",
        "leaked documents left out",
        "repeated documents",
        metadata.created_with,
    ):
        assert known in out
    assert "*" * 40 in out


def test_inspect_without_a_metadata(run):
    code, out, _ = run("inspect", SAMPLE)
    assert code == 0
    assert "none: tokenizer and origin are not known" in out
    assert "(name a --tokenizer to read it)" in out


def test_a_subset_goes_where_it_is_told(run, corpus):
    assert run("subset", "corpus", "--unique-tokens", "99", "--out", "named")[0] == 0
    assert run("subset", "corpus", "--unique-tokens", "0.1k")[0] == 0
    assert TokenStore.open("named/train").unique_tokens == 99
    assert TokenStore.open("corpus-0.1k/train").unique_tokens == 100
    code, _, err = run("subset", "corpus", "a", "--out", "b", "--unique-tokens", "99")
    assert (code, "given twice" in err) == (2, True)


def test_inspect_tells_of_subsets_and_empty_documents(run, tmp_path):
    lines(tmp_path, [*TEXTS, ""])
    run("prepare", "x.jsonl", "--out", "corpus", "--tokenizer", "bytes")
    run("subset", "corpus", "small", "--unique-tokens", "99")
    out = run("inspect", "small")[1]
    assert "cut to hit the number of tokens" in out
    assert "tokens): the first 99 tokens" in out
    assert "empty documents left out" in out


def test_like_paper(run):
    code, _, err = run("subset", SAMPLE, "p", "--unique-tokens", "1k", "--like-paper")
    assert code == 0, err
    assert TokenStore.open("p").documents == 4  # 1,000 at 230.9 a document
    words = ("--like-paper", "--tokens-per-document", "100")
    assert run("subset", SAMPLE, "q", "--unique-tokens", "1k", *words)[0] == 0
    assert TokenStore.open("q").documents == 10


FAULTS = {
    "no input": (["prepare", "nowhere.txt", "--out", "c"], "there is no file or folder nowhere"),
    "empty": (["prepare", "empty.txt", "--out", "c"], "there is no text in empty.txt"),
    "utf-8": (["prepare", "latin.txt", "--out", "c"], r"latin.txt is not valid UTF-8 at byte 3"),
    "field": (["prepare", "x.jsonl", "--out", "c", "--text-field", "tekst"], "Did you mean `text`"),
    "json": (["prepare", "broken.jsonl", "--out", "c"], "broken.jsonl, line 1 is not valid JSON"),
    "gzip": (["prepare", "cut.jsonl.gz", "--out", "c"], "cut.jsonl.gz is truncated or damaged"),
    "parquet": (["prepare", "bad.parquet", "--out", "c"], "bad.parquet is truncated or damaged"),
    "folder": (["prepare", "nothing", "--out", "c"], "the folder nothing holds no known text"),
    "pipe": (["prepare", "pipe", "--out", "c"], "pipe is a pipe or device"),
    "share": (
        ["prepare", "x.jsonl", "--out", "c", "--validation", "5"],
        "--validation 5.0: give a share",
    ),
    "tokenizer": (["prepare", "x.jsonl", "--out", "c", "--tokenizer", "gpt3"], "mean `gpt2`"),
    "bpe": (["prepare", "x.jsonl", "--out", "c", "--tokenizer", "bpe:lots"], "not a tokenizer"),
    "place": (["prepare", "x.jsonl", "--out", "latin.txt"], "cannot write latin.txt"),
    "budget": (["subset", SAMPLE, "s", "--unique-tokens", "1M"], "holds 13,622 tokens; lower it"),
    "number": (["subset", SAMPLE, "s", "--unique-tokens", "lots"], "'lots' is not a positive num"),
    "zero": (["subset", SAMPLE, "s", "--unique-tokens", "0"], "'0' is not a positive number"),
    "store": (["inspect", "nowhere"], "there is no token store nowhere"),
    "short": (["inspect", "short"], "short.bin holds 2 tokens, fewer than the 5 of its index"),
    "index": (["verify", "torn"], r"first: the files fit together \(torn.idx is truncated"),
    "wrong": (["inspect", SAMPLE, "--tokenizer", "bytes"], "the tokenizer bytes has only 257"),
    "other": (["verify", SAMPLE, "--tokenizer", "bytes"], "the tokenizer is the one that made it"),
}


@pytest.fixture
def faulty(tmp_path):
    """A folder with something wrong of every kind."""
    lines(tmp_path, TEXTS)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "broken.jsonl").write_text('{"text": \n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:-9])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe")
    write_pair(tmp_path / "short", [1, 2], [2, 3])
    write_pair(tmp_path / "torn", [1, 2], [2])
    (tmp_path / "torn.idx").write_bytes((tmp_path / "torn.idx").read_bytes()[:-3])


@pytest.mark.parametrize(("words", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence_and_exit_code_2(run, faulty, tmp_path, words, sentence):
    before = sorted(tmp_path.iterdir())
    code, _, err = run(*words)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(sentence, errors[0]), errors[0]
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_of_another_corpus(run, corpus):
    before = contents(corpus)
    code, _, err = run("prepare", "x.jsonl", "--out", "corpus", "--tokenizer", "bpe:300")
    assert code == 2
    assert "corpus already holds another corpus (made with other `--tokenizer`)" in err
    assert contents(corpus) == before
    words = ("--tokenizer", "bpe:300", "--overwrite")
    assert run("prepare", "x.jsonl", "--out", "corpus", *words)[0] == 0


def test_a_damaged_store_fails_verification(run, corpus):
    content = bytearray((corpus / "train.bin").read_bytes())
    content[20] ^= 4
    (corpus / "train.bin").write_bytes(content)
    code, out, err = run("verify", "corpus")
    assert code == 2
    assert "FAILED  train: ids are those that were written (SHA-256" in out
    assert err.startswith("error: ")
    assert "of corpus failed, first: ids are those that were written" in err


def test_words_that_click_refuses(run):
    for words in (
        ("prepare", "--out", "c"),
        ("prepare", "x.txt"),
        ("prepare", "x.txt", "--out", "c", "--documents", "page"),
        ("subset", "a", "b"),
        ("inspect",),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert "Error: " in err


def test_help_needs_no_heavy_library():
    """`--help` of every command, without numpy, torch or the tokenizers."""
    script = (
        "import sys\n"
        "from epochal.cli.main import main\n"
        "try:\n"
        "    main(['data', *sys.argv[1:], '--help'])\n"
        "finally:\n"
        "    heavy = {'numpy', 'torch', 'tokenizers', 'tiktoken', 'pyarrow'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    for words in ([], ["prepare"], ["subset"], ["inspect"], ["verify"]):
        result = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "epochal data" in result.stdout


def test_names_and_subsets_by_name(run, tmp_path):
    code, out, _ = run("names")
    assert code == 0
    assert "c4:7B6_100ep" in out
    assert json.loads(run("names", "--json")[1])[2]["tokens"] == 99_952_399
    # 160,098 documents of one token and a mark.
    write_pair(tmp_path / "many", [1, 2] * 161_000, [2] * 161_000)
    code, out, _ = run("subset", "many", "cut", "--name", "c4:7B6_100ep")
    assert code == 0
    assert "the paper counts 76,353,846 tokens" in out
    assert TokenStore.open(tmp_path / "cut").documents == 160_098
    code, _, err = run("subset", "many", "x", "--name", "c4:7B7")
    assert code == 2
    assert "Did you mean" in err
    assert run("subset", "many", "x")[0] == 2
    assert run("subset", "many", "x", "--name", "c4:25M", "--like-paper")[0] == 2
