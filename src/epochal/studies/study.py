"""Given a text and a time: probe runs, laws, a plan, a check of it, a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from epochal import files
from epochal.comparison import is_clear
from epochal.data.blend import Blend
from epochal.data.builtin import builtin_documents
from epochal.data.corpus import Corpus
from epochal.data.duplicates import EffectiveUniqueTokens, find_duplicates, measure_duplicates
from epochal.data.store import TokenStore
from epochal.errors import EpochalError, OptionError
from epochal.families import default_families
from epochal.recipe import recipe_toml
from epochal.report import write_report
from epochal.report.study import (
    Basis,
    HeldOutResults,
    Recommendation,
    RegularisationTrial,
    StageNote,
    StudyNote,
    StudyResult,
)
from epochal.report.text.study import page_content
from epochal.results import note
from epochal.scaling.planner import PlanReport, make_plan
from epochal.scaling.points import corpus_unigram_nll
from epochal.studies.climb import Climb
from epochal.studies.laws import StudyLaws, UniqueOf, overfitting, study_laws
from epochal.studies.options import StudyOptions
from epochal.studies.probes import FARTHEST
from epochal.studies.quickstart import prepare_text
from epochal.studies.runner import StudyRunner
from epochal.studies.state import StudyState
from epochal.studies.tuning import best_setting
from epochal.sweeps.record import RunState
from epochal.sweeps.slots import jobs_for, make_slots, warn_idle_gpus
from epochal.sweeps.tuned import Tuned

VALIDATION_TOKENS = 20_000
"""Enough to resolve a hundredth of a nat; more would cost time that training needs."""
BYTES_PER_TOKEN = 2.0
"""With a small vocabulary, about."""


def study(text: str | Path | None = None, options: StudyOptions | None = None) -> StudyResult:
    """What to train on `text`: measured, fitted, planned, and checked by held-out runs.

    `text` is a file or folder, Python's own documentation if not given. Everything is kept in
    `options.out`; the same call resumes, and finished runs are not done again. Raises OptionError
    for a budget that is too small, with one that is enough, DataError for the text, RunError for
    a damaged state file, TrainingStopped after Ctrl-C or SIGTERM.
    """
    options = options or StudyOptions()
    state = StudyState(options.out / "state.json", options.budget)
    jobs = jobs_for(2, options.jobs)
    warn_idle_gpus(make_slots(jobs))
    try:
        return _Study(options, state, jobs).run(text)
    finally:
        if options.out.is_dir():
            state.save()


@dataclass(slots=True)
class _Study:
    """A running study."""

    options: StudyOptions
    state: StudyState
    jobs: int
    tuned: list[Tuned] = field(default_factory=list)
    tried: list[RegularisationTrial] = field(default_factory=list)

    def run(self, text: str | Path | None) -> StudyResult:
        """All stages; the results of finished ones are only read."""
        corpus = self._prepare(text)
        runner = StudyRunner(self.options.out, self.state, self.jobs, corpus, self._families())
        costs = runner.measure()
        layout = runner.lay_out(costs)
        unigram_nll = self._unigram_nll(corpus)
        climb = Climb(runner, layout, costs)
        self.tuned = climb.tune(unigram_nll)
        costs = climb.probe()
        self.tried = climb.regularise()
        laws = self._fit(runner, climb, unigram_nll)
        if laws is None:
            return self._finish(runner, _best_run(climb.states, self.tried))
        measured = {size for _, size in costs.seconds_per_token}
        params = {size: float(n) for size, n in runner.params.items() if size in measured}
        sizes = laws.near_probes(params)
        held_out = runner.check(laws, sizes, costs, self.tried)
        began = time.monotonic()
        effective = _effective(corpus, corpus.train) if self.options.effective else None
        planned = make_plan(
            laws.report.families,
            runner.unique_tokens if effective is None else effective.estimate,
            self.options.flops or held_out.flops,
            vocabulary=corpus.tokenizer.vocabulary,
            sizes=sizes,
        )
        self.state.add_stage("plan", began, note(StageNote.PLANNED, flops=planned.flops))
        planned = _by_ladders(replace(planned, effective=effective), laws, sizes)
        recommendation = recommend(planned, self.tried, held_out, laws.below_unigram_baseline)
        return self._finish(runner, recommendation, laws, planned, held_out)

    def _families(self) -> tuple[str, ...]:
        """Those asked for, else those of the study so far."""
        asked, costs = self.options.families, self.state.costs
        if costs is None:
            return asked or default_families()
        if asked and set(asked) != set(costs.families):
            there = f"the study in {self.options.out} is of {', '.join(costs.families)}"
            raise OptionError("families", ", ".join(asked), f"{there}; give another `out`")
        return costs.families

    def _prepare(self, text: str | Path | None) -> Corpus:
        began = time.monotonic()
        folder = self.options.out / "corpus"
        size = _text_bytes(text)
        share = min(0.1, max(0.002, VALIDATION_TOKENS * BYTES_PER_TOKEN / max(1, size)))
        tokenizer = self.options.tokenizer or _tokenizer_for(size)
        corpus = prepare_text(text, folder, tokenizer, float(f"{share:.2g}"))
        unique = corpus.train.unique_tokens
        self.state.add_stage("prepare", began, note(StageNote.PREPARED, unique_tokens=unique))
        self.state.save()
        return corpus

    def _unigram_nll(self, corpus: Corpus) -> float:
        """NLL of token frequencies alone, nats per token."""
        assert isinstance(corpus.train, TokenStore)  # as `prepare` makes it
        vocabulary = corpus.tokenizer.vocabulary
        return corpus_unigram_nll(corpus.train, corpus.validation, vocabulary)

    def _unique_of(self, corpus: Corpus) -> UniqueOf:
        """Tokens at the beginning of the text → those of them that count as unique."""
        if not self.options.effective:
            return float
        train = corpus.train
        assert isinstance(train, TokenStore)  # as `prepare` makes it
        return cache(lambda tokens: _effective(corpus, train.first(tokens)).estimate)

    def _fit(self, runner: StudyRunner, climb: Climb, unigram_nll: float) -> StudyLaws | None:
        """Laws that describe the probes; None, with notes, where none is identified."""
        began = time.monotonic()
        laws = None
        try:
            laws, notes = study_laws(
                climb.places, unigram_nll, self._unique_of(runner.corpus), runner.families
            )
            runner.notes += notes
        except EpochalError as error:
            runner.notes.append(note(StudyNote.LAW_REFUSED, law="any", problem=str(error)))
        law = None if laws is None else laws.report.law
        self.state.add_stage("fit", began, note(StageNote.FITTED, law=law))
        return laws

    def _finish(
        self,
        runner: StudyRunner,
        recommendation: Recommendation,
        laws: StudyLaws | None = None,
        planned: PlanReport | None = None,
        held_out: HeldOutResults | None = None,
    ) -> StudyResult:
        """The result, its files and the report."""
        folder, notes = self.options.out, runner.notes
        overfit: list[str] = []
        if laws is not None:
            overfit, more = overfitting(laws.points)
            notes += more
            laws.report.save(folder / "law.toml")
        notes.append(note(StudyNote.NOT_TRIED))
        recipes: dict[str, str] = {}
        for one in [] if planned is None else planned.families:
            if one.size is None:
                continue
            trial, unused = best_setting(self.tried, one.family, one.size.epochs)
            notes += unused
            recipe = runner.recommended_recipe(one.family, one.size, trial)
            path = folder / f"recommended-{one.family}.toml"
            files.write_text(path, recipe_toml(recipe))
            recipes[one.family] = str(path)
        result = StudyResult(
            recommendation=recommendation,
            overfit=overfit,
            held_out=held_out,
            tuned=self.tuned,
            regularisation=self.tried,
            notes=notes,
            stages=self.state.stages,
            below_unigram_baseline={} if laws is None else dict(laws.below_unigram_baseline),
            unigram_nll=None if laws is None else laws.unigram_nll,
            budget=self.state.budget,
            seconds=self.state.used,
            jobs=self.jobs,
            report=folder / "report.html",
            recipes=recipes,
            plan=planned,
            fit=None if laws is None else laws.report,
        )
        files.write_json(folder / "study.json", page_content(result))
        write_report([folder], result.report, fit=result.fit, plan=planned)
        return replace(result, seconds=self.state.used)


def _effective(corpus: Corpus, store: TokenStore | Blend) -> EffectiveUniqueTokens:
    """U_effective of a text or of its beginning; that of all of it is kept beside it."""
    assert isinstance(store, TokenStore)
    if store is corpus.train:
        return measure_duplicates(corpus.folder).effective
    return find_duplicates(store, tokenizer=corpus.tokenizer).effective


def _by_ladders(planned: PlanReport, laws: StudyLaws, sizes: Mapping[str, float]) -> PlanReport:
    """The plan with the size that each family's ladder has best, where it reaches so far."""
    if planned.flops > 1.01 * FARTHEST * float(laws.points.flops.max()):
        return planned
    best = laws.choices(int(planned.stored_tokens), planned.flops, sizes)
    families = [replace(one, size=best.get(one.family, one.size)) for one in planned.families]
    return replace(planned, families=families)


def recommend(
    planned: PlanReport,
    tried: Sequence[RegularisationTrial],
    held_out: HeldOutResults,
    below_unigram_baseline: Mapping[str, float],
) -> Recommendation:
    """What to train with the planned compute.

    Where the held-out runs were trained with it, they decide, not the laws.
    """
    trials = {
        one.family: best_setting(tried, one.family, one.size.epochs)[0]
        for one in planned.families
        if one.size is not None
    }
    ratios = {family: 1.0 if trial is None else trial.ratio for family, trial in trials.items()}
    seen = held_out.seen
    measured = bool(held_out.differences) and planned.flops == held_out.flops
    # The laws know no regularisation; what it brought may reverse their order.
    order = sorted(planned.families, key=lambda one: one.loss * ratios.get(one.family, 1.0))
    basis, winner, is_reversed = Basis.PREDICTED, planned.winner, False
    if measured:
        basis = Basis.MEASURED
        order = sorted(planned.families, key=lambda one: seen[one.family])
        clear = all(is_clear(*difference) for difference in held_out.differences.values())
        winner = order[0].family if clear else None
    elif below_unigram_baseline:
        basis, winner = Basis.TOO_EARLY, None
    elif winner is not None:
        is_reversed = order[0].family != winner
    best = order[0]
    if winner is not None and not is_reversed:
        best = next(one for one in order if one.family == winner)
    trial = trials.get(best.family)
    predicted = None if best.size is None else best.size.loss * ratios.get(best.family, 1.0)
    return Recommendation(
        basis=basis,
        winner=winner,
        reversed_by_regularisation=is_reversed,
        family=best.family,
        choice=best.size,
        setting=None if trial is None else trial.setting,
        predicted=predicted,
        seen=seen[best.family] if measured else None,
        check_missed=any(r.family == best.family and not r.inside for r in held_out.results),
    )


def _best_run(states: Sequence[RunState], tried: Sequence[RegularisationTrial]) -> Recommendation:
    """The recommendation where the runs determine no law: the best run seen."""
    seen = [(state.nll, state.name) for state in states if state.nll is not None]
    seen += [(trial.nll, trial.run) for trial in tried if trial.nll is not None]
    nll, name = min(seen, default=(None, None))
    return Recommendation(basis=Basis.NO_LAW, best_run=name, best_nll=nll)


def _text_bytes(text: str | Path | None) -> int:
    if text is None:
        return sum(len(document) for document in builtin_documents())
    path = Path(text)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _tokenizer_for(size: int) -> str:
    """A vocabulary that does not outweigh the model: larger for larger texts. Chosen by us."""
    return "bpe:512" if size < 5e6 else "bpe:2048" if size < 1e8 else "bpe:8192"
