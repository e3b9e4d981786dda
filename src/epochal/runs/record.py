"""The run record: one folder per run, written once, read back by everything else.

    runs/quick-ar/
        recipe.toml         the recipe with every key written out
        run.json            what the run is: identity, numbers, corpus, software, status
        metrics.jsonl       one line per logging and per evaluation interval
        tokenizer.json      so that the run can be used without its corpus
        checkpoints/last-…  weights, optimizer and progress, to resume from
        checkpoints/best-…  weights at the lowest validation NLL so far
        evaluations/        results of `epochal eval`, one JSON file each
        quality/            results of `epochal quality`, one JSON file per order
        downstream/         results of `epochal downstream`, one JSON file per task and mode
        samples.json        texts that the trained model wrote
        order/              the order of rows, where it is not computed on the fly
        tensorboard/        event files, with `log.trackers`
        trackers.json       the run's ids in the trackers of `log.trackers`
        profile/            traces of `epochal train --profile`
        STOP                made by you: stops the run cleanly

No torch here, so plans and reports work on records alone, anywhere.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import filelock
import numpy as np

from epochal import files
from epochal.errors import RunError
from epochal.estimates import Floats, Integers
from epochal.recipe import Recipe, recipe_toml
from epochal.recipe.load import read_toml, recipe_from_tree
from epochal.recipe.renames import rename_flat, rename_tree
from epochal.recipe.schema import Data
from epochal.runs.result import EVALUATE_AGAIN, NLLResult, read_result

FORMAT = 1
"""Format of run.json."""
Status = Literal["running", "stopped", "diverged", "finished"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run's files, and how they are written."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def info_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "STOP"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def evaluation_file(self, checkpoint: str, estimator: str) -> Path:
        """Result of `epochal eval` for one checkpoint and estimator."""
        return self.path / "evaluations" / f"{checkpoint}-{estimator}.json"

    def downstream_file(self, task: str, checkpoint: str, mode: str) -> Path:
        """Result of `epochal downstream` for one task, checkpoint and mode."""
        return self.path / "downstream" / f"{task}-{checkpoint}-{mode}.json"

    @property
    def order_folder(self) -> Path:
        return self.path / "order"

    def quality_file(self, checkpoint: str, order: str) -> Path:
        """Result of `epochal quality` for one checkpoint and order of unmasking."""
        return self.path / "quality" / f"{checkpoint}-{order}.json"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.json"

    def write_evaluation(
        self, result: NLLResult, totals: Floats, tokens: Integers, variances: Floats
    ) -> None:
        """Write a result and, for paired comparisons, its sums per document."""
        path = self.evaluation_file(result.checkpoint, result.estimator)
        with files.atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, totals=totals, tokens=tokens, variances=variances)
        files.write_json(path, asdict(result))

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace the run's whole log."""
        files.write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in lines))

    def write_samples(self, samples: list[dict[str, Any]]) -> None:
        """Write samples.json: texts that the trained model wrote."""
        files.write_json(self.samples_file, samples)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.toml with every key."""
        files.write_text(self.recipe_file, recipe_toml(recipe))

    def write_info(self, info: dict[str, Any]) -> None:
        """Write run.json."""
        files.write_json(self.info_file, info)

    def read_info(self) -> dict[str, Any] | None:
        """run.json, or None before the first start. Raises RunError if it is damaged."""
        if not self.info_file.exists():
            return None
        try:
            info: dict[str, Any] = json.loads(self.info_file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{self.info_file} is damaged ({error}); restart the run") from None
        if not isinstance(info, dict) or info.get("format", FORMAT) != FORMAT:
            raise RunError(
                f"{self.info_file} is not in format {FORMAT}, which this version of Epochal reads; "
                "use the version that wrote it"
            )
        if isinstance(info.get("identity"), dict):
            info["identity"] = rename_flat(info["identity"], notice=False)
        for facts in info.get("corpus", {}).values():
            if "passport" in facts:  # its name up to version 0.1.0
                facts["metadata"] = facts.pop("passport")
        return info

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for this process. Raises RunError, naming the holder, if another has it."""
        with files.storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise RunError(
                    f"another process is working on {self.path}{self._holder()}; wait for it or "
                    f"create the file {self.stop_file} to stop it"
                ) from None
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "user": _user()}
        try:
            files.write_json(self._owner_file, owner | {"since": time.strftime("%F %T")})
            yield
        finally:
            self._owner_file.unlink(missing_ok=True)
            lock.release()

    @property
    def _owner_file(self) -> Path:
        return self.path / ".owner.json"

    def _holder(self) -> str:
        """The process that holds the lock, for the error; empty if unknown."""
        try:
            owner = json.loads(self._owner_file.read_text(encoding="utf-8"))
            return " (process {pid} of {user} on {host}, since {since})".format(**owner)
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def parse_run_checkpoint(run: str) -> tuple[str, str | None]:
    """`RUN@CHECKPOINT` → (run, checkpoint); a path that exists is a run without a checkpoint."""
    path, at, name = run.rpartition("@")
    return (path, name) if at and not Path(run).exists() else (run, None)


class RunRecord:
    """A run, read from its files."""

    def __init__(self, path: str | Path) -> None:
        """Open the run in folder `path`. Raises RunError if there is none."""
        self.folder = RunFolder(Path(path))
        info = self.folder.read_info()
        if info is None:
            alone, name = parse_run_checkpoint(str(path))
            if name is not None and RunFolder(Path(alone)).info_file.is_file():
                raise RunError(
                    f"{path} is not a run's folder; give {alone} --checkpoint {name} instead"
                )
            raise RunError(f"{path} is not a run: it has no run.json; give a run's folder")
        self.info = info

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def family(self) -> str:
        """Name of its family of models."""
        return str(self.info["family"])

    @property
    def status(self) -> Status:
        """What its last process left, or that one still trains it."""
        status: Status = self.info["status"]
        return status

    @property
    def numbers(self) -> dict[str, Any]:
        """RunNumbers as a dictionary: params, tokens, flops, epochs …"""
        numbers: dict[str, Any] = self.info["numbers"]
        return numbers

    @property
    def recipe(self) -> Recipe:
        """The recipe that was run; names of an earlier version are today's, without a notice."""
        tree = rename_tree(read_toml(self.folder.recipe_file), notice=False)
        return recipe_from_tree(tree)

    @property
    def data(self) -> Data:
        """The recipe's `[data]`, with paths that do not exist from the working folder looked up
        in the folders above the run. So a run can be used from anywhere, and can be moved to
        another machine together with its corpus."""
        data = self.recipe.data
        moved: dict[str, Any] = {}
        for key in ("corpus", "train", "validation", "tokenizer"):
            name = getattr(data, key)
            if name is None or _exists(Path(name)) or (key == "tokenizer" and "/" not in name):
                continue
            places = (parent / name for parent in self.path.resolve().parents)
            if there := next(filter(_exists, places), None):
                moved[key] = str(there)
        return replace(data, **moved)

    def metrics(self, kind: Literal["train", "eval"]) -> list[dict[str, Any]]:
        """All lines of one kind, in order of steps; a torn last line is left out."""
        return [line for line in self._log() if line["kind"] == kind]

    def finite_evaluations(self) -> list[dict[str, Any]]:
        """Lines of validation in training whose NLL is finite, in order of steps."""
        return [line for line in self.metrics("eval") if math.isfinite(line["nll_nats_per_token"])]

    def _log(self) -> list[dict[str, Any]]:
        if not (file := self.folder.metrics_file).exists():
            return []
        return _log_lines(file, file.stat().st_size, file.stat().st_mtime_ns)

    @property
    def last_step(self) -> int:
        """Last step of the log; without one (imported or averaged), that of the weights."""
        if steps := [int(line["step"]) for line in self._log()]:
            return max(steps)
        weights = (self.info.get(key) or {} for key in ("imported", "best"))
        return max(int(of.get("step") or 0) for of in weights)

    @property
    def best_nll(self) -> float | None:
        """Best validation NLL, nats per token: from `epochal eval` of the best checkpoint, else
        the lowest in training; None before the first evaluation."""
        if (result := self.evaluation("best")) is not None:
            return result.nll_nats_per_token
        lines = self.finite_evaluations()
        if lines:
            return float(min(line["nll_nats_per_token"] for line in lines))
        best = (self.info.get("best") or {}).get("nll_nats_per_token")
        return None if best is None else float(best)

    def evaluations(self) -> list[NLLResult]:
        """Results of `epochal eval`, in order of their files' names. Raises RunError."""
        return [read_result(path) for path in sorted((self.path / "evaluations").glob("*.json"))]

    def document_sums(self, result: NLLResult) -> tuple[Floats, Integers, Floats]:
        """Per document: total NLL, scored tokens, variance of the total from the draws.

        Raises RunError if the file is missing or damaged.
        """
        path = self.folder.evaluation_file(result.checkpoint, result.estimator).with_suffix(".npz")
        try:
            # Opened here, since np.load leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return arrays["totals"], arrays["tokens"], arrays["variances"]
        except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error) as error:
            raise RunError(f"{path} {EVALUATE_AGAIN.format(self.path)}") from error

    def evaluation(self, checkpoint: str, masked: bool = False) -> NLLResult | None:
        """Result for a checkpoint: from the family's own estimator if there is one, else from the
        paper's; if `masked`, that of a family of exact NLL read with masks."""
        results = [
            result
            for result in self.evaluations()
            if result.checkpoint == checkpoint and (result.estimator == "masked") == masked
        ]
        return min(results, key=lambda result: result.estimator == "paper", default=None)

    def more_precise(self, result: NLLResult) -> NLLResult | None:
        """The stored result for the same checkpoint, tokens and estimator, if it is intact and
        has more draws than `result`."""
        path = self.folder.evaluation_file(result.checkpoint, result.estimator)
        try:
            stored = read_result(path) if path.exists() else None
            if stored is None or stored.draws <= result.draws:
                return None
            self.document_sums(stored)
        except RunError:  # damaged: to be replaced
            return None
        same = ("step", "validation_sha256", "sequence_length", "family")
        return stored if all(getattr(stored, n) == getattr(result, n) for n in same) else None

    def downstream(self) -> list[dict[str, Any]]:
        """Results of `epochal downstream`, in order of their files' names. Raises RunError."""
        return self._results("downstream")

    def quality(self) -> list[dict[str, Any]]:
        """Results of `epochal quality`, in order of their files' names. Raises RunError."""
        return self._results("quality")

    def _results(self, command: str) -> list[dict[str, Any]]:
        results = []
        for path in sorted((self.path / command).glob("*.json")):
            try:
                results.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                raise RunError(
                    f"{path} is damaged ({error}); run `epochal {command}` again"
                ) from error
        return results

    def samples(self) -> list[dict[str, Any]]:
        """Texts that the trained model wrote; empty if there are none."""
        if not self.folder.samples_file.exists():
            return []
        samples: list[dict[str, Any]] = json.loads(
            self.folder.samples_file.read_text(encoding="utf-8")
        )
        return samples


def in_bf16_on_cpu(info: Mapping[str, Any]) -> bool:
    """Whether the run of a run.json was computed in bf16 on a CPU."""
    machine = info.get("machine", {})
    return str(machine.get("device")).startswith("CPU") and machine.get("precision") == "bf16"


@lru_cache(maxsize=32)
def _log_lines(file: Path, size: int, changed: int) -> list[dict[str, Any]]:
    """Lines of a log, whose file is read again only when its size or time has changed."""
    return read_lines(file)


def _exists(path: Path) -> bool:
    """Whether `path` is a file, a folder, or the prefix of a token store."""
    return path.exists() or Path(f"{path}.idx").exists()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user name
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, up to a line that a kill cut in two."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
