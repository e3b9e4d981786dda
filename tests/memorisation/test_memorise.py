"""`memorise` from beginning to end: canaries put in, trained on, and found again."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.cli.main import main
from epochal.data.canaries import read_canaries, references, write_canaries
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.errors import DataError, OptionError, RunError, UserError
from epochal.generation.config import GenerationConfig
from epochal.interop.load import load
from epochal.memorisation.memorise import memorise
from epochal.memorisation.options import MemoriseOptions
from epochal.memorisation.results import MemorisationNote
from epochal.memorisation.training_text import TrainingText, draw_prefixes, even_share
from epochal.results import to_json
from epochal.runs import RunRecord
from epochal.training.train import train
from tiny_runs import overrides

SMALL = {"prefix_lengths": (2, 4), "length": 3, "num_prefixes": 20, "max_tokens": 400}


def small(out, **values):
    return MemoriseOptions(out=out, **SMALL | values)


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


def test_draws_of_exact_runs_are_refused(tiny_pair, tmp_path):
    with pytest.raises(OptionError, match="exact") as refused:
        memorise([tiny_pair / "ar"], small(tmp_path / "out", draws=4))
    assert (refused.value.name, refused.value.value) == ("draws", 4)
    assert not (tmp_path / "out").exists()


def test_bad_canaries(tmp_path):
    with pytest.raises(UserError, match="count = 0"):
        write_canaries(tmp_path, 0)
    write_canaries(tmp_path, 1)
    with pytest.raises(UserError, match="canaries"):
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
    corpus = prepare(
        sources, folder / "corpus", PrepareOptions(tokenizer="bytes", validation=0.1, workers=1)
    )
    values = overrides(
        corpus.folder,
        folder / "ar",
        data__sequence_length=96,
        train__steps=150,
        eval__every="50 steps",
        train__global_batch_size=8,
    )
    del values["data.unique_tokens"]
    train(None, values)
    return folder


def test_a_canary_that_was_learned_is_exposed(learned, tmp_path):
    options = small(tmp_path, canaries=learned / "canaries", references=64)
    last = memorise([learned / "ar"], options).checkpoints[-1]
    control, seen = last.canaries
    assert control.seen == 0
    assert seen.seen > 20
    assert seen.rank == 1
    assert seen.exposure == pytest.approx(np.log2(65))
    assert seen.exposure_fitted > control.exposure_fitted + 4
    assert not control.extracted
    assert last.exposure_by_copies[-1].mean == seen.exposure_fitted


def test_written_out_is_what_greedy_generation_writes(learned, tmp_path):
    run, prefix = learned / "ar", "The access code of the"
    [written] = load(run, "last").generate(prefix, GenerationConfig(tokens=8, temperature=0))
    secrets = [written.removeprefix(prefix), " zzzzzzz"]
    key = tmp_path / "canaries.json"
    canaries = [{"prefix": prefix, "secret": secret, "copies": 1} for secret in secrets]
    key.write_text(json.dumps({"canaries": canaries}))
    options = small(tmp_path, canaries=key, references=16, num_prefixes=1)
    last = memorise([run], options).checkpoints[-1]
    assert [canary.extracted for canary in last.canaries] == [True, False]


def test_at_most_n_checkpoints_are_measured(tiny_pair, tmp_path):
    steps = [
        [each.step for each in memorise([tiny_pair / "ar"], small(tmp_path, **more)).checkpoints]
        for more in ({}, {"checkpoints": 2})
    ]
    assert set(steps[1]) <= set(steps[0])
    assert len(steps[1]) <= 2
    assert steps[1][-1] == steps[0][-1]


def test_both_families(tiny_pair, tmp_path):
    out = tmp_path / "out"
    found = memorise([tiny_pair / "ar", tiny_pair / "mdm"], small(out, draws=2))
    assert {each.family for each in found.checkpoints} == {"ar", "mdm"}
    assert [each.run for each in found.advice] == ["ar", "mdm"]
    assert [each.prefix for each in found.checkpoints[0].extraction] == [2, 4]
    assert all(each.gap > -0.5 for each in found.checkpoints)
    assert json.loads((out / "memorise.json").read_text()) == to_json(found)
    assert ET.parse(out / "memorise.svg").getroot().tag.endswith("svg")
    assert (out / "memorise.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_text_that_was_learned_is_asked_for(tiny_pair, tiny_corpus, tmp_path):
    """A corpus prepared anew in the old place, or another number of unique tokens."""
    run = shutil.copytree(tiny_pair / "ar", tmp_path / "ar")
    recipe = run / "recipe.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("unique_tokens = 1000", "unique_tokens = 900"))
    assert recipe.read_text() != text
    with pytest.raises(RunError, match=r"is not the one that .* was trained with"):
        memorise([run], small(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_in_sequence_length_are_not_compared(tiny_pair, tmp_path):
    folder = shutil.copytree(tiny_pair / "mdm", tmp_path / "mdm")
    info = json.loads((folder / "run.json").read_text())
    info["numbers"]["sequence_length"] = 16
    (folder / "run.json").write_text(json.dumps(info))
    found = memorise([tiny_pair / "ar", folder], small(tmp_path / "out", checkpoints=2, draws=2))
    assert found.at_equal_loss == []
    assert found.not_compared.code is MemorisationNote.DIFFERENT_CONDITIONS
    assert found.not_compared.values["mismatch"].values == (32, 16)


def test_canaries_that_the_unique_tokens_cut_away_are_counted(learned, tmp_path):
    made = read_canaries(learned / "canaries")
    whole = TrainingText.of(RunRecord(learned / "ar"), made)
    (_, never, none), (canary, seen, beyond) = whole.canaries
    assert (never, none, beyond) == (0, 0, 0)
    assert 20 < seen <= canary.copies
    cut = whole.train.first(whole.train.unique_tokens // 2)
    run = shutil.copytree(learned / "ar", tmp_path / "ar")
    recipe = (run / "recipe.toml").read_text()
    data = f"[data]\nunique_tokens = {cut.unique_tokens}\n"
    (run / "recipe.toml").write_text(recipe.replace("[data]\n", data))
    info = json.loads((run / "run.json").read_text())
    info["corpus"]["train"]["content_sha256"] = cut.content_sha256
    (run / "run.json").write_text(json.dumps(info))
    _, (_, inside, after) = TrainingText.of(RunRecord(run), made).canaries
    assert 0 < after == seen - inside


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.floats(0, 1))
def test_places_are_shared_evenly(room, part):
    room = np.array(room)
    count = int(part * room.sum())
    share = even_share(room, count)
    assert share.sum() == count
    assert (share <= room).all()
    least = share[share < room].min(initial=99)  # who could get more has at most one less
    assert share.max() <= least + 1


def test_no_place_is_drawn_twice(tiny_corpus):
    store = TokenStore.open(tiny_corpus / "train").first(800)
    starts = store.document_starts
    room = int(np.maximum(np.diff(starts) - 12 + 1, 0).sum())
    every = draw_prefixes(store, 12, 10**6, 0)
    inside = [
        store.tokens[at : at + 12]
        for start, end in pairwise(starts)
        for at in range(start, end - 12 + 1)
    ]
    assert len(every) == room == len(inside)
    assert sorted(map(tuple, every.tolist())) == sorted(tuple(row.tolist()) for row in inside)
    np.testing.assert_array_equal(draw_prefixes(store, 12, 50, 3), draw_prefixes(store, 12, 50, 3))
    assert len(draw_prefixes(store, 12, 50, 3)) == 50
    assert len(draw_prefixes(store, 10**6, 50, 3)) == 0


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


def test_the_command_line(tiny_pair, tmp_path, capsys):
    small = ["--prefixes", "2,4", "--length", "3", "--num-prefixes", "9", "--max-tokens", "300"]
    out = str(tmp_path / "out")
    code, told, err = command(capsys, "memorise", str(tiny_pair / "ar"), "--out", out, *small)
    assert code == 0
    assert "extracted" in told
    assert "--prefixes is now --prefix-lengths" in err
    code, told, _ = command(capsys, "data", "canaries", "--out", str(tmp_path / "c"))
    assert code == 0
    assert "16 documents" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prefixes", "a"], "is not a list of whole numbers"),
        (["--length", "0"], "--length 0: give at least 1"),
        (["--prefixes", "40"], "are longer than the run's"),
        (["--canaries", "nowhere"], "is not a key of canaries"),
        (["--references", "300"], "--references needs --canaries"),
        (["--references", "3"], "--references 3: give at least 16"),
    ],
)
def test_words_that_make_no_sense(tiny_pair, capsys, words, message):
    code, _, err = command(capsys, "memorise", str(tiny_pair / "ar"), *words)
    assert code == 2
    assert message in " ".join(err.split())
