"""Text from masks with a model whose state at a position predicts the next token."""

from dataclasses import replace
from functools import partial

from epochal.generation import unmasking

WRITER = replace(unmasking.WRITER, generate=partial(unmasking.unmask, shift=1))
