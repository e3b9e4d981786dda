"""The first minutes on a GPU: is it right, and how fast? `python benchmarks/gpu.py [--small]`.

Each part is a process of its own, killed at its limit; eight minutes in all. Results are appended
to the file of `--out` as they are obtained, one JSON object a line: `ok` says whether a check
holds, and a last line for each part how it ended. Without a GPU everything runs on the CPU, which
only `--small` is made for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from epochal.device import Machine
    from epochal.recipe import Recipe

Result = dict[str, Any]
SIZES = ("140M", "425M")
WARM, TIMED = 2, 5
CHECKED = {"model.d_model": 256, "model.layers": 4, "model.heads": 4, "data.sequence_length": 512}
TINY = {"model.d_model": 32, "model.layers": 2, "model.heads": 2, "data.sequence_length": 32}
STEPS = 6
"""Of checks; a resume is after half of them."""


class Bench:
    """What all parts need: sizes, the corpus, the device."""

    def __init__(self, folder: Path, small: bool) -> None:
        """`folder` holds the corpus."""
        from epochal.device import find_device

        self.folder, self.small, self.device = folder, small, find_device()
        self.vocabulary = 200 if small else 50_257

    def recipe(self, family: str, size: str | None = None, **changes: Any) -> Recipe:
        """Of a size of the ladder with two micro-batches of 16,384 tokens, or of a check."""
        from epochal.recipe import load_recipe

        shape: dict[str, Any] = CHECKED if size is None else {"model.size": size}
        if size is not None:
            shape = shape | {"data.sequence_length": 2048}
        rows = 4 if self.small or size is None else 16
        values = {
            "family": family,
            "data.corpus": str(self.folder / "corpus"),
            **(TINY if self.small else shape),
            "train.steps": STEPS,
            "train.global_batch_size": rows,
            "train.micro_batch_size": rows // 2,
            "log.tensorboard": False,
        }
        return load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})

    def machine(self, *, bf16: bool = True, compiled: bool = False) -> Machine:
        """The device, in one precision."""
        from epochal.device import Machine

        return Machine(self.device, bf16, compiled)

    def stepper(self, recipe: Recipe, machine: Machine, world: Any = None) -> Any:
        """What makes the recipe's steps."""
        from epochal.data.corpus import open_corpus
        from epochal.recipe import run_numbers
        from epochal.training.train import make_stepper

        corpus = open_corpus(recipe.data)
        numbers = run_numbers(recipe, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
        return make_stepper(recipe, corpus, numbers, machine, world)

    def losses(self, family: str, machine: Machine, world: Any = None) -> list[float]:
        """Of the first steps of a check."""
        stepper = self.stepper(self.recipe(family), machine, world)
        return [stepper(step, 1e-3).loss for step in range(STEPS)]


def _agree(name: str, expected: Sequence[float], found: Sequence[float], limit: float) -> Result:
    """The largest relative difference, and whether it is within the limit."""
    error = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
    return {"name": name, "relative_error": error, "limit": limit, "ok": error <= limit}


def machine(bench: Bench) -> Iterator[Result]:
    """Versions, and the speed of products and of memory."""
    import torch

    from epochal.diagnosis import doctor
    from epochal.results import to_json

    yield {"name": "doctor", "machine": to_json(doctor(bench.folder))}
    rows = 256 if bench.small else 8192
    for bf16 in (True, False):
        one = bench.machine(bf16=bf16)
        yield {"name": "product", "precision": one.precision, "flops": one.product_flops(rows)}
    block = torch.zeros(rows * rows, device=bench.device)
    times = []
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        block.add_(1)[0].item()  # waits for the device
        times.append(time.perf_counter() - began)
    yield {"name": "memory", "bytes_per_second": 8 * len(block) / min(times)}


def against_cpu(bench: Bench) -> Iterator[Result]:
    """Logits and losses in fp32 against those of the CPU."""
    import torch

    from epochal.device import Machine
    from epochal.training.train import build_model

    cpu = Machine(torch.device("cpu"), bf16=False, compiled=False)
    here = bench.machine(bf16=False)
    recipe = bench.recipe("ar")
    model = build_model(recipe, 200).eval()
    ids = torch.arange(2 * recipe.data.sequence_length).reshape(2, -1) % 200
    with torch.no_grad():
        for rule in ("causal", "bidirectional"):
            expected = model.to("cpu").logits(ids, rule)
            found = model.to(bench.device).logits(ids.to(bench.device), rule).cpu()
            error = float((found - expected).abs().max())
            yield {"name": f"logits, {rule}", "largest_error": error, "ok": error < 1e-3}
    for family in ("ar", "mdm"):
        losses = [bench.losses(family, one) for one in (cpu, here)]
        yield _agree(f"losses of {family}", *losses, 1e-4)


def bf16(bench: Bench) -> Iterator[Result]:
    """Losses in bf16 against those in fp32."""
    for family in ("ar", "mdm"):
        losses = [bench.losses(family, bench.machine(bf16=b)) for b in (False, True)]
        yield _agree(f"losses of {family}", *losses, 1e-2)


def compiled(bench: Bench) -> Iterator[Result]:
    """Losses of the compiled model against those of the plain one, both in bf16."""
    for family in ("ar", "mdm"):
        losses = [bench.losses(family, bench.machine(compiled=c)) for c in (False, True)]
        yield _agree(f"losses of {family}", *losses, 5e-3)


def fsdp(bench: Bench) -> Iterator[Result]:
    """FSDP2 of one device, which gathers and exchanges with itself, against the plain model."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from epochal.training.parallel.mesh import MeshPlan
    from epochal.training.parallel.world import AXES, World

    kind = bench.device.type
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh(kind, (1, 1, 1, 1), mesh_dim_names=AXES)
        for zero in (1, 3):
            world = World(plan=MeshPlan(zero=zero), mesh=mesh)
            losses = [bench.losses("mdm", bench.machine(), one) for one in (None, world)]
            yield _agree(f"losses with zero={zero}", *losses, 1e-3)
    finally:
        dist.destroy_process_group()


def resume(bench: Bench) -> Iterator[Result]:
    """A run that was stopped half way and resumed, bit for bit, with deterministic kernels."""
    from epochal.errors import TrainingStopped
    from epochal.runs import checkpoints
    from epochal.training.step import Stepper
    from epochal.training.train import train

    plain = Stepper.__call__

    def stopping(self: Stepper, step: int, lr: float) -> Any:
        if step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, step, lr)

    found: dict[str, list[bytes]] = {}
    for name in ("whole", "stopped"):
        recipe = bench.recipe("mdm", train__deterministic=True, run_dir=str(bench.folder / name))
        if name == "stopped":
            Stepper.__call__ = stopping  # type: ignore[method-assign]
            try:
                train(recipe)
            except TrainingStopped:
                yield {"name": "stopped", "ok": True}
            finally:
                Stepper.__call__ = plain  # type: ignore[method-assign]
        last = checkpoints.find(train(recipe).folder.checkpoints, "last")
        if last is None:
            raise RuntimeError(f"the run {name} has no checkpoint")
        found[name] = [file.read_bytes() for file in sorted(last.glob("*.safetensors"))]
    yield {"name": "resumed, bit for bit", "ok": found["whole"] == found["stopped"]}


def step(bench: Bench, size: str, family: str) -> Iterator[Result]:
    """Time, MFU and memory of a step beside the estimate; plain first, then compiled."""
    import torch

    from epochal.families import get_family
    from epochal.recipe.estimate import estimate_memory

    recipe = bench.recipe(family, size)
    vocabulary = bench.vocabulary
    estimate = estimate_memory(recipe, vocabulary, fused=bench.device.type == "cuda")
    yield {"name": "estimate", "memory": estimate.total}
    tokens = recipe.train.global_batch_size * recipe.data.sequence_length
    scored = get_family(family).scored_share
    shape = recipe.model.architecture()
    cost = shape.matmul_flops_per_token(vocabulary, recipe.data.sequence_length, scored)
    for compile_it in (False,) if bench.small else (False, True):
        one = bench.machine(compiled=compile_it)
        peak, source = one.peak_flops()
        stepper = bench.stepper(recipe, one)
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        made = [stepper(number, 1e-4) for number in range(WARM + TIMED)]
        seconds = statistics.median(each.seconds for each in made[WARM:])
        yield {
            "name": "compiled" if compile_it else "plain",
            "seconds": seconds,
            "first_seconds": made[0].seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": tokens / seconds * cost / peak,
            "peak": source,
            "data_wait": statistics.median(x.data_seconds / x.seconds for x in made[WARM:]),
            "memory": one.peak_memory(),
            "memory_by_estimate": (one.peak_memory() or 0) / estimate.total,
        }
        del stepper


def evaluation(bench: Bench) -> Iterator[Result]:
    """Tokens per second of a draw of `eval`, by a model of the first size."""
    import numpy as np

    from epochal.data.rows import ScoredWindows
    from epochal.likelihood.nll import Evaluator
    from epochal.objectives import objective
    from epochal.training.train import build_model

    vocabulary, one = bench.vocabulary, bench.machine()
    for family in ("ar", "mdm"):
        recipe = bench.recipe(family, SIZES[0])
        length, batch = recipe.data.sequence_length, recipe.train.micro_batch_size or 1
        count = 8 * batch * (length - 1) + 1
        tokens = np.random.default_rng(0).integers(0, vocabulary, count)
        evaluator = Evaluator(
            objective(recipe, vocabulary),
            one,
            ScoredWindows(tokens, length),
            np.array([0, count]),
            vocabulary,
            batch,
        )
        model = build_model(recipe, vocabulary).to(bench.device).eval()
        seconds = []
        for _ in range(2):
            evaluator.clear()
            began = time.perf_counter()
            evaluator.add_draw(model)
            seconds.append(time.perf_counter() - began)
        yield {"name": family, "tokens_per_second": count / min(seconds)}


def generation(bench: Bench) -> Iterator[Result]:
    """Tokens per second of four texts: AR with a cache, MDM in blocks with one."""
    import torch
    from torch.nn import functional as F

    from epochal.generation import autoregressive, unmasking
    from epochal.generation.config import GenerationConfig
    from epochal.generation.sampling import sample_keys
    from epochal.generation.writer import Task
    from epochal.training.train import build_model

    vocabulary, texts = bench.vocabulary, 4
    new = 8 if bench.small else 128
    ids = torch.arange(texts * 2 * new).reshape(texts, -1) % vocabulary
    ways = {
        "ar": (autoregressive.WRITER, ids, GenerationConfig(tokens=new, temperature=0)),
        "mdm": (
            unmasking.WRITER,
            F.pad(ids, (0, new), value=vocabulary),
            GenerationConfig(temperature=0, block=new // 4, cached=True),
        ),
    }
    for family, (writer, given, config) in ways.items():
        recipe = bench.recipe(family, SIZES[0])
        task = Task(
            model=build_model(recipe, vocabulary).to(bench.device).eval(),
            machine=bench.machine(),
            ids=given,
            config=config,
            keys=sample_keys(0, "", texts),
            mask=vocabulary,
            end=-1,
            vocabulary=vocabulary,
        )
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            list(writer.generate(task))
            seconds.append(time.perf_counter() - began)
        yield {"name": family, "tokens_per_second": texts * new / min(seconds)}


def _step(size: str, family: str) -> Callable[[Bench], Iterator[Result]]:
    return lambda bench: step(bench, size, family)


PARTS: dict[str, tuple[int, Callable[[Bench], Iterator[Result]]]] = {
    "machine": (15, machine),
    "against-cpu": (35, against_cpu),
    "bf16": (20, bf16),
    **{f"step-{size}-{f}": (60, _step(size, f)) for size in SIZES for f in ("ar", "mdm")},
    "fsdp": (25, fsdp),
    "resume": (25, resume),
    "evaluation": (25, evaluation),
    "generation": (25, generation),
    "compiled": (70, compiled),
}
"""Limit in seconds, and what is measured; 480 seconds in all."""


def make_corpus(folder: Path, small: bool) -> None:
    """Random ids, cut where one is 0."""
    import numpy as np

    from epochal.data.options import PrepareOptions
    from epochal.data.prepare import prepare

    vocabulary, count = (200, 20_000) if small else (50_257, 2_000_000)
    ids = np.random.default_rng(0).integers(0, vocabulary, count).astype(np.uint16)
    np.save(folder / "ids.npy", ids)
    options = PrepareOptions(tokenizer=f"ids:{vocabulary}", end_of_document="0", workers=1)
    prepare(folder / "ids.npy", folder / "corpus", options)


def append(out: Path, part: str, result: Result) -> None:
    """Write a result at the end of the file, and show it."""
    line = json.dumps({"part": part, **result})
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def run_part(part: str, command: Sequence[str], limit: float, out: Path) -> None:
    """Run a part's process, with what it started, to its end or its limit."""
    began = time.monotonic()
    # Of its own, since a killed compiler leaves half a file to all that compile later.
    with tempfile.TemporaryDirectory(prefix="epochal-gpu-") as cache:
        own = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        child = subprocess.Popen(command, start_new_session=True, env=own)
        try:
            code: int | None = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    ended = {0: "done", None: f"killed at its limit of {limit} s"}.get(code, f"failed with {code}")
    append(out, part, {"ended": ended, "seconds": round(time.monotonic() - began, 1)})


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="Tiny sizes, for a CPU.")
@click.option("--out", type=click.Path(path_type=Path), default="gpu.jsonl", show_default=True)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Default: all."
)
@click.option("--within", type=click.Path(path_type=Path), hidden=True)
def main(small: bool, out: Path, parts: tuple[str, ...], within: Path | None) -> None:
    """Run the parts in turn; `within` is the folder of a part's own process."""
    if within is not None:
        bench = Bench(within, small)
        for part in parts:
            for result in PARTS[part][1](bench):
                append(out, part, result)
        return
    with tempfile.TemporaryDirectory(prefix="epochal-gpu-") as folder:
        make_corpus(Path(folder), small)
        for part in parts or PARTS:
            words = [f"--part={part}", f"--out={out}", f"--within={folder}", *["--small"] * small]
            run_part(part, [sys.executable, __file__, *words], PARTS[part][0], out)


if __name__ == "__main__":
    main()
