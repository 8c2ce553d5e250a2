"""The text of a signature or type, and the one place that says what is wrong with it and where."""

from __future__ import annotations

from .errors import SignatureError

__all__ = ["MAX_LENGTH", "Source"]

MAX_LENGTH = 1_000_000


class Source:
    """A text being read."""

    def __init__(self, text: str, noun: str = "signature", field: str | None = None) -> None:
        self.text = text
        self.noun = noun
        self.field = field
        if len(text) > MAX_LENGTH:
            raise SignatureError(
                f"the {noun} has {len(text):,} characters",
                field=field,
                hint=f"At most {MAX_LENGTH:,} are read; leave long lists of classes to the examples",
            )

    def error(
        self, what: str, start: int, end: int | None = None, *, hint: str, field: str | None = None
    ) -> SignatureError:
        """A SignatureError that shows the place as source line and caret."""
        start = max(0, min(start, len(self.text)))
        line, column, excerpt = _excerpt(self.text, start, start + 1 if end is None else end)
        place = f"column {column}" if line == 1 else f"line {line}, column {column}"
        return SignatureError(
            f"{what}, at {place}:\n{excerpt}\nin this {self.noun}", field=field or self.field, hint=hint
        )


def _excerpt(text: str, start: int, end: int) -> tuple[int, int, str]:
    """One-based line and column of ``start``, and its line, cut around it, with carets below."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    lo = max(line_start, start - 60)
    hi = min(line_end, max(start + 40, min(end, start + 80)))
    before, after = "..." if lo > line_start else "", "..." if hi < line_end else ""
    shown = "".join(c if c.isprintable() else " " for c in text[lo:hi])
    carets = "^" * max(1, min(end, hi) - start)
    pad = " " * (4 + len(before) + _width(text[lo:start]))
    return (
        text.count("\n", 0, start) + 1,
        start - line_start + 1,
        f"    {before}{shown}{after}\n{pad}{carets}",
    )


def _width(text: str) -> int:
    """Columns on a terminal, where Chinese, Japanese and Korean characters take two."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
