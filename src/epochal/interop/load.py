"""`load`: a trained model from a run, or from a folder of another program's."""

from __future__ import annotations

from pathlib import Path

from epochal.device import find_machine
from epochal.errors import UserError
from epochal.evaluation.load import CheckpointName, LoadedModel, load_run, on_device
from epochal.interop.imports import is_foreign, open_foreign


def load(
    path: str | Path,
    checkpoint_name: CheckpointName | None = None,
    device: str = "auto",
    *,
    family: str | None = None,
    tokenizer: str | Path | None = None,
) -> LoadedModel:
    """The model in folder `path`: a run, a checkpoint of the original or a Hugging Face model.

    `checkpoint_name` is as for `load_run`. `family` and `tokenizer` say what a folder of
    another program does not. Raises RunError if `path` is none of these and CheckpointError
    if it has no usable checkpoint.
    """
    if not is_foreign(Path(path)):
        made = load_run(path, checkpoint_name, device)
        if family is not None or tokenizer is not None:
            raise UserError(
                f"{path} is a run, which knows its family and its tokenizer; leave them out"
            )
        return made
    settings, model, known, step = open_foreign(Path(path), family, tokenizer)
    machine = find_machine(on_device(settings, device).train)
    return LoadedModel(settings, model.to(machine.device).eval(), known, machine, step)
