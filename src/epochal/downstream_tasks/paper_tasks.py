"""The nine downstream tasks of the paper: chance, the paper's accuracies, and their columns.

Accuracies in percent, zero-shot, from arXiv 2507.15857, Tables 2 and 3. They were made with
lm-eval 0.3.0, so a score made with another version need not match to the digit; which scoring
mode and whether length was normalised is not stated there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperTask:
    """One task of the paper's tables."""

    file: str
    """The harness's own definition, in its `tasks` folder."""
    chance: float
    """Accuracy of a blind guess, in percent."""
    accuracy: dict[str, tuple[float, float]]
    """Family → accuracy in percent of the paper's best models on 100M and 500M unique tokens."""
    columns: tuple[str, ...]
    """What each line of a local file must have."""

    def shares(self, family: str) -> dict[str, float] | None:
        """Unique tokens → the paper's accuracy, from 0 to 1; None for a family it did not have."""
        if family not in self.accuracy:
            return None
        small, large = self.accuracy[family]
        return {"100M": small / 100, "500M": large / 100}


PAPER_TASKS = {
    "arc_easy": PaperTask(
        "arc/arc_easy.yaml",
        25,
        {"ar": (35.63, 43.79), "mdm": (37.84, 45.95)},
        columns=("question", "choices", "answerKey"),
    ),
    "boolq": PaperTask(
        "super_glue/boolq/default.yaml",
        50,
        {"ar": (46.00, 51.87), "mdm": (49.38, 55.26)},
        columns=("passage", "question", "label"),
    ),
    "copa": PaperTask(
        "super_glue/copa/default.yaml",
        50,
        {"ar": (56.33, 67.00), "mdm": (59.00, 64.83)},
        columns=("premise", "choice1", "choice2", "question", "label"),
    ),
    "hellaswag": PaperTask(
        "hellaswag/hellaswag.yaml",
        25,
        {"ar": (27.37, 32.28), "mdm": (30.24, 35.33)},
        columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    ),
    "piqa": PaperTask(
        "piqa/piqa.yaml",
        50,
        {"ar": (60.94, 65.71), "mdm": (60.72, 65.61)},
        columns=("goal", "sol1", "sol2", "label"),
    ),
    "race": PaperTask(
        "race/race.yaml",
        25,
        {"ar": (25.28, 28.28), "mdm": (28.96, 31.44)},
        columns=("article", "problems"),
    ),
    "winogrande": PaperTask(
        "winogrande/default.yaml",
        50,
        {"ar": (48.87, 50.61), "mdm": (50.97, 51.51)},
        columns=("sentence", "option1", "option2", "answer"),
    ),
    "sciq": PaperTask(
        "sciq/sciq.yaml",
        25,
        {"ar": (58.05, 67.82), "mdm": (68.67, 79.13)},
        columns=(
            "question",
            "support",
            "distractor1",
            "distractor2",
            "distractor3",
            "correct_answer",
        ),
    ),
    "lambada_standard": PaperTask(
        "lambada/lambada_standard.yaml",
        0,
        {"ar": (10.91, 15.07), "mdm": (15.19, 22.30)},
        columns=("text",),
    ),
}
