"""Byte-level BPE through `tiktoken`, several times as fast as `tokenizers`, with equal ids.

The two libraries do not run the same algorithm, so ids are only taken from tiktoken where
they are proven equal. Checked when a tokenizer is loaded:

1. Merge number i makes token id t(i), and t(i) rises strictly with i.
2. Every ordinary token, encoded alone by the BPE of `tokenizers`, gives exactly itself.
3. Text is split by GPT-2's pattern and changed by nothing else: pre-tokenizer ByteLevel with
   its regex and no prefix space, no normalizer, no options of the BPE that alter its result,
   all 256 bytes in the vocabulary, and no added tokens but special ones (which are not looked
   for in text).

Why that suffices, for one piece of the split. `tokenizers` merges the pair with the lowest
merge number among the neighbours that *are merges*; tiktoken the pair whose joined bytes have
the lowest id among the neighbours whose joined bytes *are a token*; both take the leftmost of
equals. Let the two be in the same state, and let tiktoken choose (x, y) with token xy.
Whatever has been merged within these bytes so far stayed within them, as their two ends are
token borders now. So these steps, in their order, are the first steps of encoding the bytes of
xy alone: the lowest pair of the whole piece is also the lowest of a part that contains it. By
(2) that encoding ends in the single token xy, and from x, y it has one step left: (x, y) is a
merge of `tokenizers` that makes xy. All of tiktoken's candidates of the lowest id are thus
merges, by (1) one and the same merge, and by (1) again its number is the lowest. Both choose
the same place, and the next state is the same again. Both stop together: a pair that is a
merge joins to a token, and a pair that joins to a token (the lowest of them) is a merge.
tiktoken also looks a whole piece up before it merges anything; by (2) that gives the same.

GPT-2's pattern looks ahead (`\\s+(?!\\S)`: of several spaces before a word, the last one is not
theirs), which costs tiktoken's engine two thirds of its time. So the text is marked instead: a
special token, a character that the text does not have, is put before the last of two or more
spaces in front of something else. There, and only there, `\\s+` alone would take more than GPT-2's
pattern does. Another mark ends each of several short texts that share a call. tiktoken cuts at
both, and their ids are taken out again.

A long text is encoded in windows, since the work for one piece of n bytes grows faster than n. A
window ends between a character that is no space and a space, which the pattern never puts into one
piece. In a run without spaces (DNA, Chinese) it ends anywhere, and the next one begins at one of
its tokens some way before that end. Where both have the same token, the first one's tokens
before it and the second one's behind it are the encoding of the whole: tokens are the encoding of
their piece exactly if each two neighbours are the encoding of their joined bytes. (Merges of two
encodings could first part only at a border of two neighbours, which these two alone show; van
Antwerpen and Neubeck's crate `bpe` rests on the same.) A window begins at no apostrophe and
just behind none, so that its pieces end where those of the whole do.

The split is done by two regex engines that may know different versions of Unicode. A text
with a character whose class (letter, number, space, other) differs between Unicode 3.2 and
this Python's version, or that is unassigned, is left to `tokenizers`, as far as the next place
between an ASCII character and a space; so is a window that has one of the two marks, or on
which tiktoken gives up. As a safeguard the first texts are encoded by both.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.notes import SlowReason
from epochal.progress import say
from epochal.results import Note, note

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

Ids = NDArray[np.int32]

_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
"""GPT-2's pattern for a text that is cut where that one would look ahead."""
_CUT, _END = "\0", "\1"
"""Marks: where the text is cut, and where one of several ends."""
_WIDE_SPACES = "\xa0\u3000\x85\u2028\u2029\u202f\u205f\u1680" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_SPACE = "\t-\r " + _WIDE_SPACES  # Unicode's White_Space
_SPACES = re.compile(f"[{_SPACE}]+(?=[{_SPACE}][^{_SPACE}{_END}])")
_IS_SPACE = bytes(
    1 if chr(byte) in "\t\n\v\f\r " else 2 * (byte == ord(_END)) for byte in range(256)
)
_WINDOW = 1 << 14  # characters; chosen by us
_RUN_WINDOW = 1 << 12  # of one without spaces: the work for a piece grows faster than its length
_SEARCHED = 1 << 10  # characters behind a window in which a better end is looked for
_BACK = 1 << 8  # bytes before the end of a window, where the next one begins
_TOGETHER = 1 << 16  # characters of short texts that share a call; chosen by us
_BETWEEN_PIECES = re.compile(r"\S(?=[ \n])")
_BETWEEN_ASCII_PIECES = re.compile(r"[!-~](?=[ \n])")
_PART = 1 << 11  # characters of a text of which some are left to `tokenizers`
_CHECKED_CHARACTERS = 200_000  # compared at run time; chosen by us, 0.1 s


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letter for each byte → the byte. Printable Latin-1 stands for itself."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in plain)
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


def letters_to_bytes(token: str) -> bytes | None:
    """The bytes that a byte-level token stands for; None if it is not in GPT-2's letters."""
    try:
        return bytes(_ALPHABET[letter] for letter in token)
    except KeyError:
        return None


def why_unproven(tokenizer: HFTokenizer, content: dict[str, Any]) -> Note | None:
    """Why tiktoken might give other ids than `tokenizer`, whose JSON is `content`; None if
    equality is proven."""
    model = content["model"]
    if model["type"] != "BPE":
        return note(SlowReason.MODEL, model=model["type"])
    if (reason := _odd_settings(content, model)) is not None:
        return reason
    ordinary = _ordinary_tokens(content, model)
    if missing := 256 - len(set(_ALPHABET) & ordinary.keys()):
        return note(SlowReason.BYTES_MISSING, bytes=missing)
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    made = [ordinary.get(left + right, -1) for left, right in pairs]
    if -1 in made:
        return note(SlowReason.MERGE)
    if any(later <= earlier for earlier, later in pairwise(made)):
        return note(SlowReason.MERGE_ORDER)
    for token, number in ordinary.items():
        if [part.id for part in tokenizer.model.tokenize(token)] != [number]:
            return note(SlowReason.TOKEN, token=token)
    return None


def _odd_settings(content: dict[str, Any], model: dict[str, Any]) -> Note | None:
    pre = content["pre_tokenizer"] or {}
    if pre.get("type") != "ByteLevel" or pre["add_prefix_space"] or not pre.get("use_regex", True):
        return note(SlowReason.PRE_TOKENIZER)
    if content["normalizer"] is not None:
        return note(SlowReason.NORMALIZER)
    if any(not added["special"] for added in content["added_tokens"]):
        return note(SlowReason.ADDED_TOKENS)
    for setting in (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
    ):
        if model.get(setting):
            return note(SlowReason.SETTING, setting=setting)
    return None


def _ordinary_tokens(content: dict[str, Any], model: dict[str, Any]) -> dict[str, int]:
    special = {added["content"] for added in content["added_tokens"]}
    return {token: number for token, number in model["vocab"].items() if token not in special}


class FastBPE:
    """Encodes with tiktoken where that is proven to give the ids of `tokenizers`."""

    def __init__(self, tokenizer: HFTokenizer, content: dict[str, Any]) -> None:
        """Build tiktoken's tables. Call only if `why_unproven` finds nothing."""
        import tiktoken

        ranks = {}
        for token, number in _ordinary_tokens(content, content["model"]).items():
            if (letters := letters_to_bytes(token)) is not None:
                ranks[letters] = number
        self._lengths = np.zeros(max(ranks.values()) + 1, dtype=np.int64)
        for letters, number in ranks.items():
            self._lengths[number] = len(letters)
        self._slow = tokenizer
        self._cut, self._end = (max(ranks.values()) + 1 + number for number in range(2))
        marks = {_CUT: self._cut, _END: self._end}
        self._fast = tiktoken.Encoding(
            "epochal", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=marks
        )
        self._to_check = _CHECKED_CHARACTERS
        self._trusted = True

    def encode_all(self, texts: Iterable[str]) -> Iterator[Ids]:
        """Ids of each text. Short ones share a call, which costs as much as a hundred bytes."""
        held: list[str] = []
        size = 0
        for text in texts:
            if size + len(text) > _TOGETHER or len(text) > 2 * _RUN_WINDOW:
                yield from self._together(held)
                held, size = [], 0
            held.append(text)
            size += len(text) + _TOGETHER * (len(text) > 2 * _RUN_WINDOW)
        yield from self._together(held)

    def _together(self, texts: list[str]) -> Iterator[Ids]:
        joined = _END.join([*texts, ""])
        marked = joined.count(_END) > len(texts) or _CUT in joined
        if len(texts) > 1 and self._to_check <= 0 and not marked and _is_stable(joined):
            ids = self._marked(joined)
            ends = np.flatnonzero(ids == self._end).tolist()
            yield from (ids[a + 1 : b] for a, b in pairwise([-1, *ends]))
        else:
            yield from map(self.encode, texts)

    def encode(self, text: str) -> Ids:
        """Ids of `text`."""
        if not self._trusted:
            return encode_slowly(self._slow, text)
        if not _is_stable(text):
            parts = _at_ascii(text)
            if len(parts) == 1:
                return encode_slowly(self._slow, text)
            return np.concatenate([self.encode(part) for part in parts])
        try:
            ids = self._in_windows(text)
            return self._checked(text, ids) if self._to_check > 0 else ids
        except BaseException as error:
            # Older versions of tiktoken panic where newer ones raise, and a panic is no Exception.
            if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
                return encode_slowly(self._slow, text)
            raise

    def _at_once(self, text: str) -> Ids:
        if _CUT in text or _END in text:
            return encode_slowly(self._slow, text)
        return self._marked(text)

    def _marked(self, text: str) -> Ids:
        """The ids of `text` and of the ends marked in it."""
        ids = self._fast.encode_to_numpy(
            _with_cuts(text), allowed_special={_CUT, _END}, disallowed_special=()
        )
        return np.asarray(ids[ids != self._cut], dtype=np.int32)

    def _in_windows(self, text: str) -> Ids:
        """The ids of `text`, by windows if it is long."""
        parts: list[Ids] = []
        start = first = 0  # of a window; of its tokens the first that is not in `parts`
        held = held_ends = None  # tokens of the window before behind this one's start
        while len(text) - start > 2 * _RUN_WINDOW:
            end = min(start + _WINDOW, len(text) - _RUN_WINDOW)
            cut = _BETWEEN_PIECES.search(text, end, end + _SEARCHED)
            end = end if cut else start + _RUN_WINDOW
            ids = self._at_once(text[start : cut.end() if cut else end])
            if held is not None and held_ends is not None:
                mine, first = _shared_token(held_ends, np.cumsum(self._lengths[ids]))
                if not mine:
                    return self._at_once(text)
                parts.append(held[:mine])
            if cut:
                parts.append(ids[first:])
                start, first, held = cut.end(), 0, None
                continue
            content, ends = text[start:end].encode(), np.cumsum(self._lengths[ids])
            place = _restart(content, ends, first)
            if not place:
                return self._at_once(text)
            parts.append(ids[first:place])
            held, held_ends = ids[place:], ends[place:] - ends[place - 1]
            start += len(content[: ends[place - 1]].decode())
        ids = self._at_once(text[start:])
        if held is not None and held_ends is not None:
            mine, first = _shared_token(held_ends, np.cumsum(self._lengths[ids]))
            if not mine:
                return self._at_once(text)
            parts.append(held[:mine])
        parts.append(ids[first:])
        return np.concatenate(parts)

    def _checked(self, text: str, ids: Ids) -> Ids:
        """`ids`, if the beginning of `text` gets the same from `tokenizers`; else its ids."""
        sample = text[: self._to_check]
        self._to_check -= len(sample)
        truth = encode_slowly(self._slow, sample)
        if np.array_equal(ids if len(sample) == len(text) else self._in_windows(sample), truth):
            return ids
        self._trusted = False
        say("tiktoken and tokenizers give different ids, so the slower tokenizers is used")
        return encode_slowly(self._slow, text)


def _with_cuts(text: str) -> str:
    """`text` with a mark wherever the last of several spaces is not of the piece before it."""
    if not text.isascii() and any(space in text for space in _WIDE_SPACES):
        return _SPACES.sub(lambda match: match[0] + _CUT, text)
    content = text.encode()
    kinds = np.frombuffer(content.translate(_IS_SPACE), np.uint8)
    cuts = np.flatnonzero(kinds[:-2] & kinds[1:-1] & (kinds[2:] == 0)) + 1
    places = pairwise([0, *cuts.tolist(), len(content)])
    return _CUT.encode().join([content[start:end] for start, end in places]).decode()


def _at_ascii(text: str) -> list[str]:
    """`text` in parts that end between an ASCII character that is no space and a space."""
    parts, start = [], 0
    while cut := _BETWEEN_ASCII_PIECES.search(text, start + _PART):
        parts.append(text[start : cut.end()])
        start = cut.end()
    return [*parts, text[start:]]


def _shared_token(ends: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[int, int]:
    """Two numberings of the first token, from the second on, that begins and ends alike in both.

    Both count bytes from one place; (0, 0) if there is none.
    """
    _, places, others_places = np.intersect1d(ends[:-1], others, return_indices=True)
    for place, other in zip(places[:-1], others_places[:-1], strict=True):
        if (
            place + 1 < len(ends)
            and other + 1 < len(others)
            and ends[place + 1] == others[other + 1]
        ):
            return int(place) + 1, int(other) + 1
    return 0, 0


def _restart(content: bytes, ends: NDArray[np.int64], first: int) -> int:
    """Number of a token behind `first` at which the next window can begin; 0 if there is none."""
    for place in range(int(np.searchsorted(ends, len(content) - _BACK)), first, -1):
        border = int(ends[place - 1])
        inside_character = content[border] & 0xC0 == 0x80
        if not inside_character and b"'" not in content[max(0, border - 3) : border + 1]:
            return place
    return 0


def encode_slowly(tokenizer: HFTokenizer, text: str) -> Ids:
    """Ids from `tokenizers`, by the method of it that releases the interpreter's lock."""
    [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    return np.array(encoding.ids, dtype=np.int32)


_CHANGED_AND_BACK = "\u180e"  # other in 3.2, a space from 4.0 to 6.2, other again
_stable: set[str] = set()


def _is_stable(text: str) -> bool:
    return text.isascii() or same_class_everywhere(text)


def same_class_everywhere(text: str) -> bool:
    """Whether each character of `text` has the same class in all Unicode versions since 3.2."""
    unchecked = _characters(text) - _stable
    if not all(map(_class_is_stable, unchecked)):
        return False
    _stable.update(unchecked)
    return True


def _characters(text: str) -> set[str]:
    if len(text) < _TOGETHER:
        return set(text)
    seen = np.zeros(sys.maxunicode + 1, dtype=bool)  # several times as fast as a set
    for start in range(0, len(text), _TOGETHER):
        part = text[start : start + _TOGETHER]
        seen[np.frombuffer(part.encode("utf-32-le"), "<u4")] = True
    return set(map(chr, np.flatnonzero(seen).tolist()))


def _class_is_stable(character: str) -> bool:
    now = unicodedata.category(character)
    before = unicodedata.ucd_3_2_0.category(character)
    same = _class(character, now) == _class(character, before)
    return same and now != "Cn" and character != _CHANGED_AND_BACK


def _class(character: str, category: str) -> str:
    """Letter, number, space or other, as GPT-2's pattern distinguishes them."""
    if category[0] in "LN":
        return category[0]
    return "space" if category[0] == "Z" or character in "\t\n\v\f\r\x85" else "other"
