"""Noise that replaces tokens, by enumeration: the bound is the entropy for the leave-one-out
predictor, draws have its mean with an honest error, gradients are autograd's."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from epochal import rng
from epochal.data.rows import ScoredWindows
from epochal.estimates import Layout, estimate
from epochal.likelihood.nll import Evaluator
from epochal.objectives import Draw
from epochal.objectives.cross_entropy import linear_loss
from epochal.objectives.jump_loss import JumpLoss
from epochal.objectives.jump_noise import LIMIT, JumpNoise, uniform_share
from tiny_world import COMMON, MACHINE, VOCABULARY

V, LENGTH = VOCABULARY, 3
STATES = np.array(list(product(range(V + 1), repeat=LENGTH)))  # noised rows; 3 is the mask
SHIFTS = {"masked": -np.inf, "hybrid": 0.0, "uniform": np.inf}


def kernels(log_snr, shift):
    """[N, V, V + 1] q(z|x) at each of N levels."""
    keep, share = 1 / (1 + np.exp(-log_snr)), uniform_share(log_snr, shift)
    pi = np.column_stack([share / V] * V + [1 - share])
    stays = keep[:, None, None] * np.eye(V, V + 1)
    return stays + (1 - keep)[:, None, None] * pi[:, None, :]


def levels(limit, nodes=120):
    """λ from −limit to limit, and their shares of an integral of what is given over α."""
    points, widths = np.polynomial.legendre.leggauss(nodes)
    return points * limit, widths * limit / (1 + np.exp(-points * limit))


def losses(log_snr, shift, seen, targets, logits):
    """[…] the loss at each λ [N] of [N, …] noised tokens, targets and logits [N, …, V]."""
    at = log_snr.reshape(-1, *[1] * (seen.ndim - 1))
    shape = np.broadcast_shapes(at.shape, seen.shape, targets.shape, logits.shape[:-1])
    at = torch.from_numpy(np.broadcast_to(at, shape).copy())
    share = torch.from_numpy(uniform_share(at.numpy(), shift))
    z, x = (torch.from_numpy(np.broadcast_to(one, shape).copy()) for one in (seen, targets))
    score = JumpLoss(z.reshape(-1, 1), at.flatten(), share.flatten(), V).score(None, x.flatten())
    full = torch.from_numpy(np.broadcast_to(logits, (*shape, V)).copy())
    return score(full.reshape(-1, V), slice(None)).reshape(shape).numpy()


def integral(joint, shift, limit, own):
    """The bound over all pairs of tokens and noised rows. x̂ is the joint's own, given the other
    noised token and, if `own`, that of its place."""
    log_snr, widths = levels(limit)
    q, total = kernels(log_snr, shift), 0.0
    for table in (joint, joint.T):  # the first token of each
        mass = np.einsum("ab,nax,nby->nxya", table, q, q)
        given = mass if own else np.einsum("ab,nby->nya", table, q)[:, None]
        x_hat = np.maximum(given, 1e-300)
        logits = np.log(x_hat / x_hat.sum(axis=-1, keepdims=True))[:, :, :, None, :]
        seen, targets = np.arange(V + 1)[None, :, None, None], np.arange(V)[None, None, None, :]
        each = losses(log_snr, shift, seen, targets, logits)
        total += (np.where(mass > 0, mass * each, 0).sum(axis=(1, 2, 3)) * widths).sum()
    return total


@pytest.mark.parametrize("noise", SHIFTS)
def test_the_bound_is_the_entropy_for_the_leave_one_out_predictor_only(noise):
    joint = np.random.default_rng(0).dirichlet(np.ones(V * V)).reshape(V, V)
    entropy = -(joint * np.log(joint)).sum()
    tight = integral(joint, SHIFTS[noise], 25.0, own=False)
    assert tight == pytest.approx(entropy, abs=1e-6)
    if noise != "masked":
        loose = integral(joint, SHIFTS[noise], 25.0, own=True)
        assert loose > entropy + {"hybrid": 0.7, "uniform": 0.85}[noise]


class Table:
    """A network that has learned nothing: logits at random, by noised row."""

    def __init__(self):
        random = np.random.default_rng(5)
        logits = random.normal(0, 0.7, ((V + 1) ** LENGTH, LENGTH, V)) + np.log(COMMON)
        self.logits = torch.from_numpy(logits)
        self.table = torch.eye(V, dtype=torch.float64)
        self.shape = SimpleNamespace(rows=lambda vocabulary: vocabulary + 1)

    def eval(self):
        return self

    def __call__(self, ids, rule, positions=None, log_snr=None):
        number = (ids * (V + 1) ** torch.arange(LENGTH - 1, -1, -1)).sum(dim=1)
        return self.logits[number]


class Told(Table):
    """Its logits depend on the noise level, too."""

    def __call__(self, ids, rule, positions=None, log_snr=None):
        level = log_snr.double()[:, None, None]
        return super().__call__(ids, rule) * (1 + 0.8 * (level / 3).tanh()) + level / 12 * SLOPE


TABLE = Table()
SLOPE = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


def bound(text, shift, model=TABLE):
    """By enumeration, of a text's tokens after the first."""
    log_snr, widths = levels(LIMIT)
    q, states = kernels(log_snr, shift), STATES[STATES[:, 0] == text[0]]
    mass = np.prod([q[:, text[i], states[:, i]] for i in range(1, LENGTH)], axis=0)
    rows, at = torch.from_numpy(np.tile(states, (len(log_snr), 1))), log_snr.repeat(len(states))
    logits = model(rows, "bidirectional", log_snr=torch.from_numpy(at))
    logits = logits.reshape(len(log_snr), *states.shape, V).numpy()
    each = losses(log_snr, shift, states[None], np.array(text)[None, None], logits)
    return ((mass * each[:, :, 1:].sum(axis=2)).sum(axis=1) * widths).sum()


def drawn(goal, text, points, model=TABLE):
    """[rows] weighted sums of a draw each."""
    rows = torch.tensor(text).expand(len(points), -1)
    scored = torch.ones(rows.shape, dtype=torch.bool)
    scored[:, 0] = False
    keys = rng.row_keys(rng.stream_key(0, "jumps"), np.arange(len(points)))
    problem = goal.likelihood_problem(rows, scored, Draw(points, keys))
    score = problem.loss.score(None, rows.flatten())
    logits = model(*problem.arguments(torch.device("cpu")))
    each = score(logits.flatten(0, 1).clone(), slice(None))
    weights = problem.weights.flatten().double()
    values = torch.where(weights > 0, weights * each, 0).reshape(rows.shape).sum(dim=1)
    return values.numpy(), problem


@pytest.mark.parametrize(
    ("noise", "model"),
    [*((noise, TABLE) for noise in SHIFTS), ("hybrid", Told()), ("uniform", Told())],
)
def test_draws_have_the_enumerated_mean_and_cover_it(noise, model):
    """600 evaluations of 3 groups of 8 rows, 4 draws each; of all intervals 93 to 97 % hold."""
    goal, text = JumpNoise(V, SHIFTS[noise]), [0, 1, 0]
    expected = bound(text, SHIFTS[noise], model)
    evaluations, draws, groups, size = 600, 4, 3, 8
    count = evaluations * draws * groups * size
    random = np.random.default_rng(1)
    lots = np.argsort(random.random((count // size, size)), axis=1).ravel()
    values, problem = drawn(goal, text, (lots + random.random(count)) / size, model)
    assert values.mean() == pytest.approx(expected, abs=4 * values.std() / count**0.5)
    assert problem.mean_one[:, 1:].mean(axis=0) == pytest.approx(1, abs=0.01)
    rows = np.arange(groups * size)
    layout = Layout(rows, np.zeros_like(rows), np.full(len(rows), LENGTH - 1), rows // size)
    held = 0
    for each in values.reshape(evaluations, draws, groups * size):
        low, high = estimate(layout, each, exact=False).interval_draws()
        held += low <= expected / (LENGTH - 1) <= high
    assert 0.93 <= held / evaluations <= 0.97


def test_masked_diffusion_comes_out_of_the_formula():
    count = 300
    goal, text = JumpNoise(V, -np.inf), [2, 0, 1]
    values, problem = drawn(goal, text, np.arange(count) / count)
    hidden = problem.inputs == V
    assert torch.equal(torch.where(hidden, problem.targets, problem.inputs), problem.targets)
    logits = TABLE(problem.inputs, "bidirectional")
    nll = functional.cross_entropy(
        logits.flatten(0, 1), problem.targets.flatten(), reduction="none"
    ).reshape(hidden.shape)
    weight = LENGTH / hidden.sum(dim=1).clamp(min=1)  # (m + 1)/K, K = 0 … m equally likely
    inside = (problem.weights * hidden).sum(dim=1) > 0
    expected = (weight[:, None] * nll * hidden).sum(dim=1) * inside
    np.testing.assert_allclose(values, expected.numpy(), rtol=2e-7)  # weights are float32
    exact = weight / (problem.weights * hidden).amax(dim=1).double()
    wide = values * exact.where(inside, 0).numpy()
    np.testing.assert_allclose(wide, expected.numpy(), rtol=1e-9)


def evaluated(shift, draws=32):
    ids = np.random.default_rng(3).choice(V, size=241, p=COMMON).astype(np.uint16)
    windows = ScoredWindows(ids, LENGTH)
    it = Evaluator(JumpNoise(V, shift), MACHINE, windows, np.array([0, 100, 241]), V, 64)
    for _ in range(draws):
        it.add_draw(TABLE)
    return it, windows


@pytest.mark.parametrize("noise", ["hybrid", "uniform"])
def test_the_evaluator_corrects_draws_without_moving_them(noise):
    it, windows = evaluated(SHIFTS[noise])
    rows = windows.rows(0, windows.full)
    texts, counts = np.unique(rows, axis=0, return_counts=True)
    each = [bound(list(text), SHIFTS[noise]) for text in texts]
    expected = np.dot(counts, each) / (2 * len(rows))
    found = it.result()
    assert abs(found.nll - expected) < 4 * found.error_draws
    plain = estimate(it._layout, it.plain_values(), exact=False)
    assert found.error_draws < 1.03 * plain.error_draws  # of three tokens they say little
    assert 0 < it.nats_missed() < 1e-3


def test_what_is_left_out_is_about_what_is_said():
    """What ±6 leaves out of the integral, by enumeration."""
    joint = np.random.default_rng(0).dirichlet(np.ones(V * V)).reshape(V, V)
    every = [integral(joint, np.inf, limit, own=False) for limit in (25.0, 6.0)]
    missed = (every[0] - every[1]) / 2
    goal, edge = JumpNoise(V), 1 / (1 + np.exp(6.0))
    estimate_of_it = goal.prior_nll(-6.0) + edge * (every[0] / 2 + 6 + 1)
    assert missed <= estimate_of_it < 3 * missed


@pytest.mark.parametrize("noise", SHIFTS)
@pytest.mark.parametrize("log_snr", [-11.0, -1.0, 0.5, 11.0])
def test_the_loss_and_its_gradient_are_those_of_the_definition(noise, log_snr):
    """rate · (KL + r − 1 − log r) / α from the kernel itself, by autograd in float64; the table has
    rows that are no tokens."""
    torch.manual_seed(0)
    hidden = torch.randn(3 * (V + 1), 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(V + 2, 5, dtype=torch.float64, requires_grad=True)
    targets, seen = torch.cartesian_prod(torch.arange(3), torch.arange(V + 1)).unbind(1)
    weights = torch.rand(len(seen), dtype=torch.float64)
    shift = max(SHIFTS[noise], -30.0)  # the definition itself is 0/0 at s = 0
    q = torch.from_numpy(kernels(np.array([log_snr]), shift)[0])
    share, keep = float(uniform_share(np.array(log_snr), shift)), 1 / (1 + np.exp(-log_snr))
    x_hat = functional.pad((hidden @ table.T)[:, :V].softmax(dim=1), (0, 1))
    pi = torch.tensor([share / V] * V + [1 - share], dtype=torch.float64)
    p, mine = keep * x_hat + (1 - keep) * pi, q[targets]
    at = torch.arange(len(seen))
    r = mine[at, seen].clamp(min=1e-300) / p[at, seen].clamp(min=1e-300)
    kl = (mine * (mine.clamp(min=1e-300) / p.clamp(min=1e-300)).log()).sum(dim=1)
    slope = share * (1 - share) * torch.tensor([1 / V] * V + [-1], dtype=torch.float64)
    rate = (pi - slope)[seen] / (pi[seen] + np.exp(log_snr) * (seen == targets))
    weights = weights * (mine[at, seen] > 0)
    expected = (weights * rate.nan_to_num() * (kl + r - 1 - r.log()) / keep).sum()
    wanted = torch.autograd.grad(expected, (hidden, table))
    full = torch.full((len(seen),), log_snr, dtype=torch.float64)
    loss = JumpLoss(seen[:, None], full, torch.full_like(full, share), V)
    index = torch.arange(len(seen))
    score = loss.score(index, targets, weights)
    found = linear_loss(hidden, table, weights, index, score)
    assert found.item() == pytest.approx(expected.item(), rel=1e-7)
    for one, other in zip(torch.autograd.grad(found, (hidden, table)), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
