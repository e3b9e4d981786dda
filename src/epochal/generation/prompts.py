"""Texts for a whole file of prompts, kept as they are made, so that nothing is made twice.

The output is JSON lines: `{"index": 0, "prompt": "…", "texts": ["…"], "settings": "1f0a…"}`,
`index` being the prompt's position in the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from epochal import files
from epochal.errors import UserError
from epochal.generation.config import GenerationConfig
from epochal.generation.generator import Generator
from epochal.progress import bar
from epochal.runs import read_lines


def read_prompts(path: str | Path) -> list[str]:
    """One prompt per line of a text file, or the key `prompt` of each line of a .jsonl file.

    Raises UserError for a file that is missing, empty or has a line without a prompt.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts {file}: {error}") from error
    if file.suffix not in (".jsonl", ".json"):
        prompts = lines
    else:
        prompts = [_prompt(file, number, line) for number, line in enumerate(lines, 1)]
    if not prompts:
        raise UserError(f"the file of prompts {file} is empty")
    return prompts


def _prompt(file: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError):
        prompt = None
    if not isinstance(prompt, str):
        raise UserError(
            f'{file}, line {number} has no prompt; write {{"prompt": "…"}} on each line'
        )
    return prompt


def generate_file(
    generator: Generator, prompts: Sequence[str], out: str | Path, config: GenerationConfig
) -> tuple[int, int]:
    """(prompts written now, prompts already there) of the file `out`, which then has them all.

    Each batch is added as soon as it is done; a later call resumes. At the end the lines are in
    the order of the prompts. Raises UserError if `out` was made from other prompts, by another
    checkpoint or with other options, and what `Generator.generate` raises.
    """
    path = Path(out)
    decisive = {"model": generator.model_id, "config": asdict(config)}
    digest = files.sha256_json(decisive)[:16]
    lines = {line["index"]: line for line in read_lines(path)}
    for number, line in lines.items():
        if number >= len(prompts) or line["prompt"] != prompts[number]:
            raise UserError(f"{path} holds texts for other prompts; give another output file")
        if line["settings"] != digest:
            raise UserError(
                f"{path} holds texts of another checkpoint or with other settings; give another "
                "output file"
            )
    missing = [number for number in range(len(prompts)) if number not in lines]
    if not missing:
        return 0, len(lines)
    before = len(lines)
    with files.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, lines)  # without a line that was cut off by a kill
        with path.open("a", encoding="utf-8") as file, bar("generate", len(missing)) as progress:
            wanted = [prompts[number] for number in missing]
            for place, samples in generator.generate(wanted, config):
                number = missing[place]
                lines[number] = {
                    "index": number,
                    "prompt": prompts[number],
                    "texts": [sample.text for sample in samples],
                    "settings": digest,
                }
                file.write(json.dumps(lines[number], ensure_ascii=False) + "\n")
                file.flush()
                progress.update(len(lines) - before)
    _write(path, lines)
    return len(missing), before


def _write(path: Path, lines: dict[int, dict[str, Any]]) -> None:
    ordered = (json.dumps(lines[number], ensure_ascii=False) for number in sorted(lines))
    files.write_text(path, "".join(line + "\n" for line in ordered))
