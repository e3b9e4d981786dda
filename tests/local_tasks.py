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


BABYLM = {
    "blimp_filtered/agreement": [
        {
            "sentence_good": good,
            "sentence_bad": bad,
            "field": "syntax_semantics",
            "linguistics_term": term,
            "UID": "agreement",
        }
        for good, bad, term in (
            ("The lists are empty.", "The lists is empty.", "number"),
            ("A name has a value.", "A name have a value.", "number"),
            ("Cafés, naïve – été", "Été – naïve, cafés", "order"),
        )
    ],
    "blimp_filtered/islands": [
        {
            "sentence_good": "What is it?",
            "sentence_bad": "It is what?",
            "field": "syntax",
            "linguistics_term": "islands",
            "UID": "islands",
        }
    ],
    "supplement_filtered/hypernym": [
        {"sentence_good": "A dog is an animal.", "sentence_bad": "An animal is a dog."},
        {"sentence_good": "A set is a type.", "sentence_bad": "A type is a set."},
    ],
    "ewok_filtered/social": [
        {
            "Domain": "social",
            "Context1": "Ann likes Bob.",
            "Context2": "Ann hates Bob.",
            "Target1": one,
            "Target2": two,
            "ContextType": "direct",
            "ContextDiff": "antonym",
            "TargetDiff": "antonym",
        }
        for one, two in (("She is kind.", "She is not."), ("He is in.", "It is."))
    ],
    "entity_tracking/regular": [
        {"input_prefix": "Box 0 has", "options": [" a key.", " a map.", " it."], "numops": ops}
        for ops in (0, 1)
    ],
    "entity_tracking/move_contents": [
        {"input_prefix": "Box 1 has", "options": [" the map.", " the key."], "numops": 0}
    ],
    "comps/comps_base": [
        {
            "prefix_acceptable": "A list",
            "prefix_unacceptable": "A number",
            "property_phrase": "has a length.",
        },
        {
            "prefix_acceptable": "A set",
            "prefix_unacceptable": "A name",
            "property_phrase": "is sorted.",
        },
    ],
    "comps/comps_wugs_dist-in-between": [
        {
            "prefix_acceptable": "A wug is a list. A dax",
            "prefix_unacceptable": "A dax is a list. A wug",
            "property_phrase": "is a list.",
        }
    ],
}
"""Minimal pairs in the layout of the BabyLM evaluation: folder and file → lines."""


def write_babylm(folder):
    """FOLDER/TASK/FILE.jsonl for all tasks of the BabyLM evaluation."""
    for place, rows in BABYLM.items():
        path = folder / f"{place}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
