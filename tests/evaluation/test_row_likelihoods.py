"""`LoadedModel.nll`, likelihoods of single rows, against the enumerated world."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from epochal.errors import UserError
from epochal.evaluation.load import LoadedModel
from epochal.recipe import load_recipe
from tiny_world import MACHINE, MASK, VOCABULARY, Oracle, random_joint, true_nll

JOINT = random_joint(1)
ROWS = torch.tensor([[0, 1, 2, 0, 0], [0, 0, 1, 1, 2], [2, 0, 0, 0, 0]])
TRUE = np.array([true_nll(JOINT, row.numpy()) for row in ROWS])


def loaded(family):
    given = {"train.steps": 1, "family": family, "data.sequence_length": ROWS.shape[1]}
    recipe = load_recipe(None, given)
    tokenizer = SimpleNamespace(mask=MASK, vocabulary=VOCABULARY)
    return LoadedModel(recipe, Oracle(JOINT), tokenizer, MACHINE, step=1)


def test_ar_is_exact():
    nll, error = loaded("ar").nll(ROWS)
    np.testing.assert_allclose(nll, TRUE, rtol=1e-12)
    assert (error == 0).all()


@pytest.mark.parametrize("draws", [8, 32])
def test_diffusion_is_unbiased_with_an_honest_error(draws):
    model = loaded("mdm")
    found = [model.nll(ROWS, draws, seed) for seed in range(120)]
    nll, error = (np.stack([pair[part].numpy() for pair in found]) for part in (0, 1))
    spread = nll.std(axis=0, ddof=1)
    assert (np.abs(nll.mean(axis=0) - TRUE) < 4 * spread / np.sqrt(120)).all()
    ratio = spread / np.sqrt(np.square(error).mean(axis=0))
    assert (ratio > 0.8).all()
    assert (ratio < 1.25).all()


def test_a_row_does_not_depend_on_the_draws_of_another_seed():
    model = loaded("mdm")
    assert torch.equal(model.nll(ROWS, 4, 1)[0], model.nll(ROWS, 4, 1)[0])
    assert not torch.equal(model.nll(ROWS, 4, 1)[0], model.nll(ROWS, 4, 2)[0])


def test_one_draw_has_no_error_bar():
    with pytest.raises(UserError, match="at least 2 are needed for the error bar"):
        loaded("mdm").nll(ROWS, 1)
