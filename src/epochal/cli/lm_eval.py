"""`epochal-lm-eval`: the harness's own command line, with the model type `epochal` registered.

Also `python -m epochal.cli.lm_eval`. The harness finds no plug-ins by itself.
"""

from __future__ import annotations

import sys

import click

from epochal.errors import EpochalError


def main() -> None:
    """Run lm-evaluation-harness's command line. Epochal's own errors are one sentence."""
    from epochal.downstream_tasks.harness_tasks import require_harness

    try:
        require_harness()
        from lm_eval.__main__ import cli_evaluate

        import epochal.downstream_tasks.harness_model as harness_model  # registers the model type

        assert harness_model.HarnessModel is not None
        sys.argv += _default_device(sys.argv[1:])
        cli_evaluate()
    except EpochalError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _default_device(words: list[str]) -> list[str]:
    """`--device auto` for a run of Epochal without a device, whose default would be cuda:0.

    So a cuda:0 that reaches the model was asked for. A --config may name the device.
    """
    names = {word.partition("=")[0] for word in words}
    ours = "--model=epochal" in words or ("epochal" in words and names & {"--model", "-M"})
    return ["--device", "auto"] if ours and not names & {"--device", "--config", "-C"} else []


if __name__ == "__main__":
    main()
