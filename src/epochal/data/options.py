"""Options of the commands on corpora, of which the command line makes its own."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from epochal.errors import OptionError
from epochal.options import option
from epochal.units import parse_count

DocumentRule = Literal["file", "line", "blank-line", "endoftext"]
TokenType = Literal["uint8", "uint16", "uint32", "int32", "int64"]
ListRule = Literal["line", "blank-line", "space", "documents"]
InvalidUTF8 = Literal["error", "replace"]
OnError = Literal["stop", "skip"]
Executor = Literal["local", "slurm", "ray"]
DEFAULT_VALIDATION = 0.05
CUTS = {"drop_repeated_passages": 10, "drop_boilerplate_lines": 2, "drop_leaked_passages": 10}
"""What may be cut out of training documents: option → the least that it takes."""
_TIME = "4:00:00"


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How text becomes a corpus."""

    tokenizer: str | Path = "bpe:8192"
    """bpe:SIZE is trained on the training text; char has one id a character of the text. Or: bytes,
    gpt2, a tokenizer.json, or a folder with tokenizer.json or with vocab.json and merges.txt; ids:N
    for inputs that are ids below N."""
    validation: float | None = option(None, metavar="SHARE")
    """Share of the text held out, in whole documents; 0 for none. 0.05 if not given."""
    validation_inputs: Sequence[str | Path] = option((), metavar="INPUT")
    """A validation text of your own instead; may be given several times."""
    documents: DocumentRule | None = None
    """What one document is in a plain text file: the file, a line, a paragraph, or what stands
    between lines <|endoftext|>. If not given, the file; but such lines are followed, and a single
    file is cut by its paragraphs or lines."""
    text_field: str = "text"
    """Key (JSON) or column (Parquet, Arrow, CSV) that holds the text. A path like meta.text leads
    into nested fields; a name with a dot of its own comes first."""
    lists: ListRule | None = None
    """What becomes of a field that holds a list of texts: joined by a line end, a blank line or a
    space, or each a document. Refused if not given."""
    token_type: TokenType = "uint16"
    """Type of the ids in a .bin without a header, as nanoGPT writes it."""
    encoding: str = option("utf-8", metavar="NAME")
    """Encoding of plain text, JSON and CSV, by a name that Python knows, such as cp1252, utf-16."""
    end_of_document: str | None = option(None, metavar="TOKEN")
    """Token that ends documents, if the tokenizer's has an unusual name."""
    allow_lossy: bool = False
    """Accept a tokenizer that has nothing for some characters of the text and loses them."""
    drop_duplicates: bool = False
    """Keep one of several documents with equal text."""
    drop_near_duplicates: bool = False
    """Keep one of several documents that are equal or near (as `data duplicates` counts them), and
    leave out of training what is near to a validation document."""
    drop_repeated_passages: int | None = option(None, metavar="TOKENS")
    """Cut so many tokens in a row out of training documents where they stood before, such as 50.
    Also drops equal documents."""
    drop_boilerplate_lines: int | None = option(None, metavar="DOCUMENTS")
    """Cut lines of 8 or more tokens that so many training documents have, such as 10, but for the
    first. Also drops equal documents."""
    drop_leaked_passages: int | None = option(None, metavar="TOKENS")
    """Cut so many tokens in a row out of training documents where the validation set has them, such
    as 13. Also drops equal documents."""
    invalid_utf8: InvalidUTF8 = "error"
    """What to do with bytes that are not UTF-8; replace writes U+FFFD."""
    on_error: OnError = "stop"
    """What to do with a row of JSON, CSV or a table, or a record of a web archive, that cannot be
    read; skip counts and lists them. A damaged file always ends the command."""
    seed: int = 1234
    """Decides which documents are held out."""
    shuffle: int | None = option(None, metavar="SEED")
    """Put the training documents into a random order, so that a cut to fewer tokens is a
    representative sample."""
    workers: int | None = None
    """Processes that encode; as many as there are cores if not given."""
    overwrite: bool = False
    """Replace another corpus in the folder."""
    executor: Executor | None = None
    """Encode in tasks of one of datatrove's executors instead of threads here; the corpus is the
    same. The command waits for them."""
    tasks: int | None = option(None, metavar="N")
    """Tasks of the executor; if not given, one for each 4 MB of text, at most 1,000."""
    partition: str | None = None
    """Partition of the Slurm cluster."""
    time: str = option(_TIME, metavar="TIME")
    """Time limit of a task on Slurm."""
    setup: tuple[str, ...] = option((), metavar="LINE")
    """Shell line before a task on Slurm, such as `module load python`; may be repeated."""
    sbatch: Mapping[str, str] = option(default_factory=dict, metavar="NAME=VALUE")
    """Any other sbatch option, such as account=mine; may be repeated."""

    def __post_init__(self) -> None:
        """Raise OptionError for a value that is not allowed."""
        _choice(self, invalid_utf8=InvalidUTF8, token_type=TokenType, on_error=OnError)
        if self.documents is not None:
            _choice(self, documents=DocumentRule)
        if self.lists is not None:
            _choice(self, lists=ListRule)
        try:
            "a".encode(self.encoding)
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
        except LookupError:
            problem = "give a name that Python knows, such as utf-8, cp1252, utf-16, shift_jis"
            raise OptionError("encoding", self.encoding, problem) from None
        if self.validation is not None and not 0 <= self.validation < 1:
            problem = "give a share of the text from 0 (no validation set) to below 1, such as 0.05"
            raise OptionError("validation", self.validation, problem)
        if self.validation is not None and self.validation_inputs:
            problem = "validation_inputs give the validation set already; give one of the two"
            raise OptionError("validation", self.validation, problem)
        _at_least_one(self, "workers", "tasks")
        self._check_executor()
        for name, least in CUTS.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise OptionError(name, value, f"give {least} or more")
        if self.drop_leaked_passages and self.share == 0 and not self.validation_inputs:
            problem = "needs a validation set; give a share for it, or leave this out"
            raise OptionError("drop_leaked_passages", self.drop_leaked_passages, problem)

    def _check_executor(self) -> None:
        if self.executor is not None:
            _choice(self, executor=Executor)
        elif self.tasks is not None:
            raise OptionError("tasks", self.tasks, "is for an executor")
        if self.executor == "slurm" and not self.partition:
            raise OptionError("partition", self.partition, "name the partition of the cluster")
        if self.executor != "slurm":
            unset: dict[str, Any] = {"partition": None, "time": _TIME, "setup": (), "sbatch": {}}
            for name, usual in unset.items():
                if (value := getattr(self, name)) != usual:
                    raise OptionError(name, value, "is for the executor slurm")

    @property
    def drops(self) -> bool:
        """Whether equal documents are left out, asked for or because more is."""
        more = any(getattr(self, name) is not None for name in CUTS)
        return self.drop_duplicates or self.drop_near_duplicates or more

    @property
    def share(self) -> float:
        """Share of the text to hold out; 0 with a validation text of its own."""
        if self.validation_inputs:
            return 0.0
        return DEFAULT_VALIDATION if self.validation is None else self.validation


@dataclass(frozen=True, kw_only=True)
class TokenizersOptions:
    """What vocabularies are compared on, and for which model."""

    params: float | None = option(None, metavar="N", parse=parse_count)
    """Non-embedding parameters of the model, such as 10M. If not given, one for each 4 bytes of
    text, so about as many as unique tokens."""
    tokenizer: Sequence[str | Path] = option((), metavar="TOKENIZER")
    """A tokenizer of yours to compare, too; may be given several times."""
    runs: Sequence[str | Path] = option((), metavar="FOLDER")
    """Runs, or a folder of runs, on this text: the bits per byte that they reached are listed by
    tokenizer; may be given several times."""
    text_field: str = "text"
    """Key or column that holds the text, as of prepare."""
    encoding: str = option("utf-8", metavar="NAME")
    """Encoding of the text, as of prepare."""

    def __post_init__(self) -> None:
        """Raise OptionError for a value that is not allowed."""
        if self.params is not None and not self.params >= 1:
            raise OptionError("params", self.params, "give a positive number, such as 10M")


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """How a store is cut."""

    like_paper: bool = False
    """Cut as the paper does: the first U / tokens per document documents, whole."""
    tokens_per_document: float | None = None
    """For like-paper: 478.625835 for C4. The store's mean if not given."""
    overwrite: bool = False
    """Replace what is in OUT."""

    def __post_init__(self) -> None:
        """Raise OptionError for a value that is not allowed."""
        mean = self.tokens_per_document
        if mean is None:
            return
        if not self.like_paper:
            raise OptionError("tokens_per_document", mean, "it is used only with like_paper")
        if not (math.isfinite(mean) and mean > 0):
            raise OptionError("tokens_per_document", mean, "give a positive number")


@dataclass(frozen=True, kw_only=True)
class DuplicateOptions:
    """What counts as repeated."""

    passage: int = option(50, metavar="TOKENS")
    """Tokens in a row that make a repeated passage where they stood before. 50 as in arXiv
    2107.06499."""
    similarity: float = 0.8
    """Jaccard similarity of two documents' 5-token shingles from which they are near duplicates."""
    line_documents: int = 10
    """Documents that have a line from which it is boilerplate."""
    sample: int = option(1 << 26, metavar="TOKENS", parse=parse_count)
    """Tokens that passages and lines are looked for in; a larger store is sampled, and the error
    stated."""
    seed: int = 1234
    """Of that sample."""

    def __post_init__(self) -> None:
        """Raise OptionError for a value that is not allowed."""
        for name, least in (("passage", 10), ("line_documents", 2), ("sample", 1000)):
            if (value := getattr(self, name)) < least:
                raise OptionError(name, value, f"give {least:,} or more")
        if not 0.5 <= self.similarity <= 1:
            raise OptionError("similarity", self.similarity, "give 0.5 to 1")


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """How much of a data set to download, and from where."""

    documents: int | None = option(None, metavar="K")
    """The first K documents."""
    unique_tokens: int | None = option(None, metavar="U", parse=parse_count)
    """Enough documents to cut U tokens from them."""
    text: bool = False
    """The text, where tokens are published."""
    repo: str | None = option(None, metavar="REPOSITORY")
    """Another repository on the hub, or a local folder."""

    def __post_init__(self) -> None:
        """Raise OptionError for a value that is not allowed."""
        _at_least_one(self, "documents", "unique_tokens")
        if self.documents is not None and self.unique_tokens is not None:
            problem = "documents gives the amount already; give one of the two"
            raise OptionError("unique_tokens", self.unique_tokens, problem)


def _choice(options: Any, **allowed: Any) -> None:
    for name, kind in allowed.items():
        if (value := getattr(options, name)) not in get_args(kind):
            raise OptionError(name, value, f"give one of {', '.join(get_args(kind))}")


def _at_least_one(options: Any, *names: str) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and value is not None and value < 1:
            raise OptionError(field.name, value, "give a number from 1 on")
