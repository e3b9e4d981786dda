"""A student of several runs: an ordinary run, whose loss knows its teachers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from epochal.cli.main import main
from epochal.data.corpus import open_corpus
from epochal.device import Machine
from epochal.errors import CheckpointError, RecipeError, RunError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.options import EvalOptions
from epochal.interop.load import load
from epochal.recipe import load_recipe, run_numbers
from epochal.runs import RunRecord
from epochal.sweeps.record import FinishedRuns, recipe_hash
from epochal.training.distill import distill, student_recipe
from epochal.training.dry_run import dry_run
from epochal.training.step import Stepper
from epochal.training.train import make_stepper, train
from tiny_runs import as_words, figures, final_files, make_corpus, overrides

FAMILIES = ["ar", "mdm"]
CPU = Machine(device=torch.device("cpu"), bf16=False, compiled=False)
MORE = {"train__micro_batch_size": 3, "train__hidden_dropout": 0.1}


@pytest.fixture(scope="module")
def teachers(tiny_corpus, tmp_path_factory):
    """Two runs of each family, of different seed and width."""
    folder = tmp_path_factory.mktemp("teachers")
    for family in FAMILIES:
        for number, width in ((1, 32), (2, 48)):
            given = {"family": family, "seed": number, "model__d_model": width}
            train(None, overrides(tiny_corpus, folder / f"{family}{number}", **given))
    return folder


def names(teachers, family):
    return [str(teachers / f"{family}1"), str(teachers / f"{family}2")]


def student(corpus, teachers, family, folder, **changes):
    """Overrides of a student."""
    given = {"family": family, "distill__teachers": names(teachers, family)}
    return overrides(corpus, folder, **(given | changes))


def stepper_of(values):
    settings = load_recipe(None, values)
    corpus = open_corpus(settings.data)
    vocabulary = corpus.tokenizer.vocabulary
    numbers = run_numbers(settings, corpus.train.unique_tokens, vocabulary)
    return make_stepper(settings, corpus, numbers, CPU)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_step_has_the_loss_of_the_formula(tiny_corpus, teachers, tmp_path, family, temperature):
    """Loss, KL and gradients from whole [B, L, V] logits in plain torch, with the objective's own
    positions and weights."""
    share = 0.7
    values = student(tiny_corpus, teachers, family, tmp_path, distill__share=share)
    stepper = stepper_of(values | {"distill.temperature": temperature, "train.grad_clip": 0})
    models = [load(name).model.eval() for name in names(teachers, family)]
    usual = kl = total = 0.0
    problems = stepper.problems(5)
    denominator = sum(problem.denominator for problem in problems)
    for problem in problems:
        z = stepper.model.logits(*problem.arguments(CPU.device)[:2]).double()
        with torch.no_grad():
            each = [one.logits(*problem.arguments(CPU.device)[:2]).double() for one in models]
        p = torch.stack([torch.softmax(one / temperature, -1) for one in each]).mean(0)
        log_q = torch.log_softmax(z / temperature, -1)
        apart = temperature**2 * (p * (p.log() - log_q)).sum(-1)
        nll = -torch.log_softmax(z, -1).gather(2, problem.targets[..., None])[..., 0]
        weights = problem.weights.double() / denominator
        usual, kl = usual + (weights * nll).sum(), kl + (weights * apart).sum()
    total = (1 - share) * usual + share * kl
    weights = dict(stepper.model.named_parameters())
    expected = dict(zip(weights, torch.autograd.grad(total, weights.values()), strict=True))
    stepper.optimizer.step = lambda: None
    kept = {}
    stepper.optimizer.zero_grad = lambda set_to_none: kept.update(
        {name: weight.grad.clone() for name, weight in weights.items()}
    )
    found = stepper(5, 0.0)
    assert found.loss == pytest.approx(usual.item(), rel=1e-5)
    assert found.teacher_kl == pytest.approx(kl.item(), rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(kept[name], gradient.float(), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_has_no_kl(tiny_corpus, teachers, tmp_path, family):
    teacher = str(teachers / f"{family}1")
    values = student(tiny_corpus, teachers, family, tmp_path, distill__share=1.0)
    stepper = stepper_of(values | {"distill.teachers": [teacher]})
    stepper.model.load_state_dict(load(teacher).model.state_dict())
    found = stepper(3, 0.0)
    assert abs(found.teacher_kl) < 1e-6
    assert found.grad_norm < 1e-5
    assert found.loss > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_share_0_is_the_run_without_teachers(tiny_corpus, teachers, tmp_path, family):
    train(None, overrides(tiny_corpus, tmp_path / "plain", family=family, **MORE))
    values = student(tiny_corpus, teachers, family, tmp_path / "s", distill__share=0.0, **MORE)
    train(None, values)
    assert final_files(tmp_path / "s") == final_files(tmp_path / "plain")
    assert figures(tmp_path / "s") == figures(tmp_path / "plain")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_student_goes_on_bit_for_bit(tiny_corpus, teachers, tmp_path, monkeypatch, family):
    """Also if its teachers have been moved since."""
    changes = MORE | {"distill__temperature": 1.5}
    train(None, student(tiny_corpus, teachers, family, tmp_path / "whole", **changes))
    moved = tmp_path / "moved"
    shutil.copytree(teachers, moved)
    plain = Stepper.__call__

    def step(self, number, lr):
        if number == 13:
            raise KeyError
        return plain(self, number, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", step)
        with pytest.raises(KeyError):
            train(None, student(tiny_corpus, moved, family, tmp_path / "cut", **changes))
    train(None, student(tiny_corpus, teachers, family, tmp_path / "cut", **changes))
    assert final_files(tmp_path / "cut") == final_files(tmp_path / "whole")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    train_lines = [line for line in figures(tmp_path / "whole") if line["kind"] == "train"]
    assert all(line["teacher_kl"] > 0 for line in train_lines)


def test_a_student_comes_nearer_to_its_teachers(tiny_corpus, teachers, tmp_path):
    values = student(tiny_corpus, teachers, "mdm", tmp_path / "s", distill__share=1.0)
    record = train(None, values)
    kl = [line["teacher_kl"] for line in record.metrics("train")]
    assert sum(kl[-5:]) < sum(kl[:5]) / 2
    assert evaluate(record.path, EvalOptions(draws=2)).nll_nats_per_token < 5.5


def test_teachers_are_part_of_the_identity(tiny_corpus, teachers, tmp_path):
    folder = tmp_path / "s"
    record = train(None, student(tiny_corpus, teachers, "ar", folder))
    taught = record.info["teachers"]
    assert [one["run"] for one in taught] == names(teachers, "ar")
    assert all(len(one["sha256"]) == 64 for one in taught)
    first = [str(teachers / "ar1")]
    with pytest.raises(RunError, match=r"`distill.teachers`"):
        train(None, student(tiny_corpus, teachers, "ar", folder, distill__teachers=first))
    with pytest.raises(RunError, match=r"`distill.share` None → 0.25"):
        train(None, student(tiny_corpus, teachers, "ar", folder, distill__share=0.25))
    # A sweep finds it by its teachers, and by nothing else.
    recipe = load_recipe(None, student(tiny_corpus, teachers, "ar", folder))
    other = load_recipe(None, student(tiny_corpus, teachers, "ar", folder, distill__teachers=first))
    assert FinishedRuns([tmp_path]).find(recipe) == folder
    assert FinishedRuns([tmp_path]).find(other) is None
    plain = load_recipe(None, overrides(tiny_corpus, folder, family="ar"))
    assert len({recipe_hash(one) for one in (recipe, other, plain)}) == 3


def test_checkpoints_are_teachers(tiny_corpus, teachers, tmp_path):
    run = teachers / "ar1"
    last = load_recipe(None, student(tiny_corpus, teachers, "ar", tmp_path))
    steps = [16, 24]
    both = [f"{run}@{step}" for step in steps]
    record = train(
        None, student(tiny_corpus, teachers, "ar", tmp_path / "s", distill__teachers=both)
    )
    assert [one["step"] for one in record.info["teachers"]] == steps
    assert recipe_hash(last) != recipe_hash(record.recipe)
    wrong = [f"{run}@5"]
    with pytest.raises(CheckpointError, match="has no checkpoint '5'"):
        train(None, student(tiny_corpus, teachers, "ar", tmp_path / "x", distill__teachers=wrong))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"family": "mdm"}, RecipeError, r"differ in family \(ar and mdm\)"),
        ({"data__sequence_length": 16}, RecipeError, r"`data.sequence_length` \(32 and 16\)"),
        ({"model__padded_vocab_size": 512}, RecipeError, r"rows of the table \(384 and 512\)"),
        ({"parallel__tensor": 2}, RecipeError, "trained on whole layers"),
        ({"parallel__pipeline": 2}, RecipeError, "trained on whole layers"),
        ({"distill__share": 1.5}, RecipeError, "`distill.share`"),
        ({"distill__temperature": 0}, RecipeError, "`distill.temperature`"),
        ({"distill__teachers": ["nowhere"]}, RunError, "nowhere is not a run"),
        ({"distill__teachers": [], "distill__share": 0.3}, RecipeError, "needs `distill.teachers`"),
    ],
)
def test_what_cannot_be_taught(tiny_corpus, teachers, tmp_path, changes, error, message):
    given = {"family": "ar"} | changes
    family = given.pop("family")
    given = {"distill__teachers": names(teachers, "ar")} | given
    with pytest.raises(error, match=message):
        train(None, student(tiny_corpus, teachers, family, tmp_path / "s", **given))
    assert not (tmp_path / "s").exists()


def test_another_tokenizer(teachers, tmp_path):
    from epochal.data.options import PrepareOptions
    from epochal.data.prepare import prepare

    make_corpus(tmp_path)
    options = PrepareOptions(tokenizer="bpe:299", validation=0.1, workers=1)
    other = prepare(tmp_path / "text.jsonl", tmp_path / "other", options).folder
    with pytest.raises(RecipeError, match="differ in tokenizer, so it cannot answer"):
        train(None, student(other, teachers, "ar", tmp_path / "s"))


def test_the_students_recipe(teachers, tmp_path):
    """Without one of its own, the first teacher's, but for what a teacher was taught itself."""
    first = RunRecord(teachers / "mdm1").recipe
    found = student_recipe(names(teachers, "mdm"), tmp_path, None, ["distill.share=0.9"])
    assert found.model == first.model
    assert found.distill.share == 0.9
    assert list(found.distill.teachers) == names(teachers, "mdm")
    shipped = student_recipe(names(teachers, "mdm"), tmp_path, "quickstart", {"family": "mdm"})
    assert shipped.model.d_model != first.model.d_model
    for key in ("run_dir", "distill.teachers"):
        with pytest.raises(RecipeError, match=f"`{key}` is set by"):
            student_recipe(names(teachers, "mdm"), tmp_path, None, {key: "x"})
    with pytest.raises(UserError, match="at least one teacher"):
        student_recipe([], tmp_path, None, ())
    again = distill([teachers / "mdm1"], tmp_path / "once", None, ["train.steps=2"])
    assert student_recipe([again.path], tmp_path, None, ()).distill.share == 0.5


def test_a_dry_run_says_what_it_leaves_out(tiny_corpus, teachers, tmp_path):
    found = dry_run(None, student(tiny_corpus, teachers, "ar", tmp_path))
    assert [dict(note.values) for note in found.notes] == [{"teachers": 2}]


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_line(tiny_corpus, teachers, tmp_path, capsys, family):
    runs, out = names(teachers, family), str(tmp_path / "s")
    words = ["distill", *runs, "--out", out, "distill.share=0.8", "distill.temperature=2", "seed=9"]
    code, told, _ = command(capsys, *words, "--eval", "--json")
    assert code == 0
    assert json.loads(told)["nll_nats_per_token"] > 0
    record = RunRecord(out)
    assert record.status == "finished"
    assert record.recipe.distill.temperature == 2
    code, told, err = command(capsys, *words)
    assert code == 0
    assert "already finished" in err
    code, told, _ = command(capsys, "eval", out, runs[0], "--ensemble", "--average", "logits")
    assert code == 0
    code, told, _ = command(capsys, "runs", out, str(teachers), "--json")
    assert code == 0
    if family == "ar":  # a recipe of its own
        recipe = tmp_path / "small.toml"
        recipe.write_text('family = "ar"\n[model]\nd_model = 24\n')
        changes = overrides(tiny_corpus, "unused", train__steps=2)
        del changes["run_dir"], changes["model.d_model"]
        words = ["distill", runs[0], str(recipe), "--out", str(tmp_path / "small")]
        code, told, err = command(capsys, *words, *as_words(changes))
        assert code == 0, err
        assert RunRecord(tmp_path / "small").recipe.model.d_model == 24


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{ar}", "{mdm}"], "differ in family"),
        (["{ar}", "nowhere", "{ar}"], "nowhere is not a run"),
        (["{ar}", "nowhere"], "nowhere is no run, and there is no recipe nowhere"),
        (["{ar}", "run_dir=x"], "`run_dir` is set by the output folder"),
        (["{ar}", "parallel.tensor=2"], "`parallel.data` and `parallel.zero`"),
        (["{ar}", "distill.share=2"], "`distill.share` = 2"),
    ],
)
def test_wrong_command_lines(teachers, tmp_path, capsys, words, message):
    places = {"ar": teachers / "ar1", "mdm": teachers / "mdm1"}
    words = [word.format(**places) for word in words]
    code, _, err = command(capsys, "distill", *words, "--out", str(tmp_path / "s"))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
