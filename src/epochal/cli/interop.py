"""`epochal import` and `epochal export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from epochal.cli.options import options as dataclass_options
from epochal.cli.output import json_option, print_json, print_pairs
from epochal.interop.options import ImportOptions, MegatronOptions
from epochal.units import format_count

if TYPE_CHECKING:
    from epochal.runs import RunRecord

_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Type of the written weights.",
)
_out_option = click.option("--out", required=True, metavar="RUN", help="Run folder to make.")


@click.group("import")
def import_() -> None:
    """Import models that other programs trained, as run folders.

    \b
    Examples:
      epochal import megatron checkpoints/ --out runs/theirs --tokenizer gpt2
      epochal import hf exported/ --out runs/back
    """


@import_.command()
@click.argument("folder")
@_out_option
@dataclass_options(MegatronOptions)
@json_option
def megatron(folder: str, out: str, options: MegatronOptions, as_json: bool) -> None:
    """Import a checkpoint of the original's code (Megatron-DeepSpeed).

    FOLDER is the one given to --save there, or one global_step<N> folder in it. Tensor- and
    pipeline-parallel files are joined. Pickled files are read without running any code in them.

    \b
    Examples:
      epochal import megatron ar_140M/ --out runs/ar --tokenizer gpt2 --unique-tokens 100M
      epochal import megatron mdm/ --out runs/mdm --family mdm --corpus corpus --optimizer
      epochal train runs/mdm/recipe.toml
    """
    from epochal.interop.imports import import_megatron

    _print_run(import_megatron(folder, out, options), as_json)


@import_.command("hf")
@click.argument("folder")
@_out_option
@dataclass_options(ImportOptions)
@json_option
def import_from_hf(folder: str, out: str, options: ImportOptions, as_json: bool) -> None:
    """Import a Hugging Face model: what `epochal export hf` wrote, or a plain Llama.

    Weights must be safetensors; pickles and code beside a model are neither read nor run.

    \b
    Examples:
      epochal import hf exported/ --out runs/back
      epochal import hf some-llama/ --out runs/llama --corpus corpus
    """
    from epochal.interop.imports import import_hf

    _print_run(import_hf(folder, out, options), as_json)


@click.group()
def export() -> None:
    """Export trained models for other programs, and the records of runs.

    \b
    Examples:
      epochal export hf quickstart/ar --out exported/ar
      epochal export records runs/my-sweep --out records/my-sweep.zip
      epochal export safetensors quickstart/ar --out ar.safetensors
    """


@export.command("safetensors")
@click.argument("run")
@click.option(
    "--out",
    required=True,
    metavar="FILE|FOLDER",
    help="A new file that ends in .safetensors, or the folder for model.safetensors.",
)
@click.option(
    "--checkpoint",
    metavar="NAME",
    help="best, last, ema, permanent-<step> or a step.  [default: best]",
)
@_dtype_option
@json_option
def export_to_safetensors(
    run: str,
    out: str,
    checkpoint: str | None,
    dtype: Literal["float32", "bfloat16"],
    as_json: bool,
) -> None:
    """Export the weights of any checkpoint as one safetensors file.

    Also of a checkpoint that many processes wrote in parts; no processes are started. Tensors
    have the names of Epochal's models; the header has family, step, run and recipe.

    \b
    Examples:
      epochal export safetensors quickstart/ar --out ar.safetensors
      epochal export safetensors runs/big --checkpoint 4000 --out weights/ --dtype bfloat16
    """
    from epochal.interop.exports import export_safetensors

    made = export_safetensors(run, out, checkpoint=checkpoint, dtype=dtype)
    if as_json:
        print_json(made)
        return
    print_pairs(
        [
            ("exported", str(made.path)),
            ("model", f"{made.family}, step {made.step:,}"),
            ("weights", f"{made.params:,} in {made.tensors} tensors, {made.dtype}"),
            ("size", f"{format_count(made.bytes)} bytes"),
        ]
    )


@export.command("hf")
@click.argument("run")
@click.option("--out", required=True, metavar="FOLDER", help="Folder to make.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), help="[default: best]")
@_dtype_option
@json_option
def export_to_hf(
    run: str,
    out: str,
    checkpoint: Literal["best", "last"] | None,
    dtype: Literal["float32", "bfloat16"],
    as_json: bool,
) -> None:
    """Export weights, tokenizer and model card in the Hugging Face format.

    Autoregressive models become stock Llamas, which transformers, vLLM and lm-eval load as they
    are. Models that fill in masks come with a small class: load them with AutoModelForMaskedLM and
    trust_remote_code=True; the class has its own `generate`.

    \b
    Examples:
      epochal export hf quickstart/ar --out exported/ar
      epochal export hf quickstart/mdm --out exported/mdm --dtype bfloat16
    """
    from epochal.interop.exports import export_hf

    made = export_hf(run, out, checkpoint=checkpoint, dtype=dtype)
    if as_json:
        print_json(made)
        return
    print_pairs(
        [
            ("exported", str(made.path)),
            ("files", ", ".join(made.files)),
            ("loads by", " and ".join(made.auto_classes)),
        ]
    )
    if not made.has_tokenizer:
        click.echo("\nThe run has no tokenizer, so the model knows ids but no text.")


@export.command("records")
@click.argument("folder")
@click.option("--out", required=True, metavar="FILE", help="The archive to write, a .zip.")
@json_option
def export_records(folder: str, out: str, as_json: bool) -> None:
    """Export the records of a sweep or a tuning as one small archive that `epochal report` reads.

    Of each finished run: recipe, run.json, validation curve, and the evaluations of its best
    checkpoint with their sums per document; of a tuning its tune.json. No weights, no text, no
    absolute paths; the same runs give the same bytes.

    \b
    Examples:
      epochal export records runs/my-sweep --out records/my-sweep.zip
      epochal report records --out records.html
    """
    from epochal.runs.pack import pack_runs

    made = pack_runs(folder, out)
    if as_json:
        print_json(made)
        return
    print_pairs(
        [
            ("exported", str(made.path)),
            ("runs", f"{made.runs:,}"),
            ("size", f"{format_count(made.bytes)} bytes"),
            ("left out", ", ".join(made.left_out) or "none"),
        ]
    )


def _print_run(record: RunRecord, as_json: bool) -> None:
    from epochal.interop.imports import ImportedRun

    if as_json:
        print_json(ImportedRun.from_record(record))
        return
    facts, numbers = record.info["imported"], record.numbers
    model = record.recipe.model
    shape = model.architecture()
    has_tokenizer = record.folder.tokenizer_file.exists()
    print_pairs(
        [
            ("run", str(record.path)),
            ("family", record.family),
            (
                "model",
                f"d {shape.d_model}, {shape.layers} layers, {shape.heads} heads of "
                f"{shape.head_dim}, inner {shape.d_ff}{', untied' * (not shape.tie_embeddings)}",
            ),
            (
                "parameters",
                f"{format_count(numbers['params'])} ({numbers['params_exact']:,} exact)",
            ),
            ("step", f"{facts['step']:,} of {numbers['steps']:,}"),
            ("optimizer", "with Adam's moments" if facts["optimizer"] else "not imported"),
            ("vocabulary", f"{numbers['vocabulary']:,} tokens, mask id {numbers['vocabulary']:,}"),
            (
                "tokenizer",
                "in the run" if has_tokenizer else "none: ids only (see --tokenizer)",
            ),
        ]
    )
