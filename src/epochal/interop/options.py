"""Options of `import_megatron` and `import_hf`. No torch here, for the command line's sake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.errors import OptionError, RunError
from epochal.families import family_names
from epochal.options import option
from epochal.units import parse_count

_MOST_TOKENS = 10**15
"""More than all text there is."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a model of another program does not store."""

    family: str | None = option(None, choices=family_names)
    """Family of the model. Without it: what config.json says, or the attention mask stored with a
    checkpoint of the original."""
    tokenizer: str | Path | None = option(None, metavar="TOKENIZER")
    """A tokenizer.json, a folder with vocab.json and merges.txt, gpt2, or bytes. Without it: the
    tokenizer of the corpus or of the imported folder; without any, the run knows ids but no
    text."""
    corpus: str | Path | None = option(None, metavar="FOLDER")
    """Corpus folder to evaluate the run on, so that eval and compare work as usual."""
    unique_tokens: int | None = option(None, metavar="COUNT", parse=parse_count)
    """Number of unique tokens it was trained on, such as 100M."""

    def check(self, out: Path) -> None:
        """Raises OptionError for values that make no sense, RunError if `out` exists."""
        if self.family is not None and self.family not in family_names():
            raise OptionError("family", self.family, f"give {' or '.join(family_names())}")
        if self.unique_tokens is not None and not 0 < self.unique_tokens <= _MOST_TOKENS:
            raise OptionError(
                "unique_tokens",
                self.unique_tokens,
                f"give a number of tokens from 1 to {_MOST_TOKENS:,}, such as 100M",
            )
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} already exists; give another folder for the run")


@dataclass(frozen=True, kw_only=True)
class MegatronOptions(ImportOptions):
    """What a checkpoint of the original (Megatron-DeepSpeed) does not store, and which one."""

    vocabulary: int | None = option(None, metavar="TOKENS")
    """Number of tokens of the tokenizer, if the checkpoint does not store it and no tokenizer is
    given."""
    step: int | None = option(None, metavar="STEP")
    """Which step. Without it: the one that `latest` names."""
    optimizer: bool = False
    """Import Adam's moments, too, so that training can resume."""
    heads: int | None = option(None, metavar="N")
    """Attention heads, if the file mp_rank_00_model_states.pt with the arguments is missing: the
    shapes of the weights give everything else."""
    head_dim: int | None = option(None, metavar="K")
    """Width of a head, likewise; one of the two is enough."""

    def check(self, out: Path) -> None:
        """Raises OptionError for values that make no sense, RunError if `out` exists."""
        super().check(out)
        for name, least in (("vocabulary", 1), ("step", 0), ("heads", 1), ("head_dim", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(name, value, f"give a whole number of at least {least}")
