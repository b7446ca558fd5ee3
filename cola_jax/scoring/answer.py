"""Rules that extract the answer from a completion."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

from cola_jax.errors import InputError

# boxed: the first complete \boxed{...}; hashes: the number after the first ####; number: the
# last number; minerva: between "Final Answer: The final answer is" and ". I hope it is correct";
# line: the first line.
Rule = Literal["boxed", "hashes", "number", "minerva", "line"]

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
BARE = re.compile(r"[^\s{}$][^\n$]*(?=\$)|[^\s{}$]+")  # in a box without braces
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
HASHES = re.compile(r"#### (-?[0-9.,]*[0-9][0-9.,]*)")
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?|-?\$?\.[0-9]+")
MINERVA = re.compile(
    r"Final Answer: The final answer is\s*(.*?)(?:\. I hope it is correct|\Z)", re.S
)


class Answer(NamedTuple):
    """An extracted answer."""

    text: str | None  # None if there is no answer
    complete: bool  # False if the token limit cut the answer, or the text before any


def find_answer(text: str, rule: Rule, cut: bool) -> Answer:
    """Extracts the answer from a completion; `cut` if the token limit ended the completion.

    An answer that reaches the end of a cut text is incomplete, since more of it may have followed.
    A closed box is complete.
    """
    check_rule(rule)
    return RULES[rule](text, cut)


def check_rule(rule: str) -> Rule:
    """Returns the rule of that name; ValueError for one that does not exist."""
    if rule not in RULES:
        raise InputError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}.")
    return cast(Rule, rule)


def boxed(text: str, cut: bool) -> Answer:
    """Extracts the first complete box, or else one without braces, which a limit may have cut."""
    partial = None
    for content, end in boxes(text):
        if content is not None and not (cut and end is None):
            return Answer(content, True)
        partial = partial or content
    return Answer(partial, not cut)


def last_box(text: str) -> str | None:
    """Returns the content of the last complete box, or None if there is none."""
    contents = [content for content, _ in boxes(text) if content]
    return contents[-1] if contents else None


def boxes(text: str) -> Iterator[tuple[str | None, int | None]]:
    r"""Yields the content and the end of each box; end None if the end of the text may have cut it.

    A box without braces, as in $\boxed 5$, extends to the next $ or space.
    """
    dollars = seen = 0
    for box in BOX.finditer(text):
        start, before = box.end(), text[seen : box.start()]
        dollars, seen = dollars + before.count("$") - before.count(r"\$"), box.start()
        if start < len(text) and text[start] == "{":
            end = closing_brace(text, start)
            yield (None, None) if end is None else (unwrap(text[start + 1 : end]), end)
        elif bare := BARE.match(text, start):
            # up to a space, unless the box is between dollars, the second of which may be missing
            ended = bare.end() < len(text) and (not dollars % 2 or "$" in text[bare.end() :])
            end = bare.end() if ended else None
            yield bare[0].strip().rstrip(".,;"), end


def closing_brace(text: str, start: int) -> int | None:
    """Returns the index of the brace that closes the one at `start`, or None."""
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def unwrap(content: str) -> str:
    """Removes boxes around the whole content, and surrounding whitespace."""
    content = content.strip()
    while box := BOX.match(content):
        if not content.startswith("{", box.end()):
            break
        if closing_brace(content, box.end()) != len(content) - 1:
            break
        content = content[box.end() + 1 : -1].strip()
    return content


def hashes(text: str, cut: bool) -> Answer:
    """Extracts the number after the first ####, as lm-evaluation-harness's strict match does."""
    return number_of(HASHES.search(text), 1, cut)


def number(text: str, cut: bool) -> Answer:
    """Extracts the last number, as lm-evaluation-harness's flexible extract does."""
    matches = list(NUMBER.finditer(text))
    return number_of(matches[-1] if matches else None, 0, cut)


def number_of(match: re.Match | None, group: int, cut: bool) -> Answer:
    """Returns a matched number without $, commas and a full stop."""
    if match is None:
        return Answer(None, not cut)
    text = match[group].replace(",", "").replace("$", "").rstrip(".")
    rest = match.string[match.end() :]
    may_continue = rest == "" or (rest == "." and "." not in match[group])
    return Answer(text or None, not (cut and may_continue))


def minerva(text: str, cut: bool) -> Answer:
    """Extracts the text between the fixed phrases, without surrounding dollars."""
    match = MINERVA.search(text)
    if match is None:
        return Answer(None, not cut)
    answer = match[1].strip().strip("$").strip() or None
    if match.end() == len(text) and not match[0].endswith("I hope it is correct"):
        return Answer(answer, False) if cut else Answer(None, True)
    return Answer(answer, True)


def line(text: str, cut: bool) -> Answer:
    """Extracts the text up to the first line break."""
    first, newline, _ = text.partition("\n")
    return Answer(first.strip() or None, bool(newline) or not cut)


RULES = {"boxed": boxed, "hashes": hashes, "number": number, "minerva": minerva, "line": line}
