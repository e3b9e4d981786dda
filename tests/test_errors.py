"""Hints at the word that was meant, and exit codes."""

from __future__ import annotations

import pytest

from epochal import errors


def test_the_nearest_word_is_named():
    assert errors.nearest("epoch", ["epochs", "tokens", "steps"]) == " Did you mean `epochs`?"
    assert errors.nearest("zebra", ["epochs", "tokens"]) == ""
    assert errors.nearest("epoch", (word for word in ["epochs"])) == " Did you mean `epochs`?"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RecipeError, 2),
        (errors.DataError, 2),
        (errors.RunError, 2),
        (errors.CheckpointError, 2),
        (errors.StorageError, 2),
        (errors.TrainingDiverged, 1),
    ],
)
def test_exit_codes(kind, code):
    assert issubclass(kind, errors.EpochalError)
    assert kind("x").exit_code == code


def test_a_stopped_run_says_how_it_was_stopped():
    assert errors.TrainingStopped("stopped", 143).exit_code == 143
