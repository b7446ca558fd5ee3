"""Rules that extract the answer of a completion, and the settings that end a completion."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

from cola_jax.errors import InputError

# boxed: the first complete \boxed{...}; hashes: the number after the first ####; number: the
# last number; minerva: between "Final Answer: The final answer is" and ". I hope it is correct";
# line: the first line.
AnswerRule = Literal["boxed", "hashes", "number", "minerva", "line"]

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
INNER_BOX = re.compile(r"\s*" + BOX.pattern)
WORD = re.compile(r"[^\s{}$]+")
LINE_END = re.compile(r"[\n$]|\Z")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
HASHES = re.compile(r"#### (-?[0-9.,]*[0-9][0-9.,]*)")
NUMBER = re.compile(r"(-?\$?[0-9][0-9,]*(?:\.[0-9]+)?|-?\$?\.[0-9]+)")
MINERVA = re.compile(
    r"Final Answer: The final answer is\s*(.*?)(?:\. I hope it is correct|\Z)", re.S
)

# keywords of lm-evaluation-harness's requests: of limits, the first that is set counts
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("top_p", "top_k", "min_p", "typical_p")  # without effect on the likeliest token
NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
}


class Answer(NamedTuple):
    """An extracted answer."""

    text: str | None  # None if there is no answer
    complete: bool  # False if the token limit cut the answer, or the text before any


class GenerationSettings(NamedTuple):
    """The stop strings and the token limit of a completion."""

    until: tuple[str, ...]
    max_gen_toks: int


def find_answer(text: str, rule: AnswerRule, cut: bool) -> Answer:
    """Extract the answer from a completion; `cut` if the token limit ended the completion.

    An answer that reaches the end of a cut text is incomplete, since more of it may have followed.
    A closed box is complete.
    """
    return RULES[rule](text, cut)


def check_rule(rule: str) -> AnswerRule:
    """Return the rule of a name; InputError for an unknown name."""
    if rule not in RULES:
        raise InputError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}.")
    return cast(AnswerRule, rule)


def boxed(text: str, cut: bool) -> Answer:
    """Extract the first complete box, or else one without braces, which a limit may have cut."""
    partial = None
    closing = closing_braces(text)
    for place, ended in boxes(text, closing):
        content = unwrap(text, place, closing)
        if ended or not cut:
            return Answer(content, True)
        partial = partial or content
    return Answer(partial, not cut)


def last_box(text: str) -> str | None:
    """Return the content of the last complete box, or None if there is none."""
    closing = closing_braces(text)
    places = [place for place, _ in boxes(text, closing) if text[place].strip()]
    return unwrap(text, places[-1], closing) or None if places else None


def boxes(text: str, closing: Mapping[int, int]) -> Iterator[tuple[slice, bool]]:
    r"""Yield the place of each box's content, and False where the end of the text may have cut it.

    Boxes with unclosed braces are left out. A box without braces, as in $\boxed 5$, extends to the
    next $ or space. Linear in the text, since a model can open boxes up to its token limit.
    """
    dollars = seen = 0
    last_dollar = text.rfind("$")
    line_end = -1
    for box in BOX.finditer(text):
        start = box.end()
        dollars += text.count("$", seen, start) - text.count(r"\$", seen, start)
        seen = start
        if text.startswith("{", start):
            if start in closing:
                yield slice(start + 1, closing[start]), True
            continue
        if line_end < start:
            line_end = LINE_END.search(text, start).start()  # type: ignore[union-attr]
        if end := bare_end(text, start, line_end):
            # up to a space, unless the box is between dollars, where the second may be missing
            ended = end < len(text) and (not dollars % 2 or last_dollar >= end)
            yield slice(start, start + len(text[start:end].rstrip().rstrip(".,;"))), ended


def bare_end(text: str, start: int, line_end: int) -> int | None:
    """Return the end of a box without braces, a $ of the same line or else a space; or None."""
    word = WORD.match(text, start)
    if word is None:
        return None
    return line_end if text.startswith("$", line_end) else word.end()


def closing_braces(text: str) -> dict[int, int]:
    """Return the index of each brace that closes another, by the index of that other."""
    closing = {}
    opened = []
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def unwrap(text: str, place: slice, closing: Mapping[int, int]) -> str:
    """Return the content of a box without boxes around all of it, and surrounding whitespace."""
    start = place.start
    end = place.stop
    while inner := INNER_BOX.match(text, start, end):
        close = closing.get(inner.end(), end)
        if close >= end or text[close + 1 : end].strip():
            break
        start = inner.end() + 1
        end = close
    return text[start:end].strip()


def hashes(text: str, cut: bool) -> Answer:
    """Extract the number after the first ####, as lm-evaluation-harness's strict match does."""
    return number_of(HASHES.search(text), cut)


def number(text: str, cut: bool) -> Answer:
    """Extract the last number, as lm-evaluation-harness's flexible extract does."""
    matches = list(NUMBER.finditer(text))
    return number_of(matches[-1] if matches else None, cut)


def number_of(match: re.Match | None, cut: bool) -> Answer:
    """Return a matched number without $, commas and a full stop."""
    if match is None:
        return Answer(None, not cut)
    text = match[1].replace(",", "").replace("$", "").rstrip(".")
    rest = match.string[match.end() :]
    may_continue = rest == "" or (rest == "." and "." not in match[1])
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


def read_gen_kwargs(keywords: Mapping[str, Any], max_gen_toks: int) -> GenerationSettings:
    """Read a request's `generation_kwargs`; `max_gen_toks` is the limit where they set none.

    Raises InputError for sampling, and for anything else that would change the completion.
    """
    keywords = {name: value for name, value in keywords.items() if value is not None}
    samples = keywords.get("do_sample", float(keywords.get("temperature", 0)) > 0)
    for name, value in keywords.items():
        if name in ("do_sample", "temperature"):
            greedy = not samples or not value
        else:
            greedy = name in ("until", *LIMITS, *SAMPLING) or value == NEUTRAL.get(name)
        if not greedy:
            raise InputError(
                f"generation asks for {name}={value!r}, but the model cola decodes greedily up "
                f"to `until` or {LIMITS[0]}: leave it out of generation_kwargs, or give "
                "--gen_kwargs do_sample=False,temperature=0 against sampling."
            )
    until = keywords.get("until", ())
    until = [until] if isinstance(until, str) else until
    limit = next((keywords[name] for name in LIMITS if name in keywords), max_gen_toks)
    return GenerationSettings(tuple(text for text in until if text), int(limit))
