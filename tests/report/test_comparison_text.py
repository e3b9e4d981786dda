"""The sentence about a comparison says no more than the numbers do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from epochal.comparison import compare_runs
from epochal.report.text import describe
from epochal.report.text.comparison import verdict
from made_runs import make_run

FALLING = np.linspace(5.0, 4.0, 50)
FLAT = np.maximum(4.0, np.linspace(5.0, 3.0, 50))
RISING = np.concatenate((np.linspace(5.0, 3.9, 20), np.linspace(3.9, 4.4, 30)))
TURNED = np.array([5.0, 4.5, 4.2, 4.0, 4.1, 4.3])


def compared(folder, ar, mdm, ar_nll=None, mdm_nll=None, **more):
    runs = [
        make_run(folder / "a", "ar", ar, nll=ar_nll),
        make_run(folder / "b", "mdm", mdm, nll=mdm_nll, **more),
    ]
    return compare_runs(runs)


def test_a_bound_leads_by_at_least_the_difference(tmp_path):
    text = verdict(compared(tmp_path, RISING, FALLING, 3.9, 3.6))
    assert text.startswith(
        "MDM learned more from these 100,000 unique tokens, by at least 0.300 ± 0.00"
    )
    assert "(AR 3.900, MDM at most 3.600)" in text
    assert "AR was best at epoch 4.0 and has since overfitted by 0.50" in text
    assert "MDM was still falling at the end (epoch 10.0)" in text


def test_an_exact_nll_leads_a_bound_by_at_most_the_difference(tmp_path):
    text = verdict(compared(tmp_path, FLAT, FLAT, 3.5, 4.0))
    assert text.startswith("AR learned more from these 100,000 unique tokens, by at most 0.500 ±")
    assert "AR had levelled off by epoch 10.0" in text
    assert text.endswith("whether the best losses of AR and MDM would cross later.")


@pytest.mark.parametrize("lead", [0.004, -0.004, 0.0])
def test_too_close_to_call(tmp_path, lead):
    text = verdict(compared(tmp_path, FLAT, FLAT, 4.0, 4.0 + lead))
    assert text.startswith("Too close to call on 100,000 unique tokens: the difference is 0.00")
    assert "learned more" not in text


def test_crossings(tmp_path):
    text = verdict(compared(tmp_path, FLAT, np.linspace(5.0, 3.5, 50)))
    assert re.search(r"MDM's curve passed AR's at \d+T FLOPs\.$", text)
    flops = np.linspace(0.02, 1, 50)
    text = verdict(compared(tmp_path / "z", RISING, 3.0 + flops**-0.4))
    assert "extrapolated, MDM's curve would come to AR's best near 1." in text
    assert "95 % interval" in text


@pytest.mark.parametrize(
    ("shift", "end"),
    [
        (0.6, "so training longer would not bring MDM to AR's best."),
        (-0.6, "so training longer would not bring AR to MDM's best."),
        (0.0, "both overfit at these settings."),
    ],
)
def test_both_overfit_is_an_answer(tmp_path, shift, end):
    assert verdict(compared(tmp_path, TURNED, TURNED + shift)).endswith(end)


def test_three_families(tmp_path, third_family):
    runs = [
        make_run(tmp_path / "a", "ar", TURNED, nll=4.0),
        make_run(tmp_path / "b", "mdm", TURNED, nll=3.8),
        make_run(tmp_path / "c", third_family, FLAT, nll=3.5, spread=0.05),
    ]
    text = verdict(compare_runs(runs))
    assert text.startswith("3K learned more from these 100,000 unique tokens than AR by at least")
    assert re.search(r" and than MDM by 0\.300 ± 0\.\d+ nats per token", text)
    assert "(AR 4.000, MDM at most 3.800, 3K at most 3.500)" in text
    assert "AR and MDM overfit at these settings" in text
    runs[1] = make_run(tmp_path / "d", "mdm", TURNED, nll=3.5, spread=0.05, seed=1)
    assert verdict(compare_runs(runs)).startswith("Too close to call between ")


def test_notes(tmp_path):
    comparison = compared(tmp_path, FLAT, FLAT, 4.0, 4.0, flops=3e15, status="stopped")
    bound, error, compute, unfinished = map(describe, comparison.notes)
    assert bound.startswith("the NLL of MDM is an upper bound")
    assert bound.endswith("that of AR is exact")
    assert "does not cover other seeds" in error
    assert compute.endswith("AR 1e+15, MDM 3e+15")
    assert unfinished == f"not finished: {tmp_path / 'b'}"
