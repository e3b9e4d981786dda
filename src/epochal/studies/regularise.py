"""Regularisation in a study: each family's best probe again, with dropout, with more decay.

A family's best is taken over size and epochs by the probe sweep. Here the best probe of each is
trained again at other amounts of regularisation, everything else alike, so that the difference
is that setting's. What is better is taken for the recommendation and for the run that checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from epochal.comparison import nll_difference
from epochal.errors import EpochalError
from epochal.families import family_names, get_family
from epochal.recipe.load import Tree
from epochal.report.text import describe
from epochal.runs import RunRecord
from epochal.studies.probes import Costs, Probe
from epochal.sweeps.record import RunState
from epochal.units import format_count

SHARE = 0.10
"""Share of the budget for these runs. Chosen by us: about two of the longest probes at a time."""
DROPOUT, DECAY = "dropout 0.1", "weight decay 1"
SETTINGS: Mapping[str, Tree] = {
    DROPOUT: {"train.attention_dropout": 0.1, "train.hidden_dropout": 0.1},
    DECAY: {"train.weight_decay": 1.0},
}
"""What is tried, the likelier to help first: dropout where the probes have none, ten times their
weight decay (arXiv 2507.15857 §8 has 0.1 for both). Chosen by us."""
CLEAR = 0.01
"""Nats, beyond two standard errors, from which a setting counts as better: another seed alone
would change a loss by about as much."""
REPEATS = 2.0
"""Epochs from which a run repeats its tokens enough to try regularisation on it."""
LEAST_REPETITION = 0.5
"""A setting that helped at so many epochs is taken from this share of them on."""
NOT_TRIED = (
    "Not tried: other amounts of dropout and weight decay, both at once, and other sizes and "
    "lengths with them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One setting of one family, beside the probe it differs from."""

    family: str
    setting: str
    run: str
    against: str
    """Name of the probe."""
    epochs: float
    plain: float
    """Best NLL of the probe, nats per token."""
    nll: float | None
    """Best NLL with the setting; None where it was not trained."""
    difference: float | None
    """With the setting minus without, document by document."""
    error: float | None
    """Standard error of `difference`."""
    better: bool
    note: str

    @property
    def keys(self) -> Tree:
        """Recipe keys of the setting."""
        return dict(SETTINGS[self.setting])

    @property
    def ratio(self) -> float:
        """NLL with the setting over that without."""
        return 1.0 if self.nll is None else self.nll / self.plain

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"keys": self.keys}


@dataclass(frozen=True, slots=True)
class Variant:
    """A run that is to be made."""

    setting: str
    probe: RunState
    run: Probe

    @property
    def name(self) -> str:
        """Of the run."""
        return f"{self.probe.name}-{self.setting.replace(' ', '')}"

    @property
    def keys(self) -> Tree:
        """Its length and its setting, as recipe keys."""
        return {"train.tokens": self.run.tokens, **SETTINGS[self.setting]}


def variants(
    states: Sequence[RunState], probes: Mapping[str, Probe], costs: Costs, seconds: float
) -> list[Variant]:
    """Each family's best probe with each setting; a setting of both families before the next.

    The best is the one with the lowest NLL of those that repeat their tokens (of all, if none
    does), and of these of those that one slot trains with all the settings
    within `seconds`; where none does, the best of all, so that the report can say that there was
    no time.
    """
    chosen: dict[str, tuple[RunState, Probe]] = {}
    each = seconds / len(SETTINGS)
    for family in family_names():
        seen = [
            state
            for state in states
            if state.family == family and state.state == "finished" and state.nll is not None
        ]
        if not seen:
            continue
        # Regularisation is for tokens seen again.
        seen = [s for s in seen if probes[s.name].epochs >= REPEATS] or seen
        short = [s for s in seen if _seconds(probes[s.name], costs) <= each] or seen
        best = min(short, key=lambda state: state.nll or 0.0)
        chosen[family] = best, probes[best.name]
    return [
        Variant(
            setting,
            state,
            Probe(
                probe.family, probe.size, probe.unique_tokens, probe.epochs, _seconds(probe, costs)
            ),
        )
        for setting in SETTINGS
        for state, probe in chosen.values()
    ]


def _seconds(probe: Probe, costs: Costs) -> float:
    return costs.seconds(probe.family, probe.size, probe.tokens)


def judge(wanted: Sequence[Variant], states: Sequence[RunState]) -> list[Tried]:
    """What became of the runs, in their order."""
    by_name = {state.name: state for state in states}
    return [_judged(variant, by_name[variant.name]) for variant in wanted]


def _judged(variant: Variant, state: RunState) -> Tried:
    probe, family = variant.probe, variant.run.family
    assert probe.nll is not None
    difference: float | None = None
    error: float | None = None
    why = describe(state.reason) if state.reason else state.state
    if state.state == "finished" and state.nll is not None:
        try:
            records = RunRecord(state.run_dir), RunRecord(probe.run_dir)
            difference, error = nll_difference(*records)
        except EpochalError as problem:
            why = str(problem)
    title = f"{_title(family)}, {variant.setting}"
    run = variant.run
    length = f"{run.epochs:.3g} epochs of {format_count(run.unique_tokens)} tokens"
    if run.epochs < 1:
        length = f"once over {format_count(run.tokens)} tokens"
    where = f"{run.size}, {length}"
    better = False
    if difference is None or error is None or state.nll is None:
        note = f"{title}: not tried ({why})"
    else:
        better = difference < -max(CLEAR, 2 * error)
        clear = abs(difference) > max(CLEAR, 2 * error)
        word = "better" if better else "worse" if clear else "no clear difference"
        note = (
            f"{title}: {state.nll:.3f} instead of {probe.nll:.3f} ({difference:+.3f} ± "
            f"{error:.3f}; {where}), {word}"
        )
    known = difference is not None
    return Tried(
        family=family,
        setting=variant.setting,
        run=state.name,
        against=probe.name,
        epochs=variant.run.epochs,
        plain=probe.nll,
        nll=state.nll if known else None,
        difference=difference,
        error=error,
        better=better,
        note=note,
    )


def _title(family: str) -> str:
    return "AR" if family == "ar" else get_family(family).title


def best_setting(tried: Sequence[Tried], family: str, epochs: float) -> Tried | None:
    """The setting to train `family` with for so many epochs; None: without.

    One that was better at many epochs is not taken for a run that hardly repeats its tokens.
    """
    better = [
        one
        for one in tried
        if one.family == family and one.better and epochs >= LEAST_REPETITION * one.epochs
    ]
    return min(better, key=lambda one: one.difference or 0.0, default=None)


def left_aside(tried: Sequence[Tried], family: str, epochs: float) -> list[str]:
    """Settings that were better at the probe, but not taken for so few epochs, in words."""
    return [
        f"{_title(one.family)}: {one.setting} was better over {one.epochs:.3g} epochs; it is not "
        f"taken for {epochs:.3g}, which repeat the tokens much less"
        for one in tried
        if one.family == family and one.better and epochs < LEAST_REPETITION * one.epochs
    ]
