"""A study: with runs whose losses follow a planted law, and once with real ones."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest

from epochal.cli.options import options
from epochal.data.duplicates import EffectiveUniqueTokens
from epochal.errors import OptionError, RunError, TrainingStopped
from epochal.recipe import identity, load_recipe, run_numbers
from epochal.report import write_report
from epochal.report.collect import read_runs
from epochal.report.laws import find_laws, read_study
from epochal.report.study import Basis, RegularisationTrial, StudyNote, StudyResult
from epochal.report.text.study import recommendation, verdict
from epochal.results import note, to_json
from epochal.runs import RunFolder
from epochal.scaling import checks
from epochal.scaling.law import law_from_constants
from epochal.scaling.options import FitOptions
from epochal.studies import laws as study_laws
from epochal.studies import probes as study_probes
from epochal.studies import runner as study_runner
from epochal.studies.options import StudyOptions
from epochal.studies.probes import Design
from epochal.studies.state import StudyState
from epochal.studies.study import study
from epochal.studies.tuning import Rates, best_setting
from epochal.sweeps.record import RunState
from epochal.sweeps.sweep import SweepResult
from made_runs import result


def planted_law(**changes):
    constants = {"A": 60.0, "B": 400.0, "E": 1.8, "alpha": 0.35, "beta": 0.37}
    constants |= {"R_D": 300.0, "R_N": 1e4}
    return law_from_constants("data-constrained", constants | changes)


LAWS = {"ar": planted_law(R_D=30.0), "mdm": planted_law(B=900.0, E=1.9)}


class PlantedRuns:
    """Stands for the training of runs: their losses are a law's, with a little scatter."""

    def __init__(self, stop_after=10**6):
        self.made = []
        self.stop_after = stop_after
        self.best_rate = {"ar": 1.6e-2, "mdm": 3.2e-2}
        """At width 64; elsewhere as 1 / width."""
        self.decay = dict[str, float]()
        """Family → factor of the loss with more weight decay; their long runs turn up."""

    def __call__(self, sweep, runs, facts, folder, *, jobs, places, may_start, retry=False):
        states = []
        for run in runs:
            state = RunState(
                name=run.name,
                family=run.recipe.family,
                run_dir=str(folder.run_dir(run.name)),
                identity="i",
            )
            states.append(state)
            if RunFolder(folder.run_dir(run.name)).read_info() is None:
                if reason := may_start(state):
                    state.state, state.reason = "left_out", reason
                    continue
                if len(self.made) == self.stop_after:
                    raise TrainingStopped("by SIGINT", 130)
                self.made.append(run.name)
                self.train(run, facts, RunFolder(folder.run_dir(run.name)))
            record = RunFolder(folder.run_dir(run.name)).read_info()
            state.state, state.nll = "finished", record["best"]["nll_nats_per_token"]
        return SweepResult(sweep.name, folder.path, states, {})

    def train(self, run, facts, folder):
        unique = run.recipe.data.unique_tokens
        numbers = run_numbers(run.recipe, unique, facts.vocabulary)
        family = run.recipe.family
        exact = LAWS[family].predict(numbers.params, numbers.tokens, unique)
        scatter = np.random.default_rng([unique, numbers.params, numbers.tokens, len(family)])
        steps_off = np.log2(run.recipe.train.lr * (run.recipe.model.d_model / 64) ** 0.5)
        steps_off -= np.log2(self.best_rate[family])
        factor = 1 + 0.03 * steps_off**2
        if run.recipe.train.weight_decay > 0.1:
            factor *= self.decay.get(family, 1.0)
        nll = float(factor * exact * (1 + 0.002 * scatter.normal()))
        steps = numbers.steps
        stores = {role: {"content_sha256": f"{role}-{unique}"} for role in ("train", "validation")}
        stores["validation"]["content_sha256"] = "v"
        info = {
            "family": family,
            "status": "finished",
            "numbers": to_json(numbers),
            "corpus": stores,
            "identity": identity(run.recipe),
            "best": {"step": steps, "nll_nats_per_token": nll},
            "seconds": 1.0,
        }
        folder.write_info(info)
        folder.write_recipe(run.recipe)
        at = numbers.at(steps)
        line = {"kind": "eval", "step": steps, "nll_nats_per_token": nll, "tokens": at.tokens}
        lines = [line | {"epochs": at.epochs, "flops": at.flops}]
        if family in self.decay and numbers.epochs > 1:
            lines.append(lines[0] | {"step": steps + 1, "nll_nats_per_token": nll + 0.1})
        folder.metrics_file.write_text("".join(json.dumps(one) + "\n" for one in lines))
        found = result(family, nll, step=steps)
        rng = np.random.default_rng(3)
        totals = 40 * (nll + rng.normal(0, 0.01, 100))
        variances = np.full(100, 0.0 if family == "ar" else 1e-4)
        folder.write_evaluation(found, totals, np.full(100, 40), variances)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of some hundred thousand tokens of one byte."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(0).integers(0, 3000, (1500, 40))
    file.write_text("\n\n".join(" ".join(f"w{n}" for n in document) for document in words))
    return file


def no_report(places, out, **more):
    """Stands for the report, which takes longer than all the rest."""
    out.write_text("a page")


def plant(patch):
    """Runs by a law, on a machine of a known speed; few resamples and no report, for speed."""

    def speeds(recipe_of, sizes, flops, threads, seconds, limit, families):
        return {(f, s): flops[s] / 1.5e10 for f in families for s in sizes}

    runs = PlantedRuns()
    patch.setattr(study_runner, "measure_sizes", speeds)
    patch.setattr(study_runner, "_seconds_to_start", lambda slot: 3.0)
    patch.setattr(study_runner, "run_all", runs)
    patch.setattr("epochal.sweeps.tune.run_all", runs)
    # The planted laws are far above the unigram baseline.
    patch.setattr("epochal.studies.study.corpus_unigram_nll", lambda *stores: 30.0)
    patch.setattr("epochal.studies.study.write_report", no_report)
    patch.setattr(checks, "_PROFILE", checks._PROFILE[::12])
    patch.setattr(study_laws, "FitOptions", partial(FitOptions, bootstraps=8))
    return runs


def probe_losses(folder):
    """run.json's best of each run of a study in `folder`/study."""
    for path in (folder / "study").glob("*/*/run.json"):
        yield {"nll": json.loads(path.read_text())["best"]["nll_nats_per_token"]}


@pytest.fixture
def planted(monkeypatch):
    """Runs by a law."""
    return plant(monkeypatch)


def run(text, out, **more):
    """A study of planted runs."""
    options = {"budget": 1200, "out": out, "jobs": 2, "tokenizer": "bytes"} | more
    return study(text, StudyOptions(**options))


@dataclass
class Shared:
    """A study that was ended once, and resumed."""

    made: StudyResult
    runs: PlantedRuns
    out: Path
    used_before: float


@pytest.fixture(scope="module")
def shared_study(text, tmp_path_factory):
    """One study, ended after seven runs and resumed."""
    out = tmp_path_factory.mktemp("shared") / "study"
    with pytest.MonkeyPatch.context() as patch:
        runs = plant(patch)
        runs.stop_after = 7
        with pytest.raises(TrainingStopped):
            run(text, out)
        used = json.loads((out / "state.json").read_text())["used"]
        runs.stop_after = 10**6
        yield Shared(run(text, out), runs, out, used)


def test_a_planted_law_is_found_planned_with_and_checked(shared_study, text):
    made, planted, out = shared_study.made, shared_study.runs, shared_study.out
    assert made.plan is not None
    assert made.plan.winner == "ar"  # by the planted laws, at this compute
    assert made.recommendation.basis == Basis.MEASURED
    assert (made.recommendation.winner, made.recommendation.family) == ("ar", "ar")
    assert [check.family for check in made.held_out.results] == ["ar", "mdm"]
    for check in made.held_out.results:
        low, high = check.interval
        assert check.inside
        assert low <= check.seen <= high
        assert check.predicted == pytest.approx(check.seen, rel=0.03)
    # The check is a larger run than any of the sweep, and on the whole text.
    flops = made.plan.flops
    assert flops > max(float(np.max(f.points.flops)) for f in made.fit.families.values()) / 2
    assert made.report.is_file()
    told = json.loads((out / "study.json").read_text())
    assert told["recommendation"] == f"{verdict(made)} {recommendation(made)}"
    assert [stage["name"] for stage in told["stages"]] == [
        *("prepare", "measure", "tune", "probe", "fit", "check", "plan")
    ]
    json.dumps(to_json(made), allow_nan=False)
    # The same call again trains nothing and has the same result.
    count = len(planted.made)
    again = run(text, out)
    assert len(planted.made) == count
    assert again.recommendation == made.recommendation
    assert again.held_out == made.held_out


def test_any_families_are_studied(planted, text, tmp_path, monkeypatch):
    monkeypatch.setitem(LAWS, "block", LAWS["mdm"])
    planted.best_rate["block"] = 3.2e-2
    made = run(text, tmp_path / "study", families=("ar", "block"))
    assert [check.family for check in made.held_out.results] == ["ar", "block"]
    assert list(made.fit.families) == ["ar", "block"]
    assert not any("mdm" in name for name in planted.made)
    with pytest.raises(OptionError, match=r"families = 'ar, mdm'.* is of ar, block"):
        run(text, tmp_path / "study", families=("ar", "mdm"))
    with pytest.raises(OptionError, match="two or more"):
        StudyOptions(families=("ar",))


def test_rates_are_searched_certified_and_carried_over_sizes(shared_study):
    made, out = shared_study.made, shared_study.out
    assert [one.family for one in made.tuned] == ["ar", "mdm"]
    for one in made.tuned:
        width = load_recipe(one.recipe).model.d_model
        best = shared_study.runs.best_rate[one.family] * (64 / width) ** 0.5
        assert one.certified
        assert best / 2**0.51 < one.best.settings.lr < best * 2**0.51
        for path in [*out.glob(f"probes/{one.family}-*"), *out.glob(f"held-out/*{one.family}-*")]:
            if (path / "recipe.toml").exists():
                recipe = load_recipe(path / "recipe.toml")
                carried = one.best.settings.lr * (width / recipe.model.d_model) ** 0.5
                assert recipe.train.lr == pytest.approx(carried, rel=5e-3)  # three digits
    told = json.loads((out / "study.json").read_text())
    assert any("Certified" in line and "minutes of one slot" in line for line in told["notes"])
    assert any("of the drop of the doubling before" in line for line in told["notes"])


def test_only_the_best_sizes_climb_to_the_end(shared_study):
    layout = json.loads((shared_study.out / "state.json").read_text())["ladder"]["layout"]
    for family in ("ar", "mdm"):
        for place, lengths in enumerate(layout["rungs"]):
            there = {
                size
                for size, tokens in lengths.items()
                for run in shared_study.runs.made
                if run.startswith(f"{family}-{size}-U") and f"-D{tokens}-" in run
            }
            searched = place == len(layout["rungs"]) - 2  # one was trained in the search
            assert layout["kept"][place] - searched <= len(there) <= layout["kept"][place]


def test_regularisation_that_helps_is_taken(planted, text, tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.studies.study.write_report", write_report)
    monkeypatch.setattr("epochal.report.laws.FitOptions", partial(FitOptions, bootstraps=8))
    planted.decay = {"ar": 0.94}
    made = run(text, tmp_path / "study")
    assert {one.family for one in made.regularisation} == {"ar"}  # diffusion did not turn up
    best = min(made.regularisation, key=lambda one: one.nll)
    assert best.improved
    assert best.nll / best.baseline_nll == pytest.approx(0.94, rel=1e-6)
    assert best.keys["train.weight_decay"] > 0.1
    first, second = made.held_out.results
    assert first.setting == best.setting
    assert first.inside
    assert second.setting is None
    recipe = load_recipe(made.recipes["ar"])
    assert recipe.train.weight_decay == best.keys["train.weight_decay"]
    assert load_recipe(made.recipes["mdm"]).train.weight_decay == 0.1
    # These runs are no points of the laws, whose figures are without.
    runs = [run for fit in made.fit.families.values() for run in fit.points.run]
    assert not any("/regularisation/" in run for run in runs)
    assert note(StudyNote.NOT_TRIED) in made.notes
    page = made.report.read_text(encoding="utf-8")
    assert 'id="regularisation"' in page
    # A report made again by itself leaves these runs out of its fit as well.
    runs = read_runs([tmp_path / "study"])
    again = find_laws(runs, read_study([tmp_path / "study"]), "data-constrained", None)
    # The search begins with a probe once more, which stays.
    fitted = {run for run in again.families["ar"].points.run if "/regularisation/" not in run}
    assert fitted <= set(made.fit.families["ar"].points.run)
    left = [name for name in again.families["ar"].points.run if "/regularisation/" in name]
    assert [name.split("/")[-1] for name in left] in ([], [best.baseline_run])


def test_regularisation_is_not_taken_for_a_run_that_hardly_repeats():
    helped = RegularisationTrial(
        family="ar",
        setting="dropout 0.1",
        keys={"train.hidden_dropout": 0.1},
        run="r",
        baseline_run="p",
        size="32x2x2",
        unique_tokens=1000,
        epochs=16.0,
        baseline_nll=4.0,
        nll=3.8,
        difference=-0.2,
        error=0.01,
        improved=True,
    )
    assert best_setting([helped], "ar", 8.0) == (helped, [])
    assert best_setting([helped], "mdm", 16.0) == (None, [])
    setting, [unused] = best_setting([helped], "ar", 7.9)
    assert setting is None
    assert (unused.code, unused.values["trial_epochs"]) == (StudyNote.SETTING_UNUSED, 16.0)


def test_rates_are_carried_over_widths():
    """As 1 / width with AdamW, and as its root with Muon."""
    adamw, muon = (Rates("64x3x2", {"ar": 4e-3}, name) for name in ("adamw", "muon"))
    assert adamw.at("ar", "128x4x4") == pytest.approx(2e-3)
    assert adamw.at("ar", "32x2x2") == pytest.approx(8e-3)
    assert muon.at("ar", "256x5x8") == pytest.approx(2e-3)
    assert adamw.at("mdm", "64x3x2") is None


def test_a_study_of_an_earlier_version_goes_on_with_adamw(planted, text, tmp_path):
    """Its state.json does not name an optimizer."""
    planted.stop_after = 3
    with pytest.raises(TrainingStopped):
        run(text, tmp_path / "study")
    state = tmp_path / "study" / "state.json"
    values = json.loads(state.read_text())
    assert values.pop("optimizer") == "muon"
    state.write_text(json.dumps(values))
    planted.stop_after, planted.made[:] = None, []
    planted.best_rate = {"ar": 4e-3, "mdm": 4e-3}
    made = run(text, tmp_path / "study")
    recipe = load_recipe(made.tuned[0].recipe).train
    assert (recipe.optimizer, recipe.global_batch_size, recipe.lr) == ("adamw", 2, 4e-3)


def test_a_search_before_anything_is_learnt_changes_nothing(planted, text, tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.studies.study.corpus_unigram_nll", lambda *stores: 0.1)
    made = run(text, tmp_path / "study")
    told = [one for one in made.notes if one.code == StudyNote.NOT_LEARNED]
    assert [one.values["family"] for one in told] == ["ar", "mdm"]
    assert not [name for name in planted.made if "-U" in name and "-lr" in name]


def test_a_study_that_was_ended_resumes(shared_study):
    assert shared_study.used_before > 0
    assert shared_study.made.seconds > shared_study.used_before
    made = shared_study.runs.made
    assert len(set(made)) == len(made)  # nothing twice


def test_runs_that_determine_no_law_give_no_prediction(planted, text, tmp_path, monkeypatch):
    # One length per size, once over the text: nothing shows the effect of lengths.
    monkeypatch.setattr("epochal.studies.probes.DESIGNS", (Design((3,), (), 0),))
    made = run(text, tmp_path / "study")
    assert made.plan is None
    assert made.recommendation.basis == Basis.NO_LAW
    assert made.recommendation.best_nll == min(one["nll"] for one in probe_losses(tmp_path))
    assert made.held_out is None
    refused = [one.values["law"] for one in made.notes if one.code == StudyNote.LAW_REFUSED]
    assert "data-constrained" in refused
    assert made.report.is_file()


def test_the_budget_is_over_all_sessions(tmp_path):
    state = StudyState(tmp_path / "state.json", 100.0)
    state.save(x=1)
    content = json.loads((tmp_path / "state.json").read_text()) | {"used": 60.0}
    (tmp_path / "state.json").write_text(json.dumps(content))
    again = StudyState(tmp_path / "state.json", 100.0)
    assert 39 < again.left <= 40
    assert again.values["x"] == 1


def test_what_was_decided_counts_for_the_same_budget(tmp_path):
    state = StudyState(tmp_path / "state.json", 100.0)
    assert state.decide("check", lambda: {"flops": 1.0})["flops"] == 1.0
    again = StudyState(tmp_path / "state.json", 100.0)
    assert again.decide("check", lambda: {"flops": 2.0})["flops"] == 1.0
    longer = StudyState(tmp_path / "state.json", 200.0)
    assert longer.decide("check", lambda: {"flops": 2.0})["flops"] == 2.0


STATE_0_1 = {
    "costs": {
        "seconds_per_token": [["ar", "32x2x2", 1e-5], ["mdm", "32x2x2", 1e-5]],
        "overhead": 3.0,
        "evaluation_tokens": 1e4,
    },
    "layout": {
        "budget": 1200.0,
        "probes": [
            {
                "family": "ar",
                "size": "32x2x2",
                "unique_tokens": 1000,
                "epochs": 4.0,
                "seconds": 9.0,
            }
        ],
    },
    "regularise": {"budget": 1200.0, "probes": ["ar-32x2x2-U1000-D4000"]},
    "check": {"budget": 1200.0, "flops": 1e13},
    "factor": 1.5,
    "used": 321.0,
}


def test_the_state_of_version_0_1_is_read(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps(STATE_0_1))
    state = StudyState(tmp_path / "state.json", 1200.0)
    assert 321 <= state.used < 322
    assert state.decide("check", dict)["flops"] == 1e13


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '"words"',
        json.dumps(STATE_0_1 | {"format": 7}),
        json.dumps(STATE_0_1 | {"used": "long"}),
        json.dumps(STATE_0_1 | {"ladder": {"budget": 1200.0, "layout": {"kind": "ar"}}}),
        json.dumps(STATE_0_1 | {"costs": {"seconds_per_token": [1]}}),
        json.dumps(STATE_0_1 | {"check": {"budget": 1200.0}}),
        json.dumps(STATE_0_1 | {"tune": [1]}),
    ],
)
def test_a_damaged_state_or_one_of_another_version_is_named(text, tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RunError, match=r"state\.json (is damaged|has format 7).*delete it"):
        run(text, tmp_path)
    assert (tmp_path / "state.json").read_text() == content


def test_budgets_that_are_too_small():
    with pytest.raises(OptionError, match=r"budget.*120"):
        StudyOptions(budget=60)


@pytest.mark.parametrize(("text", "seconds"), [("20min", 1200), ("1.5h", 5400), ("600s", 600)])
def test_budgets_as_they_are_typed(text, seconds):
    command = click.command()(options(StudyOptions)(lambda options: options.budget))
    assert command.main(["--budget", text], standalone_mode=False) == seconds
    with pytest.raises(click.BadParameter, match="20min"):
        command.main(["--budget", "soon"], standalone_mode=False)


def test_the_budget_that_is_named_is_enough(text, tmp_path, planted, monkeypatch):
    monkeypatch.setattr(study_runner, "_seconds_to_start", lambda slot: 12.0)
    with pytest.raises(OptionError, match=r"budget.* give \d+min") as refused:
        run(text, tmp_path / "study", budget=150)
    minutes = int(re.search(r"give (\d+)min", str(refused.value))[1])
    assert 150 < 60 * minutes < 1200
    assert run(text, tmp_path / "study", budget=60 * minutes).recommendation
    with pytest.raises(OptionError, match="budget"):
        run(text, tmp_path / "less", budget=60 * minutes // 2)


def shortest(*given, possible=study_probes._possible):
    """Only the shortest layout."""
    yield next(possible(*given))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_study_in_small(text, tmp_path, monkeypatch):
    """Real processes, one epoch only: enough to see every stage, too little for a law."""
    monkeypatch.setattr("epochal.studies.probes.DESIGNS", (Design((3, 3), (), 0),))
    monkeypatch.setattr("epochal.studies.probes._possible", shortest)
    monkeypatch.setattr(study_runner, "SIZES_TIMED", 4)
    made = run(text, tmp_path / "study")
    assert made.recommendation.basis == Basis.NO_LAW
    probes = list((tmp_path / "study" / "probes").glob("*/run.json"))
    assert len(probes) == 12
    assert made.report.is_file()


def test_a_check_that_misses_is_marked(planted, text, tmp_path, monkeypatch):
    """Runs held out that are worse than the law: the recommendation is called a guess."""
    train = planted.train

    def worse(run, facts, folder):
        train(run, facts, folder)
        if "held-out" in run.name:
            for file in (folder.metrics_file, folder.info_file):
                content = file.read_text()
                nll = folder.read_info()["best"]["nll_nats_per_token"]
                file.write_text(content.replace(str(nll), str(nll + 1.0)))
            for file in (folder.path / "evaluations").glob("*.json"):
                values = json.loads(file.read_text())
                values["nll_nats_per_token"] += 1.0
                file.write_text(json.dumps(values))

    monkeypatch.setattr(planted, "train", worse)
    made = run(text, tmp_path / "study", flops=1e13)
    assert made.recommendation.check_missed
    assert [check.inside for check in made.held_out.results] == [False, False]
    assert made.plan.flops <= 1e13


def test_a_family_below_the_unigram_baseline_is_not_predicted(planted, text, tmp_path, monkeypatch):
    """Diffusion's probes are above the unigram baseline, its check far below it."""
    planted.best_rate["mdm"] = 1.6e-2  # a search shows nothing there
    monkeypatch.setitem(LAWS, "mdm", planted_law(A=0.01, B=0.01, E=8.95))
    monkeypatch.setattr("epochal.studies.study.corpus_unigram_nll", lambda *stores: 9.0)
    train = planted.train

    def sudden(run, facts, folder):
        with monkeypatch.context() as patch:
            if run.name.startswith("held-out-mdm"):
                patch.setitem(LAWS, "mdm", planted_law(A=0.01, B=0.01, E=8.0))
            train(run, facts, folder)

    monkeypatch.setattr(planted, "train", sudden)
    made = run(text, tmp_path / "study")
    ar, mdm = made.held_out.results
    assert mdm.below_unigram_baseline
    assert not ar.below_unigram_baseline
    assert mdm.seen == pytest.approx(8.0, abs=0.1)
    assert mdm.inside  # from what AR reaches there to what the probes reached
    # The two were trained side by side, which decides.
    assert (made.recommendation.basis, made.recommendation.winner) == (Basis.MEASURED, "ar")
    assert list(made.below_unigram_baseline) == ["mdm"]
    assert StudyNote.BELOW_UNIGRAM_BASELINE in [one.code for one in made.notes]
    # For another compute nothing was measured, and the laws cannot predict.
    other = run(text, tmp_path / "study", flops=1e15)
    assert (other.recommendation.basis, other.recommendation.winner) == (Basis.TOO_EARLY, None)


def test_tokens_that_are_not_repeated(shared_study, text, monkeypatch):
    """The same runs, with unique tokens of which a fifth are repeated."""
    plant(monkeypatch)

    def four_fifths(corpus, store):
        whole = store.unique_tokens
        return EffectiveUniqueTokens(whole, 0.8 * whole, 0.7 * whole, 0.9 * whole)

    monkeypatch.setattr("epochal.studies.study._effective", four_fifths)
    plain, made = shared_study.made, run(text, shared_study.out, effective=True)
    assert made.plan.stored_tokens == plain.plan.unique_tokens
    assert made.plan.unique_tokens == 0.8 * plain.plan.unique_tokens
    for family, fit in made.fit.families.items():
        here, there = fit.fitted_range["unique_tokens"], plain.fit.families[family].fitted_range
        assert here == pytest.approx([0.8 * u for u in there["unique_tokens"]])
    for path in made.recipes.values():
        assert load_recipe(path).data.unique_tokens == plain.plan.unique_tokens
