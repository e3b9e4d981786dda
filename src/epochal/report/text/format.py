"""Numbers and texts as the page and the command line show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from markupsafe import Markup, escape

from epochal.units import format_count

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
# Control characters are not allowed in HTML; their pictures are (tab and newline stay).
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
# C1 controls, halves of surrogate pairs and what may not stand in a document at all.
_REPLACED = dict.fromkeys([*range(128, 160), *range(55296, 57344), 65534, 65535], 65533)
_ON_PAGE = ContextVar("on_page", default=False)


@contextmanager
def for_page() -> Iterator[None]:
    """Within, `flops` and `number` write powers of ten as a page does."""
    token = _ON_PAGE.set(True)
    try:
        yield
    finally:
        _ON_PAGE.reset(token)


def flops(value: float) -> str:
    """Compute: '5.71×10¹²' on the page, '5.71T' (or '5.71e+16') in a terminal, to be copied."""
    return power_of_ten(value) if _ON_PAGE.get() else format_count(value)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits; large and small ones '5.7×10¹⁶' on the page, else '5.7e+16'."""
    plain = f"{value:.{digits}g}"
    return power_of_ten(float(plain)) if "e" in plain and _ON_PAGE.get() else plain


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


def sentence(text: str) -> str:
    """`text` with a capital letter at its beginning and the others as they are."""
    return text[:1].upper() + text[1:]


def prose(text: str) -> Markup:
    """A sentence as HTML: escaped, commands between backticks as code."""
    parts = [escape(printable(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick without its partner
        parts[-2:] = [Markup("`").join(parts[-2:])]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part
        for index, part in enumerate(parts)
    )


def listed(words: Sequence[str], most: int = 6) -> str:
    """'a, b and c'; of many only the first ones and how many more there are."""
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
