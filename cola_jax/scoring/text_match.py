r"""Text match: answers that are words, dates or times of day.

math-verify reads a word as a product of letters, so that Pairs equals Paris, and a date as a
difference.
"""

import re

TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
LETTERS = r"[^\W\d_]+"
WORDS = re.compile(rf"{LETTERS}(?:[\s.,'’-]+{LETTERS})*")
PROSE = re.compile(r"[\w\s.,:'’-]+")  # not a formula, in which X differs from x
LONG = re.compile(r"[^\W\d_]{3}")  # shorter words may be products: xy equals yx
DATE = re.compile(r"\d{4}-\d\d?-\d\d?")
TIME = re.compile(r"\d\d?(?::\d\d)?\s*[ap]\.?\s?m")


def match_text(answer: str, gold: str) -> bool | None:
    """Compares an answer with a gold that is words, ignoring case; None for any other gold.

    Also None if the gold is words and the answer is not, since they may agree: 7 cm and 7.
    """
    answer, gold = normalize(answer), normalize(gold)
    if DATE.fullmatch(gold):
        return answer == gold
    if TIME.fullmatch(gold):
        return re.sub(r"[.\s]", "", answer) == re.sub(r"[.\s]", "", gold)
    if not LONG.search(gold) or not PROSE.fullmatch(gold):
        return None
    if answer == gold:
        return True
    return False if WORDS.fullmatch(answer) and WORDS.fullmatch(gold) else None


def normalize(text: str) -> str:
    """Removes dollars, TeX's text commands, a final full stop, case and extra whitespace."""
    text = TEXT.sub(r"\1", text.strip().strip("$"))
    return " ".join(text.split()).rstrip(".").casefold()
