"""From a text and a time to a decision: probe runs, laws, a plan, a check of it, a report."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.builtin import builtin_documents
from epochal.data.corpus import Corpus, shuffle_seed_for
from epochal.data.options import DocumentRule, PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.errors import EpochalError, UserError
from epochal.progress import say
from epochal.recipe import recipe_toml
from epochal.report import write_report
from epochal.report.text import describe
from epochal.report.text.plan import extrapolation_text
from epochal.results import to_json
from epochal.scaling.extrapolation import corpus_unigram_nll
from epochal.scaling.options import PlanOptions
from epochal.scaling.plan import plan
from epochal.scaling.planner import PlanReport
from epochal.scaling.result import FitReport
from epochal.studies.check import Check, Checked, near_probes
from epochal.studies.laws import StudyLaws, study_laws
from epochal.studies.parts import Clock, Stages
from epochal.studies.regularise import NOT_TRIED, Tried, left_aside
from epochal.studies.runner import Lab, recommended
from epochal.studies.words import overfitting_words, with_laws, without_law
from epochal.sweeps.record import RunState
from epochal.sweeps.slots import make_slots, warn_idle_gpus

LEAST_BUDGET = 120.0
"""Seconds."""
VALIDATION_TOKENS = 20_000
"""Enough to tell a hundredth of a nat; more would cost time that training needs."""
BYTES_PER_TOKEN = 2.0
"""Of a small vocabulary, about."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What came out of a study."""

    verdict: str
    recommendation: str
    checks: list[Check]
    """What the held-out runs say of the predictions, and of the families."""
    notes: list[str]
    page: Path
    seconds: float
    """Used, over all sittings."""
    plan: PlanReport | None
    fit: FitReport | None
    held_out: list[dict[str, Any]] = field(default_factory=list)
    regularisation: list[dict[str, Any]] = field(default_factory=list)
    """Each family's best probe with other regularisation: NLL, difference, whether better."""
    recipes: dict[str, str] = field(default_factory=dict)
    """Family → recipe file of its recommendation."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "verdict": self.verdict,
            "recommendation": self.recommendation,
            "checks": [asdict(check) for check in self.checks],
            "notes": self.notes,
            "report": str(self.page),
            "seconds": self.seconds,
            "held_out": self.held_out,
            "regularisation": self.regularisation,
            "recipes": self.recipes,
            "plan": None if self.plan is None else to_json(self.plan),
            "fit": None if self.fit is None else to_json(self.fit),
        }


def study(
    text: str | Path | None = None,
    *,
    budget: float = 1200.0,
    out: str | Path = "study",
    flops: float | None = None,
    jobs: int | None = None,
    tokenizer: str | None = None,
) -> StudyResult:
    """What to train on `text`: measured, fitted, planned, and checked by runs held out.

    `text` is a file or folder, the documentation that comes with Python if not given. `budget`
    is in seconds of wall time, over all sittings; `flops` is the compute to plan for, that of
    the check if not given. All is kept in `out`; the same call goes on where it was ended, and
    finished runs are not done again. Raises UserError for a budget that is too small, saying
    what is the least, DataError for the text, TrainingStopped after Ctrl-C or SIGTERM.
    """
    if budget < LEAST_BUDGET:
        raise UserError(
            f"a budget of {budget:.0f} seconds is too small; give at least {LEAST_BUDGET:.0f}"
        )
    clock = Clock(Path(out) / "state.json", budget)
    work = _Study(Path(out), clock, jobs or _default_jobs(), flops)
    warn_idle_gpus(make_slots(work.jobs))
    try:
        return work.run(text, tokenizer)
    finally:
        if work.folder.is_dir():
            clock.save()


@dataclass(slots=True)
class _Study:
    """A study at work."""

    folder: Path
    clock: Clock
    jobs: int
    flops: float | None
    stages: Stages = field(default_factory=Stages)
    notes: list[str] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    recipes: dict[str, str] = field(default_factory=dict)

    def run(self, text: str | Path | None, tokenizer: str | None) -> StudyResult:
        """All stages; what is done is only read."""
        corpus = self._prepare(text, tokenizer)
        lab = Lab(self.folder, self.clock, self.jobs, corpus, self.stages, self.notes)
        costs = lab.measure()
        layout = lab.lay_out(costs)
        states, costs = lab.probe(layout, costs)
        self.tried = lab.regularise(states, layout, costs)
        began = time.monotonic()
        laws = self._fit(corpus)
        note = "no law" if laws is None else f"law {laws.report.law}"
        self.stages.add("fit", began, note)
        if laws is None:
            return self._finish(states)
        timed = {
            size: float(n)
            for size, n in lab.params.items()
            if ("ar", size) in costs.seconds_per_token
        }
        sizes = near_probes(laws, timed)
        checked = lab.check(laws, sizes, costs, self.tried)
        began = time.monotonic()
        planned = plan(
            corpus.train.unique_tokens,
            self.flops or checked.flops,
            PlanOptions(
                laws=laws.report,
                sizes=[str(int(n)) for n in sizes.values()],
                vocabulary=corpus.tokenizer.vocabulary,
            ),
        )
        self.stages.add("plan", began, f"for {planned.flops:.3g} FLOPs")
        names = {str(int(n)): size for size, n in sizes.items()}
        self._write_recipes(lab, planned, names)
        return self._finish(states, laws, planned, names, checked)

    def _write_recipes(self, lab: Lab, planned: PlanReport, sizes: dict[str, str]) -> None:
        """The recommendation, ready to train: one file per family."""
        for one in planned.families:
            if one.size is None:
                continue
            size = sizes.get(one.size.name, one.size.name)
            recipe = recommended(lab, one.family, size, one.size.tokens, self.tried)
            place = self.folder / f"recommended-{one.family}.toml"
            files.write_text(place, recipe_toml(recipe))
            self.recipes[one.family] = str(place)

    def _prepare(self, text: str | Path | None, tokenizer: str | None) -> Corpus:
        began = time.monotonic()
        size = _text_bytes(text)
        share = min(0.1, max(0.002, VALIDATION_TOKENS * BYTES_PER_TOKEN / max(1, size)))
        rule: DocumentRule = "blank-line" if text and Path(text).is_file() else "file"
        made = prepare(
            text or "builtin",
            self.folder / "corpus",
            PrepareOptions(
                tokenizer=tokenizer or _tokenizer_for(size),
                validation=float(f"{share:.2g}"),
                documents=rule,
                shuffle=shuffle_seed_for(self.folder / "corpus", text),  # probes train on parts
            ),
        )
        for note in made.notes:
            say(describe(note))
        self.stages.add("prepare", began, f"{made.train.unique_tokens:,} unique tokens")
        self.clock.save()
        return made

    def _fit(self, corpus: Corpus) -> StudyLaws | None:
        """Laws that can describe what was seen; None, with a note, where none is determined."""
        assert isinstance(corpus.train, TokenStore)  # as `prepare` makes it
        vocabulary = corpus.tokenizer.vocabulary
        level = corpus_unigram_nll(corpus.train, corpus.validation, vocabulary)
        try:
            laws = study_laws([self.folder / "probes"], level)
        except EpochalError as error:
            self.notes.append(str(error))
            return None
        self.notes += laws.notes
        return laws

    def _finish(
        self,
        states: list[RunState],
        laws: StudyLaws | None = None,
        planned: PlanReport | None = None,
        sizes: dict[str, str] | None = None,
        checked: Checked | None = None,
    ) -> StudyResult:
        """Say what follows, no more; write the report."""
        report = None if laws is None else laws.report
        found = checked or Checked(0.0)
        if laws is None or planned is None:
            verdict, recommendation = without_law(states, self.tried)
        else:
            both_overfit, turned = overfitting_words(laws.points)
            same = planned.flops == found.flops
            verdict, recommendation = with_laws(
                planned,
                laws.report,
                sizes or {},
                self.tried,
                found.results,
                found.difference if same else None,
                laws.early,
                both_overfit=both_overfit,
            )
            self.notes += turned
        self.notes += [one.note for one in self.tried]
        if self.tried:
            self.notes.append(NOT_TRIED)
        if planned is not None:
            self.notes += map(describe, planned.notes)
            for family in planned.families:
                self.notes += [
                    f"{family.family}: {extrapolation_text(warning)}"
                    for warning in family.extrapolation_warnings
                ]
                if family.size is not None:
                    self.notes += left_aside(self.tried, family.family, family.size.epochs)
        content: dict[str, Any] = {
            "budget": f"{self.clock.budget / 60:g} min",
            "machine": f"{self.jobs} runs at a time",
            "recommendation": f"{verdict} {recommendation}",
            "stages": self.stages.done,
            "held_out": found.results,
            "regularisation": [one.as_dict() for one in self.tried],
            "not_tried": NOT_TRIED if self.tried else "",
            "recipes": self.recipes,
            "notes": self.notes,
        }
        if laws is not None and report is not None and planned is not None:
            content |= {"law": report.law, "flops": planned.flops, "level": laws.level}
            report.save(self.folder / "law.toml")
        files.write_json(self.folder / "study.json", content)
        page = write_report(
            [self.folder], self.folder / "report.html", fit=report, plan=planned
        ).path
        return StudyResult(
            verdict=verdict,
            recommendation=recommendation,
            checks=found.checks,
            notes=self.notes,
            page=page,
            seconds=self.clock.used,
            plan=planned,
            fit=report,
            held_out=found.results,
            regularisation=[one.as_dict() for one in self.tried],
            recipes=self.recipes,
        )


def _default_jobs() -> int:
    """Two runs at a time on a CPU with two cores or more; on GPUs one for each."""
    slots = make_slots(1)
    if slots[0].gpus:
        return slots[0].gpus
    return 2 if slots[0].threads > 1 else 1


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
