"""`epochal fit`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.scaling.choose import Choice
    from epochal.scaling.isoflop import IsoFlop
    from epochal.scaling.result import FamilyFit, FitReport

WIDTH = 92
_MOST = 8
LAWS = ("auto", "chinchilla", "data-constrained", "overfitting", "penalty", "coupled")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUNS... | POINTS.csv")
@click.option(
    "--law",
    type=click.Choice(LAWS),
    default="data-constrained",
    show_default=True,
    help="auto: each family's is chosen by its error on runs held out.",
)
@click.option("--hold", metavar="FILE", help="TOML or JSON with constants that stay as they are.")
@click.option(
    "--two-stage", is_flag=True, help="Hold A, B, E and exponents from runs of few epochs."
)
@click.option("--tie", is_flag=True, help="One exponent: beta = alpha.")
@click.option(
    "--at",
    type=click.Choice(["final", "best"]),
    default="final",
    show_default=True,
    help="The evaluation of a run that is its point.",
)
@click.option("--keep-overfitted", is_flag=True, help="Leave no overfitted runs out.")
@click.option(
    "--all-settings",
    is_flag=True,
    help="Keep runs of every dropout, weight decay, …, not only of the best at each point.",
)
@click.option("--rise", type=float, help="Rise that counts as overfitted.  [default: 0.03]")
@click.option("--max-epochs", type=float, help="Leave out runs of more epochs.")
@click.option(
    "--huber", type=float, default=1e-3, show_default=True, help="Huber's delta; inf: squares."
)
@click.option("--residual", type=click.Choice(["log", "loss"]), default="log", show_default=True)
@click.option("--bootstraps", type=click.IntRange(min=0), default=500, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--column", "columns", multiple=True, metavar="NAME=COLUMN", help="A column's name in the CSV."
)
@click.option(
    "--where", multiple=True, metavar="COLUMN=TEXT", help="Only rows of the CSV with that text."
)
@click.option(
    "--force", is_flag=True, help="Fit runs of several corpora, tokenizers or lengths of rows."
)
@click.option(
    "--out", metavar="FILE", help="Save the law, .toml or .json, for `epochal plan --laws`."
)
@json_option
def fit(
    sources: tuple[str, ...],
    law: str,
    hold: str | None,
    two_stage: bool,
    tie: bool,
    at: str,
    keep_overfitted: bool,
    all_settings: bool,
    rise: float | None,
    max_epochs: float | None,
    huber: float,
    residual: str,
    bootstraps: int,
    seed: int,
    columns: tuple[str, ...],
    where: tuple[str, ...],
    force: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Fit a scaling law to each family of runs, with intervals and all that is left open.

    RUNS are run folders or folders that hold runs. A CSV has the columns params, tokens,
    unique_tokens, val_loss and, if you like, family (ar or mdm), seed, run and
    setting.

    \b
    Examples:
      epochal fit runs/sweep --law auto --out law.toml
      epochal fit points.csv --law chinchilla --json
    """
    from epochal.scaling.fit import fit as run_fit

    report = run_fit(
        list(sources),
        law=law,
        hold=hold,
        two_stage=two_stage,
        tie=tie,
        huber=huber,
        residual="loss" if residual == "loss" else "log",
        bootstraps=bootstraps,
        seed=seed,
        keep_overfitted=keep_overfitted,
        all_settings=all_settings,
        rise=rise,
        max_epochs=max_epochs,
        at="best" if at == "best" else "final",
        force=force,
        columns=pairs(columns, "--column"),
        where=pairs(where, "--where"),
    )
    if out is not None:
        report.save(out)
    if as_json:
        print_json(report.as_dict())
    else:
        print_fit(report)
        if out is not None:
            click.echo(f"\nsaved: {out}")


def pairs(words: tuple[str, ...], option: str) -> dict[str, str]:
    """`name=value` words as a dictionary."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"{option} {word}: write NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def print_fit(report: FitReport) -> None:
    """Tables and sentences, on standard output."""
    from epochal.families import get_family

    for number, (family, fitted) in enumerate(report.families.items()):
        if number:
            click.echo("")
        click.echo(f"{get_family(family).title} ({family}): {fitted.form.formula}")
        click.echo(f"source of the form: {fitted.form.source}\n")
        if fitted.choice is not None:
            _print_choice(fitted.choice)
        print_table(
            ["constant", "value", "95 % interval", ""],
            [_constant(fitted, name) for name in fitted.form.constants],
        )
        click.echo("")
        for line in _sentences(fitted):
            _note(line)
    for reason in report.refused.values():
        _note(f"refused: {reason}")
    for note in report.notes:
        _note(note)


def _print_choice(choice: Choice) -> None:
    """The candidates' scores, and why one was chosen."""
    if choice.candidates:
        scores = [c.aicc for c in choice.candidates if c.aicc is not None]
        rows = [
            [
                candidate.law,
                str(candidate.constants),
                _score(candidate.held_out_error, 100, " %"),
                _score(candidate.aicc, 1, "", min(scores, default=0.0)),
                "chosen" if candidate.law == choice.law else "refused" * bool(candidate.refused),
            ]
            for candidate in choice.candidates
        ]
        print_table(["law", "constants", "error held out", "AICc − lowest", ""], rows)
        click.echo("")
    _note(f"{choice.law} was chosen of these: {choice.why}")
    if choice.candidates:
        _note(f"rule: {choice.rule}; {choice.runs} runs in {choice.groups} groups held out")
    for candidate in choice.candidates:
        if candidate.refused is not None:
            _note(f"{candidate.law} refused: {candidate.refused}")
    click.echo("")


def _score(value: float | None, scale: float, unit: str, lowest: float = 0.0) -> str:
    return "–" if value is None else f"{scale * (value - lowest):.2f}{unit}"


def _constant(fitted: FamilyFit, name: str) -> list[str]:
    value = fitted.constants[name]
    low, high = fitted.intervals[name]
    if value is None or (low is None and high is None) or low == high:
        interval = ""
    else:
        left = "open" if low is None else f"{low:.4g}"
        interval = f"{left} – {'open' if high is None else f'{high:.4g}'}"
    shown = "–" if value is None else f"{value:.5g}"
    return [name, shown, interval, fitted.constant_status.get(name, "")]


def _sentences(fitted: FamilyFit) -> list[str]:
    points = fitted.points
    lines = [
        f"{len(points)} points, objective {fitted.objective:.5g} (sum of Huber terms), R² "
        f"{fitted.r2:.4f}, condition {fitted.condition:.3g}; N: {points.n_convention}"
        + ("; exponents tied" if fitted.tied else "")
    ]
    if fitted.half_life is not None:
        lines.append(
            f"a repeated token is worth half a fresh one after {fitted.half_life:.3g} epochs"
        )
    if len(fitted.minima) > 1:
        lines.append(f"{len(fitted.minima)} minima within 1 % of the lowest objective:")
        for minimum in fitted.minima[:_MOST]:
            inside = ", ".join(f"{k} {v:.4g}" for k, v in minimum.items() if k != "objective")
            lines.append(f"  objective {minimum['objective']:.6g}: {inside}")
    if fitted.held_out is not None:
        held = fitted.held_out
        out = len(held["runs"])
        name = f"{out} largest runs" if out > 1 else "largest run"
        lines.append(
            f"fitted without the {name}, the law is off there by "
            f"{100 * held['mean_relative_error']:.2f} % (at most "
            f"{100 * held['largest_relative_error']:.2f} %)"
        )
    if fitted.extrapolation_error:
        lines.append(
            f"foretelling its own largest runs it was off by up to "
            f"{100 * fitted.extrapolation_error:.3g} % of "
            "the fall foretold: `epochal plan` widens its intervals beyond the runs by as much"
        )
    if fitted.isoflop is not None and fitted.isoflop.params_exponent is not None:
        lines.append(_isoflop_words(fitted.isoflop))
    lines += [f"left out: {dropped.run} – {dropped.reason}" for dropped in fitted.dropped[:_MOST]]
    if len(fitted.dropped) > _MOST:
        lines.append(f"left out: {len(fitted.dropped) - _MOST} more, all in --json")
    return lines + fitted.notes


def _isoflop_words(found: IsoFlop) -> str:
    """The line through the parabolas' vertices, and how far sampling moves it."""
    words = (
        f"isoFLOP parabolas: N_opt = {found.params_scale:.3g}·C^{found.params_exponent:.3f}, D_opt "
        f"grows as C^{found.tokens_exponent:.3f}"
    )
    if found.central_params_exponent is not None:
        words += f"; N_opt's exponent near the minima alone: {found.central_params_exponent:.3f}"
    return words


def _note(text: str) -> None:
    indent = "      " if text.startswith("  ") else "    "
    click.echo(
        textwrap.fill(
            text.strip(), WIDTH, initial_indent=indent[:-2] + "· ", subsequent_indent=indent
        )
    )
