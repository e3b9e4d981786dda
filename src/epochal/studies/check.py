"""The check of a study: each family's recommendation trained, and compared with its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epochal.comparison import nll_difference
from epochal.errors import EpochalError
from epochal.families import family_names
from epochal.progress import hidden
from epochal.report.text import describe
from epochal.report.text.comparison import verdict
from epochal.runs import RunRecord
from epochal.scaling.extrapolation import UNKNOWN_EXTRAPOLATION_ERROR, optimistic_loss
from epochal.scaling.optimum import LadderChoice
from epochal.scaling.read import read_points
from epochal.studies.compare import compare_existing
from epochal.studies.laws import StudyLaws
from epochal.studies.parts import choose
from epochal.studies.regularise import Tried
from epochal.studies.words import held_out_words
from epochal.sweeps.record import RunState

LARGER = 2.5
"""A size may have so many times the parameters of the largest probe. Chosen by us: the optimum
grows by about as much over the compute that the check has above the probes."""
FARTHEST = 4.0
"""Compute of the check over that of the largest probe, at most: beyond, a law says little."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the held-out runs say."""

    text: str
    held: bool | None
    """Whether a prediction held; False, too, where it was not tried; None: no prediction."""


@dataclass(slots=True)
class Checked:
    """All that the held-out runs say."""

    flops: float
    checks: list[Check] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    difference: tuple[float, float] | None = None
    """NLL of diffusion minus that of AR, document by document, and its standard error."""


def near_probes(laws: StudyLaws, params: Mapping[str, float]) -> dict[str, float]:
    """The sizes that the laws may be asked about: from the smallest probed to a little above."""
    ranges = [fit.fitted_range["params"] for fit in laws.report.families.values()]
    low, high = min(r[0] for r in ranges), LARGER * max(r[1] for r in ranges)
    return {size: n for size, n in params.items() if low <= n * 1.001 and n <= high}


def choices(
    laws: StudyLaws, unique: int, flops: float, params: Mapping[str, float]
) -> dict[str, LadderChoice]:
    """What each family is recommended for a budget; an early one trains what the other does."""
    families = laws.report.families
    made = {family: choose(law, unique, flops, params) for family, law in families.items()}
    learning = [family for family in made if family not in laws.early]
    for family in laws.early:
        if family in made and learning:
            other = made[learning[0]]
            loss = float(families[family].predict(other.params, other.tokens, unique))
            made[family] = LadderChoice(other.name, other.params, other.tokens, other.epochs, loss)
    return made


def judge(
    laws: StudyLaws,
    expected: Mapping[str, tuple[float, Tried | None]],
    states: Sequence[RunState],
    flops: float,
) -> Checked:
    """What became of the held-out runs. `expected`: run → predicted loss, and setting taken."""
    made = Checked(flops)
    done = [state for state in states if state.state == "finished"]
    for state in done:
        result = _compare(laws, *expected[state.name], state)
        made.results.append(result)
        made.checks.append(Check(str(result["note"]), bool(result["inside"])))
    for state in states:
        if state not in done:
            why = describe(state.reason) if state.reason else state.state
            text = f"{state.name} was not checked: {why}"
            made.checks.append(Check(text, held=False))
    if len(done) == len(family_names()):
        with hidden():
            comparison = compare_existing([state.run_dir for state in done])
        made.checks.append(Check(f"Side by side: {verdict(comparison)}", held=None))
        by_family = {state.family: RunRecord(state.run_dir) for state in done}
        try:
            made.difference = nll_difference(by_family["mdm"], by_family["ar"])
        except EpochalError:  # evaluations that do not compare: the words above say why
            made.difference = None
    return made


def _compare(laws: StudyLaws, loss: float, taken: Tried | None, state: RunState) -> dict[str, Any]:
    """Prediction and outcome of a held-out run.

    `loss` is the planner's figure. The interval is the law's, and on either side twice the
    scatter of the runs it was fitted to and what it may miss beyond them (`foretell`); where that
    could not be tried, it reaches down to what the runs' own trend may bring. An early
    family may have learnt as much as the other by then, so its interval reaches down to
    there. The laws know no regularisation: where one was `taken`, the prediction falls by the
    share it brought at the probe, and the interval reaches from there to where it brings nothing.
    """
    law = laws.report.families[state.family]
    point = read_points([state.run_dir])
    where = (point.params, point.tokens, point.unique_tokens)
    low, high = (float(end[0]) for end in law.predict_interval(*where))
    error = 2 * float(law.residuals.std()) * loss + float(law.extrapolation_margin(*where)[0])
    low, high = min(low, loss) - error, max(high, loss) + error
    if law.extrapolation_error >= UNKNOWN_EXTRAPOLATION_ERROR:
        low = min(low, optimistic_loss(law.points, float(point.flops[0])))
    early = state.family in laws.early
    for family, other in laws.report.families.items():
        if early and family not in laws.early:
            low = min(low, float((other.predict(*where) - other.extrapolation_margin(*where))[0]))
    ratio = 1.0 if taken is None else taken.ratio
    predicted, low = loss * ratio, low * ratio
    seen = float(point.loss[0])
    inside = low <= seen <= high
    note = held_out_words(state.family, seen, predicted, (low, high), early=early)
    if taken is not None:
        note += f", with {taken.setting} (without it the law says {loss:.3f})"
    return {
        "run": state.name,
        "family": state.family,
        "predicted": predicted,
        "interval": [low, high],
        "seen": seen,
        "inside": inside,
        "early": early,
        "note": note,
    }
