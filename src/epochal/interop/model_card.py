"""README.md of an exported model: what it is, how to load it, what it learned from, how good it is.

Everything in it is read from the run's record; what the record does not know is said to be
not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from epochal.families import get_family
from epochal.interop.hf_config import CAUSAL, OTHER, auto_classes
from epochal.interop.huggingface import RECIPE, portable
from epochal.recipe import recipe_toml
from epochal.runs import NLLResult, RunRecord
from epochal.units import format_count

LISTED_FILES = 20

_LLAMA_CODE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
ids = tokenizer("The", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
```

It is a stock Llama: no code of its own is needed. Documents were trained one after another with
`{end}` between them, so the tokenizer begins a text with it. The table has {padding} rows of
padding beyond the tokenizer's {vocabulary:,} tokens; `generation_config.json` keeps them from
being drawn.
"""
_DUAL_CODE = """
It also learned with masks. `AutoModelForMaskedLM` with `trust_remote_code=True` reads it so, with
`modeling_epochal_mdm.py` beside the weights: the logits at a position are of the token there,
hidden tokens are `{mask}`, and its `generate` fills them in.
"""
_MDM_CODE = """\
```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}", trust_remote_code=True)
model = AutoModel.from_pretrained("{folder}", trust_remote_code=True)
ids = tokenizer("The {mask}{mask}{mask} of", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids)[0]))  # fills in, or adds max_new_tokens
```

{title}: the logits at a position are of the token there, not of the next one; {places}
are given as id {vocabulary}. `trust_remote_code` loads `modeling_epochal_mdm.py` beside the
weights: read it first. Programs that serve Llamas cannot run this model. The tokenizer begins a
text with `{end}`, which stood between the documents. The table has rows of padding, which
`generate` never draws.
"""
_NO_TEXT = """\
The model was exported without a tokenizer, so it knows ids but no text: ids 0 to {last:,}, and id
{vocabulary} for a masked token of a diffusion model.
"""


_PARAMETRISATION: dict[str, dict[str, str]] = {
    "standard": {},
    "completep": {"parametrisation": "CompleteP; its multipliers are folded into the weights"},
}
"""The recipe's parametrisation → a row of the table of the model."""


def model_card(
    record: RunRecord, step: int, folder: str, vocabulary: int, rows: int, end: str, mask: str
) -> str:
    """The card of `record`'s model after `step` steps, as Markdown.

    `end` and `mask` are the tokens' texts, '' without a tokenizer.
    """
    recipe, numbers = record.recipe, record.numbers
    title = get_family(record.family).title
    shape = recipe.model.architecture()
    classes = auto_classes(get_family(record.family))
    code = _LLAMA_CODE if CAUSAL in classes else _MDM_CODE
    code += _DUAL_CODE if len(classes) > 1 else ""
    how = code if end else _NO_TEXT
    sections = [
        _front_matter(record),
        f"# {record.name}",
        f"A language model of {format_count(numbers['params'])} parameters, {title}, trained with "
        f"[Epochal](https://arxiv.org/abs/2507.15857) for {_epochs(record, step)}.",
        "## How to load it",
        how.format(
            folder=folder,
            end=end,
            mask=mask,
            places="places to write" if OTHER in classes else "hidden tokens",
            title=title.capitalize(),
            vocabulary=vocabulary,
            padding=rows - vocabulary,
            last=vocabulary - 1,
        ).strip(),
        "## Evaluation",
        _evaluation(record, step),
        "## What it learned from",
        _corpus(record),
        "## Model",
        _table(
            {
                "family": title,
                "parameters (6·N·D counts these)": f"{numbers['params']:,}",
                "trained weights, padding included": f"{numbers['params_exact']:,}",
                "width, layers": f"{shape.d_model}, {shape.layers}",
                "heads × head width": f"{shape.heads} × {shape.head_dim}",
                "SwiGLU inner width": f"{shape.d_ff}",
                "tables": "tied" if shape.tie_embeddings else "untied",
                **_PARAMETRISATION[recipe.model.parametrisation],
                "context": f"{recipe.data.sequence_length} tokens",
                "optimizer step": f"{step:,} of {numbers['steps']:,}",
            }.items()
        ),
        "## Recipe",
        f"Also in `{RECIPE}`; `epochal train {RECIPE}` with the same corpus makes the model again.",
        f"```toml\n{recipe_toml(portable(recipe)).strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(record: RunRecord) -> str:
    family = get_family(record.family)
    kind = family.title.replace(" ", "-")
    lines = ["---", "library_name: transformers", "tags:", "- epochal", f"- {kind}"]
    lines += ["pipeline_tag: text-generation"] if family.exact else []
    return "\n".join([*lines, "---"])


def _epochs(record: RunRecord, step: int) -> str:
    numbers = record.numbers
    share = step / numbers["steps"]
    if not (record.info.get("imported") or {"unique_tokens_known": True})["unique_tokens_known"]:
        return f"{format_count(numbers['tokens'] * share)} tokens"
    return (
        f"{numbers['epochs'] * share:.3g} epochs over {numbers['unique_tokens']:,} unique tokens "
        f"({format_count(numbers['flops'] * share)} FLOPs)"
    )


def _evaluation(record: RunRecord, step: int) -> str:
    found = [result for result in record.evaluations() if result.step == step]
    if not found:
        return "Not evaluated. `epochal eval` gives the validation NLL with its error."
    head = ["estimator", "nats per token", "bits per byte", "scored"]
    lines = [_row(head), _row(["---"] * len(head)), *map(_result, found)]
    bound = (
        ""
        if not any(result.is_bound for result in found)
        else "\n\nA figure from draws is an upper bound on the NLL. ± is one standard error."
    )
    return "\n".join(lines) + (bound or "\n\n± is one standard error.")


def _result(result: NLLResult) -> str:
    per_byte = "not known" if result.bits_per_byte is None else f"{result.bits_per_byte:.4f}"
    unit = "windows" if result.estimator == "paper" else "documents"
    return _row(
        [
            f"{result.estimator}, {result.draws} draws" if result.draws > 1 else result.estimator,
            f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f}",
            per_byte,
            f"{result.tokens_scored:,} tokens of {result.documents:,} {unit}",
        ]
    )


def _corpus(record: RunRecord) -> str:
    """The metadata of both stores, as far as there are any."""
    parts = []
    for role, facts in record.info["corpus"].items():
        pairs = {"documents": f"{facts['documents']:,}", "content SHA-256": facts["content_sha256"]}
        tokens = {"unique tokens": f"{facts['unique_tokens']:,}"}
        metadata = facts.get("metadata")
        if metadata is None and not facts["documents"]:
            return "Not known: the model was imported without its corpus."
        names = ""
        if metadata is not None:
            tokenizer = metadata.get("tokenizer") or {}
            if metadata.get("text_bytes"):
                pairs["text bytes"] = f"{metadata['text_bytes']:,}"
            pairs["tokenizer"] = f"{tokenizer.get('name')}, {tokenizer.get('vocabulary')} tokens"
            names = _sources(metadata.get("sources") or {})
        parts.append(f"### {str(role).capitalize()}\n\n{_table((tokens | pairs).items())}{names}")
    return "\n\n".join(parts)


def _sources(sources: Mapping[str, Any]) -> str:
    listed = [str(source.get("name")) for source in sources.get("listed", [])]
    if not listed:
        return ""
    more = int(sources.get("files", len(listed))) - len(listed[:LISTED_FILES])
    names = ", ".join(f"`{name}`" for name in listed[:LISTED_FILES])
    return f"\n\nFrom {names}{f' and {more} more files' if more > 0 else ''}."


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join([_row(["", ""]), _row(["---", "---"]), *(_row(pair) for pair in pairs)])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
