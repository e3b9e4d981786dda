"""Numbers and texts as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from epochal.units import parse_number

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
# Control characters are not allowed in HTML; their pictures are (tab and newline stay).
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
# C1 controls, halves of surrogate pairs and what may not stand in a document at all.
_REPLACED = dict.fromkeys([*range(128, 160), *range(55296, 57344), 65534, 65535], 65533)


def power_of_ten(value: float) -> str:
    """5.713e12 → '5.71×10¹²', 1e15 → '10¹⁵'; three significant digits. 950 stays '950'."""
    if 0.01 <= abs(value) < 1000 or value == 0:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    digits = digits.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if digits == "1" else f"{digits}×{power}"


def printable(text: str) -> str:
    """`text` with pictures in place of characters that must not stand in an HTML page."""
    return text.replace("\r\n", "\n").translate(_PICTURES | _REPLACED)


_NUMBER = re.compile(
    r"`[^`]*`|(?<![\w.,/-])(\d+(?:\.\d+)?e[+-]\d+)(?![\w.]*\w)|"
    r"(?<![\w.,/-])(\d+(?:\.\d+)?[kMBT]) FLOPs\b"
)


def powers(text: str) -> str:
    """`text` with 5.7e+16, and 8B of FLOPs, written as the page writes it elsewhere: 5.7×10¹⁶.

    What stands between backticks is left as it is.
    """

    def written(match: re.Match[str]) -> str:
        if match[1]:
            return power_of_ten(float(match[1]))
        return f"{power_of_ten(parse_number(match[2]))} FLOPs" if match[2] else match[0]

    return _NUMBER.sub(written, text)


def sentence(text: str) -> str:
    """`text` with a capital letter at its beginning and the others as they are."""
    return text[:1].upper() + text[1:]


def commands(text: str) -> Markup:
    """`text` as HTML, escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def listed(words: Sequence[str], most: int = 6) -> str:
    """'a, b and c'; of many only the first ones and how many there are besides."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h', '2.5 days'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    days = seconds / 86400
    return f"{seconds / 3600:.1f} h" if days < 2 else f"{days:,.1f} days"


def byte_count(size: float) -> str:
    """'12 MB', '1.5 GB'; three significant digits."""
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def count(number: int, noun: str) -> str:
    """'1 run', '2 runs'."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
