"""A failed exchange is told by every process, and other errors are not taken for one."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from epochal.errors import RecipeError
from epochal.training.parallel import world
from epochal.training.parallel.heartbeat import Heartbeat

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]"


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def heartbeat(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    made = Heartbeat(dist.HashStore(), 2, 3, 60.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{GLOO}\nException raised from read"),
        RuntimeError("Timed out waiting 60000ms for recv operation to complete"),
        RuntimeError("Application timeout caused pair closure"),
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1970"),
        dist.DistNetworkError("the client socket has timed out after 60000ms"),
    ],
)
def test_each_process_tells_why_its_exchange_failed(heartbeat, capsys, error):
    heartbeat.step = 1234
    with pytest.raises(Ended, match="1"), heartbeat.report_dead_ranks():
        raise error
    said = capsys.readouterr().err
    assert f"error: rank 2 after step 1,234: {str(error).splitlines()[0]}" in said
    assert "Exception raised" not in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("expected scalar type Float in timeout_head of the peer"),
        RuntimeError("cannot open /data/gloo/train.bin"),
        RuntimeError("DataLoader timed out after 5 seconds"),
        torch.OutOfMemoryError("CUDA out of memory; NCCL error buffers take 2 GiB"),
        ValueError("Connection closed by peer"),
    ],
)
def test_other_errors_pass(heartbeat, error):
    with pytest.raises(type(error)) as caught, heartbeat.report_dead_ranks():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [world.SPEAK_SECONDS])])
def test_the_others_let_the_first_process_speak_before_they_end(monkeypatch, rank, waits):
    """The launcher ends all as soon as one has failed."""
    waited = []
    monkeypatch.setattr(world.time, "sleep", waited.append)
    for name, value in (("MASTER_ADDR", "x"), ("MASTER_PORT", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises((RecipeError, SystemExit)) as ended, world.report_errors_once():
        raise RecipeError("no such mesh")
    assert isinstance(ended.value, RecipeError) == (rank == "0")
    with pytest.raises(SystemExit), world.report_errors_once():
        raise SystemExit(0)  # ended on request under --max-restarts: nobody waits
    assert waited == waits
