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
WORD = re.compile(r"[^\s{}$]+")
LINE_END = re.compile(r"[\n$]|\Z")
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
    """Extract the answer from a completion; `cut` if the token limit ended the completion.

    An answer that reaches the end of a cut text is incomplete, since more of it may have followed.
    A closed box is complete.
    """
    check_rule(rule)
    return RULES[rule](text, cut)


def check_rule(rule: str) -> Rule:
    """Return the rule of that name; InputError for one that does not exist."""
    if rule not in RULES:
        raise InputError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}.")
    return cast(Rule, rule)


def boxed(text: str, cut: bool) -> Answer:
    """Extract the first complete box, or else one without braces, which a limit may have cut."""
    partial = None
    for content, end in boxes(text):
        if content is not None and not (cut and end is None):
            return Answer(content, True)
        partial = partial or content
    return Answer(partial, not cut)


def last_box(text: str) -> str | None:
    """Return the content of the last complete box, or None if there is none."""
    last = None
    for content, _ in boxes(text):
        last = content or last
    return last


def boxes(text: str) -> Iterator[tuple[str | None, int | None]]:
    r"""Yield the content and the end of each box; end None if the end of the text may have cut it.

    A box without braces, as in $\boxed 5$, extends to the next $ or space. Time is linear in the
    text: a model can go on opening boxes up to its token limit.
    """
    dollars = seen = 0
    closing, last_dollar, line_end = closing_braces(text), text.rfind("$"), -1
    inner: dict[int, slice] = {}  # the content of each box that was looked at, by its brace
    for box in BOX.finditer(text):
        start = box.end()
        dollars += text.count("$", seen, box.start()) - text.count(r"\$", seen, box.start())
        seen = box.start()
        if start < len(text) and text[start] == "{":
            end = closing.get(start)
            yield (None, None) if end is None else (text[unwrap(text, start, closing, inner)], end)
            continue
        if line_end < start:
            line_end = LINE_END.search(text, start).start()  # type: ignore[union-attr]
        if bare := bare_end(text, start, line_end):
            # up to a space, unless the box is between dollars, the second of which may be missing
            ended = bare < len(text) and (not dollars % 2 or last_dollar >= bare)
            yield text[start:bare].strip().rstrip(".,;"), bare if ended else None


def bare_end(text: str, start: int, line_end: int) -> int | None:
    """Return the end of a box without braces, a $ of the same line or else a space; or None."""
    if start == len(text) or text[start] in "{}$" or text[start].isspace():
        return None
    if text[line_end : line_end + 1] == "$":
        return line_end
    return WORD.match(text, start).end()  # type: ignore[union-attr]


def closing_braces(text: str) -> dict[int, int]:
    """Return the index of each brace that closes another, by the index of that other."""
    closing, opened = {}, []
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def unwrap(text: str, brace: int, closing: dict[int, int], inner: dict[int, slice]) -> slice:
    """Return the content of a box without boxes around all of it, and surrounding whitespace."""
    braces = [brace]
    while True:
        start, end = braces[-1] + 1, closing[braces[-1]]
        if braces[-1] in inner:
            content = inner[braces[-1]]
            break
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        content, box = slice(start, end), BOX.match(text, start, end)
        if box is None or closing.get(box.end()) != end - 1:
            break
        braces.append(box.end())
    inner |= dict.fromkeys(braces, content)
    return content


def hashes(text: str, cut: bool) -> Answer:
    """Extract the number after the first ####, as lm-evaluation-harness's strict match does."""
    return number_of(HASHES.search(text), 1, cut)


def number(text: str, cut: bool) -> Answer:
    """Extract the last number, as lm-evaluation-harness's flexible extract does."""
    matches = list(NUMBER.finditer(text))
    return number_of(matches[-1] if matches else None, 0, cut)


def number_of(match: re.Match | None, group: int, cut: bool) -> Answer:
    """Return a matched number without $, commas and a full stop."""
    if match is None:
        return Answer(None, not cut)
    text = match[group].replace(",", "").replace("$", "").rstrip(".")
    rest = match.string[match.end() :]
    may_continue = rest == "" or (rest == "." and "." not in match[group])
    return Answer(text or None, not (cut and may_continue))


def minerva(text: str, cut: bool) -> Answer:
    """Extract the text between the fixed phrases, without surrounding dollars."""
    match = MINERVA.search(text)
    if match is None:
        return Answer(None, not cut)
    answer = match[1].strip().strip("$").strip() or None
    if match.end() == len(text) and not match[0].endswith("I hope it is correct"):
        return Answer(answer, False) if cut else Answer(None, True)
    return Answer(answer, True)


def line(text: str, cut: bool) -> Answer:
    """Extract the text up to the first line break."""
    first, newline, _ = text.partition("\n")
    return Answer(first.strip() or None, bool(newline) or not cut)


RULES = {"boxed": boxed, "hashes": hashes, "number": number, "minerva": minerva, "line": line}
