"""A run's model → a folder in another program's format, or one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal import files
from epochal._version import __version__
from epochal.data.tokenizer import UnknownTokenizer
from epochal.errors import RunError, UserError
from epochal.evaluation.load import CheckpointName, load_run
from epochal.interop.hf_export import DTYPES, Dtype, Exported, mask_name, portable, write_hf
from epochal.interop.model_card import model_card
from epochal.recipe import recipe_toml
from epochal.runs import RunRecord
from epochal.training.checkpoint import save_tensors


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    path: Path
    family: str
    files: list[str]
    tokenizer: bool
    """Whether there was one to write."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "export": str(self.path),
            "family": self.family,
            "files": self.files,
            "tokenizer": self.tokenizer,
        }


@dataclass(frozen=True, slots=True)
class Weights:
    """The one file that was written."""

    path: Path
    family: str
    step: int
    tensors: int
    parameters: int
    dtype: str
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"export": str(self.path), **{k: getattr(self, k) for k in self.__slots__[1:]}}


def export_safetensors(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> Weights:
    """Write the weights of a run's checkpoint to one safetensors file, under our own names.

    `out` is a file that ends in .safetensors, or a folder that gets model.safetensors. Also
    for checkpoints that many processes wrote in parts. The header has family, step, run and
    recipe. Raises RunError if the file is there already, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.is_dir() or target.suffix != ".safetensors":
        target = target / "model.safetensors"
    if target.exists():
        raise RunError(f"{target} is there already; give another place for the model with --out")
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
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return Weights(
        path=target,
        family=loaded.family,
        step=loaded.step,
        tensors=len(tensors),
        parameters=parameters,
        dtype=dtype,
        bytes=target.stat().st_size,
    )


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r}: give one of {', '.join(DTYPES)}")


def export_hf(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> Export:
    """Write the run's model to the folder `out` in the Hugging Face format.

    AR becomes a stock Llama, MDM a model with a small class of its own beside the weights;
    both with tokenizer and model card. `checkpoint` is best or last, `dtype` the weights'.
    Raises RunError if `out` is in use, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is there already; give another place for the model with --out")
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
    return Export(target, loaded.family, names, text)
