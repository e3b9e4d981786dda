"""Tuning: the search on known surfaces, what it asks to be trained, and its certificate."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import OptionError, RecipeError, TrainingStopped
from epochal.families import default_families
from epochal.recipe import find_recipe, load_recipe
from epochal.recipe.load import apply_overrides
from epochal.report.text.tune import certificate
from epochal.results import note
from epochal.sweeps import tune as tuning
from epochal.sweeps.file import sweep_from_tree
from epochal.sweeps.options import TuneOptions
from epochal.sweeps.record import RunReason, RunState, State
from epochal.sweeps.search import Axis, Closed, Outcome, Point, Search, Start, decay_prior
from epochal.sweeps.sweep import SweepResult
from epochal.sweeps.tune import tune
from epochal.sweeps.tuned import Verdict
from made_runs import make_run
from tiny_runs import overrides

ALL = (Axis.LR, Axis.WEIGHT_DECAY, Axis.EPOCHS)
START = Start(lr=1e-3, weight_decay=0.1, epochs=8)


def searched(surface, start=START, axes=ALL):
    """(best point, outcomes) of a search whose runs show `surface`."""
    known = {}
    for _ in range(200):
        at, wanted = Search(start, axes, known).next()
        if not wanted:
            return at, known
        assert not set(wanted) & set(known), "asked for twice"
        known |= {point: surface(point) for point in wanted}
    raise AssertionError("no end")


def bowl(lr=0.0, decay=0.0, epochs=0.0, turned_up=True):
    """A convex surface whose minimum is so many steps from the start."""

    def surface(point):
        parts = (point.lr - lr, point.weight_decay - decay, point.epochs - epochs)
        return Outcome(3.0 + sum(0.1 * part**2 for part in parts), turned_up)

    return surface


offsets = st.integers(-3, 5)


@given(offsets, offsets, offsets)
def test_the_search_ends_at_the_minimum_of_a_bowl_with_all_neighbours_known(lr, decay, epochs):
    epochs = max(epochs, -3)  # 8 epochs can be halved three times
    at, known = searched(bowl(lr, decay, epochs))
    assert (at.lr, at.weight_decay, at.epochs) == (lr, decay, epochs)
    search = Search(START, ALL, known)
    for axis in ALL:
        for point, _, closed in search.neighbours(at, axis):
            assert closed is Closed.LIMIT or point in known


@given(st.dictionaries(st.tuples(offsets, offsets, offsets), st.floats(1, 9), max_size=40))
def test_on_any_surface_the_search_ends_where_no_step_is_better(heights):
    def surface(point):
        return Outcome(heights.get((point.lr, point.weight_decay, point.epochs), 5.0), True)

    at, known = searched(surface)
    search = Search(START, ALL, known)
    for axis in ALL:
        for point, _, closed in search.neighbours(at, axis):
            assert closed is Closed.LIMIT or known[point].nll >= known[at].nll


def test_an_interrupted_search_asks_for_the_same_as_one_that_was_not():
    surface = bowl(2, 3, -1)
    _, known = searched(surface)
    order = list(known)
    for done in range(len(order)):
        _, wanted = Search(START, ALL, {p: known[p] for p in order[:done]}).next()
        assert order[done] in wanted


def test_strong_decay_is_only_tried_where_held_out_loss_turned_up():
    at, known = searched(bowl(decay=3, turned_up=False))
    assert at.weight_decay == 0
    assert max(point.weight_decay for point in known) == 0
    closed = {s: c for _, s, c in Search(START, ALL, known).neighbours(at, Axis.WEIGHT_DECAY)}
    assert closed == {-1: None, 1: Closed.NOT_TURNED_UP}


def test_the_prior_is_tried_second_where_held_out_loss_turned_up():
    start = Start(lr=1e-3, weight_decay=0.1, epochs=8, prior=1.7)
    _, known = searched(bowl(decay=3), start)
    assert list(known)[:2] == [Point(), Point(weight_decay=4)]
    assert start.value(Axis.WEIGHT_DECAY, Point(weight_decay=4)) == pytest.approx(1.6)
    _, known = searched(bowl(turned_up=False), start)
    assert Point(weight_decay=4) not in known


@pytest.mark.parametrize(
    ("params", "unique", "best"),
    [
        # (N, U, certified weight decay) of arXiv 2509.14786, ICLR 2026
        (150e6, 209e6, 0.8),
        (300e6, 209e6, 1.6),
        (600e6, 209e6, 3.2),
        (1.4e9, 209e6, 3.2),
        (300e6, 839e6, 0.4),
        (150e6, 1.68e9, 0.1),
        (1.4e9, 1.68e9, 0.8),
    ],
)
def test_the_prior_is_within_a_factor_of_two_of_published_optima(params, unique, best):
    assert abs(math.log2(decay_prior(1.1, params, unique) / best)) <= 1.0


def test_epochs_are_not_halved_below_one_and_dropout_has_two_ends():
    at, known = searched(lambda point: Outcome(3.0 + point.epochs))
    assert START.value(Axis.EPOCHS, at) == 1.0
    assert min(point.epochs for point in known) == -3
    at, known = searched(lambda p: Outcome(3.0 - p.dropout), axes=(Axis.DROPOUT,))
    assert [START.value(Axis.DROPOUT, point) for point in known] == [0.0, 0.05, 0.1, 0.2, 0.4]


def test_points_that_could_not_be_tried_are_passed_over():
    def surface(point):
        return None if point.lr == 1 else bowl(lr=2)(point)

    at, known = searched(surface)
    assert at == Point()
    assert known[Point(lr=1)] is None
    assert searched(lambda point: None)[0] == Point()


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Runs that cost nothing: their NLL is `nll(recipe)`, their record is real.

    Returns the names of the runs of each round, and a dictionary to change: `nll`, `rise` (nats
    by which held-out loss turned up) and `seconds`, functions of the recipe.
    """
    rounds = []
    world = {"nll": lambda recipe: 4.0, "rise": lambda recipe: 0.0, "seconds": lambda recipe: 10.0}
    done = {}

    def run_all(sweep, runs, facts, folder, *, jobs, places, may_start):
        states, new = [], []
        for run in runs:
            path = folder.run_dir(run.name)
            state = RunState(
                name=run.name, family=run.recipe.family, run_dir=str(path), identity=run.name
            )
            states.append(state)
            if path in done:
                state.state, state.nll, state.seconds = done[path]
                continue
            state.reason = may_start(state)
            if state.reason is not None:
                state.state = State.LEFT_OUT
                continue
            new.append(run.name)
            nll, rise = world["nll"](run.recipe), world["rise"](run.recipe)
            state.seconds = world["seconds"](run.recipe)
            if nll is None:
                make_run(path, run.recipe.family, [4.0], status="diverged", evaluated=False)
                state.state = State.FAILED
            else:
                curve = [nll + 1, nll, nll + rise]
                make_run(path, run.recipe.family, curve, spread=0.005, seed=len(done))
                state.state, state.nll = State.FINISHED, nll
            done[path] = state.state, state.nll, state.seconds
        rounds.append(new)
        return SweepResult(sweep.name, folder.path, states, {})

    monkeypatch.setattr(tuning, "run_all", run_all)
    return rounds, world


def surface(lr, decay, depth=0.1):
    """NLL with its minimum at a rate and a decay, and at 4 epochs, from a recipe."""

    def nll(recipe):
        train = recipe.train
        ratios = train.lr / lr, train.weight_decay / decay, train.epochs / 4
        off = map(math.log2, ratios)
        return 4.0 + depth * sum(value**2 for value in off)

    return nll


def started(tiny_corpus, tmp_path, **changes):
    """Overrides of the start: 4 epochs of 1,000 tokens."""
    values = overrides(tiny_corpus, "", **({"train__epochs": 4} | changes))
    del values["run_dir"], values["train.steps"]
    return values


def tuned(tiny_corpus, tmp_path, options=None, **changes):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("", encoding="utf-8")
    values = {"out": tmp_path / "out"} | (options or {})
    return tune(recipe, started(tiny_corpus, tmp_path, **changes), TuneOptions(**values))


def test_every_family_is_tuned_and_certified(trained, tiny_corpus, tmp_path):
    rounds, world = trained
    world["nll"] = surface(0.02, 0.05)
    result = tuned(tiny_corpus, tmp_path)
    assert [search.family for search in result.searches] == ["ar", "mdm"]
    for search in result.searches:
        assert search.certified
        assert search.start.settings.lr == pytest.approx(0.01)
        assert search.best.settings.lr == pytest.approx(0.02)
        assert search.best.settings.weight_decay == pytest.approx(0.05)
        assert search.best.nll == pytest.approx(4.0)
        verdicts = {(one.axis, one.value): one.verdict for one in search.neighbours}
        assert verdicts[Axis.LR, 0.04] is Verdict.WORSE
        assert search.effort.runs == len(search.runs)
        recipe = load_recipe(search.recipe)
        assert recipe.train.lr == pytest.approx(0.02)
        assert recipe.train.min_lr == pytest.approx(0.002)
    names = list(itertools.chain(*rounds))
    assert len(names) == len(set(names))
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["searches"][0]["certified"]


def test_the_same_call_again_trains_nothing_and_finds_the_same(trained, tiny_corpus, tmp_path):
    rounds, world = trained
    world["nll"] = surface(0.04, 0.1)
    first = tuned(tiny_corpus, tmp_path)
    count = len(rounds)
    assert tuned(tiny_corpus, tmp_path) == first
    assert not any(rounds[count:])


def test_a_search_that_is_broken_off_leaves_what_it_knows(trained, tiny_corpus, tmp_path):
    rounds, world = trained
    minimum = surface(4e-2, 0.1)

    def nll(recipe):
        if len(rounds) == 2:
            raise TrainingStopped("by the test", 130)
        return minimum(recipe)

    world["nll"] = nll
    with pytest.raises(TrainingStopped):
        tuned(tiny_corpus, tmp_path)
    kept = json.loads((tmp_path / "out" / "tune.json").read_text(encoding="utf-8"))
    assert len(kept["searches"]) == len(default_families())
    trained_runs = [name for names in rounds for name in names]
    for search in kept["searches"]:
        own = [name for name in trained_runs if name.startswith(search["name"])]
        assert own
        assert len(search["runs"]) == len(own)
        assert not search["certified"]


def test_differences_within_their_error_are_no_certificate(trained, tiny_corpus, tmp_path):
    _, world = trained
    world["nll"] = surface(0.01, 0.1, depth=0.001)
    [search] = tuned(tiny_corpus, tmp_path, {"families": ("ar",)}).searches
    assert not search.certified
    tried = [one for one in search.neighbours if one.difference is not None]
    assert {one.verdict for one in tried} == {Verdict.CLOSE}


def test_a_run_that_diverged_is_worse_and_one_that_failed_is_untried(
    trained, tiny_corpus, tmp_path
):
    _, world = trained
    flat = surface(0.01, 0.1)
    world["nll"] = lambda recipe: None if recipe.train.lr > 0.015 else flat(recipe)
    [search] = tuned(tiny_corpus, tmp_path, {"families": ("ar",), "axes": ("lr",)}).searches
    assert search.certified
    below, above = search.neighbours
    assert below.value == pytest.approx(0.005)
    assert math.isfinite(below.difference)
    assert (above.verdict, above.difference) == (Verdict.WORSE, math.inf)
    assert [run.diverged for run in search.runs] == [False, False, True]


def test_more_decay_is_tried_after_the_loss_turned_up(trained, tiny_corpus, tmp_path):
    _, world = trained
    world["nll"] = surface(0.01, 0.8)
    options = {"families": ("ar",), "axes": ("weight_decay",)}
    [search] = tuned(tiny_corpus, tmp_path, options).searches
    assert search.best.settings.weight_decay == pytest.approx(0.1)
    assert {one.verdict for one in search.neighbours} == {Verdict.WORSE, Verdict.NOT_TURNED_UP}
    world["rise"] = lambda recipe: 0.2
    options["out"] = tmp_path / "again"
    [search] = tuned(tiny_corpus, tmp_path, options).searches
    assert search.best.settings.weight_decay == pytest.approx(0.8)
    assert search.certified


def test_every_search_may_use_the_same_time_and_says_what_is_not_certified(
    trained, tiny_corpus, tmp_path
):
    _, world = trained
    world["nll"] = surface(0.32, 0.1)
    world["seconds"] = lambda recipe: 100.0 if recipe.family == "ar" else 10.0
    result = tuned(tiny_corpus, tmp_path, {"budget": 600.0})
    ar, mdm = result.searches
    assert ar.effort.seconds <= 300
    assert mdm.effort.seconds <= 300
    assert not ar.certified
    assert any(one.verdict is Verdict.UNTRIED for one in ar.neighbours)
    assert [run.reason for run in ar.runs if run.nll is None] == [note(RunReason.NO_TIME)] * len(
        [run for run in ar.runs if run.nll is None]
    )
    assert mdm.best.settings.lr == pytest.approx(0.32)


def test_what_another_seed_changes_is_part_of_the_error(trained, tiny_corpus, tmp_path):
    rounds, world = trained
    plain = surface(0.01, 0.1)
    first = load_recipe(None, {"train.steps": 1}).seed
    world["nll"] = lambda recipe: plain(recipe) + 0.1 * (recipe.seed - first)
    options = {"families": ("ar",), "axes": ("lr",), "seeds": 3}
    [search] = tuned(tiny_corpus, tmp_path, options).searches
    assert search.seed_nlls == pytest.approx([4.0, 4.1, 4.2])
    assert search.seed_spread == pytest.approx(0.1)
    # Steps of 0.1 nats are then within the error, which is at least √2 · 0.1.
    assert {one.verdict for one in search.neighbours} == {Verdict.CLOSE}
    assert min(one.error for one in search.neighbours) > 0.1414
    assert not search.certified
    assert search.effort.runs == len(list(itertools.chain(*rounds))) == 5
    options["seeds"] = 1
    [search] = tuned(tiny_corpus, tmp_path, options).searches
    assert search.seed_spread is None
    assert search.certified


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train__weight_decay": 0.0}, "train.weight_decay"),
        ({"train__hidden_dropout": 0.3}, "train.hidden_dropout"),
    ],
)
def test_settings_that_have_no_double_are_refused(trained, tiny_corpus, tmp_path, changes, key):
    options = {"axes": ("weight_decay", "dropout")}
    with pytest.raises(RecipeError, match=key):
        tuned(tiny_corpus, tmp_path, options, **changes)


def test_a_sweep_file_gives_the_starts(trained, tiny_corpus, tmp_path):
    values = started(tiny_corpus, tmp_path)
    path = tmp_path / "two.toml"
    path.write_text(
        '[sweep]\ndesign = "grid"\nfamilies = ["ar"]\nunique_tokens = [500, 1000]\n'
        "epochs = [2]\n[base]\n",
        encoding="utf-8",
    )
    del values["train.epochs"], values["data.unique_tokens"]
    options = TuneOptions(out=tmp_path / "out", axes=("lr",))
    result = tune(path, values, options)
    assert [search.unique_tokens for search in result.searches] == [500, 1000]
    with pytest.raises(OptionError):
        tune(path, values, TuneOptions(families=("ar",)))
    path.write_text(path.read_text().replace("grid", "trunk"), encoding="utf-8")
    with pytest.raises(RecipeError, match="trunk"):
        tune(path, values, options)


def test_real_runs_are_searched_and_a_second_call_resumes(tiny_corpus, tmp_path):
    options = {"families": ("ar",), "axes": ("lr",)}
    changes = {"train__epochs": 1, "train__lr": 3e-2}
    first = tuned(tiny_corpus, tmp_path, options, **changes)
    [search] = first.searches
    done = {run.run: run.nll for run in search.runs}
    assert len(done) >= 3
    assert search.best.nll == min(nll for nll in done.values() if nll is not None)
    assert {one.axis for one in search.neighbours} == {Axis.LR}
    assert tuned(tiny_corpus, tmp_path, options, **changes) == first
    assert find_recipe(search.recipe).is_file()
    shutil.rmtree(search.best.run)  # one that is gone is trained again
    [again] = tuned(tiny_corpus, tmp_path, options, **changes).searches
    assert {run.run: run.nll for run in again.runs} == done


SIZES = ["48x1x2", "24x1x2", "96x1x2"]


def sized(tiny_corpus, tmp_path, sizes=SIZES, options=None, **changes):
    """A tuning of several sizes of one family."""
    tree = {"sweep": {"design": "grid", "families": ["ar"], "sizes": list(sizes)}, "base": {}}
    apply_overrides(tree["base"], started(tiny_corpus, tmp_path, **changes))
    values = {"out": tmp_path / "out"} | (options or {})
    return tune(sweep_from_tree(tree, "sizes"), (), TuneOptions(**values))


@pytest.mark.parametrize(
    ("changes", "power"),
    [
        ({"model__parametrisation": "standard"}, 1.0),
        ({"model__parametrisation": "completep"}, 0.0),
        ({"train__optimizer": "muon"}, 0.5),
    ],
)
def test_larger_models_start_from_what_smaller_ones_found(
    trained, tiny_corpus, tmp_path, changes, power
):
    """The smallest first, wherever it stands; the best rate is as the parametrisation says."""
    rounds, world = trained

    def nll(recipe):
        width = recipe.model.d_model
        return surface(0.08 * (24 / width) ** power, 0.025)(recipe)

    world["nll"] = nll
    result = sized(tiny_corpus, tmp_path, **changes)
    middle, small, large = result.searches
    assert [one.carried_from for one in result.searches] == [small.name, None, middle.name]
    assert small.start.settings.lr == pytest.approx(0.01)
    assert small.best.settings.lr == pytest.approx(0.08)
    for one, before in ((middle, small), (large, middle)):
        factor = 0.5**power
        assert one.start.settings.lr == pytest.approx(before.best.settings.lr * factor)
        assert one.start.settings.weight_decay == before.best.settings.weight_decay
        assert one.best == one.start
        assert one.certified
        assert len(one.runs) < len(small.runs)
        assert "started from what" in certificate(one)
    firsts = [
        next(
            n for n, names in enumerate(rounds) if any(name.startswith(one.name) for name in names)
        )
        for one in (small, middle, large)
    ]
    assert firsts == sorted(set(firsts))
    count = len(rounds)
    assert sized(tiny_corpus, tmp_path, **changes) == result
    assert not any(rounds[count:])


def test_starts_that_differ_in_more_than_size_or_gave_nothing_are_not_carried(
    trained, tiny_corpus, tmp_path
):
    _, world = trained
    plain = surface(0.02, 0.1)
    world["nll"] = lambda recipe: None if recipe.model.d_model == 24 else plain(recipe)
    middle, small, large = sized(tiny_corpus, tmp_path, options={"axes": ("lr",)}).searches
    assert small.best.nll is None
    assert middle.carried_from is None
    assert middle.start.settings.lr == pytest.approx(0.01)
    assert large.carried_from == middle.name
    assert large.start.settings.lr == pytest.approx(middle.best.settings.lr / 2)
