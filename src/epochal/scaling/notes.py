"""Reason codes of fits and plans, each with the values that go with it (`results.Note`).

Their texts are in `report/text/fit.py` and `report/text/plan.py`.
"""

from __future__ import annotations

from epochal.results import NoteCode


class DropReason(NoteCode):
    """Why a run is not a point of a fit."""

    DIVERGED = "run_diverged"
    NOT_FINISHED = "run_not_finished"
    """status: of the run; its learning rate has not decayed."""
    BRANCHED_FROM = "branched_from"
    """branch: name of a run that starts from it; its own rate has not decayed."""
    NO_FINITE_LOSS = "no_finite_loss"
    LOSS_NOT_POSITIVE = "loss_not_positive"
    """loss."""
    DOMINATED_SETTING = "dominated_setting"
    """setting, loss, runs: its own, mean over `runs` runs; best_setting, best_loss, best_runs."""
    TOO_MANY_EPOCHS = "too_many_epochs"
    """limit, epochs."""
    OVERFITTED = "overfitted"
    """above: share by which its loss is above a shorter run's; threshold."""
    ONLY_REPEATED = "only_repeated"
    """A single multi-epoch run cannot identify a half-life."""
    UNIGRAM_LEVEL = "unigram_level"
    """unigram_nll: the run is no better than token frequencies alone, nats per token."""


class PointsNote(NoteCode):
    """What to know about a set of points."""

    SINGLE_EPOCH_ASSUMED = "single_epoch_assumed"
    """file: has no column unique_tokens."""
    FAMILY_ASSUMED = "family_assumed"
    """file: has no column family; family: the one that is assumed."""
    BEST_EVALUATIONS = "best_evaluations"
    """Points are the best evaluations within runs."""
    TRAINING_EVALUATIONS = "training_evaluations"
    """count of total losses come from the evaluation during training."""
    RUNS_AT_UNIGRAM_LEVEL = "runs_at_unigram_level"
    """family; count of total runs are no better than unigram_nll."""


class ConstantStatus(NoteCode):
    """What is known about a constant besides its value and interval."""

    FIXED = "fixed"
    FIXED_FROM_STAGE_1 = "fixed_from_stage_1"
    NO_REPETITION = "no_repetition"
    """Not identified: fewer than two runs repeat their tokens."""
    NO_LARGE_MODELS = "no_large_models"
    """Not identified: no two runs have N above 1.1·N_opt(U)."""
    ANY_VALUE = "any_value"
    """Not identified: any value fits as well."""
    AT_LEAST = "at_least"
    """low."""
    AT_MOST = "at_most"
    """high."""


class FitNote(NoteCode):
    """Warnings about one family's fit."""

    NO_FLOOR = "no_floor"
    """E is nearly 0: the runs do not reach far enough to show a floor."""
    TRADE_OFF = "trade_off"
    """condition: the constants trade off."""
    FIXED_CONSTANTS_OFF = "fixed_constants_off"
    """offset: share by which the fixed constants are off at one epoch."""
    HALF_LIFE_BEYOND_RUNS = "half_life_beyond_runs"
    """half_life_constant: R_D; longest: epochs of the longest run."""
    ONE_UNIQUE_BUDGET = "one_unique_budget"
    """All runs have one number of unique tokens."""


class ChoiceReason(NoteCode):
    """Why a law was chosen."""

    NOTHING_REPEATS = "nothing_repeats"
    """Fewer than two runs repeat their tokens."""
    ONLY_ONE = "only_one"
    """No other law could be fitted."""
    BETTER = "better"
    """than: law; error_lower, standard_error: shares; aicc_lower."""
    FEWEST_CONSTANTS = "fewest_constants"
    """No other law predicts held-out runs better."""
    GAIN_UNCLEAR = "gain_unclear"
    """ahead: laws whose gain is not clear."""


class VertexFlag(NoteCode):
    """Why the minimum of an isoFLOP parabola may be unreliable."""

    FEW_SIZES = "few_sizes"
    """sizes: how many."""
    NO_MINIMUM = "no_minimum"
    OUTSIDE_SIZES = "outside_sizes"


class PlanNote(NoteCode):
    """What to know about a plan."""

    BUDGET_OF_GPUS = "budget_of_gpus"
    """count, gpu, hours, mfu, peak (FLOP/s of one), flops (of all)."""
    OTHER_VOCABULARY = "other_vocabulary"
    """family; law, plan: vocabularies."""
    SMALLEST_SIZE = "smallest_size"
    """family, params: the plan stops at the smallest model of the search."""
    LARGEST_SIZE = "largest_size"
    """family, params: the plan stops at the largest model of the search."""
    ROW_LENGTH_UNKNOWN = "row_length_unknown"
    """family; rows: tokens per row of a recipe."""
    ROW_LENGTH_SHORTER = "row_length_shorter"
    """family; fitted, rows: tokens per row; unique_tokens."""
    NO_REPETITION = "law_without_repetition"
    """family; identified: False where R_D is not identified, True where runs are of one epoch."""
    NO_LARGE_MODELS = "law_without_large_models"
    """family: R_N is not identified."""
    REPEATED_AS_FRESH = "repeated_as_fresh"
    """family: the law counts a repeated token as a fresh one."""
    NO_OVERFITTING = "law_without_overfitting"
    """family: the law cannot express overfitting."""
    FLOORS_EXTRAPOLATED = "floors_extrapolated"
    """exact, bounds: families by kind of NLL; a crossing rests on extrapolated floors."""
    NEEDS_SHARDING = "needs_sharding"
    """family, gpu, gpus, memory; whole, sharded: bytes per GPU."""
    DOES_NOT_FIT = "does_not_fit"
    """family, gpu, gpus, memory; sharded: bytes per GPU."""
    MUENNIGHOFF_CONSTANTS = "muennighoff_constants"
    PAPER_CONSTANTS = "paper_constants"
    PAPER_FIT = "paper_fit"
    PAPER_BEST_RUNS = "paper_best_runs"
