"""A causal family with an exact NLL that nobody knows: text, tasks, quality and memorisation."""

from __future__ import annotations

import dataclasses

import pytest

from epochal import families
from epochal.errors import OptionError, UserError
from epochal.evaluation.options import QualityOptions
from epochal.evaluation.quality import quality
from epochal.generation.config import GenerationConfig
from epochal.interop.load import load
from epochal.memorisation.memorise import memorise
from epochal.memorisation.options import MemoriseOptions
from epochal.report.text.memorisation import summary
from epochal.training.train import train
from local_tasks import write_rows
from tiny_runs import overrides


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    """A run of the family, which is on the list as long as this module's tests run."""
    known = families.get_family("ar")
    families.register(dataclasses.replace(known, name="toy", title="toy", short="TOY", aliases=()))
    folder = tmp_path_factory.mktemp("toy") / "run"
    train(None, overrides(tiny_corpus, folder, family="toy"))
    yield folder
    families.unregister("toy")


def test_it_writes(run):
    model = load(run, device="cpu")
    [text] = model.generate("The", GenerationConfig(tokens=5, seed=1))
    assert text.startswith("The")
    with pytest.raises(UserError, match="toy models"):
        model.generate("The", GenerationConfig(steps=4))


def test_its_texts_are_judged_and_it_judges(run):
    result = quality(run, run, QualityOptions(tokens=8, samples=3, device="cpu"))
    assert (result.family, result.judge_family, result.order) == ("toy", "toy", "left-to-right")
    assert [row.steps for row in result.rows] == [8]


def test_it_is_scored_on_tasks(run, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from epochal.downstream_tasks.downstream import downstream
    from epochal.downstream_tasks.options import DownstreamOptions

    rows = write_rows(tmp_path, tasks=["sciq"])
    [result] = downstream(run, DownstreamOptions(tasks="sciq", data=rows, device="cpu"))
    assert (result.family, result.mode, result.draws, result.padded) == (
        "toy",
        "exact",
        None,
        False,
    )
    assert result.paper is None
    assert result.chance == 0.25
    with pytest.raises(OptionError, match="toy models have exact and nll"):
        downstream(run, DownstreamOptions(tasks="sciq", data=rows, mode="mc", device="cpu"))


def test_what_it_remembers_is_measured(run, tiny_pair, tmp_path):
    options = MemoriseOptions(
        out=tmp_path, prefix_lengths=(4,), length=3, num_prefixes=9, max_tokens=300, draws=2,
        checkpoints=2, device="cpu",
    )  # fmt: skip
    result = memorise([run, tiny_pair / "ar", tiny_pair / "mdm"], options)
    assert [advice.run for advice in result.advice] == ["run", "ar", "mdm"]
    assert any(sentence.startswith("run (TOY)") for sentence in summary(result))
