"""Runs in the original's order of rows, on a store and on a blend; also when they go on."""

from __future__ import annotations

import pytest

from epochal.data.blend import row_order
from epochal.data.corpus import open_corpus
from epochal.recipe import load_recipe, run_numbers
from epochal.training.step import Stepper
from epochal.training.train import train
from tiny_runs import figures, final_files, overrides


class Cut(Exception):
    """The power going out."""


@pytest.mark.parametrize("blend", [False, True])
def test_a_run_goes_on_in_the_same_order(tiny_corpus, tmp_path, monkeypatch, blend):
    changes = {"data__order": "megatron", "train__steps": 12, "checkpoint__every": "4 steps"}
    if blend:
        paths = tmp_path / "paths.txt"
        paths.write_text(f'"2 {tiny_corpus}/train" "1 {tiny_corpus}/validation"')
        changes |= {"data__train": str(paths), "data__tokenizer": f"{tiny_corpus}/tokenizer.json"}
        changes |= {"data__unique_tokens": None}
    seen = []
    plain = Stepper.problems

    def problems(self, step):
        made = plain(self, step)
        seen.append((step, [problem.targets.tolist() for problem in made]))
        return made

    monkeypatch.setattr(Stepper, "problems", problems)
    train(None, overrides(tiny_corpus, tmp_path / "whole", **changes))
    whole = dict(seen)
    recipe = load_recipe(None, overrides(tiny_corpus, tmp_path / "whole", **changes))
    corpus = open_corpus(recipe.data)
    numbers = run_numbers(recipe, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    rows = row_order(recipe, corpus.train, numbers).batch(0, 48).tokens
    for step, [targets] in whole.items():
        assert targets == rows[4 * step : 4 * step + 4, 1:].tolist()

    def cut(self, number, lr):
        if number == 6:
            raise Cut
        return step_of(self, number, lr)

    step_of = Stepper.__call__
    values = overrides(tiny_corpus, tmp_path / "cut", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", cut)
        with pytest.raises(Cut):
            train(None, values)
    train(None, values)
    assert final_files(tmp_path / "cut") == final_files(tmp_path / "whole")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    assert (tmp_path / "cut" / "order").is_dir()
