"""Rows of the paper's nine tasks, made up, in the folder layout of `--data`."""

from __future__ import annotations

import json

ROWS = {
    "arc_easy/test": {
        "question": "What is returned?",
        "choices": {"text": ["a list", "a number", "none", "a name"], "label": list("ABCD")},
        "answerKey": "B",
    },
    "boolq/validation": {
        "passage": "A module is a file.",
        "question": "is a module a file",
        "label": 1,
    },
    "copa/validation": {
        "premise": "The list is empty.",
        "choice1": "It was cleared.",
        "choice2": "It is long.",
        "question": "cause",
        "label": 0,
    },
    "hellaswag/validation": {
        "activity_label": "Work",
        "ctx_a": "A man writes.",
        "ctx_b": "he",
        "endings": ["stops", "returns the value of it", "is a name", "raises an error"],
        "label": "1",
    },
    "piqa/validation": {"goal": "Sort it", "sol1": "Call sort", "sol2": "Lose it", "label": 0},
    "race/test": {
        "article": "It returns a value.",
        "problems": str(
            [{"question": "What?", "answer": "A", "options": ["a value", "a", "b", "c"]}]
        ),
    },
    "winogrande/validation": {
        "sentence": "The list is in the set because _ is small.",
        "option1": "the list",
        "option2": "the set",
        "answer": "1",
    },
    "sciq/test": {
        "question": "What returns?",
        "support": "A function returns.",
        "distractor1": "a list",
        "distractor2": "a name",
        "distractor3": "an object of any type",
        "correct_answer": "a function",
    },
    "lambada_standard/test": {"text": "It returns the value of the name"},
}


def write_rows(folder, copies=3, tasks=None):
    """FOLDER/TASK/SPLIT.jsonl for all tasks, or for those named."""
    for place, row in ROWS.items():
        task, split = place.split("/")
        if tasks is not None and task not in tasks:
            continue
        path = folder / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((json.dumps(row) + "\n") * copies)
    return folder
