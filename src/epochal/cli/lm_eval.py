"""`epochal-lm-eval`: the harness's own command line, with the model type `epochal` known.

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
        cli_evaluate()
    except EpochalError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
