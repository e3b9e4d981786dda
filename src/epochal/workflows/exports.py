"""A run's model → a folder in another program's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import epochal
from epochal import files
from epochal.data.unknown import UnknownTokenizer
from epochal.errors import RunError, UserError
from epochal.interop.hf_export import DTYPES, Dtype, Exported, mask_name, write_hf
from epochal.interop.model_card import model_card
from epochal.runs import RunRecord
from epochal.workflows.load import CheckpointName, load


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
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r}: give one of {', '.join(DTYPES)}")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is there already; give another place for the model with --out")
    record = RunRecord(run)
    loaded = load(run, checkpoint, "cpu")
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
        "version": epochal.__version__,
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
