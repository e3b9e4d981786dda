"""A folder of runs as one small archive of records, to be kept beside code and read by reports.

Of each run: recipe, run.json, the validation curve and a part of the training log, and the
evaluations of the best checkpoint with their sums per document, so that paired intervals can be
computed again. Of a search also its tune.json. No weights, no optimizer, no tokenizer, no text.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory

from epochal import files
from epochal.errors import RunError
from epochal.runs.find import TUNE_FILE, find_runs
from epochal.runs.record import RunRecord, read_lines

SUFFIX = ".zip"
_LOG_LINES = 20
"""Of training, beside those of validation."""
_ABSOLUTE = re.compile(r"""(["'])((?:/|[A-Za-z]:[\\/])[^"'\n]*)\1""")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRuns:
    """An archive of records that was written."""

    path: Path
    runs: int
    left_out: list[str]
    """Names of runs that are not finished, or whose best checkpoint nobody has evaluated."""
    bytes: int


def pack_runs(folder: str | Path, out: str | Path) -> PackedRuns:
    """Write the records of the finished runs in `folder` into the archive `out` (a .zip).

    The same runs give the same bytes. Absolute paths in recipes and records become relative to
    `folder`, or the last part of their name. Raises RunError for a folder without finished runs,
    an `out` of another kind, and a damaged record, StorageError if `out` cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != SUFFIX:
        raise RunError(f"{out} is no name for records; it must end in {SUFFIX}")
    contents: dict[str, bytes] = {}
    left_out, runs = [], 0
    for path in find_runs([folder]):
        record = RunRecord(path)
        if record.status == "diverged" or (
            record.status == "finished" and record.evaluation("best")
        ):
            name = path.relative_to(folder).as_posix() if path != folder else record.name
            contents |= {f"{name}/{file}": data for file, data in _record(record, folder)}
            runs += 1
        else:
            left_out.append(record.name)
    if not runs:
        raise RunError(
            f"the folder {folder} holds no finished and evaluated run; train there, or run "
            "`epochal eval` on its runs"
        )
    if (search := folder / TUNE_FILE).is_file():
        contents[search.name] = _relative(search.read_text(encoding="utf-8"), folder)
    with files.atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(contents):
            # A fixed date and no owner, so that the same runs give the same bytes.
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, contents[name], zipfile.ZIP_DEFLATED, 9)
    return PackedRuns(path=out, runs=runs, left_out=left_out, bytes=out.stat().st_size)


@contextmanager
def unpacked(places: Sequence[str | Path]) -> Iterator[list[Path]]:
    """The places, with a temporary folder for each archive of records among or directly in them.

    Raises RunError for a damaged archive.
    """
    with ExitStack() as stack:
        found: list[Path] = []
        for place in map(Path, places):
            archives = [place] if place.suffix == SUFFIX else sorted(place.glob(f"*{SUFFIX}"))
            if place not in archives and (not archives or find_runs([place], needed=False)):
                found.append(place)
            for archive in archives:
                folder = Path(stack.enter_context(TemporaryDirectory(suffix=SUFFIX))) / archive.stem
                try:
                    with zipfile.ZipFile(archive) as content:
                        content.extractall(folder)
                except (OSError, zipfile.BadZipFile, ValueError) as error:
                    raise RunError(
                        f"the records {archive} cannot be read ({error}); write them again with "
                        "`epochal export records`"
                    ) from None
                found.append(folder)
        yield found


def is_archived(run: Path) -> bool:
    """Whether a run's folder is that of an unpacked archive: there are no weights to evaluate."""
    return any(parent.suffix == SUFFIX for parent in run.parents)


def _record(record: RunRecord, folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file that is kept of a run."""
    for file in (record.folder.recipe_file, record.folder.info_file):
        yield file.name, _relative(file.read_text(encoding="utf-8"), folder)
    log = read_lines(record.folder.metrics_file)
    train = [line for line in log if line["kind"] == "train"]
    every = -(-len(train) // _LOG_LINES) or 1
    kept = {id(line) for line in [*train[::every], *train[-1:]]}
    lines = [line for line in log if line["kind"] == "eval" or id(line) in kept]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    yield record.folder.metrics_file.name, _relative(text, folder)
    for file in sorted((record.path / "evaluations").glob("best-*")):
        content = file.read_bytes()
        yield (
            f"evaluations/{file.name}",
            content if file.suffix == ".npz" else _relative(content.decode(), folder),
        )


def _relative(text: str, folder: Path) -> bytes:
    """JSON or TOML whose absolute paths are relative to `folder`, or only a name."""

    def shorter(match: re.Match[str]) -> str:
        quote, path = match.groups()
        below = Path(path)
        if below.is_relative_to(folder.resolve()):
            path = below.relative_to(folder.resolve()).as_posix()
        else:
            path = PureWindowsPath(path).name
        return f"{quote}{path}{quote}"

    return _ABSOLUTE.sub(shorter, text).encode()
