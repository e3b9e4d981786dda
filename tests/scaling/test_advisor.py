"""Advice on curves whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import constants, law

from epochal.report.text.plan import advice_text
from epochal.runs import RunRecord
from epochal.scaling.advisor import advise, progress_text
from epochal.scaling.optimum import best_length
from made_runs import make_run

NUMBERS = {"params": 3e8, "unique_tokens": 1e8, "steps": 1000}


def truth():
    """A law that turns, and the epoch at which it does for 300M parameters on 100M tokens."""
    planted = law("overfitting")
    return planted, best_length(planted, 3e8, 1e8) / 1e8


def lines(until, noise=0.0, seed=0, count=40):
    """Evaluations every so often up to an epoch."""
    planted, _ = truth()
    epochs = np.linspace(until / count, until, count)
    nll = planted.predict(3e8, 1e8 * epochs, 1e8)
    nll = nll + noise * np.random.default_rng(seed).standard_normal(count)
    return [
        {"step": i, "epochs": float(e), "nll_nats_per_token": float(v)}
        for i, (e, v) in enumerate(zip(epochs, nll, strict=True))
    ]


def test_the_laws_own_best_length_is_its_minimum():
    planted, best = truth()
    grid = np.geomspace(0.5, 1000, 20001)
    assert best == pytest.approx(grid[planted.predict(3e8, 1e8 * grid, 1e8).argmin()], rel=1e-3)


def test_a_curve_that_has_turned():
    _, best = truth()
    advice = advise(lines(3 * best, noise=0.002))
    assert advice.turned
    assert advice.best_epoch == pytest.approx(best, rel=0.35)
    assert progress_text(advice).startswith("turned at epoch")
    assert "best checkpoint is kept" in advice_text(advice)


def test_noise_is_not_taken_for_a_turn():
    _, best = truth()
    for seed in range(20):
        assert not advise(lines(0.6 * best, noise=0.02, seed=seed)).turned


def test_the_best_epoch_is_predicted_within_its_interval():
    _, best = truth()
    inside = 0
    for seed in range(20):
        advice = advise(lines(0.8 * best, noise=0.002, seed=seed))
        assert not advice.turned
        if advice.interval is None:
            inside += 1  # "not in sight" claims nothing
            continue
        low, high = advice.interval
        inside += low <= best <= (high or np.inf)
    assert inside >= 18


def test_a_best_that_is_far_away_is_not_in_sight():
    _, best = truth()
    advice = advise(lines(0.05 * best, noise=0.003))
    assert advice.best_epoch is None
    assert "cannot be predicted yet" in advice_text(advice)


def test_what_an_hour_buys():
    planted, best = truth()
    until = 0.4 * best
    advice = advise(lines(until, noise=0.001), seconds=2 * 3600)
    true = planted.predict(3e8, 1e8 * until, 1e8) - planted.predict(3e8, 1.5e8 * until, 1e8)
    low, high = advice.next_hour_interval
    assert low <= true <= high
    assert advice.next_hour == pytest.approx(true, abs=0.03)
    assert "another hour would lower it" in advice_text(advice)
    assert advise(lines(until)).next_hour is None


def test_the_line_has_the_interval_or_nothing():
    """A fall that has just become steep may go on; of a level curve nothing can be told."""
    epochs = np.linspace(0.1, 2.0, 20)

    def curve(nll):
        return [{"epochs": e, "nll_nats_per_token": n} for e, n in zip(epochs, nll, strict=True)]

    level = 5.2 + 0.02 * np.cos(9 * epochs)
    steep = advise(curve(np.where(epochs < 1, level, 5.2 - 0.5 * np.log(epochs))), seconds=30.0)
    low, high = steep.next_hour_interval
    assert low <= 0.5 * np.log(3) <= high
    assert low > 0
    assert progress_text(steep).endswith(f"({-high:+.3f} to {-low:+.3f})")
    assert progress_text(advise(curve(level), seconds=30.0)).endswith("3× longer: too early to say")


def test_a_law_adds_its_own_epoch():
    planted, best = truth()
    advice = advise(lines(0.05 * best), planted, numbers=NUMBERS)
    assert advice.law_epoch == pytest.approx(best, rel=1e-3)
    assert "the law puts the best at epoch" in advice_text(advice)
    assert advise(lines(0.05 * best), law(), numbers=NUMBERS).law_epoch is None


def test_few_and_broken_evaluations():
    assert advice_text(advise([])) == "No evaluation yet."
    some = [*lines(1.0, count=3), {"step": 9, "epochs": 2.0, "nll_nats_per_token": None}]
    assert progress_text(advise(some)) == ""


def test_a_record(tmp_path):
    record = make_run(tmp_path / "a", "ar", [5, 4, 3.5, 3.2, 3.1, 3.1, 3.2, 3.4, 3.6, 3.8])
    speed = {"kind": "train", "step": 100, "tokens": 1e6, "tokens_per_second": 100.0}
    with record.folder.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(speed) + "\n")
    advice = advise(RunRecord(record.path))
    assert advice.turned
    assert advice.next_hour < 0


def test_training_hears_it(tiny_corpus, tmp_path, monkeypatch):
    """The words reach the progress line, and a law given in the recipe is heard, too."""
    import epochal
    from epochal.training import loop
    from tiny_runs import overrides

    path = tmp_path / "law.toml"
    given = constants("overfitting") | {"P": 0.05}
    told = [f"{name} = {value}" for name, value in given.items()]
    path.write_text("\n".join(["[ar]", 'law = "overfitting"', *told]))
    heard, step = [], loop._Meter.step

    def listening(meter, state, result):
        heard.append(meter.advice)
        step(meter, state, result)

    monkeypatch.setattr(loop._Meter, "step", listening)
    values = overrides(tiny_corpus, tmp_path / "run", eval__every="3 steps", log__law=str(path))
    epochal.train(None, values)
    assert heard[0] == ""
    assert any(word.startswith(("law: best at epoch", "best near", "turned")) for word in heard)


def test_an_hour_beyond_reach_is_not_spoken_of():
    """A run of half a minute: an hour would be 120 times as long, of which nobody knows."""
    _, best = truth()
    advice = advise(lines(0.5 * best, noise=0.002), numbers=NUMBERS, seconds=30.0)
    assert advice.beyond_reach
    assert "another hour" not in advice_text(advice)
    assert "training to 3 times these epochs" in advice_text(advice)
    assert "3× longer: " in progress_text(advice)
    long = advise(lines(0.5 * best, noise=0.002), numbers=NUMBERS, seconds=36000.0)
    assert not long.beyond_reach
    assert "another hour would lower it" in advice_text(long)
    assert "1 h more: -" in progress_text(long)


def seen(nll):
    """Evaluations, one an epoch."""
    return [
        {"step": i, "epochs": i + 1.0, "nll_nats_per_token": float(v)} for i, v in enumerate(nll)
    ]


def test_a_plateau_has_no_best_epoch_behind_it():
    """Diffusion before it learns from context: a fall, then noise about a level."""
    for seed in range(40):
        noise = 0.003 * np.random.default_rng(seed).standard_normal(12)
        nll = 5.29 + 0.4 * np.exp(-1.5 * np.arange(12)) + noise
        nll[-1] = nll[:-1].min() + 0.004  # not clearly above the lowest
        advice = advise(seen(nll))
        assert advice.best_epoch is None or advice.best_epoch > 12
    nll[-2:] = 5.40  # where it has risen, it is told
    assert advise(seen(nll)).best_epoch is not None
