"""The one rule for runs whose losses may be compared."""

from __future__ import annotations

import pytest

from epochal.errors import RunError
from epochal.runs.comparable import (
    SAME_SCALE,
    SAME_TASK,
    Condition,
    check_comparable,
    mismatches,
)
from made_runs import make_run


@pytest.fixture
def runs(tmp_path):
    made = [make_run(tmp_path / name, "ar", [4.0]) for name in "abc"]
    for run in made:
        run.numbers.update(vocabulary=300, sequence_length=64)
    return made


def test_runs_alike_are_comparable(runs):
    assert mismatches(runs, SAME_TASK) == []
    assert mismatches(runs[:1]) == []
    check_comparable(runs, "never shown")


@pytest.mark.parametrize("condition", list(Condition))
def test_each_condition_counts(runs, condition):
    info = runs[2].info
    if condition in (Condition.TRAINING, Condition.VALIDATION):
        role = "train" if condition is Condition.TRAINING else "validation"
        facts, key, other = info["corpus"][role], "content_sha256", "other"
    else:
        facts, key, other = info["numbers"], condition.value, 7
    before, facts[key] = facts[key], other
    (mismatch,) = mismatches(runs, SAME_TASK)
    assert mismatch.condition is condition
    assert mismatch.runs == (str(runs[0].path), str(runs[2].path))
    assert mismatch.values == (before, other)
    # Losses of runs on other training tokens are still on one scale.
    assert bool(mismatches(runs)) == (condition in SAME_SCALE)
    with pytest.raises(RunError, match=rf"differ in {condition.label}.*; do this$"):
        check_comparable(runs, "do this", SAME_TASK)


def test_what_a_record_does_not_have_is_not_counted(runs):
    del runs[0].numbers["vocabulary"]
    runs[1].info["corpus"] = None
    assert mismatches(runs, SAME_TASK) == []
    runs[2].numbers["vocabulary"] = 7
    assert mismatches(runs)[0].runs == (str(runs[1].path), str(runs[2].path))
