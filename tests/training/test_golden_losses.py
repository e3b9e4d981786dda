"""Loss curves of 20 steps per family, as the first version that had it gave them.

The tolerance covers another CPU and another BLAS, and no change of an objective, of the data's
order, of masks, of initial weights or of the optimizer.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from epochal.runs import RunRecord
from epochal.training.train import train

FILES = Path(__file__).parents[1] / "data_files"
GOLDEN = json.loads((FILES / "golden_losses.json").read_text())
CASES = {
    "anyorder": {"family": "anyorder", "anyorder.left_to_right": 0.25},
    "ar": {"family": "ar"},
    "ar-orders": {"family": "ar", "ar.orders": 4},
    "block": {"family": "block", "block.size": 8},
    "dual": {"family": "dual"},
    "hybrid": {"family": "hybrid"},
    "mdm": {"family": "mdm"},
    "mdm-stratified": {"family": "mdm", "mdm.noise": "stratified"},
    "uniform": {"family": "uniform"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(FILES / "version_0_1_0.tar.gz") as archive:
        members = [one for one in archive.getmembers() if one.name.startswith("./corpus")]
        archive.extractall(folder, members=members, filter="data")
    return folder / "corpus"


def test_every_family_has_a_curve():
    from epochal.families import family_names

    assert set(family_names()) <= {values["family"] for values in CASES.values()}
    assert set(GOLDEN) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_that_of_before(name, corpus, tmp_path):
    values = {
        "run_dir": str(tmp_path / name),
        "data.corpus": str(corpus),
        "data.sequence_length": 32,
        "model.d_model": 32,
        "model.layers": 2,
        "model.heads": 2,
        "train.steps": 20,
        "train.global_batch_size": 8,
        "train.lr": 5e-3,
        "train.min_lr": 5e-4,
        "train.device": "cpu",
        "train.precision": "fp32",
        "eval.every": "20 steps",
        "eval.max_tokens": 600,
        "log.every": "1 steps",
        "log.tensorboard": False,
    }
    train(None, values | CASES[name])
    record = RunRecord(tmp_path / name)
    losses = np.array([line["loss"] for line in record.metrics("train")])
    validation = [line["nll_nats_per_token"] for line in record.metrics("eval")]
    assert np.allclose(losses, GOLDEN[name]["losses"], rtol=2e-4)
    assert np.allclose(validation, GOLDEN[name]["validation"], rtol=2e-4)
