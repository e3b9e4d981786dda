"""The public names, pinned: taking one away or renaming it breaks users."""

from __future__ import annotations

import pytest

import epochal

NAMES = [
    "DownloadOptions",
    "DuplicateOptions",
    "PrepareOptions",
    "SubsetOptions",
    "CompareOptions",
    "Comparison",
    "DownstreamOptions",
    "DryRunOptions",
    "EpochalError",
    "EvalOptions",
    "FitOptions",
    "GenerationConfig",
    "ImportOptions",
    "LoadedModel",
    "MemoriseOptions",
    "MegatronOptions",
    "NLLResult",
    "PlanOptions",
    "Recipe",
    "ReportOptions",
    "QualityOptions",
    "Resources",
    "RunRecord",
    "StudyOptions",
    "SubmitOptions",
    "SweepOptions",
    "TuneOptions",
    "RunSummary",
    "average",
    "compare",
    "compare_existing",
    "critical_unique_tokens",
    "distill",
    "doctor",
    "download",
    "downstream",
    "dry_run",
    "ensemble",
    "evaluate",
    "fit",
    "gap",
    "export_hf",
    "export_safetensors",
    "import_hf",
    "import_megatron",
    "inspect",
    "list_runs",
    "load",
    "load_recipe",
    "measure_duplicates",
    "memorise",
    "plan",
    "prepare",
    "quality",
    "quickstart",
    "study",
    "submit",
    "subset",
    "sweep",
    "train",
    "tune",
    "verify",
    "write_report",
]


def test_these_are_the_names():
    assert epochal.__all__ == sorted(NAMES)
    assert set(NAMES) <= set(dir(epochal))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_documented(name):
    assert getattr(epochal, name).__doc__


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="trainn"):
        _ = epochal.trainn
