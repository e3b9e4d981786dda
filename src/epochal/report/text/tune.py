"""English about tuned settings."""

from __future__ import annotations

from statistics import fmean

from epochal.families import get_family
from epochal.report.text import describe
from epochal.sweeps.search import Axis
from epochal.sweeps.tuned import Neighbour, Tuned, TunedRun, Verdict

_AXES = {
    Axis.LR: "learning rate",
    Axis.WEIGHT_DECAY: "weight decay",
    Axis.EPOCHS: "epochs",
    Axis.DROPOUT: "dropout",
}
_UNTRIED = {
    Verdict.UNTRIED: "not tried: no time was left, or the run failed",
    Verdict.LIMIT: "no candidate: less than one epoch would be fewer unique tokens",
    Verdict.NOT_TURNED_UP: "not tried: held-out loss had not turned up",
}


def neighbour_text(one: Neighbour) -> str:
    """A step from the best settings and what came of it."""
    step = f"{_AXES[one.axis]} {one.value:.3g}"
    if one.verdict in _UNTRIED:
        return f"{step}: {_UNTRIED[one.verdict]}"
    assert one.difference is not None
    assert one.error is not None
    if one.difference == float("inf"):
        return f"{step}: worse, it diverged"
    size = f"{one.difference:+.4f} ± {one.error:.4f} nats"
    words = {
        Verdict.WORSE: "worse",
        Verdict.CLOSE: "no clear difference",
        Verdict.BETTER: "better, and the search ended before it moved there",
    }
    return f"{step}: {words[one.verdict]} ({size})"


def nll_text(run: TunedRun, exact: bool) -> str:
    """A run's NLL; where it is a bound, with a sign that says so."""
    return "–" if run.nll is None else f"{'' if exact else '≤ '}{run.nll:.4f}"


def certificate(search: Tuned) -> str:
    """Whether the best settings are certified, as a sentence."""
    family = get_family(search.family)
    title = family.title
    if search.best.nll is None:
        why = "it diverged" if search.best.diverged else "it was not trained to its end"
        if search.best.reason is not None:
            why = describe(search.best.reason)
        return f"{search.name} ({title}): the start gave no result ({why}), so nothing was searched"
    at = search.best.settings
    found = (
        f"{search.name} ({title}): NLL {nll_text(search.best, family.exact)} with learning rate "
        f"{at.lr:.3g}, weight decay {at.weight_decay:.3g} and {at.epochs:.4g} epochs"
    )
    if at.dropout:
        found += f", dropout {at.dropout:g}"
    if search.seed_spread is not None:
        found += (
            f" ({len(search.seed_nlls)} seeds: mean {fmean(search.seed_nlls):.4f}, standard "
            f"deviation {search.seed_spread:.4f})"
        )
    if search.carried_from is not None:
        found += f", started from what {search.carried_from} found"
    if search.certified:
        return f"{found}. Certified: every step of two is worse by more than its error"
    return f"{found}. Not certified: the steps marked ! are not shown to be worse"
