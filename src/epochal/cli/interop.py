"""`epochal import` and `epochal export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from epochal.cli.output import json_option, print_json, print_pairs
from epochal.units import format_count, parse_count

if TYPE_CHECKING:
    from epochal.runs import RunRecord

_TOKENIZER = "A tokenizer.json, a folder with vocab.json and merges.txt, gpt2, or bytes."
_CORPUS = "Corpus folder that the run is judged on, so that eval and compare work as usual."


_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the weights.",
)


@click.group("import")
def import_() -> None:
    """Models that other programs trained, as run folders.

    \b
    Examples:
      epochal import megatron checkpoints/ --out runs/theirs --tokenizer gpt2
      epochal import hf exported/ --out runs/back
    """


@import_.command()
@click.argument("folder")
@click.option("--out", required=True, metavar="RUN", help="Run folder to make.")
@click.option(
    "--family",
    type=click.Choice(["ar", "mdm"]),
    help="What the model is.  [default: as the attention mask stored with it says]",
)
@click.option("--tokenizer", metavar="TOKENIZER", help=_TOKENIZER)
@click.option(
    "--vocabulary",
    type=click.IntRange(1, 10**9),
    metavar="TOKENS",
    help="Tokens of the tokenizer, if the checkpoint does not know and none is named.",
)
@click.option(
    "--step", type=click.IntRange(min=0), help="Which step.  [default: the one that `latest` names]"
)
@click.option(
    "--optimizer", is_flag=True, help="Bring Adam's moments along, so that training can go on."
)
@click.option("--corpus", metavar="FOLDER", help=_CORPUS)
@click.option("--unique-tokens", metavar="COUNT", help="How many it learned from, such as 100M.")
@json_option
def megatron(
    folder: str,
    out: str,
    family: str | None,
    tokenizer: str | None,
    vocabulary: int | None,
    step: int | None,
    optimizer: bool,
    corpus: str | None,
    unique_tokens: str | None,
    as_json: bool,
) -> None:
    """A checkpoint of the original's code (Megatron-DeepSpeed).

    FOLDER is what was given to --save there, or one global_step<N> folder in it. Tensor- and
    pipeline-parallel files are joined. Pickled files are read without running any code of
    theirs. Without a tokenizer the run knows ids but no text.

    \b
    Examples:
      epochal import megatron ar_140M/ --out runs/ar --tokenizer gpt2 --unique-tokens 100M
      epochal import megatron mdm/ --out runs/mdm --family mdm --corpus corpus --optimizer
      epochal train runs/mdm/recipe.toml
    """
    from epochal.interop.imports import import_megatron

    record = import_megatron(
        folder,
        out,
        family=family,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        step=step,
        optimizer=optimizer,
        corpus=corpus,
        unique_tokens=None if unique_tokens is None else parse_count(unique_tokens),
    )
    _print_run(record, as_json)


@import_.command("hf")
@click.argument("folder")
@click.option("--out", required=True, metavar="RUN", help="Run folder to make.")
@click.option(
    "--family", type=click.Choice(["ar", "mdm"]), help="Only checked: config.json knows it."
)
@click.option("--tokenizer", metavar="TOKENIZER", help="Another one than the folder's.")
@click.option("--corpus", metavar="FOLDER", help=_CORPUS)
@click.option("--unique-tokens", metavar="COUNT", help="How many it learned from, such as 100M.")
@json_option
def import_from_hf(
    folder: str,
    out: str,
    family: str | None,
    tokenizer: str | None,
    corpus: str | None,
    unique_tokens: str | None,
    as_json: bool,
) -> None:
    """A model in the Hugging Face format: what `epochal export hf` wrote, or a plain Llama.

    Weights must be safetensors; pickles and code that come with a model are not touched.

    \b
    Examples:
      epochal import hf exported/ --out runs/back
      epochal import hf some-llama/ --out runs/llama --corpus corpus
    """
    from epochal.interop.imports import import_hf

    record = import_hf(
        folder,
        out,
        family=family,
        tokenizer=tokenizer,
        corpus=corpus,
        unique_tokens=None if unique_tokens is None else parse_count(unique_tokens),
    )
    _print_run(record, as_json)


@click.group()
def export() -> None:
    """Trained models for other programs.

    \b
    Examples:
      epochal export hf quickstart/ar --out exported/ar
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
    """The weights of any checkpoint as one safetensors file.

    Also of a checkpoint that many processes wrote in parts, without starting any. Names of
    tensors are our own; the header has family, step, run and recipe.

    \b
    Examples:
      epochal export safetensors quickstart/ar --out ar.safetensors
      epochal export safetensors runs/big --checkpoint 4000 --out weights/ --dtype bfloat16
    """
    from epochal.interop.exports import export_safetensors

    made = export_safetensors(run, out, checkpoint=checkpoint, dtype=dtype)
    if as_json:
        print_json(made.as_dict())
        return
    print_pairs(
        [
            ("exported", str(made.path)),
            ("model", f"{made.family}, step {made.step:,}"),
            ("weights", f"{made.parameters:,} in {made.tensors} tensors, {made.dtype}"),
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
    """Weights, tokenizer and model card in the Hugging Face format.

    Autoregressive models become stock Llamas, which transformers, vLLM and lm-eval take as
    they are. Masked diffusion models bring a small class of their own, to be loaded with
    AutoModel and trust_remote_code=True; it has its own `generate`.

    \b
    Examples:
      epochal export hf quickstart/ar --out exported/ar
      epochal export hf quickstart/mdm --out exported/mdm --dtype bfloat16
    """
    from epochal.interop.exports import export_hf

    made = export_hf(run, out, checkpoint=checkpoint, dtype=dtype)
    if as_json:
        print_json(made.as_dict())
        return
    print_pairs([("exported", str(made.path)), ("files", ", ".join(made.files))])
    if not made.tokenizer:
        click.echo("\nThe run has no tokenizer, so the model knows ids but no text.")


def _print_run(record: RunRecord, as_json: bool) -> None:
    facts, numbers = record.info["imported"], record.numbers
    if as_json:
        print_json({"run": str(record.path), "family": record.family, "imported": facts} | numbers)
        return
    model = record.recipe.model
    shape = model.architecture()
    known = record.folder.tokenizer_file.exists()
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
            ("optimizer", "with Adam's moments" if facts["optimizer"] else "left out"),
            ("vocabulary", f"{numbers['vocabulary']:,} tokens, mask id {numbers['vocabulary']:,}"),
            ("tokenizer", "in the run" if known else "none: ids only (--tokenizer names one)"),
        ]
    )
