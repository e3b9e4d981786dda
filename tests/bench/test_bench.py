"""The benchmark measures comparable things and reckons rightly. No figure is judged here."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from epochal.bench import generation, parts
from epochal.bench.memory import can_measure, peak_memory
from epochal.bench.parts import PARTS, Options, run_parts
from epochal.bench.steps import VARIANTS, Setting, make_step
from epochal.bench.timing import ratio_row, take_turns, time_rows
from epochal.cli.main import main
from epochal.errors import UserError

TINY = Setting(
    d_model=32,
    layers=1,
    heads=2,
    sequence_length=16,
    batch=4,
    vocabulary=200,
    bf16=False,
    compiled=False,
)
OPTIONS = Options(
    rounds=2, setting=TINY, memory=False, estimator_steps=30, estimator_repeats=6, fit_starts=2
)


def test_ratios_are_taken_round_by_round():
    times = {"slow": [4.0, 9.0, 10.0], "fast": [2.0, 3.0, 10.0]}
    row = ratio_row("x", times, "slow", "fast")
    assert (row.value, row.low, row.high) == (2.0, 1.0, 3.0)
    slow, fast = time_rows("x", times, "ms", 1e3)
    assert (slow.value, slow.low, slow.high) == (9000.0, 4000.0, 10000.0)
    assert fast.value == 3000.0


def test_variants_take_turns_after_a_warm_up():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = take_turns("x", variants, 2)
    assert "".join(calls) == "abc" * 3
    assert {name: len(each) for name, each in times.items()} == dict.fromkeys("abc", 2)


def test_the_autoregressive_peer_has_our_loss():
    """Same weights, same rows: so the two steps do the same work, and learn alike."""
    ours, peer = make_step("ours ar", TINY), make_step("nanogpt-style", TINY)
    for number in range(2):
        assert ours(number) == pytest.approx(peer(number), abs=2e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_starts_at_the_uniform_loss_and_learns(name):
    step = make_step(name, TINY)
    losses = [step(0) for _ in range(300)]  # the same rows again and again
    assert np.mean(losses[:5]) == pytest.approx(math.log(200), rel=0.25)
    assert np.mean(losses[-30:]) < np.mean(losses[:30])


@pytest.mark.skipif(not can_measure(), reason="no report on memory by this system")
def test_peak_memory_is_that_of_a_process_of_its_own():
    large = Setting(**{**vars_of(TINY), "vocabulary": 120_000})
    small, more = peak_memory("ours ar", TINY), peak_memory("ours ar", large)
    # Weights, gradient and two moments of the larger table: 4 · 120,064 · 32 · 4 bytes.
    assert more - small > 0.8 * 61


def vars_of(setting):
    return {name: getattr(setting, name) for name in setting.__dataclass_fields__}


def test_a_failing_measurement_is_told():
    if not can_measure():
        pytest.skip("no report on memory by this system")
    with pytest.raises(UserError, match="measuring the memory of nonsense failed"):
        peak_memory("ours ar nonsense".removeprefix("ours ar "), Setting(d_model=0))


@pytest.mark.parametrize("name", sorted(PARTS))
def test_each_part_gives_finite_rows(name):
    torch.manual_seed(0)
    rows = run_parts([name], OPTIONS)
    assert {row.part for row in rows} == {name}
    assert all(math.isfinite(row.value) and row.low <= row.value <= row.high for row in rows)


def test_a_fit_ends_no_higher_than_the_peer():
    """All figures are of one problem; whether it is 100 times as fast is for the command to say."""
    rows = {row.name: row for row in run_parts(["fit"], OPTIONS)}
    assert rows["objective above the peer's lowest"].value <= 1e-9
    fit, peer = rows["fit of 240 points"], rows["L-BFGS-B, 4500 starts"]
    ratio = rows["fit against L-BFGS-B, 4500 starts"]
    assert peer.low / fit.high <= ratio.value <= peer.high / fit.low


def test_our_estimator_has_less_noise_and_the_papers_mean():
    ours, papers = parts._estimates(OPTIONS)
    assert ours.var() < papers.var()
    assert abs(ours.mean() - papers.mean()) < 5 * papers.std() / math.sqrt(len(papers))


def run_command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_the_command(capsys):
    assert run_command("bench", "help", "--rounds", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["torch"] == torch.__version__
    [row] = told["rows"]
    assert row["unit"] == "s"
    assert set(row) == {"part", "name", "value", "unit", "low", "high", "note"}
    assert run_command("bench", "help", "--rounds", "2") == 0
    assert "epochal --help" in capsys.readouterr().out


def test_the_command_with_a_mistake(capsys):
    assert run_command("bench", "stepp") == 2
    assert "Did you mean `step`?" in capsys.readouterr().err
    assert run_command("bench", "--rounds", "1") == 2


def test_both_ways_of_writing_write_the_same():
    """In float32, where rounding does not change which token is the likeliest."""
    model, machine = generation._model(TINY, "ar")
    with torch.no_grad():
        for weight in model.parameters():  # larger weights, clearer choices
            weight.mul_(4 if weight.dim() > 1 else 1)
    ids = torch.randint(200, (3, 6), generator=torch.Generator().manual_seed(1))
    found = [way(model, machine, ids, 8, 200) for way in (generation.cached, generation.read_anew)]
    assert found[0].shape == (3, 14)
    assert torch.equal(*found)
    rows = generation._mdm(TINY, ids, 4)
    for write in rows.values():
        written = write()
        assert torch.equal(written[:, :6], ids)
        assert written.shape == (3, 10)
        assert int(written.max()) < 200
