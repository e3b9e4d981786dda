"""The BabyLM evaluation's tasks on a few pairs: scores against logits, averages by hand."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch

from epochal.cli.main import main
from epochal.downstream_tasks.babylm import BabyLMScorer
from epochal.downstream_tasks.babylm_files import read_tasks
from epochal.downstream_tasks.downstream import downstream
from epochal.downstream_tasks.options import DownstreamOptions
from epochal.errors import UserError
from epochal.evaluation.load import LoadedModel, load_run
from epochal.models.transformer import initialise
from epochal.recipe import load_recipe
from epochal.runs import RunRecord
from epochal.training.train import bare_model
from local_tasks import write_babylm
from tiny_runs import overrides


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_babylm(tmp_path_factory.mktemp("full_eval"))


@pytest.fixture(scope="module")
def items(data):
    return [item for _, _, items in read_tasks(data) for item in items]


@pytest.fixture(scope="module")
def trained(tiny_pair):
    return load_run(tiny_pair / "mdm", device="cpu")


def untrained(trained, family, **more):
    """A model of random weights that knows the pair's tokenizer."""
    recipe = load_recipe(None, overrides("none", "none", family=family, **more))
    model = bare_model(recipe, trained.tokenizer.vocabulary).to_empty(device="cpu")
    initialise(model, torch.Generator().manual_seed(3))
    for weight in model.parameters():
        weight.data.mul_(3)  # so that choices differ
    return LoadedModel(recipe, model.eval(), trained.tokenizer, trained.machine, 0)


def text_ids(model, text, scored):
    """Ids of the text behind the end of a document, and how many of them are scored."""
    ids = model.tokenizer.encode(text).tolist()
    # Byte-level tokens: those that end behind the first scored character.
    first = len(text[: len(text) - scored].encode())
    ends = np.cumsum([len(model.tokenizer.token_bytes(i)) for i in ids])
    whole = [model.tokenizer.end_of_document, *ids][-model.sequence_length :]
    return whole, min(int((ends > first).sum()), len(whole) - 1)


def log_probs(model, ids, rule):
    with torch.no_grad():
        return model.model.logits(torch.tensor([ids]), rule)[0].double().log_softmax(-1)


def masked_sum(model, ids, places, rule, shift):
    """Σ log p of the tokens at `places`, all of them masked."""
    read = [model.tokenizer.mask if place in places else i for place, i in enumerate(ids)]
    logs = log_probs(model, read, rule)
    return sum(float(logs[place - shift, ids[place]]) for place in places)


def block_rule(length, size):
    block = torch.arange(length) // size
    return (block[None, :] <= block[:, None])[None, None]


def expected(model, ids, count, score, shift=0, block=None):
    """The log-likelihood by its definition, every mask enumerated."""
    places = range(len(ids) - count, len(ids))
    if score == "exact":
        logs = log_probs(model, ids, "causal")
        return sum(float(logs[place - 1, ids[place]]) for place in places)
    size = block or len(ids)
    total = 0.0
    for number in sorted({place // size for place in places}):
        those = [place for place in places if place // size == number]
        rule = "bidirectional" if block is None else block_rule(len(ids), block)
        if score == "pseudo":
            total += sum(masked_sum(model, ids, [place], rule, shift) for place in those)
            continue
        m = len(those)
        for k in range(1, m + 1):
            some = [masked_sum(model, ids, c, rule, shift) for c in combinations(those, k)]
            total += sum(some) / len(some) / k  # 1/m for the count, times m/k
    return total


CASES = [
    ("mdm", "pseudo", {}),
    ("mdm", "bound", {}),
    ("dual", "exact", {}),
    ("dual", "pseudo", {"shift": 1}),
    ("dual", "bound", {"shift": 1}),
    ("block", "pseudo", {"block": 4}),
    ("block", "bound", {"block": 4}),
]


@pytest.mark.parametrize(("family", "score", "how"), CASES)
def test_scores_are_those_of_the_definition(trained, items, family, score, how):
    more = {"block.size": how["block"]} if "block" in how else {}
    model = untrained(trained, family, **more)
    draws = 2**5 if score == "bound" else None
    pad = False if score != "exact" else None
    options = DownstreamOptions(tasks="babylm", draws=draws, pad=pad)
    some = items[8:] if score == "bound" else items[2::2]
    found = BabyLMScorer(model, score, options).likelihoods(some)
    compared = 0
    for item, each in zip(some, found, strict=True):
        for text, scored, likelihood in zip(item.texts, item.scored, each, strict=True):
            ids, count = text_ids(model, text, scored)
            most = how.get("block", count)
            if score == "bound" and most > 5:
                continue  # not all masks are taken; the estimator has tests of its own
            value = expected(model, ids, count, score, **how)
            assert likelihood.log_prob == pytest.approx(value, rel=1e-4, abs=1e-4)
            compared += 1
    assert compared >= 4


def test_only_the_completion_is_scored(items, trained):
    """COMPS and EWoK score what follows the context; BLiMP the sentence with its first token."""
    counts = {
        text: text_ids(trained, text, n)[1]
        for i in items
        for text, n in zip(i.texts, i.scored, strict=True)
    }
    encode = trained.tokenizer.encode
    assert counts["What is it?"] == len(encode("What is it?"))
    text = "Ann likes Bob. He is in."
    assert counts[text] == len(encode(text)) - len(encode("Ann likes Bob."))
    scorer = BabyLMScorer(trained, "pseudo", DownstreamOptions(tasks="babylm"))
    for item in items:
        for text, scored in zip(item.texts, item.scored, strict=True):
            [request] = scorer._requests(text, scored, 0)
            assert (request.ids.tolist(), request.scored) == text_ids(trained, text, scored)


def test_averages_errors_and_groups(data, tiny_pair, tmp_path, items, trained):
    import shutil

    run = shutil.copytree(tiny_pair / "mdm", tmp_path / "run")
    options = DownstreamOptions(tasks="babylm", data=data, score="pseudo", device="cpu")
    results = {one.task: one for one in downstream(run, options)}
    right = [
        int(np.argmax([one.log_prob for one in each])) == 0
        for each in BabyLMScorer(trained, "pseudo", options).likelihoods(items)
    ]
    assert [one.documents for one in results.values()] == [4, 2, 2, 3, 3]
    blimp = results["babylm_blimp"]
    share = sum(right[:3]) / 3
    assert blimp.metrics["macro_acc"].value == pytest.approx((share + right[3]) / 2)
    assert blimp.groups["subtask"]["agreement"].value == pytest.approx(share)
    error = blimp.groups["subtask"]["agreement"].standard_error
    assert error == pytest.approx(np.std(right[:3], ddof=1) / math.sqrt(3))
    assert blimp.metrics["macro_acc"].standard_error is None  # a subtask of one item has none
    assert set(blimp.groups["field"]) == {"syntax/semantics", "syntax"}
    assert blimp.groups["linguistics_term"]["number"].value == sum(right[:2]) / 2
    tracking = results["babylm_entity_tracking"]  # files in the order of their names
    moved, *regular = right[8:11]
    assert tracking.metrics["macro_acc"].value == pytest.approx((sum(regular) / 2 + moved) / 2)
    assert set(tracking.groups["subtask"]) == {
        "regular_0_ops",
        "regular_1_ops",
        "move_contents_0_ops",
    }
    assert tracking.chance == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    supplement = results["babylm_supplement"]
    only = supplement.groups["subtask"]["hypernym"]
    assert supplement.metrics["macro_acc"] == only
    kept = {one["task"]: one for one in RunRecord(run).downstream()}
    assert kept["babylm_blimp"]["mode"] == "pseudo"
    assert (blimp.padded, blimp.draws, blimp.data) == (False, None, "blimp_filtered")


def test_the_command(data, tiny_pair, tmp_path, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(["downstream", *map(str, words)])
        return ended.value.code, capsys.readouterr()

    words = ("--tasks", "babylm", "--data", data, "--limit", "1")
    code, told = call(tiny_pair / "mdm", *words, "--draws", "7", "--json")
    assert code == 0
    found = {one["task"]: one for one in json.loads(told.out)}
    assert (found["babylm_comps"]["mode"], found["babylm_comps"]["draws"]) == ("bound", 7)
    assert found["babylm_blimp"]["documents"] == 2
    assert not (tiny_pair / "mdm" / "downstream").exists()
    code, told = call(tiny_pair / "ar", *words)
    assert code == 0
    assert "score exact" in told.out
    assert "wugs_dist_in_between" in told.out
    for more, named in (
        (["--score", "pseudo"], "--score pseudo"),
        (["--draws", "9"], "--draws 9"),
        (["--mode", "nll"], "--mode nll"),
        (["--pad"], "--pad"),
    ):
        code, told = call(tiny_pair / "ar", *words, *more)
        assert (code, named in told.err) == (2, True)
    code, told = call(tiny_pair / "ar", "--tasks", "babylm")
    assert (code, "--data" in told.err) == (2, True)
    code, told = call(tiny_pair / "mdm", "--tasks", "sciq", "--score", "bound")
    assert (code, "--score bound" in told.err) == (2, True)


@pytest.mark.parametrize(
    ("place", "line", "named"),
    [
        ("blimp_filtered/x", '{"sentence_good": "a"}', "line 1 has no sentence_bad"),
        ("comps/comps_base", '{"prefix_acceptable": 3}', "line 1 has no property_phrase"),
        ("comps/comps_base", '{"property_phrase": 3}', "line 1 has property_phrase = 3"),
        ("comps/other", "{}", "is none of the task's files|has no property_phrase"),
        ("entity_tracking/regular", '{"options": ["a"]}', "line 1 has options = "),
        (
            "entity_tracking/regular",
            '{"options": ["a", "b"], "input_prefix": "c", "numops": true}',
            "line 1 has numops = True",
        ),
        (
            "entity_tracking/odd",
            '{"options": ["a", "b"], "input_prefix": "c", "numops": 1}',
            "odd.jsonl is none of the task's files",
        ),
        ("ewok_fast/x", '{"Target1": "a", "Target2": "b"}\n[]', "line 1 has no Context1"),
        ("supplement_fast/x", '{"sentence_good": "a", "sentence_bad": "b"}\n[', "line 2 is not"),
        ("blimp/x", "", "is empty"),
        ("full_eval/x", "", "it has full_eval, so give one of them"),
    ],
)
def test_odd_files_are_named(tmp_path, place, line, named):
    path = tmp_path / f"{place}.jsonl"
    path.parent.mkdir()
    path.write_text(line)
    with pytest.raises(UserError, match=named):
        read_tasks(tmp_path)
