"""How much is measured, and the model that most parts measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epochal.device import Machine
from epochal.families import family_names
from epochal.models import Transformer, initialise
from epochal.options import option
from epochal.recipe import Recipe, load_recipe


@dataclass(frozen=True, slots=True)
class Setting:
    """Size of the model and its step; the defaults are what benchmarks/README.md reports."""

    d_model: int = 256
    layers: int = 4
    heads: int = 4
    sequence_length: int = 512
    batch: int = 8
    vocabulary: int = 50_257
    """Tokenizer's; the table has 50,304 rows."""
    bf16: bool = True
    compiled: bool = True

    def recipe(self, family: str) -> Recipe:
        """The recipe of our step."""
        changes = {
            "family": family,
            "model.d_model": self.d_model,
            "model.layers": self.layers,
            "model.heads": self.heads,
            "data.sequence_length": self.sequence_length,
            "train.global_batch_size": self.batch,
            "train.steps": 1000,
            "train.precision": "bf16" if self.bf16 else "fp32",
            "train.compile": "on" if self.compiled else "off",
            "mdm.noise": "stratified",
        }
        return load_recipe(None, changes, family_names())

    def tokens(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Random tokens for 64 steps."""
        amount = 64 * self.batch * self.sequence_length
        return np.random.default_rng(0).integers(0, self.vocabulary, amount)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured."""

    rounds: int = 9
    """Rounds in which the variants take turns."""
    cpu_seconds: bool = False
    """Part steps: CPU seconds of the process, which other work on the machine changes less."""
    tokenizer: str | None = option(None, metavar="TOKENIZER")
    """Tokenizer of the parts tokenizer and prepare; without one, a BPE of 8,192 tokens trained on
    the built-in text."""
    run: Path | None = option(None, metavar="RUN")
    """MDM run of the part estimator; without one, a small model is trained for a moment."""
    peers: Path | None = option(None, metavar="FOLDER")
    """Folder with clones of nanoGPT, SMDM or mdlm, whose own steps the part steps measures, too."""
    draws: int = 1
    """Draws per evaluation of the part estimator."""
    repeats: int = 48
    """Independent evaluations of the part estimator, from which variances are taken."""
    starts: int = 30
    """Part fit: how many of the peer's 4500 starts are run per round; their time is scaled up."""
    points: int = 240
    """Part fit: points to fit."""
    resamples: int = 500
    """Part fit: bootstrap resamples."""
    store_tokens: int = option(100_000_000, cli=False)
    training_steps: int = option(400, cli=False)
    setting: Setting = option(default_factory=Setting, cli=False)


QUICK = {
    "draws": 1,
    "repeats": 12,
    "starts": 5,
    "store_tokens": 1_000_000,
    "training_steps": 60,
    "setting": Setting(d_model=128, layers=2, heads=2, sequence_length=128, vocabulary=8190),
}
"""What `--quick` changes."""


def new_model(recipe: Recipe, vocabulary: int, machine: Machine) -> Transformer:
    """The recipe's model with fresh weights, on the machine's device."""
    model = Transformer(recipe.model.architecture(), vocabulary)
    initialise(model, recipe.seed, std=recipe.model.init_std)
    return model.to(machine.device)
