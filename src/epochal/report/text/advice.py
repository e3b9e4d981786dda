"""English about a run in progress: whether validation has turned, and what an hour more buys."""

from __future__ import annotations

from epochal.report.text.format import sentence
from epochal.scaling.advisor import AHEAD, Advice


def advice_text(advice: Advice) -> str:
    """The advice as one sentence."""
    parts = []
    if advice.turned:
        parts.append(
            f"validation has turned: it was lowest at epoch {advice.seen_epoch:.3g} and has risen "
            f"by {advice.rise:.3f} nats since; the best checkpoint is kept"
        )
    elif advice.best_epoch is not None and advice.interval is not None:
        low, high = advice.interval
        end = "?" if high is None else f"{high:.3g}"
        parts.append(
            f"validation is predicted to be lowest near epoch {advice.best_epoch:.3g} "
            f"({low:.3g} – {end})"
        )
    elif advice.seen_epoch is None:
        parts.append("no evaluation yet")
    else:
        parts.append("validation loss has not turned, and its minimum cannot be predicted yet")
    if advice.law_epoch is not None:
        parts.append(f"the law puts the best at epoch {advice.law_epoch:.3g}")
    if advice.next_hour is not None and advice.next_hour_interval is not None:
        low, high = advice.next_hour_interval
        what = "another hour would"
        if advice.beyond_reach:
            what = f"training to {AHEAD:g} times these epochs, less than an hour, would"
        parts.append(
            f"{what} {'lower' if advice.next_hour >= 0 else 'raise'} it by about "
            f"{abs(advice.next_hour):.3f} nats ({low:+.3f} to {high:+.3f} gained)"
        )
    return f"{sentence('; '.join(parts))}."
