"""The benchmarks compare like with like, and their ratios are right. No figure is judged here."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import run
from epochal.cli.main import main
from epochal.data.builtin import builtin_documents
from epochal.errors import UserError
from parts import PARTS, estimator, generation, memory, prepare, run_parts, tokenizer
from parts.memory import can_measure, peak_memory
from parts.options import Options, Setting
from parts.peers import peer_step, peers_in
from parts.steps import make_step, variants
from parts.timing import ratio_row, take_turns, time_rows

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
    rounds=2, setting=TINY, training_steps=30, repeats=6, starts=2, store_tokens=50_000
)


def test_ratios_are_taken_round_by_round():
    times = {"slow": [4.0, 9.0, 10.0], "fast": [2.0, 3.0, 10.0]}
    row = ratio_row("x", times, "slow", "fast")
    assert (row.value, row.low, row.high) == (2.0, 1.0, 3.0)
    slow, fast = time_rows("x", times, "ms", 1e3)
    assert (slow.value, slow.low, slow.high) == (9000.0, 4000.0, 10000.0)
    assert fast.value == 3000.0


CLONE = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, ids, targets):
        logits = self.table(ids) @ self.table.weight.T
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, decay, lr, betas, device):
        return torch.optim.AdamW(self.parameters(), lr=100 * lr, betas=betas, weight_decay=decay)
"""


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


@pytest.mark.parametrize("name", variants())
def test_every_variant_starts_at_the_uniform_loss_and_learns(name):
    step = make_step(name, TINY)
    losses = [step(0) for _ in range(300)]  # the same rows again and again
    assert np.mean(losses[:5]) == pytest.approx(math.log(200), rel=0.25)
    assert np.mean(losses[-30:]) < np.mean(losses[:30])


def test_a_clone_of_a_peer_is_trained_with_the_settings_of_its_project(tmp_path):
    (tmp_path / "nanoGPT").mkdir()
    (tmp_path / "nanoGPT" / "model.py").write_text(CLONE)
    assert peers_in(tmp_path) == ["nanoGPT"]
    step = peer_step("nanoGPT", TINY, tmp_path)
    losses = [step(0) for _ in range(20)]
    assert losses[0] == pytest.approx(math.log(256), rel=0.05), "of the padded vocabulary"
    assert losses[-1] < losses[0]


def test_a_folder_without_clones_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nanoGPT, SMDM, mdlm"):
        peers_in(tmp_path)
    with pytest.raises(UserError, match=r"model.py is missing"):
        peer_step("nanoGPT", TINY, tmp_path)


@pytest.mark.skipif(not can_measure(), reason="this system does not report peak memory")
def test_peak_memory_is_that_of_a_process_of_its_own():
    large = replace(TINY, vocabulary=120_000)
    small, more = peak_memory("ours ar", TINY), peak_memory("ours ar", large)
    # Weights, gradient and two moments of the larger table: 4 · 120,064 · 32 · 4 bytes.
    assert more - small > 0.8 * 61


def test_a_failing_measurement_is_reported(tmp_path, monkeypatch):
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho Traceback >&2\necho 'ValueError: too large' >&2\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fails))
    with pytest.raises(UserError, match="memory of ours ar failed: ValueError: too large"):
        peak_memory("ours ar", TINY)


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """A third of the built-in texts, once: how much there is decides none of these tests."""
    few = builtin_documents()[:180]
    for part in (estimator, prepare, tokenizer):
        monkeypatch.setattr(part, "builtin_documents", lambda: few)
    monkeypatch.setattr(prepare, "_COPIES", 1)


def test_peaks_are_compared_with_those_of_the_peers(monkeypatch):
    peaks = dict.fromkeys(variants(), 5.0) | {"ours ar": 2.0, "nanogpt-style": 4.0}
    peaks |= {"ours mdm": 9.0, "smdm-style": 3.0}
    monkeypatch.setattr(memory, "peak_memory", lambda name, setting: peaks[name])
    values = {row.name: row.value for row in run_parts(["memory"], OPTIONS)}
    assert values == peaks | {"ours ar of nanogpt-style": 0.5, "ours mdm of smdm-style": 3.0}


@pytest.mark.parametrize("name", sorted(set(PARTS) - {"memory"}))
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
    ours, papers = estimator.estimates(OPTIONS)
    for pairs in ours.values():
        nll = pairs[:, 0]
        assert nll.var() < papers.var()
        assert abs(nll.mean() - papers.mean()) < 5 * papers.std() / math.sqrt(len(papers))


def test_the_estimator_on_a_run(tiny_pair):
    options = replace(OPTIONS, run=tiny_pair / "mdm", draws=2, repeats=3)
    names = [row.name for row in run_parts(["estimator"], options)]
    assert names[0].startswith("paper's")
    assert sum("reported" in name for name in names) == len(estimator.CONTROLS)


def ask(*words):
    return CliRunner().invoke(run.main, words)


def test_the_command():
    done = ask("help", "--rounds", "2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["torch"] == torch.__version__
    [row] = found["rows"]
    assert row["unit"] == "s"
    assert set(row) == {"part", "name", "value", "unit", "low", "high", "note"}
    assert "epochal --help" in ask("help", "--rounds", "2").stdout


def test_the_command_with_a_mistake():
    wrong = ask("stepp")
    assert wrong.exit_code == 2
    assert "Did you mean `steps`?" in wrong.output
    assert ask("--rounds", "1").exit_code == 2


def test_quick_changes_fields_that_exist():
    assert set(run.QUICK) <= {field.name for field in fields(Options)}


def test_it_runs_as_a_script(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(run.__file__, run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in PARTS)


def test_epochal_bench_leads_there(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick"])
    assert ended.value.code == 2
    assert "benchmarks/run.py" in capsys.readouterr().err


def test_both_ways_of_writing_write_the_same():
    """In float32, where rounding does not change which token is the likeliest."""
    model, machine = generation._model(TINY, "ar")
    with torch.no_grad():
        for weight in model.parameters():  # larger weights, clearer choices
            weight.mul_(4 if weight.dim() > 1 else 1)
    ids = torch.randint(200, (3, 6), generator=torch.Generator().manual_seed(1))
    texts = [way(model, machine, ids, 8, 200) for way in (generation.cached, generation.read_anew)]
    assert texts[0].shape == (3, 14)
    assert torch.equal(*texts)
    for write in generation._mdm(TINY, ids, 4).values():
        text = write()
        assert torch.equal(text[:, :6], ids)
        assert text.shape == (3, 10)
        assert int(text.max()) < 200
