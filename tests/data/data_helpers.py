"""Files for the tests of the data room, written independently of the code under test."""

from __future__ import annotations

import json
import struct
from itertools import accumulate
from pathlib import Path

import numpy as np

FILES = Path(__file__).parents[1] / "data_files"
SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
CASES = Path(__file__).parents[3] / "shared" / "cases"


def original_index(dtype_code, itemsize, sizes, document_list):
    """An index as the format's description has it, written independently of our writer."""
    pointers = [end * itemsize for end in accumulate(sizes, initial=0)][:-1]
    return (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, dtype_code, len(sizes), len(document_list))
        + struct.pack(f"<{len(sizes)}i", *sizes)
        + struct.pack(f"<{len(sizes)}q", *pointers)
        + struct.pack(f"<{len(document_list)}q", *document_list)
    )


def write_pair(prefix, ids, sizes, document_list=None, dtype="<u2", code=8):
    """A pair .bin/.idx without a metadata, as foreign tools write it."""
    tokens = np.array(ids, dtype=dtype)
    prefix.with_name(prefix.name + ".bin").write_bytes(tokens.tobytes())
    document_list = list(range(len(sizes) + 1)) if document_list is None else document_list
    index = original_index(code, tokens.itemsize, list(sizes), document_list)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    return prefix


def lines(folder, texts, name="x.jsonl"):
    """A file of JSON lines."""
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def contents(folder):
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


TEXTS = [f"document number {number} " * (1 + number % 5) for number in range(60)]
