"""Evaluate a run's checkpoint on its validation set, and store the result with the run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from epochal.data.corpus import Corpus, open_corpus
from epochal.data.rows import ScoredWindows
from epochal.data.tokenizer import NOT_KNOWN, UnknownTokenizer
from epochal.device import has_compiler
from epochal.errors import NotFiniteError, OptionError, RunError, UserError
from epochal.estimates import Estimate, Floats
from epochal.evaluation.load import LoadedModel, load_run
from epochal.evaluation.options import Estimator, EvalOptions
from epochal.families import families, get_family
from epochal.likelihood.breakdown import Breakdown, break_down
from epochal.likelihood.draws import EvalShard
from epochal.likelihood.nll import Evaluator, Models
from epochal.likelihood.paper import PaperEvaluator
from epochal.objectives import Likelihood, masked_reading
from epochal.progress import Bar, bar, say
from epochal.runs import NLLResult, RunRecord
from epochal.runs.checkpoints import list_checkpoints
from epochal.training.parallel.world import gloo_group
from epochal.training.train import evaluation_batch

EVAL_DRAWS = 8
FIRST_DRAWS = 4
MAX_DRAWS = 1024
COMPILE_FROM = 1e16
"""FLOPs of all forward passes from which a GPU's eval is compiled: some tens of seconds of an
H100, where the compiler takes ten."""
Z_95 = 1.959964
"""Half width of a normal 95 % interval in standard errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NLLResultInParts(NLLResult):
    """An evaluation, and where in the validation set the nats are."""

    breakdown: Breakdown


@dataclass(frozen=True, slots=True)
class Scored:
    """A result with all that it came from."""

    record: RunRecord
    loaded: LoadedModel
    evaluator: Evaluator | PaperEvaluator
    found: Estimate
    result: NLLResult

    def keep(self) -> None:
        """Write the result into the run's folder, unless one with more draws is there."""
        if (better := self.record.more_precise(self.result)) is not None:
            say(
                f"{self.record.path} keeps its result from {better.draws} draws "
                f"(± {better.standard_error_draws:.2g} from them), which is more precise than "
                f"this one from {self.result.draws}"
            )
            return
        self.record.folder.write_evaluation(
            self.result, self.found.unit_totals, self.found.unit_tokens, self.found.unit_variances
        )
        _begin_curve(self.record, self.result)


def evaluate(run: str | Path | RunRecord, options: EvalOptions | None = None) -> NLLResult:
    """Validation NLL of a run, over the whole validation set, with its standard error.

    The result is stored with the run, unless another corpus is given or a result with more draws
    is there. Under torchrun, all processes share the work and each returns the same. Raises
    UserError for options that make no sense, and what `load` and `open_corpus` raise.
    """
    options = options or EvalOptions()
    with distributed_eval() as shard:
        scored = score(run, options, shard)
        if options.corpus is None and shard.rank == 0:
            scored.keep()
    return scored.result


def evaluate_in_parts(run: str | Path | RunRecord, options: EvalOptions) -> NLLResultInParts:
    """`evaluate`, and the result by place in the window, by document and by noise level.

    Its tables and arrays are kept in `evaluations/parts/` of the run. Raises UserError for the
    paper's estimator, which does not score the same tokens for both families.
    """
    if options.estimator == "paper":
        raise OptionError("estimator", "paper", "a breakdown needs the stratified estimator")
    with distributed_eval() as shard:
        scored = score(run, options, shard)
        assert isinstance(scored.evaluator, Evaluator)
        parts = break_down(scored.evaluator, scored.found)
        if options.corpus is None and shard.rank == 0:
            scored.keep()
            folder = scored.record.path / "evaluations" / "parts"
            parts.save(folder / f"{scored.result.checkpoint}-{scored.result.estimator}")
    figures = {f.name: getattr(scored.result, f.name) for f in dataclasses.fields(NLLResult)}
    del figures["perplexity"]  # follows from the NLL
    return NLLResultInParts(**figures, breakdown=parts)


def score(run: str | Path | RunRecord, options: EvalOptions, shard: EvalShard) -> Scored:
    """The result of one run, not yet stored."""
    record = run if isinstance(run, RunRecord) else RunRecord(run)
    if (
        options.corpus is None
        and record.info["corpus"]["validation"]["content_sha256"] == NOT_KNOWN
    ):
        raise RunError(
            f"{record.path} was imported without a corpus, so there is no validation set to score; "
            "give a corpus, or import with one to store the results with the run"
        )
    loaded = load_run(record.path, options.checkpoint, options.device)
    scorer = Scorer.of(record, loaded, options, shard, may_compile=True)
    name = options.checkpoint or which_checkpoint(record, loaded.step)
    result, found = scorer.score(loaded, loaded.model, name, options)
    if not math.isfinite(result.nll_nats_per_token):
        raise NotFiniteError(
            f"the NLL of the checkpoint {name} of {record.path} is {result.nll_nats_per_token:g}, "
            "not finite: the run diverged, or its weights are damaged"
        )
    return Scored(record, loaded, scorer.evaluator, found, result)


def pays_to_compile(loaded: LoadedModel, tokens: int) -> bool:
    """Whether to compile a model that will read `tokens` tokens: as its recipe trains, but on a
    GPU only for work that is long beside the compiler's.
    """
    wanted, on_gpu = loaded.recipe.train.compile, loaded.machine.device.type == "cuda"
    if wanted == "off" or (wanted == "on" and not on_gpu and not has_compiler()):
        return False
    shape, vocabulary = loaded.model.shape, loaded.tokenizer.vocabulary
    forward = shape.matmul_flops_per_token(vocabulary, loaded.sequence_length) / 3
    return wanted == "on" or (on_gpu and forward * tokens >= COMPILE_FROM)


def _begin_curve(record: RunRecord, result: NLLResult) -> None:
    """Give a run that was imported, and so has no log, the first point of its curve."""
    if "imported" not in record.info or record.metrics("eval") or result.estimator == "masked":
        return
    numbers = record.numbers
    done = result.step / numbers["steps"]
    point = {key: numbers[key] * done for key in ("tokens", "epochs", "flops")}
    line = {"kind": "eval", "step": result.step, **point}
    record.folder.write_metrics([line | {"nll_nats_per_token": result.nll_nats_per_token}])


def evaluate_best(record: RunRecord, draws: int | None = None, masked: bool = False) -> NLLResult:
    """NLL of the best checkpoint, unless the record has it, of as many draws or more; if `masked`,
    the bound of a family of exact NLL that is read with masks."""
    known = record.evaluation("best", masked)
    best = (record.info.get("best") or {}).get("step")
    few = known is not None and known.is_bound and known.draws < (draws or 0)
    if known is None or known.step != best or known.estimator == "paper" or few:
        estimator: Estimator = "masked" if masked else "stratified"
        options = EvalOptions(checkpoint="best", draws=draws, estimator=estimator)
        return evaluate(record, options)
    return known


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores models on one corpus, all on the same tokens with the same masks."""

    data: Corpus
    evaluator: Evaluator | PaperEvaluator

    @classmethod
    def of(
        cls,
        record: RunRecord,
        loaded: LoadedModel,
        options: EvalOptions,
        shard: EvalShard,
        may_compile: bool = False,
    ) -> Scorer:
        """On the run's own corpus, unchanged, or the one that was asked for. With `may_compile`
        the model is compiled where it pays.

        Raises RunError for a validation set that has changed, UserError for another tokenizer.
        """
        settings = dataclasses.replace(loaded.recipe.data, unique_tokens=None)
        if options.corpus is not None:
            corpus = str(options.corpus)
            settings = dataclasses.replace(settings, corpus=corpus, train=None, validation=None)
        data = open_corpus(settings)
        known = record.info["corpus"]["validation"]["content_sha256"]
        if options.corpus is None and data.validation.content_sha256 != known:
            raise RunError(
                f"the validation set {data.validation.prefix} has changed since {record.path} was "
                "trained; restore it, or give the corpus to score"
            )
        if isinstance(loaded.tokenizer, UnknownTokenizer):
            raise UserError(
                "the imported run has no tokenizer, so it is not known whether the ids of the "
                f"corpus {data.validation.prefix.parent} are its own; import it again with a "
                "tokenizer"
            )
        if data.tokenizer.sha256 != loaded.tokenizer.sha256:
            raise UserError(
                f"the corpus {data.validation.prefix.parent} was made with the tokenizer "
                f"{data.tokenizer.name}, the run with {loaded.tokenizer.name}; prepare the text "
                "with the run's tokenizer.json"
            )
        tokens, length = data.validation.tokens, loaded.sequence_length
        goal = _likelihood(loaded, options)
        draws = _first_draws(goal.exact, options)
        if may_compile and pays_to_compile(loaded, data.validation.unique_tokens * draws):
            loaded.compile()
        machine, batch = loaded.machine, evaluation_batch(loaded.recipe)
        if options.estimator == "paper":
            paper = PaperEvaluator(loaded.objective, machine, tokens, length, batch, shard=shard)
            return cls(data, paper)
        windows, starts = ScoredWindows(tokens, length), data.validation.document_starts
        vocabulary = loaded.tokenizer.vocabulary
        return cls(data, Evaluator(goal, machine, windows, starts, vocabulary, batch, shard=shard))

    def score(
        self, loaded: LoadedModel, models: Models, name: str, options: EvalOptions
    ) -> tuple[NLLResult, Estimate]:
        """The figures of `models`, which are `loaded` or contain it, and what they come from.
        `name` is the checkpoint's."""
        start = time.monotonic()
        self.evaluator.clear()
        found = self.estimate(models, options)
        return self.result(loaded, found, name, time.monotonic() - start), found

    def result(self, loaded: LoadedModel, found: Estimate, name: str, seconds: float) -> NLLResult:
        """The figures of an estimate that this scorer made."""
        evaluator, per_byte = self.evaluator, self.data.bytes_per_token
        exact, papers = evaluator.objective.exact, isinstance(evaluator, PaperEvaluator)
        bound = "masked" if loaded.objective.exact else "stratified"
        documents = found.error_documents
        return NLLResult(
            family=loaded.family,
            checkpoint=name,
            step=loaded.step,
            estimator="paper" if papers else ("exact" if exact else bound),
            nll_nats_per_token=found.nll,
            standard_error=found.error,
            standard_error_draws=found.error_draws,
            standard_error_documents=None if math.isnan(documents) else documents,
            bits_per_byte=found.nll / math.log(2) / per_byte if per_byte else None,
            tokens_scored=evaluator.tokens_scored,
            rows=evaluator.rows,
            documents=evaluator.documents,
            draws=evaluator.draws,
            sequence_length=loaded.sequence_length,
            validation_sha256=self.data.validation.content_sha256,
            seconds=seconds,
            nats_missed=evaluator.nats_missed() if isinstance(evaluator, Evaluator) else 0.0,
        )

    def estimate(self, models: Models, options: EvalOptions) -> Estimate:
        """From as many draws as asked for, or until the error is small enough."""
        evaluator = self.evaluator
        tolerance = options.tolerance
        wanted = _first_draws(evaluator.objective.exact, options)
        with bar("evaluate", 1.0) as progress:
            while True:
                while evaluator.draws < wanted:
                    evaluator.add_draw(models, _reporter(progress, evaluator.draws, wanted))
                found = evaluator.result()
                if tolerance is None or evaluator.objective.exact:
                    return found
                # Of few draws the error is itself uncertain, and would be taken when it comes out
                # too small by chance: it counts by Student's factor larger.
                low, high = found.interval_draws()
                error = max(found.error_draws, (high - low) / 2 / Z_95)
                if error <= tolerance:
                    return found
                # The error falls with √draws; at most doubling keeps a poor first guess harmless.
                needed = math.ceil(evaluator.draws * (error / tolerance) ** 2)
                wanted = min(max(needed, evaluator.draws + 1), 2 * evaluator.draws, MAX_DRAWS)
                if evaluator.draws >= MAX_DRAWS:
                    raise OptionError(
                        "tolerance",
                        tolerance,
                        f"it was not reached with {evaluator.draws} draws (the error is "
                        f"{found.error_draws:.2g}); give a larger one",
                    )


def _likelihood(loaded: LoadedModel, options: EvalOptions) -> Likelihood:
    """How the model is scored. Raises OptionError for random orders with a family that did not
    learn them."""
    bound = not loaded.objective.exact and get_family(loaded.family).cross_entropy
    if options.estimator != "masked" or bound:
        return loaded.objective
    found = masked_reading(loaded.family, loaded.tokenizer.mask)
    if found is None:
        able = ", ".join(
            one.name
            for one in families()
            if one.masked_reading or (one.cross_entropy and not one.exact)
        )
        raise OptionError(
            "estimator",
            "masked",
            f"{get_family(loaded.family).title} models learn no random orders; give a run of a "
            f"family that does: {able}",
        )
    return found


def _first_draws(exact: bool, options: EvalOptions) -> int:
    """Draws to begin with; without a tolerance, all."""
    if exact:
        return 1
    if options.tolerance is not None:
        return FIRST_DRAWS
    return options.draws or (32 if options.estimator == "paper" else EVAL_DRAWS)


def _reporter(progress: Bar, done: int, wanted: int) -> Callable[[float], None]:
    """What an evaluator calls with the finished share of its draw."""
    return lambda share: progress.update((done + share) / wanted, f"draw {done + 1}/{wanted}")


def which_checkpoint(record: RunRecord, step: int) -> str:
    """best or last: which of them `load` took, with no name given, if it took this step."""
    kinds = {
        path.name.rpartition("-")[0]
        for at, path in list_checkpoints(record.folder.checkpoints)
        if at == step
    }
    return "best" if "best" in kinds else "last"


@contextmanager
def distributed_eval() -> Iterator[EvalShard]:
    """This process's shard of an evaluation: all of it, unless torchrun started several.

    Sums travel through the CPU (gloo), so that they are the same on any device.
    """
    with gloo_group() as group:
        if group is None:
            yield EvalShard()
            return

        def total(values: Floats) -> Floats:
            tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
            dist.all_reduce(tensor, group=group)
            return tensor.numpy()

        yield EvalShard(dist.get_rank(), dist.get_world_size(), total)
