"""The work of a study that takes time: measuring, the probes, the runs that check."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from epochal.data.corpus import Corpus
from epochal.device import find_device
from epochal.errors import UserError
from epochal.families import family_names
from epochal.progress import say
from epochal.recipe import Recipe
from epochal.recipe.load import apply_overrides, recipe_from_tree
from epochal.results import Note, note
from epochal.studies import regularise
from epochal.studies.check import FARTHEST, Checked, choices, judge
from epochal.studies.laws import StudyLaws
from epochal.studies.parts import (
    Clock,
    Stages,
    affordable,
    base_recipe,
    run_keys,
)
from epochal.studies.probes import Costs, Layout, Probe, TooShort, candidate_sizes, lay_out
from epochal.studies.regularise import Tried, Variant
from epochal.sweeps.designs import SweepRun
from epochal.sweeps.file import Sweep, sweep_from_tree
from epochal.sweeps.listing import CorpusFacts
from epochal.sweeps.record import RunReason, RunState, SweepFolder
from epochal.sweeps.slots import make_slots
from epochal.sweeps.sweep import run_all
from epochal.training.measure import measure_sizes

CHECK_SHARE = 0.20
"""Share of the budget for the runs that check the recommendation."""
TAIL_SECONDS = 25.0
"""For fitting, planning and the report."""
MEASURE_SHARE = 0.04
SIZES_TIMED = 10
"""So many of the smallest sizes are measured; the others would train too little to tell."""
ROWS_CPU, ROWS_GPU = (128, 8), (512, 32)
"""(tokens per row, rows per step) on a CPU and on a GPU. Chosen by us: steps short enough that
the smallest subset gives some of them."""


@dataclass(slots=True)
class Lab:
    """Where the runs of a study are made."""

    folder: Path
    clock: Clock
    jobs: int
    corpus: Corpus
    stages: Stages
    notes: list[str]

    @property
    def settings(self) -> dict[str, Any]:
        """What all runs have in common, as sections of a recipe."""
        return base_recipe(self.folder / "corpus", *rows_of_machine())

    @property
    def params(self) -> dict[str, int]:
        """Size → parameters."""
        return candidate_sizes(self.corpus.tokenizer.vocabulary)

    def measure(self) -> Costs:
        """Speeds of the sizes that could be worth it, and the cost of starting a run."""
        began = time.monotonic()
        known = self.clock.state.get("costs")
        if known is None:
            sizes = list(self.params)[:SIZES_TIMED]
            flops = {size: 6.0 * n for size, n in self.params.items()}
            limit = MEASURE_SHARE * self.clock.budget / (2 * -(-len(sizes) // 3))
            speeds = measure_sizes(
                lambda family, size: _recipe(self.settings, Probe(family, size, 10**4, 1.0, 0.0)),
                sizes,
                flops,
                make_slots(self.jobs)[0].threads,
                min(3.0, max(0.5, limit / 2)),
            )
            validation = self.corpus.validation.unique_tokens
            known = {
                "seconds_per_token": [[*key, value] for key, value in speeds.items()],
                "overhead": _seconds_to_start(),
                # Forward passes cost a third: those in training, and at the end 1 draw or 8.
                "evaluation_tokens": (2 * min(validation, 5_000) + 4.5 * validation) / 3,
            }
            self.clock.save(costs=known)
        speeds = {(family, size): s for family, size, s in known["seconds_per_token"]}
        costs = Costs(speeds, float(known["overhead"]), float(known["evaluation_tokens"]))
        fastest = 1 / min(speeds.values())
        self.stages.add("measure", began, f"up to {fastest:,.0f} tokens/s per slot")
        return costs

    def lay_out(self, costs: Costs) -> Layout:
        """The probe sweep for the time there is; the one laid out before, if there was one."""
        known = self.clock.state.get("layout")
        if known is not None and known["budget"] == self.clock.budget:
            return Layout([Probe(**probe) for probe in known["probes"]])
        length, batch = rows_of_machine()
        unique = self.corpus.train.unique_tokens
        spare = self._end_of_probes - self.clock.used
        try:
            layout = lay_out(costs, self.params, unique, spare * self.jobs, 4 * length * batch)
        except TooShort as error:
            share = self._end_of_probes + TAIL_SECONDS
            needed = error.seconds / self.jobs + self.clock.used + TAIL_SECONDS
            least = math.ceil(1.05 * needed * self.clock.budget / share / 60)
            raise UserError(
                f"--budget of {self.clock.budget:.0f} seconds is too short on this machine: the "
                f"probes alone need {error.seconds / self.jobs:.0f} seconds, and it leaves them "
                f"{max(0.0, spare):.0f}; give --budget {least}min or more"
            ) from None
        self.clock.save(
            layout={
                "budget": self.clock.budget,
                "probes": [asdict(probe) for probe in layout.probes],
            }
        )
        say(
            f"probe sweep: {len(layout.probes)} runs, sizes {', '.join(layout.sizes)}, "
            f"{', '.join(f'{u:,}' for u in layout.unique_tokens)} unique tokens, about "
            f"{layout.seconds / self.jobs / 60:.1f} minutes"
        )
        return layout

    @property
    def _end_of_probes(self) -> float:
        """Seconds of the budget after which no probe is begun that would not end by then."""
        return self.clock.budget * (1 - CHECK_SHARE - regularise.SHARE) - TAIL_SECONDS

    def probe(self, layout: Layout, costs: Costs) -> tuple[list[RunState], Costs]:
        """Run the probe sweep; the states of its runs, and costs corrected by what was seen."""
        began = time.monotonic()
        until = self._end_of_probes
        probes = {_name(probe): probe for probe in layout.probes}
        lengths = {name: {"train.tokens": probe.tokens} for name, probe in probes.items()}
        states, factor = self._train("probes", probes, lengths, until)
        finished = sum(state.state == "finished" for state in states)
        left_out = sum(state.state == "left_out" for state in states)
        failed = [state.name for state in states if state.state == "failed"]
        if left_out:
            self.notes.append(f"{left_out} probe runs were left out for lack of time")
        if failed:
            self.notes.append(f"failed and left out: {', '.join(failed)}")
        self.stages.add("probe", began, f"{finished} of {len(states)} runs finished")
        return states, replace(costs, factor=max(0.5, factor))

    def regularise(self, states: list[RunState], layout: Layout, costs: Costs) -> list[Tried]:
        """Train each family's best probe again with other regularisation; what came of it."""
        began = time.monotonic()
        until = self.clock.budget * (1 - CHECK_SHARE) - TAIL_SECONDS
        wanted = self._variants(states, layout, costs, until)
        if not wanted:
            return []
        made, _ = self._train(
            "regularisation",
            {one.name: one.run for one in wanted},
            {one.name: one.keys for one in wanted},
            until,
        )
        tried = regularise.judge(wanted, made)
        done = [one for one in tried if one.nll is not None]
        note = f"{len(done)} of {len(tried)} runs finished, {sum(t.better for t in done)} better"
        self.stages.add("regularise", began, note)
        return tried

    def _variants(
        self, states: list[RunState], layout: Layout, costs: Costs, until: float
    ) -> list[Variant]:
        """What to train again. It is kept, so that a study that goes on trains the same."""
        probes = {_name(probe): probe for probe in layout.probes}
        known = self.clock.state.get("regularise")
        if known is None or known["budget"] != self.clock.budget:
            # Two families share the slots; a setting of each comes before the next setting.
            seconds = (
                (until - self.clock.used)
                * min(self.jobs, len(family_names()))
                / len(family_names())
            )
            wanted = regularise.variants(
                states, probes, replace(costs, factor=1.0), seconds / costs.factor
            )
            chosen = sorted({one.probe.name for one in wanted})
            known = {"budget": self.clock.budget, "probes": chosen}
            self.clock.save(regularise=known)
        again = [state for state in states if state.name in known["probes"]]
        return regularise.variants(again, probes, replace(costs, factor=1.0), float("inf"))

    def _train(
        self,
        name: str,
        probes: dict[str, Probe],
        lengths: dict[str, dict[str, Any]],
        until: float,
    ) -> tuple[list[RunState], float]:
        """Train some runs while there is time; their states, and seconds seen over expected."""
        seen: list[RunState] = []
        earlier = float(self.clock.state.get("factor", 1.0))

        def factor() -> float:
            done = [state for state in seen if state.state == "finished" and state.seconds > 0]
            if len(done) < 4:
                return earlier
            return sum(s.seconds for s in done) / sum(probes[s.name].seconds for s in done)

        def may_start(state: RunState) -> Note | None:
            self.clock.save(factor=factor())
            if self.clock.used + 0.9 * factor() * probes[state.name].seconds > until:
                return note(RunReason.NO_TIME)
            seen.append(state)
            return None

        runs = [
            SweepRun(key, _recipe(self.settings, probe, lengths[key]))
            for key, probe in probes.items()
        ]
        result = run_all(
            _as_sweep(name, self.settings, probes, lengths),
            runs,
            CorpusFacts(
                self.corpus.tokenizer.vocabulary, self.corpus.train.unique_tokens, found=True
            ),
            SweepFolder(self.folder / name),
            jobs=self.jobs,
            places=[self.folder],
            may_start=may_start,
        )
        self.clock.save(factor=factor())
        return result.runs, factor()

    def check(
        self, laws: StudyLaws, params: dict[str, float], costs: Costs, tried: list[Tried]
    ) -> Checked:
        """Train each family's recommendation at what the rest of the budget buys.

        With the regularisation that was better at its best probe, if any. The compute is kept,
        so that a study that goes on checks the same.
        """
        began = time.monotonic()
        at = self._check_flops(laws, params, costs)
        unique = self.corpus.train.unique_tokens
        probes: dict[str, Probe] = {}
        lengths: dict[str, dict[str, Any]] = {}
        expected: dict[str, tuple[float, Tried | None]] = {}
        for family, best in choices(laws, unique, at, params).items():
            seconds = replace(costs, factor=1.0).seconds(family, best.name, best.tokens)
            name = f"held-out-{family}-{best.name}"
            taken = regularise.best_setting(tried, family, best.epochs)
            if taken is not None:
                name += f"-{taken.setting.replace(' ', '')}"
            probes[name] = Probe(family, best.name, unique, best.tokens / unique, seconds)
            lengths[name] = {"train.tokens": int(best.tokens), **(taken.keys if taken else {})}
            expected[name] = best.loss, taken
        until = self.clock.budget - TAIL_SECONDS / 2
        states, _ = self._train("held-out", probes, lengths, until)
        made = judge(laws, expected, states, at)
        self.stages.add("check", began, f"{len(made.results)} held-out runs at {at:.3g} FLOPs")
        return made

    def _check_flops(self, laws: StudyLaws, params: dict[str, float], costs: Costs) -> float:
        known = self.clock.state.get("check")
        if known is None or known["budget"] != self.clock.budget:
            turns = -(-len(family_names()) // self.jobs)
            seconds = max(20.0, (self.clock.left - TAIL_SECONDS) * 0.9 / turns)
            unique = self.corpus.train.unique_tokens
            at = affordable(laws.report.families, unique, params, costs, seconds)
            largest = max(fit.fitted_range["flops"][1] for fit in laws.report.families.values())
            known = {"budget": self.clock.budget, "flops": min(at, FARTHEST * largest)}
            self.clock.save(check=known)
        return float(known["flops"])


def _name(probe: Probe) -> str:
    return f"{probe.family}-{probe.size}-U{probe.unique_tokens}-D{probe.tokens}"


def recommended(lab: Lab, family: str, size: str, tokens: float, tried: Sequence[Tried]) -> Recipe:
    """The recipe of one family's recommendation, on the whole text."""
    unique = lab.corpus.train.unique_tokens
    taken = regularise.best_setting(tried, family, tokens / min(tokens, unique))
    length = {"train.tokens": int(tokens), **(taken.keys if taken else {})}
    probe = Probe(family, size, unique, tokens / unique, 0.0)
    recipe = _recipe(lab.settings, probe, length)
    return replace(recipe, run_dir=(lab.folder / f"recommended-{family}").as_posix())


def rows_of_machine() -> tuple[int, int]:
    """(tokens per row, rows per step)."""
    return ROWS_CPU if find_device("auto").type == "cpu" else ROWS_GPU


def _recipe(settings: dict[str, Any], probe: Probe, length: dict[str, Any] | None = None) -> Recipe:
    tree: dict[str, Any] = {key: dict(value) for key, value in settings.items()}
    apply_overrides(tree, run_keys(probe, length or {"train.epochs": probe.epochs}))
    return recipe_from_tree(tree)


def _as_sweep(
    name: str,
    settings: dict[str, Any],
    probes: dict[str, Probe],
    lengths: dict[str, dict[str, Any]],
) -> Sweep:
    runs = [{"name": key, **run_keys(p, lengths[key])} for key, p in probes.items()]
    return sweep_from_tree({"sweep": {"design": "list"}, "runs": runs, "base": settings}, name)


def _seconds_to_start() -> float:
    """How long a process takes until it could train."""
    began = time.monotonic()
    program = "import epochal.evaluation.evaluate"
    subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    return time.monotonic() - began + 1.0
