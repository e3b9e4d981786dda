"""A network that is told the noise level: at first the one that is not; then each level counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from epochal.models import NOISE_LEVEL, Transformer, initialise
from epochal.models.transformer import noise_features
from epochal.sizes import NOISE_FEATURES, Architecture

SHAPE = Architecture(d_model=32, layers=3, heads=2, head_dim=16, d_ff=64)
VOCABULARY = 60
IDS = torch.randint(VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
LEVELS = torch.tensor([-9.0, -1.0, 0.5, 9.0])


def built(told, seed=3):
    model = Transformer(replace(SHAPE, noise_conditioning=told), VOCABULARY)
    initialise(model, seed)
    return model


def test_at_first_it_is_the_network_that_is_not_told():
    plain, told = built(False), built(True)
    assert torch.equal(told(IDS, "bidirectional", log_snr=LEVELS), plain(IDS, "bidirectional"))
    more = [name for name, _ in told.named_parameters() if name.endswith(NOISE_LEVEL)]
    assert len(more) == SHAPE.layers
    told(IDS, "bidirectional", log_snr=LEVELS).square().sum().backward()
    for name in more:
        assert told.get_parameter(name).grad.abs().max() > 0


def test_scale_and_shift_stand_behind_each_norm():
    """One layer, written out."""
    shape = replace(SHAPE, layers=1, noise_conditioning=True)
    model = Transformer(shape, VOCABULARY)
    initialise(model, 1)
    block = model.blocks[0]
    torch.nn.init.normal_(block.noise_level.weight, std=0.3)
    found = model(IDS, "bidirectional", log_snr=LEVELS)
    by = (noise_features(LEVELS) @ block.noise_level.weight.T).reshape(4, 1, 4, 32)
    plain = Transformer(replace(shape, noise_conditioning=False), VOCABULARY)
    weights = model.state_dict()
    weights.pop("blocks.0.noise_level.weight")
    plain.load_state_dict(weights)
    for number, norm in enumerate(
        (plain.blocks[0].attention_norm, plain.blocks[0].feed_forward_norm)
    ):
        scale, shift = by[:, :, 2 * number], by[:, :, 2 * number + 1]
        norm.register_forward_hook(lambda _, __, y, a=scale, b=shift: y * (1 + a) + b)
    torch.testing.assert_close(found, plain(IDS, "bidirectional"))
    row = model(IDS[1:2], "bidirectional", log_snr=LEVELS[1:2])
    torch.testing.assert_close(found[1:2], row)


def test_a_level_must_be_given_and_ends_at_twelve():
    model = built(True)
    with pytest.raises(ValueError, match="needs it"):
        model(IDS, "bidirectional")
    edge = noise_features(torch.tensor([-torch.inf, -12.0, 12.0, torch.inf]))
    assert torch.equal(edge[0], edge[1])
    assert torch.equal(edge[2], edge[3])
    each = noise_features(torch.linspace(-12, 12, 200))
    assert each.shape == (200, NOISE_FEATURES)
    assert torch.pdist(each).min() > 0.05


def test_a_smooth_function_of_the_level_is_a_linear_map_of_what_is_told():
    level = torch.linspace(-12, 12, 400, dtype=torch.float64)
    wanted = torch.stack((level.sigmoid(), (level / 2 - 2).tanh(), (-level.square() / 8).exp()), 1)
    told = noise_features(level).double()
    found = torch.linalg.lstsq(told, wanted, rcond=1e-3, driver="gelsd").solution
    assert found.abs().max() < 3
    assert (told @ found - wanted).abs().max() < 0.02


def test_its_weights_are_counted():
    shape = replace(SHAPE, noise_conditioning=True)
    count = sum(weight.numel() for weight in built(True).parameters())
    assert count == shape.params_exact(VOCABULARY)
    assert count - SHAPE.params_exact(VOCABULARY) == 3 * 4 * 32 * NOISE_FEATURES
    more = shape.matmul_flops_per_token(60, 12) - SHAPE.matmul_flops_per_token(60, 12)
    assert more * 12 == pytest.approx(6 * 3 * 4 * 32 * NOISE_FEATURES)  # once per row of 12
