"""The model type `epochal` of lm-evaluation-harness 0.4.

    lm_eval --model epochal --model_args run=quickstart/mdm,mode=mc,draws=32 --tasks sciq

works through `epochal-lm-eval` (or `python -m epochal.cli.lm_eval`), which registers it; from
Python, importing this module does. The harness has no discovery of plug-ins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
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

from epochal import rng
from epochal.downstream_tasks.options import (
    DEFAULT_DRAWS,
    Mode,
    check_scoring,
    draws_masks,
    resolve_mode,
)
from epochal.downstream_tasks.processes import Processes
from epochal.errors import UserError
from epochal.evaluation.load import CheckpointName, LoadedModel
from epochal.families import get_family
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.interop.load import load
from epochal.likelihood.conditional import (
    Likelihood,
    Request,
    chain_rule,
    exact,
    greedy_match,
    monte_carlo,
)
from epochal.progress import Bar, bar
from epochal.rng import Keys
from epochal.training.train import evaluation_batch

_NEW_TOKENS = 256
"""The harness's own default of `max_gen_toks`."""


@register_model("epochal")
class HarnessModel(LM):  # type: ignore[misc]
    """A run as lm-evaluation-harness sees it. Requests are split over processes by the harness."""

    def __init__(
        self,
        run: str | LoadedModel,
        checkpoint: CheckpointName | None = None,
        mode: str | None = None,
        draws: int | None = None,
        seed: int = 0,
        pad: bool | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """`mode`, `draws` and `pad` as in `DownstreamOptions`.

        `batch_size` counts rows of the sequence length; short rows share one. Raises UserError
        for options that the run's family does not have, and for too few draws.
        """
        super().__init__()
        self.processes = Processes()
        self._rank, self._world_size = self.processes.rank, self.processes.world
        self._device = torch.device("cpu")  # what the harness gathers are small counts
        self._stderr = sys.stderr
        if not isinstance(run, LoadedModel):
            run = load(run, checkpoint, self.processes.device(device))
        self.loaded = run
        self.family = get_family(run.family)
        self.mode: Mode = resolve_mode(mode, self.family)
        check_scoring(self.mode, self.family, draws, pad)
        self.draws = DEFAULT_DRAWS if draws is None else int(draws)
        self.seed = int(seed)
        text = str(batch_size or "")
        rows = int(text) if text.isdigit() else evaluation_batch(run.recipe)
        rows = min(rows, int(max_batch_size)) if max_batch_size else rows
        self.reader = run.reader(rows * run.sequence_length, pad)
        # A causal model scores one token more than it reads.
        self.limit = run.sequence_length + (1 if self.reader.causal else 0)
        self.truncated_contexts = 0
        """Requests whose context was cut at the left, since it did not fit."""
        self.truncated_continuations = 0
        """Requests whose continuation alone did not fit and was cut at the left."""
        self.errors: dict[tuple[str, str], float] = {}
        """(context, continuation) → standard error of its log-likelihood."""

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """A model from model arguments, which override the harness's own options."""
        options = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**options | arg_dict)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """The same from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """For each (context, continuation): log-likelihood in nats, and whether it is greedy.

        Greedy means: written by taking the most likely tokens. In the modes exact and chain_rule
        from left to right, in mc and generate in the order of confidence. In nll it is not
        computed, and False. In generate the log-likelihood is not computed, and NaN.
        """
        if self.mode == "generate":
            _refuse_choices(requests)
        encoded = [self._request(request.args, _question(request)) for request in requests]
        scores = self._score(encoded)
        greedy = [bool(score.greedy) and self.mode != "nll" for score in scores]
        if self.mode in ("mc", "generate"):
            unknown = [i for i, score in enumerate(scores) if score.greedy is None]
            with self._bar("generate", len(unknown)) as progress:
                candidates = [encoded[i] for i in unknown]
                matches = greedy_match(self.reader, candidates, self._mask, progress.update)
            for i, match in zip(unknown, matches, strict=True):
                greedy[i] = match
        for request, score in zip(requests, scores, strict=True):
            self.errors[request.args] = score.standard_error
        return [(score.log_prob, same) for score, same in zip(scores, greedy, strict=True)]

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
        for number, score in zip(owner, self._score(parts), strict=True):
            sums[number] += score.log_prob
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to one of the `until` texts.

        Greedy unless the task sets a temperature; a masked diffusion model unmasks one token per
        pass, the most confident first. Contexts of one length are batched.
        """
        texts = [""] * len(requests)
        encoded = [self._generation(*request.args) for request in requests]

        def shape(i: int) -> tuple[int, float, int]:
            ids, config = encoded[i]
            return config.tokens, config.temperature, len(ids)

        order = sorted(range(len(requests)), key=shape)
        done = 0
        with self._bar("generate", len(requests)) as progress:
            for (new, _, length), same in groupby(order, key=shape):
                group = list(same)
                size = max(1, self.reader.batch_tokens // (length + new))
                for first in range(0, len(group), size):
                    part = group[first : first + size]
                    prompts = torch.tensor([encoded[i][0] for i in part])
                    keys = np.concatenate(
                        [sample_keys(self.seed, requests[i].args[0], 1) for i in part]
                    )
                    rows = self._write(prompts, encoded[part[0]][1], keys)
                    for i, row in zip(part, rows, strict=True):
                        texts[i] = self._until(row, requests[i].args[1])
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
            "family": self.family.name,
            "mode": self.mode,
            "draws": self.mask_draws,
            "truncated_contexts": self.truncated_contexts,
            "truncated_continuations": self.truncated_continuations,
        }

    @property
    def mask_draws(self) -> int | None:
        """Masks per continuation, at most; None where no masks are drawn."""
        return self.draws if draws_masks(self.mode, self.family) else None

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Bar]:
        """A progress bar, also where standard error was redirected to hide the harness's."""
        with redirect_stderr(self._stderr), bar(title, total) as progress:
            yield progress

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
        self.truncated_contexts += len(context) + len(continuation) > self.limit
        self.truncated_continuations += len(continuation) >= self.limit
        scored = min(len(continuation), self.limit - 1)
        return Request(np.array(ids, dtype=np.int32), scored, key)

    def _score(self, requests: Sequence[Request]) -> list[Likelihood]:
        with self._bar("score", len(requests)) as progress:
            if self.family.exact:
                return exact(self.reader, requests, progress.update)
            if self.mode == "chain_rule":
                return chain_rule(self.reader, requests, self._mask, progress.update)
            if self.mode == "generate":
                return [Likelihood(float("nan"), 0.0, None)] * len(requests)
            return monte_carlo(
                self.reader, requests, self._mask, self.draws, self.seed, progress.update
            )

    def _generation(
        self, context: str, settings: dict[str, Any]
    ) -> tuple[list[int], GenerationConfig]:
        """Ids of the context, cut at the left to fit, and how to continue it."""
        new = max(1, min(int(settings.get("max_gen_toks", _NEW_TOKENS)), self.limit - 2))
        warm = settings.get("do_sample", False)
        temperature = float(settings.get("temperature", 0.0)) if warm else 0.0
        ids = self._encode(context)
        kept = (ids or [self._end])[-(self.limit - 1 - new) :]
        self.truncated_contexts += len(kept) < len(ids)
        return kept, GenerationConfig(tokens=new, temperature=temperature)

    def _write(
        self, prompts: torch.Tensor, config: GenerationConfig, keys: Keys
    ) -> list[list[int]]:
        ids, generator = prompts, self.loaded.generator
        if generator.writer.infills:
            ids = torch.cat((prompts, torch.full((len(prompts), config.tokens), self._mask)), dim=1)
        *_, last = generator.states(ids, config, keys)
        rows: list[list[int]] = last.ids[:, prompts.shape[1] :].tolist()
        return rows

    def _until(self, ids: list[int], settings: dict[str, Any]) -> str:
        """Text up to the end of the document, and up to the first of the `until` texts."""
        text = self.loaded.tokenizer.decode(
            ids[: ids.index(self._end)] if self._end in ids else ids
        )
        until = settings.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop)[0] if stop else text
        return text


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
                f"the mode generate gives no likelihoods, and the task {request.task_name} ranks "
                "choices by them; choose another mode"
            )
