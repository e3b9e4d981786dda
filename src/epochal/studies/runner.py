"""The work of a study that takes time: measuring, the probes, the runs that check."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from epochal.data.corpus import Corpus
from epochal.device import find_device
from epochal.errors import OptionError
from epochal.families import families
from epochal.progress import say
from epochal.recipe import Recipe
from epochal.recipe.load import Tree, apply_overrides, recipe_from_tree
from epochal.report.study import HeldOutResults, RegularisationTrial, StageNote
from epochal.results import Note, note
from epochal.scaling.optimum import LadderChoice
from epochal.studies import tuning
from epochal.studies.laws import StudyLaws
from epochal.studies.probes import (
    FARTHEST,
    SMALL_SHAPES,
    Costs,
    Layout,
    Probe,
    candidate_sizes,
    lay_out,
)
from epochal.studies.state import StudyState
from epochal.studies.tuning import Rates
from epochal.sweeps.designs import CorpusFacts, design_runs
from epochal.sweeps.file import sweep_from_tree
from epochal.sweeps.fork_server import start_epochal
from epochal.sweeps.record import RunReason, RunState, State, SweepFolder
from epochal.sweeps.slots import Slot, make_slots
from epochal.sweeps.sweep import run_all
from epochal.training.measure import measure_sizes

CHECK_SHARE = 0.20
"""Share of the budget for the runs that check the recommendation."""
TAIL_SECONDS, TAIL_SHARE = 25.0, 1 / 8
"""For fitting, planning and the report: seconds, and share of the budget at most."""
MEASURE_SHARE = 0.04
"""Share of the budget for timing steps, at most."""
PACKED = 0.9
"""Share of the time of all slots that runs fill, since they do not end together. Chosen by us."""
LEAST_STEPS = 16
"""Of the shortest run, so that it learns at all. Chosen by us."""
SIZES_TIMED = 10
"""Number of the smallest sizes that are measured; larger ones would train too few tokens."""
ROWS_CPU, ROWS_GPU = (128, 8), (512, 32)
"""(tokens per row, rows per step) on a CPU and on a GPU."""
ROWS_CPU_ADAMW = (128, 2)
"""Of studies that earlier versions began: with AdamW, which learns more from many small steps.
Muon learns as much from eight rows, with masks sooner, and a step of them costs less."""

Runs = dict[str, tuple[Probe, Mapping[str, Any]]]
"""Name of a run → what it trains, and the recipe keys that differ."""


@dataclass(slots=True)
class StudyRunner:
    """Trains the runs of a study."""

    folder: Path
    state: StudyState
    jobs: int
    corpus: Corpus
    families: tuple[str, ...]
    notes: list[Note] = field(default_factory=list)
    rates: Rates = field(default_factory=lambda: Rates(SMALL_SHAPES[0], {}, ""))
    """Learning rates that were searched; none before `tune`."""

    @property
    def optimizer(self) -> str:
        """Muon, with which small models of all families learned sooner (docs/optimizers.md); AdamW
        in a study that an earlier version began."""
        return str(
            self.state.values.get("optimizer", "muon" if self.state.costs is None else "adamw")
        )

    def probe(
        self, family: str, size: str, epochs: float, unique_tokens: int | None = None
    ) -> Probe:
        """A run at the learning rate that was searched, on the whole text if not on a part."""
        unique = unique_tokens or self.unique_tokens
        rate = self.rates.at(family, size)
        return Probe(family, size, unique, epochs, lr=rate, optimizer=self.optimizer)

    @property
    def base(self) -> Tree:
        """The recipe that all runs share, as sections."""
        length, batch = self._rows()
        return {
            "data": {"corpus": (self.folder / "corpus").as_posix(), "sequence_length": length},
            **{f.name: dict(f.small_model_options) for f in families() if f.small_model_options},
            "train": {"global_batch_size": batch, "warmup": 0.05},
            "eval": {"every": "25%", "max_tokens": 5_000},
            "log": {"every": "2%", "tensorboard": False},
        }

    @property
    def params(self) -> dict[str, int]:
        """Size → parameters."""
        return candidate_sizes(self.corpus.tokenizer.vocabulary)

    @property
    def unique_tokens(self) -> int:
        """Unique tokens in the whole text."""
        return self.corpus.train.unique_tokens

    def measure(self) -> Costs:
        """Speeds of the sizes that could be worth training, and the cost of starting a run."""
        began = time.monotonic()
        costs = self.state.costs
        if costs is None:
            sizes = list(self.params)[:SIZES_TIMED]
            timed = len(self.families) * -(-len(sizes) // 3)
            limit = MEASURE_SHARE * self.state.budget / timed
            slot = make_slots(self.jobs)[0]
            speeds = measure_sizes(
                lambda family, size: self.recipe(self.probe(family, size, 1.0, 10**4), {}),
                sizes,
                {size: 6.0 * n for size, n in self.params.items()},
                slot.threads,
                min(3.0, max(0.5, limit / 2)),
                limit,
                self.families,
            )
            validation = self.corpus.validation.unique_tokens
            self.state.save(
                optimizer=self.optimizer,
                costs={
                    "seconds_per_token": [[*key, value] for key, value in speeds.items()],
                    "overhead": _seconds_to_start(slot),
                    # Forward passes cost a third: those in training, and at the end 1 draw or 8.
                    "evaluation_tokens": (4 * min(validation, 5_000) + 4.5 * validation) / 3,
                },
            )
            costs = self.state.costs
            assert costs is not None
        fastest = 1 / min(costs.seconds_per_token.values())
        self.state.add_stage("measure", began, note(StageNote.MEASURED, tokens_per_second=fastest))
        return costs

    def lay_out(self, costs: Costs) -> Layout:
        """The probes for the time that is left; the earlier layout, if there was one.

        Raises OptionError, with a budget that is enough, where it is too small.
        """
        kept = self.state.decide("ladder", lambda: {"layout": asdict(self._new_layout(costs))})
        layout = dict(kept["layout"])
        return Layout(**layout | {"repeats": [(u, d) for u, d in layout["repeats"]]})

    def _rows(self) -> tuple[int, int]:
        """(tokens per row, rows per step)."""
        if find_device("auto").type != "cpu":
            return ROWS_GPU
        return ROWS_CPU if self.optimizer == "muon" else ROWS_CPU_ADAMW

    def _new_layout(self, costs: Costs) -> Layout:
        length, batch = self._rows()
        spare = (self.end_of_probes - self.state.used) * PACKED
        turns = -(-len(self.families) // self.jobs)
        check = 0.9 * CHECK_SHARE * self.state.budget / turns
        least = LEAST_STEPS * length * batch
        layout = lay_out(costs, self.params, self.unique_tokens, spare * self.jobs, check, least)
        wanted = layout.seconds(costs) / self.jobs
        if wanted > spare:
            budget = self.state.budget
            share = self.end_of_probes + self.tail
            needed = wanted / PACKED + self.state.used + self.tail
            raise OptionError(
                "budget",
                f"{budget:.0f}s",
                f"too small for this machine: the probes alone need {wanted:.0f} seconds, and it "
                f"leaves them {max(0.0, spare):.0f}; give "
                f"{math.ceil(1.05 * needed * budget / share / 60)}min or more",
            )
        lengths = [rung[layout.middle] for rung in layout.rungs]
        say(
            f"probes: sizes {', '.join(layout.sizes)}; {', '.join(f'{n:,}' for n in lengths)} "
            f"tokens at {layout.middle}; about {wanted / 60:.1f} minutes"
        )
        return layout

    @property
    def tail(self) -> float:
        """Seconds for what follows the runs."""
        return min(TAIL_SECONDS, TAIL_SHARE * self.state.budget)

    @property
    def end_of_probes(self) -> float:
        """Seconds of the budget by which all probes have to end."""
        return self.state.budget * (1 - CHECK_SHARE) - self.tail

    def check(
        self,
        laws: StudyLaws,
        params: dict[str, float],
        costs: Costs,
        tried: Sequence[RegularisationTrial],
    ) -> HeldOutResults:
        """Train each family's recommendation with the compute that the rest of the budget buys.

        With the regularisation that improved its best probe, if any.
        """
        began = time.monotonic()
        kept = self.state.decide("check", lambda: {"flops": self._check_flops(laws, params, costs)})
        flops = float(kept["flops"])
        plain = replace(costs, factor=1.0)
        runs: Runs = {}
        expected: dict[str, tuple[float, RegularisationTrial | None]] = {}
        for family, best in laws.choices(self.unique_tokens, flops, params).items():
            name = f"held-out-{family}-{best.name}"
            trial, _ = tuning.best_setting(tried, family, best.epochs)
            if trial is not None:
                name += f"-{trial.setting.replace(' ', '')}"
            probe, changes = self._recommended(family, best, trial)
            runs[name] = probe.with_costs(plain), changes
            expected[name] = best.loss, trial
        until = self.state.budget - self.tail / 2
        states, _ = self.train("held-out", runs, until)
        results = laws.judge(expected, states, flops)
        outcome = note(StageNote.CHECKED, runs=len(results.results), flops=flops)
        self.state.add_stage("check", began, outcome)
        return results

    def _check_flops(self, laws: StudyLaws, params: dict[str, float], costs: Costs) -> float:
        turns = -(-len(self.families) // self.jobs)
        seconds = max(20.0, (self.state.left - self.tail) * 0.9 / turns)
        flops = laws.affordable(self.unique_tokens, params, costs, seconds)
        largest = float(laws.points.flops.max())
        return min(flops, FARTHEST * largest)

    def train(
        self,
        name: str,
        runs: Runs,
        until: float,
    ) -> tuple[list[RunState], float]:
        """Train runs while there is time; their states, and seconds measured over expected."""
        started: list[RunState] = []
        earlier = float(self.state.values.get("factor", 1.0))

        def factor() -> float:
            done = [s for s in started if s.state == State.FINISHED and s.seconds > 0]
            if len(done) < 4:
                return earlier
            return sum(s.seconds for s in done) / sum(runs[s.name][0].seconds for s in done)

        def may_start(state: RunState) -> Note | None:
            self.state.save(factor=factor())
            if self.state.used + 0.9 * factor() * runs[state.name][0].seconds > until:
                return note(RunReason.NO_TIME)
            started.append(state)
            return None

        tree = {
            "sweep": {"design": "list"},
            "runs": [{"name": key, **probe.keys(more)} for key, (probe, more) in runs.items()],
            "base": self.base,
        }
        sweep = sweep_from_tree(tree, name)
        result = run_all(
            sweep,
            design_runs(sweep),
            CorpusFacts(self.corpus.tokenizer.vocabulary, self.unique_tokens),
            SweepFolder(self.folder / name),
            jobs=self.jobs,
            places=[self.folder],
            may_start=may_start,
        )
        self.state.save(factor=factor())
        return result.runs, factor()

    def recipe(self, probe: Probe, changes: Mapping[str, Any]) -> Recipe:
        """The recipe of one run."""
        tree: Tree = {key: dict(value) for key, value in self.base.items()}
        apply_overrides(tree, probe.keys(changes))
        return recipe_from_tree(tree)

    def recommended_recipe(
        self, family: str, choice: LadderChoice, trial: RegularisationTrial | None
    ) -> Recipe:
        """The recipe of one family's recommendation, on the whole text."""
        run_dir = (self.folder / f"recommended-{family}").as_posix()
        return replace(self.recipe(*self._recommended(family, choice, trial)), run_dir=run_dir)

    def _recommended(
        self, family: str, choice: LadderChoice, trial: RegularisationTrial | None
    ) -> tuple[Probe, Tree]:
        epochs = choice.tokens / self.unique_tokens
        length = {"train.tokens": int(choice.tokens)}
        probe = self.probe(family, choice.name, epochs)
        return probe, {**length, **(trial.keys if trial else {})}


def _seconds_to_start(slot: Slot) -> float:
    """Seconds of a run that are not its steps: its process, files, checkpoint and evaluation."""
    env, log = {**os.environ, **slot.env}, Path(os.devnull)
    start_epochal(["--version"], env, log).wait()  # the first one waits for the imports
    began = time.monotonic()
    start_epochal(["--version"], env, log).wait()
    return time.monotonic() - began + 1.0
