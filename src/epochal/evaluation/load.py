"""A trained model, ready to use: logits, likelihoods, text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal import files
from epochal.data.tokenizer import Tokenizer, UnknownTokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.device import Machine, find_machine
from epochal.errors import UserError
from epochal.families import get_family
from epochal.generation.config import GenerationConfig
from epochal.generation.generator import Generator
from epochal.likelihood.draws import DrawPlan
from epochal.likelihood.nll import row_nll, scored_positions
from epochal.likelihood.queries import Reader
from epochal.models import Transformer
from epochal.objectives import Draw, Objective, masked_reading, objective
from epochal.progress import bar
from epochal.recipe import Recipe, recipe_toml
from epochal.runs import RunRecord, checkpoints
from epochal.training import checkpoint
from epochal.training.train import bare_model, evaluation_batch

CheckpointName = str
"""best, last, ema, permanent-<step>, or any step that has a checkpoint."""


@dataclasses.dataclass(eq=False, repr=False)
class LoadedModel:
    """A run's model with its tokenizer. Token arguments are [B, L] integer tensors."""

    recipe: Recipe
    model: Transformer
    tokenizer: Tokenizer
    machine: Machine
    step: int

    def __post_init__(self) -> None:
        self.objective: Objective = objective(self.recipe, self.tokenizer.mask)

    @property
    def family(self) -> str:
        """ar or mdm."""
        return self.recipe.family

    @property
    def sequence_length(self) -> int:
        """L, the longest input the model was trained on."""
        return self.recipe.data.sequence_length

    @property
    def padded_length(self) -> int:
        """L for a diffusion run that met full rows only, else 0: shorter rows are lengthened to it
        with masks, as the original does, since a row that ends early is new to such a model.
        """
        alone = get_family(self.family).reads_short_rows(self.recipe.options)
        return 0 if alone else self.sequence_length

    def compile(self) -> None:
        """Compile the model's blocks and the output layer, for long work on rows of one length."""
        for block in self.model.blocks:
            block.compile()
        self.machine = dataclasses.replace(self.machine, compiled=True)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """[B, L] ids → [B, L, V] float32 logits, V the padded vocabulary.

        AR: of the token after each position. MDM: of the token at each position; hidden
        tokens are given as the mask id, `tokenizer.mask`.
        """
        self.model.eval()
        ids = torch.as_tensor(tokens).long()
        self._check_ids(ids)
        self._check_answers("logits")
        rule = get_family(self.family).attention
        assert rule != "blocks"
        with self.machine.autocast():
            return self.model.logits(ids.to(self.machine.device), rule).float().cpu()

    def nll(self, tokens: Tensor, draws: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
        """[B, L] ids → [B] −log p(tokens 1 … L−1 | token 0) in nats, and [B] standard errors.

        Exact with error 0 for AR; for MDM the mean of `draws` ≥ 2 unbiased draws of the upper
        bound, with noise levels stratified over each row's draws, and short rows lengthened to
        `padded_length` with masks that are not scored.
        """
        ids = torch.as_tensor(tokens).long()
        self._check_ids(ids)
        missing = max(0, self.padded_length - ids.shape[1])
        scored = F.pad(scored_positions(ids), (0, missing), value=False)
        ids = F.pad(ids, (0, missing), value=self.tokenizer.mask)
        if self.objective.exact:
            values = self._row_nll(ids, scored, DrawPlan(len(ids), seed, stratified=False), 0, 1)
            return values, torch.zeros_like(values)
        if draws < 2:
            raise UserError(f"draws = {draws}: at least 2 are needed for the error bar")
        plan = DrawPlan(len(ids), seed, stratified=False)
        each = torch.stack([self._row_nll(ids, scored, plan, draw, draws) for draw in range(draws)])
        # Draw r takes its level from slice r of [0, 1): neighbouring draws differ mostly by
        # chance, so their differences give the error of the stratified mean.
        error = (each.diff(dim=0).square().sum(0) / (2 * (draws - 1)) / draws).sqrt()
        return each.mean(0), error

    def generate(self, prompt: str = "", config: GenerationConfig | None = None) -> list[str]:
        """`config.samples` texts that continue `prompt`.

        A family that fills gaps reads each [MASK] in the prompt as one token to write, [MASK:12]
        as twelve and [MASK:3-8] as the number that fits best; then nothing is added at the end.
        A text depends on the seed, the prompt and its index among the samples, not on the other
        samples. Raises UserError for a prompt or an option that does not fit the model.
        """
        config = config or GenerationConfig()
        with bar("generate", config.samples) as progress:
            [(_, generations)] = self.generator.generate([prompt], config, progress.update)
        return [generation.text for generation in generations]

    @property
    def generator(self) -> Generator:
        """What writes with the model: batches of prompts, streams, and ids beside texts."""
        identity = {
            "recipe": recipe_toml(self.recipe),
            "step": self.step,
            "tokenizer": self.tokenizer.sha256,
        }
        return Generator(
            self.model,
            self.tokenizer,
            self.machine,
            get_family(self.family),
            self.sequence_length,
            batch_tokens=evaluation_batch(self.recipe) * self.sequence_length,
            options=self.recipe.options,
            model_id=files.sha256_json(identity),
        )

    def reader(
        self, batch_tokens: int | None = None, pad: bool | None = None, masked: bool = False
    ) -> Reader:
        """What gives the probabilities of chosen tokens, rows of unlike length batched.

        `batch_tokens` per forward pass (those of validation if not given). `pad` lengthens rows
        to `sequence_length` with masks; if not given, as `padded_length` says. `masked`: asked
        about masked tokens only, a family that learned with masks beside its exact NLL; and one
        that reads blocks, the masks of each row in one block.
        """
        family = get_family(self.family)
        if not masked or not family.cross_entropy:
            self._check_answers("probabilities of single tokens")
        reading = masked_reading(self.family, self.tokenizer.mask) if masked else None
        padded = self.padded_length > 0 if pad is None else pad
        return Reader(
            self.model,
            self.machine,
            causal=family.attention == "causal" and reading is None,
            vocabulary=self.tokenizer.vocabulary,
            batch_tokens=batch_tokens or evaluation_batch(self.recipe) * self.sequence_length,
            pad_to=self.sequence_length if padded else 0,
            pad_id=self.tokenizer.mask,
            shift=0 if reading is None else reading.shift,
            block=self.recipe.options.size if family.attention == "blocks" else 0,
        )

    def _check_answers(self, what: str) -> None:
        if not get_family(self.family).answers:
            raise UserError(
                f"a {get_family(self.family).title} model has no {what} of a row as it is; take "
                "`nll` or `generate`"
            )

    def _check_ids(self, ids: Tensor) -> None:
        largest = min(self.tokenizer.mask, self.model.shape.rows(self.tokenizer.vocabulary) - 1)
        if ids.dim() != 2 or not ids.numel() or ids.min() < 0 or ids.max() > largest:
            raise UserError(
                f"tokens must be [B, L] ids from 0 to {largest} (the mask id), not a tensor of "
                f"shape {list(ids.shape)}"
            )

    def _row_nll(
        self, ids: Tensor, scored: Tensor, plan: DrawPlan, draw: int, draws: int
    ) -> Tensor:
        levels = (draw + plan.levels(draw)) / draws
        problem = self.objective.likelihood_problem(ids, scored, Draw(levels, plan.keys(draw)))
        return torch.from_numpy(row_nll(self.model, problem, self.machine))


def load_run(
    path: str | Path, checkpoint_name: CheckpointName | None = None, device: str = "auto"
) -> LoadedModel:
    """The model of the run in folder `path`.

    `checkpoint_name` is "best" (default where there is one), "last", a step (also as
    "permanent-<step>"), or "ema" for the average of the weights that a run with `train.ema` or
    `train.average_epochs` keeps beside the last ones. Raises RunError if `path` is no run and
    CheckpointError if it has no usable checkpoint.
    """
    record = RunRecord(path)
    settings = dataclasses.replace(record.recipe, data=record.data)
    file = checkpoints.find_weights(record, checkpoint_name)
    known = tokenizer_of(record)
    machine = find_machine(on_device(settings, device).train)  # before anything is allocated
    model = bare_model(settings, known.vocabulary).to_empty(device=machine.device)
    step = checkpoint.load_state(file, settings.family).step
    checkpoint.load_model(file, model, averaged=checkpoint_name == "ema")
    return LoadedModel(settings, model.eval(), known, machine, step)


def tokenizer_of(record: RunRecord) -> Tokenizer:
    """The run's tokenizer; one that knows no text for a model that was imported without."""
    if "imported" in record.info and not record.folder.tokenizer_file.exists():
        return UnknownTokenizer(int(record.numbers["vocabulary"]))
    return load_tokenizer(str(record.folder.tokenizer_file))


def on_device(settings: Recipe, device: str) -> Recipe:
    """The recipe with its model on `device`, uncompiled."""
    train = dataclasses.replace(settings.train, device=device, compile="off")
    return dataclasses.replace(settings, train=train)
