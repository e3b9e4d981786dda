"""`epochal`: the list of commands, and how errors end."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys

import click

from epochal._version import __version__
from epochal.errors import EpochalError, TrainingStopped, nearest

# command → (module, attribute, one line of help). Modules are imported when a command runs, so
# that `epochal --help` does not wait for torch.
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "quickstart": ("compare", "quickstart", "Train and compare all families on built-in text."),
    "data": ("data", "data", "Make and check corpora: prepare, subset, inspect, verify."),
    "train": ("train", "train", "Train a model from a recipe, or resume its run."),
    "runs": ("runs", "runs", "List runs: status, progress, NLL, speed, differing settings."),
    "eval": ("evaluate", "evaluate", "Compute a run's validation NLL, with its error."),
    "audit": ("audit", "audit", "Check a claimed number of bits per byte."),
    "downstream": ("downstream", "downstream", "Score a run on tasks of lm-evaluation-harness."),
    "average": ("average", "average", "Average the weights of several checkpoints."),
    "distill": ("distill", "distill", "Train one model on what several runs predict."),
    "memorise": ("memorise", "memorise", "Measure what runs reproduce of their training text."),
    "compare": ("compare", "compare", "Train families on the same tokens, and compare them."),
    "sweep": ("sweep", "sweep", "Train many runs from one file: isoFLOP, epochs, seeds, …"),
    "tune": ("tune", "tune", "Search learning rate, weight decay and epochs; certify them."),
    "study": ("study", "study", "Recommend a model for a text, within a time budget."),
    "submit": ("sweep", "submit", "Submit a run or sweep to Slurm."),
    "report": ("report", "report", "Write one self-contained HTML page about runs."),
    "fit": ("fit", "fit", "Fit scaling laws to runs or a table, with intervals."),
    "plan": ("plan", "plan", "Choose family, size and epochs for a corpus and a budget."),
    "generate": ("generate", "generate", "Generate or infill text."),
    "import": ("interop", "import_", "Import the original's or a Hugging Face checkpoint."),
    "export": ("interop", "export", "Export a model for Hugging Face, or as safetensors."),
    "quality": (
        "quality",
        "quality",
        "Judge a run's texts with another run, for several step counts.",
    ),
    "recipe": ("recipe", "recipe", "Print all recipe keys with defaults and meanings."),
    "doctor": ("doctor", "doctor", "Show what this machine has and what is missing."),
    "sizes": ("sizes", "sizes", "List the paper's 54 model sizes, with parameters and FLOPs."),
}
_GONE = {
    "bench": "`epochal bench` is now `python benchmarks/run.py` in Epochal's repository.",
}
"""Commands of earlier versions → where they are now."""


class _LazyGroup(click.Group):
    """A group whose commands are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"epochal.cli.{module}"), attribute
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            problem = _GONE.get(args[0], f"there is no command {args[0]!r}.")
            raise click.UsageError(problem + nearest(args[0], _COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `epochal quickstart`, or with your own text:\n"
    "`epochal data prepare my_text/ --out corpus`, then\n"
    "`epochal compare quickstart data.corpus=corpus`.",
)
@click.version_option(__version__, prog_name="epochal")
def cli() -> None:
    """Train, compare and plan language models when unique text is the limit.

    Autoregressive (AR) and masked diffusion (MDM) models, trained for many epochs on the same
    unique tokens and scored on the same validation tokens.
    """


def main(args: list[str] | None = None) -> None:
    """Run a command. Errors made by Epochal are one sentence; all others are bugs.

    Exit codes: 0 done; 1 the run failed; 2 something the user can fix; 130, 143, 75 ended
    early on request.
    """
    # Python's last collection looks at every object of torch: a second or two, to free nothing.
    atexit.register(gc.freeze)
    if "_EPOCHAL_COMPLETE" in os.environ:
        from epochal.cli.completion import complete_files

        complete_files()
    try:
        result = cli.main(args=args, prog_name="epochal", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EpochalError as error:
        from epochal.cli.options import message_of

        what = "stopped" if isinstance(error, TrainingStopped) else "error"
        click.echo(f"{what}: {message_of(error)}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
