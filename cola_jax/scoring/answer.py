"""Finding the answer in what a model wrote."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

# boxed: the first complete \boxed{...}; hashes: the number behind the first ####; number: the
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
    """What a rule found."""

    text: str | None  # None where there is no answer
    complete: bool  # False where the token limit cut the answer, or the text before there was one


def find_answer(text: str, rule: Rule, cut: bool) -> Answer:
    """Finds the answer in a model's text; `cut` says that the token limit ended the text.

    A cut text whose answer reaches its very end is not complete: more of it may have followed. A
    box that was closed is complete whatever follows.
    """
    check_rule(rule)
    return RULES[rule](text, cut)


def check_rule(rule: str) -> None:
    """Raises ValueError for a rule that does not exist."""
    if rule not in RULES:
        raise ValueError(f"the rule must be one of {', '.join(RULES)}, it is {rule!r}.")


def boxed(text: str, cut: bool) -> Answer:
    """Takes the first complete box, else one without braces that the limit may have cut."""
    opened = None
    for content, end in boxes(text):
        if content is not None and not (cut and end is None):
            return Answer(content, True)
        opened = opened or content
    return Answer(opened, not cut)


def last_box(text: str) -> str | None:
    """Returns what the last complete box of a solution holds; None where there is none."""
    found = [content for content, _ in boxes(text) if content]
    return found[-1] if found else None


def boxes(text: str) -> Iterator[tuple[str | None, int | None]]:
    r"""Yields the content and the end of each box; end None where the text's end may have cut it.

    A box without braces, as in $\boxed 5$, holds what stands before the next $ or space.
    """
    dollars = seen = 0
    for found in BOX.finditer(text):
        start, before = found.end(), text[seen : found.start()]
        dollars, seen = dollars + before.count("$") - before.count(r"\$"), found.start()
        if start < len(text) and text[start] == "{":
            end = closing_brace(text, start)
            yield (None, None) if end is None else (unwrap(text[start + 1 : end]), end)
        elif bare := BARE.match(text, start):
            # up to a blank, unless it is in dollars of which the second may be still to come
            ended = bare.end() < len(text) and (not dollars % 2 or "$" in text[bare.end() :])
            end = bare.end() if ended else None
            yield bare[0].strip().rstrip(".,;"), end


def closing_brace(text: str, start: int) -> int | None:
    """Returns where the brace that opens at `start` is closed, or None."""
    depth = 0
    for found in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return None


def unwrap(content: str) -> str:
    """Takes boxes off that hold the whole content, and blanks around it."""
    content = content.strip()
    while found := BOX.match(content):
        if not content.startswith("{", found.end()):
            break
        if closing_brace(content, found.end()) != len(content) - 1:
            break
        content = content[found.end() + 1 : -1].strip()
    return content


def hashes(text: str, cut: bool) -> Answer:
    """Takes the number behind the first ####, as lm-evaluation-harness's strict match does."""
    return number_of(HASHES.search(text), 1, cut)


def number(text: str, cut: bool) -> Answer:
    """Takes the last number, as lm-evaluation-harness's flexible extract does."""
    found = list(NUMBER.finditer(text))
    return number_of(found[-1] if found else None, 0, cut)


def number_of(found: re.Match | None, group: int, cut: bool) -> Answer:
    """Writes a number without $, commas and a full stop."""
    if found is None:
        return Answer(None, not cut)
    text = found[group].replace(",", "").replace("$", "").rstrip(".")
    rest = found.string[found.end() :]
    may_go_on = rest == "" or (rest == "." and "." not in found[group])
    return Answer(text or None, not (cut and may_go_on))


def minerva(text: str, cut: bool) -> Answer:
    """Takes what stands between the fixed words, without the dollars around it."""
    found = MINERVA.search(text)
    if found is None:
        return Answer(None, not cut)
    answer = found[1].strip().strip("$").strip() or None
    if found.end() == len(text) and not found[0].endswith("I hope it is correct"):
        return Answer(answer, False) if cut else Answer(None, True)
    return Answer(answer, True)


def line(text: str, cut: bool) -> Answer:
    """Takes the text up to the first line break."""
    first, newline, _ = text.partition("\n")
    return Answer(first.strip() or None, bool(newline) or not cut)


RULES = {"boxed": boxed, "hashes": hashes, "number": number, "minerva": minerva, "line": line}
