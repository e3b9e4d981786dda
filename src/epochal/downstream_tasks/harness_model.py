"""The model type `epochal` of lm-evaluation-harness 0.4.

    lm_eval --model epochal --model_args run=quickstart/mdm,mode=mc,draws=32 --tasks sciq

works through `epochal-lm-eval` (or `python -m epochal.cli.lm_eval`), which registers it; from
Python, importing this module does. The harness has no discovery of plug-ins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from torch import distributed

from epochal import rng
from epochal.downstream_tasks.options import Mode, check_mode
from epochal.errors import UserError
from epochal.evaluation.load import CheckpointName, LoadedModel
from epochal.generation.autoregressive import text_steps
from epochal.generation.sampling import Sampling, sample_keys
from epochal.generation.unmasking import Schedule, unmask_steps
from epochal.interop.load import load
from epochal.likelihood.conditional import (
    Likelihood,
    Request,
    chain_rule,
    exact,
    greedy_match,
    monte_carlo,
)
from epochal.likelihood.draws import check_masks
from epochal.likelihood.queries import Reader
from epochal.progress import bar
from epochal.rng import Keys
from epochal.training.parallel.world import processes
from epochal.training.train import evaluation_batch

DEFAULT_DRAWS = 32
_NEW_TOKENS = 256
"""The harness's own default of `max_gen_toks`."""


@register_model("epochal")
class HarnessModel(LM):  # type: ignore[misc]
    """A run as lm-evaluation-harness sees it. Requests are split over processes by the harness."""

    def __init__(
        self,
        run: str | LoadedModel,
        checkpoint: CheckpointName | None = None,
        mode: Mode | None = None,
        draws: int = DEFAULT_DRAWS,
        seed: int = 0,
        pad: bool | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """`mode` is ar, mc (default for diffusion), generate or nll; an AR run has only ar and nll.

        `pad` lengthens each row of a diffusion run with masks to its sequence length, as the
        original does; the default does, unless the run was trained with rows of random length.
        `batch_size` counts rows of that length; short rows share one. Raises UserError for a
        mode that the family has not, and for too few draws.
        """
        super().__init__()
        self.processes = _Processes()
        self._rank, self._world_size = self.processes.rank, self.processes.world
        self._device = torch.device("cpu")  # what the harness gathers are small counts
        if not isinstance(run, LoadedModel):
            run = load(run, checkpoint, self.processes.device(device))
        self.loaded = run
        self.mode = check_mode(mode, run.family)
        self.draws, self.seed = int(draws), int(seed)
        if run.family != "ar" and self.mode in ("mc", "nll"):
            check_masks(self.draws)
        text = str(batch_size or "")
        rows = int(text) if text.isdigit() else evaluation_batch(run.recipe)
        rows = min(rows, int(max_batch_size)) if max_batch_size else rows
        causal = run.family == "ar"
        pad = run.padded_length > 0 if pad is None else pad
        self.limit = run.sequence_length + (1 if causal else 0)
        self.reader = Reader(
            run.model,
            run.machine,
            causal,
            run.tokenizer.vocabulary,
            rows * run.sequence_length,
            pad_to=0 if causal or not pad else run.sequence_length,
            pad_id=run.tokenizer.mask,
        )
        self.cut_contexts = 0
        """Contexts that lost their beginning, since they did not fit."""
        self.cut_continuations = 0
        """Continuations that alone did not fit and lost their beginning."""
        self.errors: dict[tuple[str, str], float] = {}
        """(context, continuation) → standard error of its log-likelihood."""

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """A model from model arguments, which go before the harness's own options."""
        options = {k: v for k, v in (additional_config or {}).items() if v is not None}
        # The harness says cuda:0 when nobody asked for a device, also where there is no GPU.
        if options.get("device") == "cuda:0":
            options["device"] = "auto"
        return cls(**options | arg_dict)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """The same from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """For each (context, continuation): log-likelihood in nats, and whether it is greedy.

        Greedy means: written by taking the likeliest tokens. In mode `ar` from left to right,
        in `mc` and `generate` in the order of confidence. In `nll` it is not asked for, and
        False. In `generate` the log-likelihood is not computed, and NaN.
        """
        if self.mode == "generate":
            _refuse_choices(requests)
        asked = [self._request(request.args, _question(request)) for request in requests]
        found = self._score(asked, "score")
        greedy = [bool(one.greedy) and self.mode != "nll" for one in found]
        if self.mode in ("mc", "generate") and not self.reader.causal:
            left = [i for i, one in enumerate(found) if one.greedy is None]
            with bar("generate", len(left)) as progress:
                some = [asked[i] for i in left]
                same = greedy_match(self.reader, some, self._mask, progress.update)
            for i, match in zip(left, same, strict=True):
                greedy[i] = match
        for request, one in zip(requests, found, strict=True):
            self.errors[request.args] = one.standard_error
        return [(one.log_prob, same) for one, same in zip(found, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows that overlap by one token."""
        parts: list[Request] = []
        owner: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self._encode(text), self._end, self.limit - 1, context_len=1
            )
            for place, window in enumerate(map(make_disjoint_window, windows)):
                key = rng.stream_key(_question(request), "window", place)
                parts.append(self._fitted(window[0], window[1], key))
                owner.append(number)
        sums = [0.0] * len(requests)
        for number, one in zip(owner, self._score(parts, "score"), strict=True):
            sums[number] += one.log_prob
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to one of the `until` texts.

        Greedy unless the task sets a temperature; a diffusion model takes one token a pass,
        the surest first. Contexts of one length are written together.
        """
        texts = [""] * len(requests)
        wanted = [self._wanted(*request.args) for request in requests]

        def shape(i: int) -> tuple[int, float, int]:
            ids, new, heat = wanted[i]
            return new, heat, len(ids)

        order = sorted(range(len(requests)), key=shape)
        done = 0
        with bar("generate", len(requests)) as progress:
            for (new, heat, length), same in groupby(order, key=shape):
                group = list(same)
                size = max(1, self.reader.batch_tokens // (length + new))
                for first in range(0, len(group), size):
                    part = group[first : first + size]
                    prompts = torch.tensor([wanted[i][0] for i in part])
                    keys = np.concatenate(
                        [sample_keys(self.seed, requests[i].args[0], 1) for i in part]
                    )
                    rows = self._write(prompts, new, Sampling(temperature=heat), keys)
                    for i, row in zip(part, rows, strict=True):
                        texts[i] = self._ended(row, requests[i].args[1])
                    done += len(part)
                    progress.update(done)
        return texts

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The scalar of each process, as one tensor."""
        return torch.tensor(self.processes.gather(tensor.item()))

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The object of each process; None on all but process `dst`."""
        gathered = self.processes.gather(obj)
        return gathered if self._rank == dst else None

    def barrier(self) -> None:
        """Wait for all processes."""
        self.processes.gather(None)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness keeps with its results."""
        return {
            "family": self.loaded.family,
            "mode": self.mode,
            "draws": self.draws if self.mode in ("mc", "nll") else None,
            "cut_contexts": self.cut_contexts,
            "cut_continuations": self.cut_continuations,
        }

    @property
    def _mask(self) -> int:
        return self.loaded.tokenizer.mask

    @property
    def _end(self) -> int:
        return self.loaded.tokenizer.end_of_document

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.loaded.tokenizer.encode(text).tolist()
        return ids

    def _request(self, pair: tuple[str, str], key: int) -> Request:
        """Encoded together, as the harness does: spaces at the seam belong to the continuation.

        Without a context, the end of another document stands before the text.
        """
        context, continuation = pair
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if not stripped:
            return self._fitted([self._end], self._encode(continuation), key)
        before = self._encode(stripped)
        return self._fitted(before, self._encode(stripped + continuation)[len(before) :], key)

    def _fitted(self, context: Sequence[int], continuation: Sequence[int], key: int) -> Request:
        """What does not fit is cut at the left, and counted; one token stays as the context."""
        ids = [*context, *continuation][-self.limit :]
        self.cut_contexts += len(context) + len(continuation) > self.limit
        self.cut_continuations += len(continuation) >= self.limit
        scored = min(len(continuation), self.limit - 1)
        return Request(np.array(ids, dtype=np.int32), scored, key)

    def _score(self, asked: Sequence[Request], title: str) -> list[Likelihood]:
        with bar(title, len(asked)) as progress:
            if self.reader.causal:
                return exact(self.reader, asked, progress.update)
            if self.mode == "ar":
                return chain_rule(self.reader, asked, self._mask, progress.update)
            if self.mode == "generate":
                return [Likelihood(float("nan"), 0.0, None)] * len(asked)
            return monte_carlo(
                self.reader, asked, self._mask, self.draws, self.seed, progress.update
            )

    def _wanted(self, context: str, settings: dict[str, Any]) -> tuple[list[int], int, float]:
        """Ids of the context, how many tokens to write, and the temperature."""
        new = min(int(settings.get("max_gen_toks", _NEW_TOKENS)), self.limit - 2)
        warm = settings.get("do_sample", False)
        ids = self._encode(context)
        kept = (ids or [self._end])[-(self.limit - 1 - new) :]
        self.cut_contexts += len(kept) < len(ids)
        return kept, new, float(settings.get("temperature", 0.0)) if warm else 0.0

    def _write(
        self, prompts: torch.Tensor, new: int, sampling: Sampling, keys: Keys
    ) -> list[list[int]]:
        shared: dict[str, Any] = {
            "vocabulary": self.loaded.tokenizer.vocabulary,
            "sampling": sampling,
            "keys": keys,
            "machine": self.loaded.machine,
        }
        if self.reader.causal:
            steps = text_steps(self.loaded.model, prompts, new, end=self._end, **shared)
            return [list(row) for row in zip(*(token.tolist() for token in steps), strict=True)]
        masks = torch.full((len(prompts), new), self._mask)
        ids = torch.cat((prompts, masks), dim=1)
        for state in unmask_steps(self.loaded.model, ids, Schedule(), mask=self._mask, **shared):
            ids = state.ids
        rows: list[list[int]] = ids[:, prompts.shape[1] :].tolist()
        return rows

    def _ended(self, ids: list[int], settings: dict[str, Any]) -> str:
        """Text up to the end of the document, and up to the first of the `until` texts."""
        text = self.loaded.tokenizer.decode(
            ids[: ids.index(self._end)] if self._end in ids else ids
        )
        until = settings.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop)[0] if stop else text
        return text


class _Processes:
    """This process among those that torchrun started; a single one without it."""

    def __init__(self) -> None:
        self.world = processes()
        self.rank = int(os.environ["RANK"]) if self.world > 1 else 0
        if self.world > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")

    def device(self, name: str | None) -> str:
        """`auto` becomes this process's own GPU where there are several."""
        if self.world > 1 and name in (None, "auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return name or "auto"

    def close(self) -> None:
        """Part from the others."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, on each."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        gather: Callable[[list[Any], Any], None] = distributed.all_gather_object
        gather(values, value)
        return values


def _question(request: Any) -> int:
    """A key that all choices of a question share, whichever process scores them."""
    task = getattr(request, "task_name", None)
    number = getattr(request, "doc_id", None)
    name = f"{task}:{number}" if task and number is not None else str(request.args[0])
    return rng.stream_key(0, name)


def _refuse_choices(requests: Sequence[Any]) -> None:
    """Generation alone cannot rank choices."""
    seen: dict[int, Any] = {}
    for request in requests:
        # The harness repeats a request to give all processes equally many.
        if seen.setdefault(_question(request), request.args) != request.args:
            raise UserError(
                f"mode = 'generate' gives no likelihoods, and the task {request.task_name} ranks "
                "choices by them; use --mode mc or ar"
            )
