"""What `train` says about its settings."""

from __future__ import annotations

import pytest

from epochal.errors import RecipeError
from epochal.recipe import load_recipe
from epochal.training import train as module
from epochal.training.train import bare_model


def settings(**changes):
    base = {"train.steps": 1, "model.d_model": 32, "model.layers": 1, "model.heads": 2}
    return load_recipe(None, base | changes)


def test_a_law_file_without_a_law_of_the_family_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(module, "read_laws", lambda path: {"mdm": object()})
    module._advice(settings(**{"log.law": "law.toml"}), None, None)
    said = capsys.readouterr().err
    assert "law.toml" in said
    assert "family ar" in said
    module._advice(settings(**{"log.law": "law.toml", "family": "mdm"}), None, None)
    assert not capsys.readouterr().err


def test_a_family_with_a_mask_needs_a_row_for_it():
    wanted = {"model.padded_vocab_size": 300}
    assert bare_model(settings(**wanted), 300).output_weight.shape == (300, 32)
    with pytest.raises(RecipeError, match=r"padded_vocab_size` = 300 .*at least 301"):
        bare_model(settings(**wanted, family="mdm"), 300)
