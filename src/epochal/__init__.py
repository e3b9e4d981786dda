"""Epochal: which learns more from the same unique tokens, autoregression or diffusion?

Everything the command line does, for notebooks and scripts:

    import epochal
    epochal.prepare("my_text/", "corpus")
    result = epochal.compare("quickstart", ["data.corpus=corpus"])
    model = epochal.load("quickstart/mdm")
    model.generate("The [MASK:3] of")

Names are imported when they are first used, so that `import epochal` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "Comparison": "epochal.analysis",
    "EpochalError": "epochal.errors",
    "LoadedModel": "epochal.workflows.load",
    "NLLResult": "epochal.runs",
    "Recipe": "epochal.recipe",
    "RunRecord": "epochal.runs",
    "average": "epochal.workflows.ensemble",
    "compare": "epochal.workflows.compare",
    "compare_existing": "epochal.workflows.compare",
    "download": "epochal.data.download",
    "downstream": "epochal.workflows.downstream",
    "dry_run": "epochal.workflows.dry_run",
    "ensemble": "epochal.workflows.ensemble",
    "evaluate": "epochal.workflows.evaluate",
    "fit": "epochal.workflows.fit",
    "gap": "epochal.workflows.gap",
    "export_hf": "epochal.workflows.exports",
    "export_safetensors": "epochal.workflows.exports",
    "import_hf": "epochal.workflows.imports",
    "import_megatron": "epochal.workflows.imports",
    "inspect": "epochal.data",
    "list_runs": "epochal.report.listing",
    "load": "epochal.workflows.load",
    "load_recipe": "epochal.recipe",
    "memorise": "epochal.workflows.memorise",
    "plan": "epochal.workflows.plan",
    "prepare": "epochal.data",
    "quality": "epochal.workflows.quality",
    "quickstart": "epochal.workflows.quickstart",
    "subset": "epochal.data",
    "study": "epochal.workflows.study",
    "submit": "epochal.workflows.submit",
    "sweep": "epochal.workflows.sweep",
    "train": "epochal.workflows.train",
    "verify": "epochal.data",
    "write_report": "epochal.report",
}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from epochal.analysis import Comparison as Comparison
    from epochal.data.describe import inspect as inspect
    from epochal.data.download import download as download
    from epochal.data.prepare import prepare as prepare
    from epochal.data.subset import subset as subset
    from epochal.data.verify import verify as verify
    from epochal.errors import EpochalError as EpochalError
    from epochal.recipe import Recipe as Recipe
    from epochal.recipe import load_recipe as load_recipe
    from epochal.report import write_report as write_report
    from epochal.report.listing import list_runs as list_runs
    from epochal.runs import NLLResult as NLLResult
    from epochal.runs import RunRecord as RunRecord
    from epochal.workflows.compare import compare as compare
    from epochal.workflows.compare import compare_existing as compare_existing
    from epochal.workflows.downstream import downstream as downstream
    from epochal.workflows.dry_run import dry_run as dry_run
    from epochal.workflows.ensemble import average as average
    from epochal.workflows.ensemble import ensemble as ensemble
    from epochal.workflows.evaluate import evaluate as evaluate
    from epochal.workflows.exports import export_hf as export_hf
    from epochal.workflows.exports import export_safetensors as export_safetensors
    from epochal.workflows.fit import fit as fit
    from epochal.workflows.gap import gap as gap
    from epochal.workflows.imports import import_hf as import_hf
    from epochal.workflows.imports import import_megatron as import_megatron
    from epochal.workflows.load import LoadedModel as LoadedModel
    from epochal.workflows.load import load as load
    from epochal.workflows.memorise import memorise as memorise
    from epochal.workflows.plan import plan as plan
    from epochal.workflows.quality import quality as quality
    from epochal.workflows.quickstart import quickstart as quickstart
    from epochal.workflows.study import study as study
    from epochal.workflows.submit import submit as submit
    from epochal.workflows.sweep import sweep as sweep
    from epochal.workflows.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'epochal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
