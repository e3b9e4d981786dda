"""The probes of a study: the searches, the ladder with fewer sizes at each length, repetition."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from epochal.report.study import RegularisationTrial, StageNote, StudyNote
from epochal.results import note
from epochal.runs import RunRecord
from epochal.runs.curves import turned_up
from epochal.scaling.read import read_points
from epochal.studies import tuning
from epochal.studies.ladder import half_life_of, ladders_of
from epochal.studies.probes import FARTHEST, SEARCHED_AT, Costs, Layout
from epochal.studies.runner import Runs, StudyRunner
from epochal.studies.tuning import Rates
from epochal.sweeps.record import RunState, State
from epochal.sweeps.search import Axis
from epochal.sweeps.tuned import Tuned


@dataclass(slots=True)
class Climb:
    """The probes, as far as they are."""

    runner: StudyRunner
    layout: Layout
    costs: Costs
    searched: dict[str, str] = field(default_factory=dict)
    """"FAMILY-SIZE" → folder of a run of the search that is a part of the ladder."""
    probes: Runs = field(default_factory=dict)
    """Runs of the ladder and of the subset."""
    states: list[RunState] = field(default_factory=list)

    def tune(self, unigram_nll: float) -> list[Tuned]:
        """Search each family's learning rate at the middle size; the runner's `rates` from then."""
        layout, runner = self.layout, self.runner
        began, size = time.monotonic(), layout.middle
        if not layout.searched:
            return []
        epochs = layout.searched_tokens / runner.unique_tokens
        starts = {f: runner.probe(f, size, epochs) for f in runner.families}
        expected = sum(map(self.costs.of, starts.values())) * layout.searched / runner.jobs
        seconds = runner.state.decide("tune", lambda: {"seconds": expected})["seconds"]
        folder = runner.folder / "tune"
        found = tuning.search(starts, runner.base, [Axis.LR], folder, runner.jobs, seconds)
        runner.rates = Rates(size, tuning.learned(found, unigram_nll), runner.optimizer)
        for one in found:
            if one.best.nll is None:
                continue
            rate = runner.rates.at(one.family, size)
            if rate is None:
                values = {"lr": starts[one.family].rate, "nll": one.best.nll}
                code = StudyNote.NOT_LEARNED
                runner.notes.append(
                    note(code, family=one.family, unigram_nll=unigram_nll, **values)
                )
            run = one.start if rate is None else one.best
            self.searched[f"{one.family}-{size}"] = run.run
        outcome = note(
            StageNote.TUNED,
            runs=sum(one.effort.runs for one in found),
            certified=sum(one.certified for one in found),
            searches=len(found),
        )
        runner.state.add_stage("tune", began, outcome)
        return found

    def probe(self) -> Costs:
        """Climb the ladder, and repeat a subset; the costs as measured."""
        began, layout, runner = time.monotonic(), self.layout, self.runner
        families, whole = runner.families, runner.unique_tokens
        factor, last = 1.0, len(layout.rungs) - 1
        for place, lengths in enumerate(layout.rungs):
            kept = {family: self._kept(family, place) for family in families}
            for size, tokens in lengths.items():
                for family in families:
                    there = place == last - SEARCHED_AT and f"{family}-{size}" in self.searched
                    if size in kept[family] and not there:
                        self._add(family, size, whole, tokens)
            for unique, tokens in layout.repeats if place == last else []:
                for family in families:
                    self._add(family, layout.middle, unique, tokens)
            self.states, factor = runner.train("probes", self.probes, runner.end_of_probes)
        states = self.states
        left_out = sum(state.state == State.LEFT_OUT for state in states)
        failed = [state.name for state in states if state.state == State.FAILED]
        if left_out:
            runner.notes.append(note(StudyNote.PROBES_LEFT_OUT, runs=left_out))
        if failed:
            runner.notes.append(note(StudyNote.PROBES_FAILED, runs=failed))
        finished = sum(state.state == State.FINISHED for state in states)
        outcome = note(StageNote.PROBED, finished=finished, runs=len(states))
        runner.state.add_stage("probe", began, outcome)
        return replace(self.costs, factor=max(0.5, factor))

    @property
    def places(self) -> list[str]:
        """Folders of the finished probes, those of the search that are a part included."""
        return self._places(self.states, self.searched.values())

    def _places(self, states: Iterable[RunState], searched: Iterable[str]) -> list[str]:
        return [*(s.run_dir for s in states if s.state == State.FINISHED), *searched]

    def _add(self, family: str, size: str, unique: int, tokens: int) -> None:
        probe = self.runner.probe(family, size, tokens / unique, unique).with_costs(self.costs)
        self.probes[probe.name] = probe, {}

    def _kept(self, family: str, place: int) -> list[str]:
        """The sizes that take part in a length: those predicted best from the lengths before."""
        layout, params = self.layout, self.runner.params
        number = layout.kept[place]
        if number >= len(layout.sizes):
            return layout.sizes
        searched = [run for key, run in self.searched.items() if key.startswith(f"{family}-")]
        own = self._places([s for s in self.states if s.family == family], searched)
        if not own:
            return []
        ladders = ladders_of(read_points(own), family, half_life_of(family))
        flops = FARTHEST * layout.rungs[-1][layout.middle] * params[layout.middle]
        losses = {
            size: found.loss
            for size in layout.sizes
            if (found := ladders.predict(params[size], flops / params[size])) is not None
        }
        return sorted(losses, key=lambda size: losses[size])[:number]

    def regularise(self) -> list[RegularisationTrial]:
        """Search decay and dropout at each family's best run whose held-out loss turned up."""
        began, runner = time.monotonic(), self.runner
        starts = {}
        for family in runner.families:
            own = [s for s in self.states if s.family == family and s.state == State.FINISHED]
            own = [s for s in own if self.probes[s.name][0].unique_tokens == runner.unique_tokens]
            own = [s for s in own if turned_up(RunRecord(s.run_dir))]
            best = min(own, key=lambda state: state.nll or math.inf, default=None)
            if best is not None:
                starts[family] = self.probes[best.name][0]
        if not starts:
            return []
        spare = runner.end_of_probes - runner.state.used
        most = max(1.0, min(tuning.SHARE * runner.state.budget, spare))
        seconds = runner.state.decide("regularise-search", lambda: {"seconds": most})["seconds"]
        axes, folder = [Axis.WEIGHT_DECAY, Axis.DROPOUT], runner.folder / "regularisation"
        found = tuning.search(starts, runner.base, axes, folder, runner.jobs, seconds)
        tried = tuning.trials(found, starts)
        outcome = note(
            StageNote.REGULARISED,
            finished=sum(trial.nll is not None for trial in tried),
            runs=len(tried),
            improved=sum(trial.improved for trial in tried),
        )
        runner.state.add_stage("regularise", began, outcome)
        return tried
