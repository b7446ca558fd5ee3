"""Texts of a run in its report: short enough to be read, and without effect on what is around."""

import re

MAX_NAME = 120  # characters
# intraword underscores, as in arc_easy, are no markup
MARKUP = re.compile(r"[\\`*\[\]<&~$#]|(?<![^\W_])_|_(?![^\W_])")


def shorten(text: str, limit: int) -> str:
    """Removes the middle of a long text, as the answer is often at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def line(name: str) -> str:
    """Writes a name for a title or a legend: short, and of characters that are shown.

    Others could end the line, or turn the direction of the numbers that follow.
    """
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 3]}…{name[-MAX_NAME // 2 :]}"
    return "".join(one if one.isprintable() else "\ufffd" for one in short)


def literal(text: str) -> str:
    """Writes a text in one line of Markdown that shows it as it is: no HTML, link or image."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
