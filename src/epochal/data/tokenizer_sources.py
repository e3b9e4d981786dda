"""Load a tokenizer from a name or files of several kinds, or train one on a text."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from epochal.data.fast_bpe import byte_alphabet
from epochal.data.tokenizer import TOKENIZER_KEY, UNKNOWN_CHARACTER, Tokenizer
from epochal.errors import DataError, NamedOption, nearest
from epochal.progress import say

_END_TOKEN = "<|endoftext|>"
_SMALLEST_BPE = 257
CHARACTERS = "char"
"""The tokenizer of a text's own characters."""
_NAMES = ("bytes", CHARACTERS, "gpt2")
_HUB_REPOSITORY = "openai-community/gpt2"
_SECONDS_TO_ANSWER = 5


def load_tokenizer(
    spec: str | Path, end_of_document: str | None = None, *, without: int | None = None
) -> Tokenizer:
    """The tokenizer that `spec` names.

    `bytes`; `ids:N`; `gpt2` (fetched from the Hugging Face hub); a tokenizer.json, also one that
    `Tokenizer.save` wrote; or a folder with a tokenizer.json or with GPT-2's vocab.json and
    merges.txt. `end_of_document` names the token that ends documents, if it has an unusual
    name. `without` is the id of an added token of a tokenizer.json that is left out (a model's
    mask: ours is outside). Raises DataError that lists what is possible.
    """
    if spec == "bytes":
        return _byte_tokenizer(end_of_document)
    if str(spec).startswith("ids:"):
        return _ids_tokenizer(str(spec), end_of_document)
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path, end_of_document, without)
    if path.is_file():
        return _from_file(path, end_of_document, without)
    if spec == "gpt2":
        return _from_hub(end_of_document)
    if str(spec).startswith("bpe:") or spec == CHARACTERS:
        raise DataError(
            f"{str(spec)!r} is a tokenizer to be trained, which only `epochal data prepare` does; "
            "name a file or a folder here"
        )
    raise DataError(
        f"there is no tokenizer {str(spec)!r}.{nearest(str(spec), _NAMES)} Give `bytes`, `gpt2`, a "
        "tokenizer.json, or a folder with tokenizer.json or with vocab.json and merges.txt"
    )


def _byte_tokenizer(end_of_document: str | None) -> Tokenizer:
    """The 256 bytes as ids 0 … 255, and 256 as end of document."""
    if end_of_document not in (None, _END_TOKEN):
        raise DataError(
            f"the tokenizer bytes ends documents with {_END_TOKEN!r} and has no token "
            f"{end_of_document!r}; leave ",
            NamedOption("end_of_document"),
            " out",
        )
    hf = HFTokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
    return Tokenizer(_finished(hf, use_regex=False), "bytes", _END_TOKEN)


def _ids_tokenizer(spec: str, end_of_document: str | None) -> Tokenizer:
    """Whole numbers below N as their own ids: "3 14" is [3, 14].

    N ends documents, or the number below it that `end_of_document` is.
    """
    count = spec.removeprefix("ids:").replace("_", "")
    if not (count.isdecimal() and int(count)):
        raise DataError(f"{spec!r} is not a tokenizer; write for example ids:4096")
    numbers = {str(number): number for number in range(int(count))}
    if end_of_document not in (None, _END_TOKEN, *numbers):
        raise DataError(
            f"the tokenizer {spec} has no id {end_of_document!r}; give a number below {count} (",
            NamedOption("end_of_document"),
            ")",
        )
    if end_of_document in numbers:
        numbers[_END_TOKEN] = numbers.pop(str(end_of_document))
    hf = HFTokenizer(models.WordLevel(numbers, unk_token=""))
    hf.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.add_special_tokens([AddedToken(_END_TOKEN, special=True, normalized=False)])
    return Tokenizer(hf, spec, _END_TOKEN)


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most `vocabulary` ids trained on `texts`, end of document included.

    Deterministic. The ids are the 256 bytes, the merges in order, and last <|endoftext|>.
    Merging stops before a pair that occurs only once, so a small text gives a smaller
    vocabulary. `vocabulary` is 257 at least, as `parse_bpe` makes sure.
    """
    hf = HFTokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        min_frequency=2,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator(texts, trainer)
    return Tokenizer(_finished(hf), f"bpe:{vocabulary}", _END_TOKEN)


def character_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One id for each character of `texts`, in their order in Unicode.

    <|unknown|> stands for all other characters, and <|endoftext|> comes last.
    """
    characters = sorted(set().union(*texts))
    vocabulary = {character: number for number, character in enumerate(characters)}
    vocabulary[UNKNOWN_CHARACTER] = len(vocabulary)
    hf = HFTokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN_CHARACTER))
    hf.decoder = decoders.Fuse()
    hf.add_special_tokens([UNKNOWN_CHARACTER, AddedToken(_END_TOKEN, normalized=False)])
    return Tokenizer(hf, CHARACTERS, _END_TOKEN)


def cached_gpt2() -> Tokenizer | None:
    """GPT-2's tokenizer if it was fetched before."""
    try:
        import huggingface_hub
    except ImportError:
        return None
    names = ("vocab.json", "merges.txt")
    paths = [huggingface_hub.try_to_load_from_cache(_HUB_REPOSITORY, name) for name in names]
    if not all(isinstance(path, str) for path in paths):
        return None
    return _from_gpt2_files(Path(str(paths[0])), Path(str(paths[1])), "gpt2", None)


def parse_bpe(spec: str | Path) -> int | None:
    """`bpe:8192` → 8192; None for any other tokenizer.

    Raises DataError for `bpe:many`, and for less than the bytes and an end of document.
    """
    text = str(spec)
    if not text.startswith("bpe:"):
        return None
    try:
        vocabulary = int(text.removeprefix("bpe:").replace("_", ""))
    except ValueError:
        raise DataError(f"{text!r} is not a tokenizer; write for example bpe:8192") from None
    if vocabulary < _SMALLEST_BPE:
        raise DataError(
            f"{text!r} is too small: a byte-level BPE needs 256 bytes and an end of document; "
            f"choose bpe:{_SMALLEST_BPE} or more (bpe:8192 is usual)"
        )
    return vocabulary


def _finished(hf: HFTokenizer, use_regex: bool = True) -> HFTokenizer:
    """GPT-2's splitting and joining around a byte-level model, and the end-of-document token."""
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([AddedToken(_END_TOKEN, special=True, normalized=False)])
    return hf


def _from_folder(folder: Path, end_of_document: str | None, without: int | None) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return _from_file(folder / "tokenizer.json", end_of_document, without)
    # The original's own copy is called gpt2-vocab.json and gpt2-merges.txt.
    vocabularies = sorted(folder.glob("*vocab.json"))
    merges = sorted(folder.glob("*merges.txt"))
    if len(vocabularies) != 1 or len(merges) != 1:
        raise DataError(
            f"the folder {folder} holds no tokenizer: it needs a tokenizer.json, or one vocab.json "
            "with one merges.txt"
        )
    return _from_gpt2_files(vocabularies[0], merges[0], folder.resolve().name, end_of_document)


def _from_gpt2_files(
    vocabulary: Path, merges: Path, name: str, end_of_document: str | None
) -> Tokenizer:
    try:
        hf = HFTokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise DataError(f"cannot read the tokenizer {vocabulary} with {merges}: {error}") from error
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    return Tokenizer(hf, name, end_of_document)


def _from_file(path: Path, end_of_document: str | None, without: int | None) -> Tokenizer:
    """The tokenizer in a tokenizer.json, without the added token of id `without`, if given."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if without is not None:
            added = content.get("added_tokens", [])
            content["added_tokens"] = [token for token in added if token["id"] != without]
        hf = HFTokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises nothing more precise
        hint = "; for GPT-2's two files give their folder" if path.name != "tokenizer.json" else ""
        raise DataError(f"{path} is not a tokenizer.json ({error}){hint}") from error
    own = content["model"].get(TOKENIZER_KEY, {})
    name = own.get("name") or path.resolve().parent.name
    return Tokenizer(hf, name, end_of_document or own.get("end_of_document"))


def _from_hub(end_of_document: str | None) -> Tokenizer:
    local = "download vocab.json and merges.txt of GPT-2 into a folder and give that folder instead"
    try:
        import huggingface_hub
    except ImportError:
        raise DataError(
            f"the tokenizer gpt2 is fetched with huggingface_hub, which is not installed: run "
            f"`pip install 'epochal[hub]'`, or {local}"
        ) from None

    def files_of_gpt2(cached: bool) -> list[Path]:
        return [
            Path(huggingface_hub.hf_hub_download(_HUB_REPOSITORY, name, local_files_only=cached))
            for name in ("vocab.json", "merges.txt")
        ]

    try:
        paths = files_of_gpt2(cached=True)
    except OSError:  # never fetched before
        say("fetching the tokenizer gpt2 from the Hugging Face hub")
        try:
            with quiet("huggingface_hub"):  # it would log each try
                # Asked once: a download tries six times, half a minute where there is no network.
                url = huggingface_hub.hf_hub_url(_HUB_REPOSITORY, "vocab.json")
                huggingface_hub.get_hf_file_metadata(url, timeout=_SECONDS_TO_ANSWER)
                paths = files_of_gpt2(cached=False)
        except Exception as error:  # offline, blocked, moved: many kinds, from several libraries
            raise DataError(
                f"the tokenizer gpt2 could not be fetched from the Hugging Face hub "
                f"({reason(error)}); go online once, or {local}"
            ) from error
    return _from_gpt2_files(paths[0], paths[1], "gpt2", end_of_document)


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Let `library` log errors only."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def reason(error: BaseException) -> str:
    """First line of the error at the root of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
