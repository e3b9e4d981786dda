"""A student of text that its teachers write, mixed with its own: sequence-level distillation.

As in Kim et al., arXiv 2509.14786, whose student of eight models was trained from the start on
real text and on unconditional samples of theirs. Teachers may be of any family and tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.corpus import TRAIN, open_corpus
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.subset import subset
from epochal.errors import RecipeError
from epochal.evaluation.load import load_run
from epochal.generation.config import GenerationConfig
from epochal.generation.prompts import generate_file
from epochal.recipe import Recipe
from epochal.recipe.distill import Distill
from epochal.runs import RunRecord, parse_run_checkpoint, read_lines
from epochal.training.distill import student_recipe
from epochal.training.train import train


def distill_texts(
    teachers: Sequence[str | Path],
    out: str | Path,
    texts: int,
    recipe: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    restart: bool = False,
) -> RunRecord:
    """Train a model in folder `out` on its text and on `texts` texts of each of `teachers`.

    Arguments as for `distill`; `distill.share` is the share of rows that are written ones,
    `distill.temperature` that of writing. Texts, their corpus and the mixture are kept in
    `<out>-texts`; the same call resumes. Raises RecipeError for a share of 0, and what
    `generate_file`, `prepare` and `train` raise.
    """
    settings = student_recipe(teachers, out, recipe, overrides)
    distill, settings = settings.distill, replace(settings, distill=Distill())
    if distill.share == 0:
        raise RecipeError("`distill.share` = 0 leaves no row to the texts; give a share above 0")
    folder = Path(f"{out}-texts")
    written = _written(distill, texts, folder, settings)
    # A blend has no first tokens, so those that the recipe uses become a store.
    data = settings.data
    own = data.train or f"{data.corpus}/{TRAIN}"
    if data.unique_tokens is not None:
        own = str(subset(own, folder / "own", data.unique_tokens).prefix)
    shares = ((1 - distill.share, own), (distill.share, written))
    entries = [f'"{share:g} {Path(store).resolve()}"\n' for share, store in shares if share]
    blend = folder / "blend.txt"
    files.write_text(blend, "".join(entries))
    mixed = replace(data, train=str(blend), unique_tokens=None)
    return train(replace(settings, data=mixed), restart=restart)


def _written(distill: Distill, texts: int, folder: Path, settings: Recipe) -> Path:
    """The store of the teachers' texts, each a document, in the tokens of the student."""
    lines = []
    for number, teacher in enumerate(distill.teachers):
        path, name = parse_run_checkpoint(teacher)
        loaded = load_run(path, name, settings.train.device)
        config = GenerationConfig(
            tokens=loaded.sequence_length - 1,  # after the end of the document before
            samples=texts,
            seed=number,
            temperature=distill.temperature,
        )
        file = folder / f"teacher-{number + 1}.jsonl"
        generate_file(loaded.generator, [""], file, config)
        lines += [text for line in read_lines(file) for text in line["texts"] if text]
    source, tokenizer = folder / "texts.jsonl", folder / "tokenizer.json"
    files.write_text(source, "".join(json.dumps({"text": text}) + "\n" for text in lines))
    open_corpus(settings.data).tokenizer.save(tokenizer)
    corpus = prepare(source, folder / "corpus", PrepareOptions(tokenizer=tokenizer, validation=0))
    return corpus.folder / TRAIN
