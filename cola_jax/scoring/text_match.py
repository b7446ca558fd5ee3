r"""Answers that are words, dates or times of day, which algebra must not compare.

math-verify takes a word for a product of letters, so that Pairs would be Paris, and a date for a
difference.
"""

import re

TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
LETTERS = r"[^\W\d_]+"
WORDS = re.compile(rf"{LETTERS}(?:[\s.,'’-]+{LETTERS})*")
SAYING = re.compile(r"[\w\s.,:'’-]+")  # no formula, where X is not x
LONG = re.compile(r"[^\W\d_]{3}")  # what is shorter may be a product: xy is yx
DATE = re.compile(r"\d{4}-\d\d?-\d\d?")
TIME = re.compile(r"\d\d?(?::\d\d)?\s*[ap]\.?\s?m")


def same_wording(answer: str, gold: str) -> bool | None:
    """Compares answers by their words, whatever their case; None where gold is not of words.

    None also where gold is and the answer is not, though it may mean the same: 7 cm and 7.
    """
    answer, gold = plain(answer), plain(gold)
    if DATE.fullmatch(gold):
        return answer == gold
    if TIME.fullmatch(gold):
        return re.sub(r"[.\s]", "", answer) == re.sub(r"[.\s]", "", gold)
    if not LONG.search(gold) or not SAYING.fullmatch(gold):
        return None
    if answer == gold:
        return True
    return False if WORDS.fullmatch(answer) and WORDS.fullmatch(gold) else None


def plain(text: str) -> str:
    """Takes off dollars, TeX's text commands, a full stop, case and blanks that say nothing."""
    text = TEXT.sub(r"\1", text.strip().strip("$"))
    return " ".join(text.split()).rstrip(".").casefold()
