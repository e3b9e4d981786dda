"""What is done around a model in several processes; tests/distributed has the processes."""

from __future__ import annotations

from torch import nn

from epochal.training.parallel import parallelize


def test_after_an_evaluation_every_part_drops_its_whole_weights(monkeypatch):
    class Sharded(nn.Module):
        """Like FSDP's: `reshard` stops at the module it is called on."""

        def __init__(self, *parts):
            super().__init__()
            self.parts = nn.ModuleList(parts)
            self.whole = True

        def reshard(self):
            self.whole = False

    monkeypatch.setattr(parallelize, "FSDPModule", Sharded)
    blocks = [Sharded(), Sharded()]
    model = Sharded(*blocks)
    with parallelize.evaluating(model):
        assert model.whole
    assert [part.whole for part in (model, *blocks)] == [False, False, False]
