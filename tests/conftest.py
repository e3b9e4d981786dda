"""What all tests share: one thread, a fixed supply of generated inputs, the sample files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported: with two threads, tests of small tensors took four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

import processes
from epochal import progress

settings.register_profile("epochal", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("epochal")
processes.use_for_all_runs()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that the processes of `make test` end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def _one_thread():
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    processes.measure_quickly()


@pytest.fixture(autouse=True)
def _every_notice(monkeypatch):
    """A notice that comes once per process comes once per test."""
    monkeypatch.setattr(progress, "_said", set())


@pytest.fixture
def shared():
    """Sample files and notes of the original, which lie beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("the original's sample files (../shared) are not here")
    return SHARED


@pytest.fixture
def random():
    """numpy's generator with a fixed seed."""
    return np.random.default_rng(20240711)


@pytest.fixture
def third_family():
    """A made-up family, registered while the test runs; its name."""
    from epochal.families import Family, register, unregister

    register(
        Family(
            name="third",
            title="third kind",
            short="3K",
            color="#007a33",
            dark_color="#5fd38a",
            marker="s",
            exact=False,
            objective="epochal.objectives.masked_diffusion:MaskedDiffusion",
            attention="bidirectional",
            writer="epochal.generation.unmasking",
            mask_token=True,
        )
    )
    yield "third"
    unregister("third")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A corpus of real text of some ten thousand tokens; see tiny_runs.py."""
    from tiny_runs import make_corpus

    return make_corpus(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_pair(tiny_corpus, tmp_path_factory):
    """A folder with the runs ar and mdm, trained for a moment, evaluated and compared.

    Tests must not change it.
    """
    from epochal.studies.compare import compare
    from epochal.studies.options import CompareOptions
    from tiny_runs import overrides

    folder = tmp_path_factory.mktemp("pair")
    values = overrides(tiny_corpus, folder, train__steps=120, eval__every="10 steps")
    del values["run_dir"]
    compare(None, values, CompareOptions(out=folder))
    return folder
