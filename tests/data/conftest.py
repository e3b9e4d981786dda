"""What the tests of the data room share."""

from __future__ import annotations

import pytest
from data_helpers import SAMPLES

from epochal.data.builtin import builtin_documents
from epochal.data.tokenizer_sources import train_bpe


@pytest.fixture(scope="session")
def samples():
    """The reference's sample files, which lie outside of the repository."""
    if not SAMPLES.is_dir():
        pytest.skip(f"the reference's sample files are not here ({SAMPLES})")
    return SAMPLES


@pytest.fixture(scope="session")
def english():
    """Some real text, as documents."""
    return builtin_documents()[:120]


@pytest.fixture(scope="session")
def bpe(english):
    """A small byte-level BPE."""
    return train_bpe(english, 600)
