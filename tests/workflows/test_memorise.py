"""`memorise` from beginning to end: canaries put in, trained on, and found again."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.data import prepare
from epochal.data.canaries import read_canaries, references, write_canaries
from epochal.errors import DataError, UserError
from epochal.workflows.memorise import memorise
from epochal.workflows.train import train
from tiny_runs import overrides

SMALL = {"prefixes": (2, 4), "length": 3, "places": 20, "max_tokens": 400, "draws": 2}


def test_canaries_are_random_digits_of_one_space(tmp_path):
    made = write_canaries(tmp_path / "c", 6, (0, 2), seed=3)
    assert read_canaries(tmp_path / "c") == made == read_canaries(tmp_path / "c/canaries.json")
    assert [canary.copies for canary in made] == [0, 2] * 3
    lines = (tmp_path / "c/canaries.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        canary.document(number) for canary in made if canary.copies for number in (0, 1)
    ]
    assert len(set(lines)) == 6
    assert len({canary.prefix for canary in made}) == 6
    assert write_canaries(tmp_path / "d", 6, (0, 2), seed=3) == made
    digits = np.array([secret.split() for secret in references(4000, 1)]).astype(int)
    assert digits.shape == (4000, 9)
    counts = np.bincount(digits.ravel(), minlength=10)
    assert (np.abs(counts - 3600) < 5 * np.sqrt(3600)).all()
    assert not {canary.secret for canary in made} & set(references(4000, 3))


def test_bad_canaries(tmp_path):
    with pytest.raises(UserError, match="count = 0"):
        write_canaries(tmp_path, 0)
    write_canaries(tmp_path, 1)
    with pytest.raises(UserError, match="has canaries already"):
        write_canaries(tmp_path, 1)
    with pytest.raises(DataError, match="not a key of canaries"):
        read_canaries(tmp_path / "canaries.jsonl")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Two canaries, one of them repeated, learned by heart by a small AR model."""
    folder = tmp_path_factory.mktemp("canaries")
    write_canaries(folder / "canaries", 2, (0, 40), seed=1)
    text = folder / "text.jsonl"
    random = np.random.default_rng(0)
    words = ["rain", "sun", "wind", "snow", "fog", "1 2 3", "4 5 6", "7 8 9 0"]
    lines = [" ".join(random.choice(words, 30)) for _ in range(40)]
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    sources = [text, folder / "canaries" / "canaries.jsonl"]
    corpus = prepare(sources, folder / "corpus", tokenizer="bytes", validation=0.1, workers=1)
    values = overrides(
        corpus.folder,
        folder / "ar",
        data__sequence_length=96,
        train__steps=150,
        eval__every="50 steps",
        train__global_batch=8,
    )
    del values["data.unique_tokens"]
    train(None, values)
    return folder


def test_a_canary_that_was_learned_is_exposed(learned, tmp_path):
    found = memorise(
        [learned / "ar"], out=tmp_path, canaries=learned / "canaries", references=64, **SMALL
    )
    control, seen = found.measured[-1].canaries
    assert control.seen == 0
    assert seen.seen > 20
    assert seen.rank == 1
    assert seen.exposure == pytest.approx(np.log2(65))
    assert seen.exposure_fitted > control.exposure_fitted + 4
    assert found.measured[-1].exposure == seen.exposure_fitted
    assert any("secrets put into the text" in sentence for sentence in found.summary)


def test_both_families(tiny_pair, tmp_path):
    out = tmp_path / "out"
    found = memorise([tiny_pair / "ar", tiny_pair / "mdm"], out=out, **SMALL)
    assert {one.family for one in found.measured} == {"ar", "mdm"}
    assert [one.prefix for one in found.measured[0].extraction] == [2, 4]
    assert all(one.gap > -0.5 for one in found.measured)
    content = json.loads((out / "memorise.json").read_text())
    assert content == json.loads(json.dumps(found.as_dict()))
    assert ET.parse(out / "memorise.svg").getroot().tag.endswith("svg")
    assert (out / "memorise.png").read_bytes().startswith(b"\x89PNG")


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


def test_the_command_line(tiny_pair, tmp_path, capsys):
    small = ["--prefixes", "2,4", "--length", "3", "--places", "9", "--max-tokens", "300"]
    out = str(tmp_path / "out")
    code, told, _ = command(capsys, "memorise", str(tiny_pair / "ar"), "--out", out, *small)
    assert code == 0
    assert "extracted" in told
    assert "A low rate is no promise" in told
    code, told, _ = command(capsys, "data", "canaries", "--out", str(tmp_path / "c"))
    assert code == 0
    assert "16 documents" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prefixes", "a"], "is not a list of whole numbers"),
        (["--length", "0"], "length = 0: give at least 1"),
        (["--prefixes", "40"], "are longer than the run's"),
        (["--canaries", "nowhere"], "is not a key of canaries"),
        (["--references", "3"], "references = 3: give at least 16"),
    ],
)
def test_words_that_make_no_sense(tiny_pair, capsys, words, message):
    code, _, err = command(capsys, "memorise", str(tiny_pair / "ar"), *words)
    assert code == 2
    assert message in " ".join(err.split())
