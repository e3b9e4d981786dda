"""A run's model → a folder in another program's format, or one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal import files
from epochal._version import __version__
from epochal.data.tokenizer import UnknownTokenizer
from epochal.errors import OptionError, RunError
from epochal.evaluation.load import CheckpointName, load_run
from epochal.interop.hf_export import DTYPES, Dtype, Exported, mask_name, portable, write_hf
from epochal.interop.model_card import model_card
from epochal.recipe import recipe_toml
from epochal.runs import RunRecord
from epochal.training.checkpoint import save_tensors


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """A model in the Hugging Face format."""

    path: Path
    """The folder."""
    family: str
    files: list[str]
    """Names of the files in it."""
    has_tokenizer: bool
    """Whether the run had a tokenizer to write; else the model knows ids but no text."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """Weights in one safetensors file."""

    path: Path
    """The file."""
    family: str
    step: int
    """Optimizer step of the checkpoint."""
    tensors: int
    """Number of tensors."""
    params: int
    """Number of weights in all tensors."""
    dtype: str
    bytes: int
    """Size of the file."""


def export_safetensors(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> ExportedFile:
    """Write the weights of a run's checkpoint to one safetensors file, under our own names.

    `out` is a file that ends in .safetensors, or a folder that gets model.safetensors. Also
    for checkpoints that many processes wrote in parts. The header has family, step, run and
    recipe. Raises RunError if the file exists, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.is_dir() or target.suffix != ".safetensors":
        target = target / "model.safetensors"
    if target.exists():
        raise RunError(f"{target} already exists; give another place for the model")
    record = RunRecord(run)
    loaded = load_run(run, checkpoint, "cpu")
    tensors = {
        name: weight.detach().to(DTYPES[dtype]).contiguous()
        for name, weight in loaded.model.state_dict().items()
    }
    facts = {
        "format": "pt",
        "epochal": __version__,
        "run": record.name,
        "family": loaded.family,
        "step": str(loaded.step),
        "vocabulary": str(loaded.tokenizer.vocabulary),
        "recipe": recipe_toml(portable(loaded.recipe)),
    }
    with files.atomic_path(target) as temporary:
        save_tensors(temporary, tensors, facts)
    return ExportedFile(
        path=target,
        family=loaded.family,
        step=loaded.step,
        tensors=len(tensors),
        params=sum(tensor.numel() for tensor in tensors.values()),
        dtype=dtype,
        bytes=target.stat().st_size,
    )


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise OptionError("dtype", dtype, f"give one of {', '.join(DTYPES)}")


def export_hf(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> ExportedFolder:
    """Write the run's model to the folder `out` in the Hugging Face format.

    AR becomes a stock Llama, MDM a model with a small class of its own beside the weights;
    both with tokenizer and model card. `checkpoint` is best or last, `dtype` the weights'.
    Raises RunError if `out` is in use, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} already exists; give another place for the model")
    record = RunRecord(run)
    loaded = load_run(run, checkpoint, "cpu")
    tokenizer = loaded.tokenizer
    text = not isinstance(tokenizer, UnknownTokenizer)
    card = model_card(
        record,
        loaded.step,
        target.resolve().name,
        tokenizer.vocabulary,
        loaded.model.embedding.num_embeddings,
        tokenizer.end_token,
        mask_name(tokenizer) if text else "",
    )
    facts = {
        "version": __version__,
        "run": record.name,
        "step": loaded.step,
    }
    if (record.info.get("imported") or {}).get("unique_tokens_known", True):
        facts["unique_tokens"] = record.numbers["unique_tokens"]
    exported = Exported(
        recipe=loaded.recipe,
        model=loaded.model,
        tokenizer=tokenizer,
        text=text,
        card=card,
        facts=facts,
    )
    with files.atomic_folder(target) as temporary:
        names = write_hf(exported, temporary, dtype)
    return ExportedFolder(target, loaded.family, names, text)
