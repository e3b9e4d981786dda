"""A trained model, ready to use: logits, likelihoods, text."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from epochal import rng
from epochal.data import Tokenizer, load_tokenizer
from epochal.data.unknown import UnknownTokenizer
from epochal.errors import CheckpointError, UserError
from epochal.evaluation.generate import Sampling, continue_text, unmask
from epochal.evaluation.nll import problem_token_nll, scored_positions
from epochal.evaluation.plan import DrawPlan
from epochal.models import Transformer
from epochal.objectives import Draw, Objective, objective
from epochal.progress import bar
from epochal.recipe import Recipe
from epochal.runs import RunRecord
from epochal.training import checkpoint
from epochal.training.device import Machine, find_machine
from epochal.workflows.imports import is_foreign, open_foreign
from epochal.workflows.train import build_model

CheckpointName = str
"""best, last, ema, or the number of a step whose checkpoint is there."""
_MASK_SPAN = re.compile(r"\[MASK(?::(\d+))?\]")


class LoadedModel:
    """A run's model with its tokenizer. Token arguments are [B, L] integer tensors."""

    def __init__(
        self,
        recipe: Recipe,
        model: Transformer,
        tokenizer: Tokenizer,
        machine: Machine,
        step: int,
    ) -> None:
        self.recipe, self.model, self.tokenizer = recipe, model, tokenizer
        self.machine, self.step = machine, step
        self.objective: Objective = objective(recipe, tokenizer.mask)

    @property
    def family(self) -> str:
        """ar or mdm."""
        return self.recipe.family

    @property
    def sequence_length(self) -> int:
        """L, the longest input the model was trained on."""
        return self.recipe.data.sequence_length

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """[B, L] ids → [B, L, V] float32 logits, V the padded vocabulary.

        AR: of the token after each position. MDM: of the token at each position; hidden
        tokens are given as the mask id, `tokenizer.mask`.
        """
        self.model.eval()
        ids = torch.as_tensor(tokens).long()
        self._check_ids(ids)
        rule: Literal["causal", "bidirectional"] = (
            "causal" if self.family == "ar" else "bidirectional"
        )
        with self.machine.autocast():
            return self.model.logits(ids.to(self.machine.device), rule).float().cpu()

    def nll(self, tokens: Tensor, draws: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
        """[B, L] ids → [B] −log p(tokens 1 … L−1 | token 0) in nats, and [B] standard errors.

        Exact with error 0 for AR; for MDM the mean of `draws` ≥ 2 unbiased draws of the upper
        bound, with noise levels stratified over each row's draws.
        """
        ids = torch.as_tensor(tokens).long()
        self._check_ids(ids)
        if self.objective.exact:
            values = self._row_nll(ids, DrawPlan(len(ids), seed, stratified=False), 0, 1)
            return values, torch.zeros_like(values)
        if draws < 2:
            raise UserError(f"draws = {draws}: at least 2 are needed for the error bar")
        plan = DrawPlan(len(ids), seed, stratified=False)
        each = torch.stack([self._row_nll(ids, plan, draw, draws) for draw in range(draws)])
        # Draw r takes its level from slice r of [0, 1): neighbouring draws differ mostly by
        # chance, so their differences give the error of the stratified mean.
        error = (each.diff(dim=0).square().sum(0) / (2 * (draws - 1)) / draws).sqrt()
        return each.mean(0), error

    def generate(
        self,
        prompt: str = "",
        *,
        tokens: int = 64,
        samples: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        steps: int | None = None,
        order: Literal["confidence", "ancestral"] = "confidence",
    ) -> list[str]:
        """Texts that go on from `prompt` by up to `tokens` tokens, `samples` of them.

        MDM also fills in: each [MASK] in the prompt is one token, [MASK:12] twelve; then
        nothing is added after it. `steps` are MDM's forward passes (as many as there are
        masked tokens if not given), `order` which tokens come to light first. The same seed
        gives the same texts. Raises UserError for a prompt that does not fit the model.
        """
        for name, number in (("tokens", tokens), ("samples", samples), ("steps", steps)):
            if number is not None and number < 1:
                raise UserError(f"{name} = {number}: give at least 1")
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        generator = torch.Generator().manual_seed(rng.stream_key(seed, "generate") >> 1)
        if self.family == "ar":
            return self._continue(prompt, tokens, samples, sampling, generator)
        return self._unmask(prompt, tokens, samples, sampling, generator, steps, order)

    def _continue(
        self, prompt: str, tokens: int, samples: int, sampling: Sampling, generator: torch.Generator
    ) -> list[str]:
        if _MASK_SPAN.search(prompt):
            raise UserError(
                "an autoregressive model cannot fill in [MASK]; give a text to go on from, or "
                "use a masked diffusion run"
            )
        # A document starts after the end of another: so does an empty prompt.
        ids = [self.tokenizer.end_of_document, *self.tokenizer.encode(prompt).tolist()]
        self._check_length(len(ids), tokens)
        rows = torch.tensor(ids).repeat(samples, 1)
        with bar("generate", tokens) as progress, self.machine.autocast():
            new = continue_text(
                self.model,
                rows,
                tokens,
                end=self.tokenizer.end_of_document,
                vocabulary=self.tokenizer.vocabulary,
                sampling=sampling,
                generator=generator,
                report=progress.update,
            )
        return [prompt + self._text(row) for row in new.tolist()]

    def _unmask(
        self,
        prompt: str,
        tokens: int,
        samples: int,
        sampling: Sampling,
        generator: torch.Generator,
        steps: int | None,
        order: Literal["confidence", "ancestral"],
    ) -> list[str]:
        ids = [self.tokenizer.end_of_document, *self._masked_ids(prompt)]
        infill = self.tokenizer.mask in ids
        if not infill:
            ids += [self.tokenizer.mask] * tokens
        self._check_length(len(ids), 0)
        steps = steps or ids.count(self.tokenizer.mask)
        with bar("generate", steps) as progress, self.machine.autocast():
            rows = unmask(
                self.model,
                torch.tensor(ids).repeat(samples, 1),
                steps,
                mask=self.tokenizer.mask,
                vocabulary=self.tokenizer.vocabulary,
                order=order,
                sampling=sampling,
                generator=generator,
                report=progress.update,
            )
        texts = []
        for row in rows[:, 1:].tolist():
            known = len(row) if infill else len(row) - tokens
            texts.append(self.tokenizer.decode(row[:known]) + self._text(row[known:]))
        return texts

    def _masked_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt whose [MASK] and [MASK:n] are spans of masked tokens."""
        ids: list[int] = []
        end = 0
        for match in _MASK_SPAN.finditer(prompt):
            ids += self.tokenizer.encode(prompt[end : match.start()]).tolist()
            ids += [self.tokenizer.mask] * int(match[1] or 1)
            end = match.end()
        ids += self.tokenizer.encode(prompt[end:]).tolist()
        return ids

    def _text(self, ids: list[int]) -> str:
        """Text up to the end of the document."""
        end = self.tokenizer.end_of_document
        return self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)

    def _check_length(self, prompt: int, new: int) -> None:
        if prompt + new > self.sequence_length:
            raise UserError(
                f"prompt and new text are {prompt + new} tokens, but the model was trained on "
                f"{self.sequence_length}; shorten the prompt or lower the number of tokens"
            )

    def _check_ids(self, ids: Tensor) -> None:
        largest = min(self.tokenizer.mask, self.model.shape.rows(self.tokenizer.vocabulary) - 1)
        if ids.dim() != 2 or not ids.numel() or ids.min() < 0 or ids.max() > largest:
            raise UserError(
                f"tokens must be [B, L] ids from 0 to {largest} (the mask id), not a tensor of "
                f"shape {list(ids.shape)}"
            )

    def _row_nll(self, ids: Tensor, plan: DrawPlan, draw: int, draws: int) -> Tensor:
        levels = (draw + plan.levels(draw)) / draws
        problem = self.objective.likelihood_problem(
            ids, scored_positions(ids), Draw(levels, plan.keys(draw))
        )
        nll = problem_token_nll(self.model, problem, self.machine)
        return torch.from_numpy((problem.weights.double().numpy() * nll).sum(axis=1))


def load(
    path: str | Path,
    checkpoint_name: CheckpointName | None = None,
    device: str = "auto",
    *,
    family: str | None = None,
    tokenizer: str | Path | None = None,
) -> LoadedModel:
    """The model of the run in folder `path`.

    `checkpoint_name` is "best" (default where there is one), "last", a step, or "ema" for the
    average of the weights that a run with `train.ema` keeps beside the last ones. `path` may
    also be a checkpoint folder of the original or a Hugging Face model; `family` and
    `tokenizer` then say what the folder does not. Raises RunError if `path` is none of these and
    CheckpointError if it has no usable checkpoint.
    """
    if is_foreign(Path(path)):
        return _load_foreign(Path(path), device, family, tokenizer)
    record = RunRecord(path)
    if family is not None or tokenizer is not None:
        raise UserError(
            f"{path} is a run, which knows its family and its tokenizer; leave them out"
        )
    settings = record.recipe
    file = find_checkpoint(record, checkpoint_name)
    known = tokenizer_of(record)
    model = build_model(settings, known.vocabulary)
    if checkpoint_name == "ema":
        checkpoint.load_average(file, model)
    else:
        checkpoint.load_model(file, model)
    machine = find_machine(_on(settings, device).train)
    return LoadedModel(
        settings,
        model.to(machine.device).eval(),
        known,
        machine,
        checkpoint.load_state(file).step,
    )


def _load_foreign(
    path: Path, device: str, family: str | None, tokenizer: str | Path | None
) -> LoadedModel:
    settings, model, known, step = open_foreign(path, family, tokenizer)
    machine = find_machine(_on(settings, device).train)
    return LoadedModel(settings, model.to(machine.device).eval(), known, machine, step)


def tokenizer_of(record: RunRecord) -> Tokenizer:
    """The run's tokenizer; one that knows no text for a model that was imported without."""
    if "imported" in record.info and not record.folder.tokenizer_file.exists():
        return UnknownTokenizer(int(record.numbers["vocabulary"]))
    return load_tokenizer(str(record.folder.tokenizer_file))


def find_checkpoint(record: RunRecord, name: CheckpointName | None) -> Path:
    """Folder of a run's checkpoint. Raises CheckpointError naming what there is instead."""
    folder = record.folder.checkpoints
    if name is not None and name not in ("best", "last", "ema"):
        if name.isdecimal() and (path := checkpoint.at_step(folder, int(name))) is not None:
            return path
        steps = sorted({step for step, _ in checkpoint.all_of(folder)})
        known = ", ".join(["best", "last", *(f"{step}" for step in steps)])
        raise CheckpointError(
            f"the run {record.path} has no checkpoint {name!r}; there are: {known}"
        )
    for wanted in ("last" if name == "ema" else name,) if name else ("best", "last"):
        path = checkpoint.find(folder, wanted)
        if path is not None:
            return path
    other = {"best": "last", "last": "best"}.get(name or "")
    hint = f"; try the checkpoint `{other}`" if other else ""
    raise CheckpointError(
        f"the run {record.path} has no {name or 'usable'} checkpoint{hint}, or train on with "
        "`epochal train` until one is saved"
    )


def _on(settings: Recipe, device: str) -> Recipe:
    train = dataclasses.replace(settings.train, device=device, compile="off")
    return dataclasses.replace(settings, train=train)
