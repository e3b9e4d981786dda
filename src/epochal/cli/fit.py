"""`epochal fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_note, print_table
from epochal.errors import OptionError
from epochal.families import get_family
from epochal.report.text import describe
from epochal.report.text.format import count, sentence
from epochal.scaling.options import LIMIT_LAWS, FitOptions

if TYPE_CHECKING:
    from epochal.scaling.choose import Choice, LawScore
    from epochal.scaling.fit import FamilyFit, FitReport
    from epochal.scaling.limits import Limits
    from epochal.scaling.repetition import RepetitionCosts

_MOST = 8
"""Minima and runs left out that are printed."""


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUNS... | POINTS.csv")
@options(FitOptions)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Save the laws, .toml or .json, for `epochal plan --laws`.",
)
@json_option
def fit(sources: tuple[str, ...], options: FitOptions, out: Path | None, as_json: bool) -> None:
    """Fit a scaling law to each family of runs, with intervals and what is not identified.

    RUNS are run folders or folders that hold runs. A CSV has the columns params, tokens,
    unique_tokens, val_loss and, optionally, family, seed, run, setting and recipe. For
    --law ensemble: a CSV with members for tokens, or JSON files of `epochal eval --ensemble`.

    \b
    Examples:
      epochal fit runs/sweep --law auto --out law.toml
      epochal fit points.csv --law chinchilla --json
      epochal fit runs/tuned --law tuned-size
    """
    from epochal.scaling.fit import fit as run_fit

    if out is not None and options.law in LIMIT_LAWS:
        raise OptionError("out", str(out), f"the law {options.law} says nothing of length to plan")
    report = run_fit(list(sources), options)
    if out is not None:
        report.save(out)
    if as_json:
        print_json(report)
        return
    if report.limits is not None:
        _print_limits(report.limits)
    else:
        _print_fit(report)
    if out is not None:
        click.echo(f"\nsaved: {out}")


def _print_fit(report: FitReport) -> None:
    """Tables and sentences, on standard output."""
    if report.repetition is not None and report.repetition.linear is not None:
        _print_repetition(report.repetition)
    if report.floor is not None:
        from epochal.report.text.fit import shared_floor

        click.echo(shared_floor(report.floor) + "\n")
    for number, (family, fitted) in enumerate(report.families.items()):
        if number:
            click.echo("")
        click.echo(f"{get_family(family).title} ({family}): {fitted.form.formula}")
        click.echo(f"source of the form: {fitted.form.source}\n")
        if fitted.choice is not None:
            if fitted.choice.candidates:
                header = ["law", "constants", "held-out error", "AICc − lowest", ""]
                print_table(header, _choice_rows(fitted.choice))
                click.echo("")
            for line in _choice_lines(fitted.choice):
                print_note(line)
            click.echo("")
        print_table(
            ["constant", "value", "95 % interval", ""],
            [_constant_row(fitted, name) for name in fitted.form.constants],
        )
        click.echo("")
        for line in _fit_lines(fitted):
            print_note(line)
    for reason in report.refused.values():
        print_note(f"refused: {reason}")
    for one in report.notes:
        print_note(describe(one))


def _print_limits(found: Limits) -> None:
    """One row per curve, then what was refused."""
    from epochal.report.text.fit import limit_row

    header = ["family", "unique tokens", "loss in", "points", "limit E", "95 %", "A", "alpha"]
    print_table(header, [limit_row(one) for one in (*found.limits, *found.joint, *found.data)])
    click.echo("")
    click.echo("L = E + A/x^alpha (arXiv 2509.14786); sizes and unique tokens in billions.")
    for reason in found.refused:
        print_note(f"refused: {reason}")


def _print_repetition(costs: RepetitionCosts) -> None:
    """The headline: what repeating costs each recipe, then both conventions for the exponents."""
    from epochal.report.text.fit import cost_ratios, penalty_exponents, repetition_cost

    if costs.headline is not None and (headline := cost_ratios(costs.headline)) is not None:
        click.echo(sentence(headline) + ".")
    for found in (costs.fitted, costs.linear):
        if found is None or not found.costs:
            continue
        floor = "" if found.floor is None else f", E = {found.floor:.4f} for all"
        click.echo(f"Penalty P·R^delta·(N/U)^kappa, {penalty_exponents(found)}{floor}:")
        for cost in found.costs:
            print_note(repetition_cost(cost))
        ratios = cost_ratios(found)
        if ratios is not None and found is not costs.headline:
            print_note(ratios)
        for one in found.notes:
            print_note(describe(one))
    for name, error in costs.left_out.items():
        print_note(f"no P for {name}: {error}")
    click.echo("")


def _constant_row(fit: FamilyFit, name: str) -> list[str]:
    """[name, value, 95 % interval, status] of a constant."""
    value = fit.constants[name]
    low, high = fit.intervals[name]
    if value is None or (low is None and high is None) or low == high:
        interval = ""
    else:
        left = "open" if low is None else f"{low:.4g}"
        interval = f"{left} – {'open' if high is None else f'{high:.4g}'}"
    status = fit.constant_status.get(name)
    shown = "–" if value is None else f"{value:.5g}"
    return [name, shown, interval, "" if status is None else describe(status)]


def _fit_lines(fit: FamilyFit) -> list[str]:
    """All about one family's fit beside its constants; a line that
    begins with spaces belongs to the one before."""
    from epochal.report.text.fit import dropped_line
    from epochal.scaling.points import ParamsConvention

    conventions = {
        ParamsConvention.AS_GIVEN: "as given; whether embeddings count is not known",
        ParamsConvention.PAPER: "the paper's N = 4ld² + 3ldh + 6ld + Vd, embeddings included",
    }
    points = fit.points
    lines = [
        f"{len(points)} points, objective {fit.objective:.5g} (sum of Huber terms), R² "
        f"{fit.r2:.4f}, condition {fit.condition:.3g}; N: {conventions[points.n_convention]}"
        + ("; exponents tied" if fit.tied_exponents else "")
    ]
    if fit.half_life is not None:
        lines.append(f"a repeated token is worth half a fresh one after {fit.half_life:.3g} epochs")
    if len(fit.minima) > 1:
        lines.append(f"{len(fit.minima)} minima within 1 % of the lowest objective:")
        for minimum in fit.minima[:_MOST]:
            values = ", ".join(f"{k} {v:.4g}" for k, v in minimum.items() if k != "objective")
            lines.append(f"  objective {minimum['objective']:.6g}: {values}")
    if fit.held_out is not None:
        held = fit.held_out
        lines.append(
            f"with its {count(len(held.runs), 'largest run')} held out, the law is off there by "
            f"{100 * held.mean_relative_error:.2f} % (at most "
            f"{100 * held.largest_relative_error:.2f} %)"
        )
    if fit.extrapolation_error:
        lines.append(
            "with its largest runs held out, the predicted drop in loss was wrong by up to "
            f"{100 * fit.extrapolation_error:.3g} %; `epochal plan` widens extrapolated intervals "
            "by that"
        )
    isoflop = fit.isoflop
    if isoflop is not None and isoflop.params_exponent is not None:
        lines.append(
            f"isoFLOP parabolas: N_opt = {isoflop.params_scale:.3g}·C^"
            f"{isoflop.params_exponent:.3f}, D_opt grows as C^{isoflop.tokens_exponent:.3f}"
        )
        if (near := isoflop.central_params_exponent) is not None:
            lines[-1] += f"; N_opt's exponent near the minima alone: {near:.3f}"
    lines += [f"left out: {dropped_line(dropped)}" for dropped in fit.dropped[:_MOST]]
    if len(fit.dropped) > _MOST:
        lines.append(f"left out: {len(fit.dropped) - _MOST} more, all in --json")
    return [*lines, *map(describe, fit.notes)]


def _choice_rows(choice: Choice) -> list[list[str]]:
    """[law, constants, held-out error, AICc above the lowest, chosen or refused] per candidate."""
    scores = [c.aicc for c in choice.candidates if c.aicc is not None]
    lowest = min(scores, default=float("nan"))
    return [
        [
            candidate.law,
            str(candidate.constants),
            "–" if (e := candidate.held_out_error) is None else f"{100 * e:.2f} %",
            "–" if candidate.aicc is None else f"{candidate.aicc - lowest:.2f}",
            _standing(candidate, choice.law),
        ]
        for candidate in choice.candidates
    ]


def _standing(candidate: LawScore, chosen: str) -> str:
    if candidate.law == chosen:
        return "chosen"
    if candidate.unidentified:
        return f"not identified: {', '.join(candidate.unidentified)}"
    return "refused" * bool(candidate.refused)


def _choice_lines(choice: Choice) -> list[str]:
    """Why a law was chosen, the rule, and the candidates that could not be fitted."""
    from epochal.scaling.choose import AICC_LEAD

    lines = [f"{choice.law} was chosen: {describe(choice.reason)}"]
    if choice.candidates:
        lines.append(
            "rule: of the laws whose constants are identified, the one with the fewest, unless one "
            "with more has a lower held-out "
            "error by more than one standard error and an AICc lower by more than "
            f"{AICC_LEAD:g}; {choice.runs} runs in {choice.groups} groups held out"
        )
    refused = (c for c in choice.candidates if c.refused is not None)
    return lines + [f"{candidate.law} refused: {candidate.refused}" for candidate in refused]
