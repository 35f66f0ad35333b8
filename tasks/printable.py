"""Names from other people's files, as they may be shown on a terminal or a page; and how many of something."""

_JOINERS = "\u200c\u200d"
"""Of no width, but part of emoji and of Persian and Indic words."""


def printable(text: object) -> str:
    r"""`text` on one line; what has no shape of its own (line breaks, tabs, ESC, ...) as Python writes it: `\n`."""
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in str(text))


def counted(count: int, thing: str) -> str:
    """`1 photo`, `2 photos`, `1,200 photos`. thing: in the singular, its plural ends in s."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
