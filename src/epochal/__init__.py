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
import os
from typing import TYPE_CHECKING, Any

from epochal._version import __version__ as __version__

# Threads that wait for each other soon sleep. Spinning for as long as OpenMP does by default costs
# them their share of the cores beside other work: steps took 5 to 25 times as long. GNU's OpenMP
# spins a thousand times first, which on a quiet machine is faster than sleeping at once. Both are
# read when torch is loaded (docs/one-machine.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# matplotlib keeps a list of fonts in the home folder, and says so where that is read-only.
if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111 - pathlib is not needed here
    import tempfile

    _place = os.path.join(tempfile.gettempdir(), f"epochal-{getattr(os, 'getuid', int)()}")  # noqa: PTH118
    os.environ.setdefault("MPLCONFIGDIR", _place)

_MODULES = {
    "DownloadOptions": "epochal.data.options",
    "DuplicateOptions": "epochal.data.options",
    "PrepareOptions": "epochal.data.options",
    "SubsetOptions": "epochal.data.options",
    "CompareOptions": "epochal.studies.options",
    "Comparison": "epochal.comparison",
    "DownstreamOptions": "epochal.downstream_tasks.options",
    "DryRunOptions": "epochal.training.options",
    "EpochalError": "epochal.errors",
    "EvalOptions": "epochal.evaluation.options",
    "FitOptions": "epochal.scaling.options",
    "GenerationConfig": "epochal.generation.config",
    "ImportOptions": "epochal.interop.options",
    "LoadedModel": "epochal.evaluation.load",
    "MemoriseOptions": "epochal.memorisation.options",
    "MegatronOptions": "epochal.interop.options",
    "NLLResult": "epochal.runs",
    "PlanOptions": "epochal.scaling.options",
    "Recipe": "epochal.recipe",
    "ReportOptions": "epochal.report.options",
    "QualityOptions": "epochal.evaluation.options",
    "RunRecord": "epochal.runs",
    "RunSummary": "epochal.runs.summary",
    "average": "epochal.evaluation.ensemble",
    "Resources": "epochal.sweeps.options",
    "StudyOptions": "epochal.studies.options",
    "SubmitOptions": "epochal.sweeps.options",
    "SweepOptions": "epochal.sweeps.options",
    "compare": "epochal.studies.compare",
    "compare_existing": "epochal.studies.compare",
    "critical_unique_tokens": "epochal.scaling.plan",
    "distill": "epochal.training.distill",
    "doctor": "epochal.diagnosis",
    "download": "epochal.data.download",
    "downstream": "epochal.downstream_tasks.downstream",
    "dry_run": "epochal.training.dry_run",
    "ensemble": "epochal.evaluation.ensemble",
    "evaluate": "epochal.evaluation.evaluate",
    "fit": "epochal.scaling.fit",
    "gap": "epochal.evaluation.gap",
    "export_hf": "epochal.interop.exports",
    "export_safetensors": "epochal.interop.exports",
    "import_hf": "epochal.interop.imports",
    "import_megatron": "epochal.interop.imports",
    "inspect": "epochal.data.inspection",
    "list_runs": "epochal.runs.find",
    "load": "epochal.interop.load",
    "load_recipe": "epochal.recipe",
    "measure_duplicates": "epochal.data.duplicates",
    "memorise": "epochal.memorisation.memorise",
    "plan": "epochal.scaling.plan",
    "prepare": "epochal.data.prepare",
    "quality": "epochal.evaluation.quality",
    "quickstart": "epochal.studies.quickstart",
    "subset": "epochal.data.subset",
    "study": "epochal.studies.study",
    "submit": "epochal.sweeps.submit",
    "sweep": "epochal.sweeps.sweep",
    "TuneOptions": "epochal.sweeps.options",
    "train": "epochal.training.train",
    "tune": "epochal.sweeps.tune",
    "verify": "epochal.data.inspection",
    "write_report": "epochal.report",
}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from epochal.comparison import Comparison as Comparison
    from epochal.data.download import download as download
    from epochal.data.duplicates import measure_duplicates as measure_duplicates
    from epochal.data.inspection import inspect as inspect
    from epochal.data.inspection import verify as verify
    from epochal.data.options import DownloadOptions as DownloadOptions
    from epochal.data.options import DuplicateOptions as DuplicateOptions
    from epochal.data.options import PrepareOptions as PrepareOptions
    from epochal.data.options import SubsetOptions as SubsetOptions
    from epochal.data.prepare import prepare as prepare
    from epochal.data.subset import subset as subset
    from epochal.diagnosis import doctor as doctor
    from epochal.downstream_tasks.downstream import downstream as downstream
    from epochal.downstream_tasks.options import DownstreamOptions as DownstreamOptions
    from epochal.errors import EpochalError as EpochalError
    from epochal.evaluation.ensemble import average as average
    from epochal.evaluation.ensemble import ensemble as ensemble
    from epochal.evaluation.evaluate import evaluate as evaluate
    from epochal.evaluation.gap import gap as gap
    from epochal.evaluation.load import LoadedModel as LoadedModel
    from epochal.evaluation.options import EvalOptions as EvalOptions
    from epochal.evaluation.options import QualityOptions as QualityOptions
    from epochal.evaluation.quality import quality as quality
    from epochal.generation.config import GenerationConfig as GenerationConfig
    from epochal.interop.exports import export_hf as export_hf
    from epochal.interop.exports import export_safetensors as export_safetensors
    from epochal.interop.imports import import_hf as import_hf
    from epochal.interop.imports import import_megatron as import_megatron
    from epochal.interop.load import load as load
    from epochal.interop.options import ImportOptions as ImportOptions
    from epochal.interop.options import MegatronOptions as MegatronOptions
    from epochal.memorisation.memorise import memorise as memorise
    from epochal.memorisation.options import MemoriseOptions as MemoriseOptions
    from epochal.recipe import Recipe as Recipe
    from epochal.recipe import load_recipe as load_recipe
    from epochal.report import write_report as write_report
    from epochal.report.options import ReportOptions as ReportOptions
    from epochal.runs import NLLResult as NLLResult
    from epochal.runs import RunRecord as RunRecord
    from epochal.runs.find import list_runs as list_runs
    from epochal.runs.summary import RunSummary as RunSummary
    from epochal.scaling.fit import fit as fit
    from epochal.scaling.options import FitOptions as FitOptions
    from epochal.scaling.options import PlanOptions as PlanOptions
    from epochal.scaling.plan import critical_unique_tokens as critical_unique_tokens
    from epochal.scaling.plan import plan as plan
    from epochal.studies.compare import compare as compare
    from epochal.studies.compare import compare_existing as compare_existing
    from epochal.studies.options import CompareOptions as CompareOptions
    from epochal.studies.options import StudyOptions as StudyOptions
    from epochal.studies.quickstart import quickstart as quickstart
    from epochal.studies.study import study as study
    from epochal.sweeps.options import Resources as Resources
    from epochal.sweeps.options import SubmitOptions as SubmitOptions
    from epochal.sweeps.options import SweepOptions as SweepOptions
    from epochal.sweeps.options import TuneOptions as TuneOptions
    from epochal.sweeps.submit import submit as submit
    from epochal.sweeps.sweep import sweep as sweep
    from epochal.sweeps.tune import tune as tune
    from epochal.training.distill import distill as distill
    from epochal.training.dry_run import dry_run as dry_run
    from epochal.training.options import DryRunOptions as DryRunOptions
    from epochal.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'epochal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
