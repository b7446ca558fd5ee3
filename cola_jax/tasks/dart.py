"""DART-Math's fields: query_id, query, gt_ans, query_metadata, pass_rate.

The pool has hundreds of responses per question, so a row is known by its query_id and only the
first one counts. The share of responses that were right is in a table of its own, by query_id.
"""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cola_jax.question import Question, open_question
from cola_jax.tasks.mathematics import math_level
from cola_jax.tasks.source import hash_of, id_of, text_of

FAIL_RATE = "fail_rate"  # a fact until it is replaced by a level
LONGEST_METADATA = 10_000  # characters; a literal that long is none of DART's


def read_dart(row: Mapping[str, Any], default_id: str | None) -> Question:
    """Reads a row. MATH level and fail-rate level are two facts: they measure two things."""
    text = text_of(row, "query")
    gold = row.get("gt_ans", row.get("answer"))
    if gold is None:
        raise ValueError("the field 'gt_ans' is missing: the row has no answer.")
    if not isinstance(gold, str | int | float) or isinstance(gold, bool):
        raise ValueError(f"the field 'gt_ans' must be a text or a number, it is {gold!r}.")
    metadata = read_metadata(row.get("query_metadata"))
    facts = []
    if (level := math_level(metadata.get("level", row.get("level")))) is not None:
        facts.append(("math_level", level))
    if row.get("pass_rate") is not None:
        facts.append((FAIL_RATE, f"{fail_rate(row['pass_rate']):.9f}"))
    subject = row.get("domain") or metadata.get("domain") or metadata.get("type")
    if isinstance(subject, str):
        facts.append(("subject", subject))
    id = id_of(row, "query_id", default_id or hash_of(text))
    return open_question(id, text, str(gold), facts=tuple(facts))


def read_metadata(value: Any) -> Mapping[str, Any]:
    """Reads a dict, or the text form of one; only literals, nothing is evaluated."""
    if isinstance(value, str):
        try:
            if len(value) > LONGEST_METADATA:
                raise ValueError("too long")
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise ValueError(
                f"the field 'query_metadata' must be a dict or the text of one, it is "
                f"{value[:60]!r}."
            ) from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"the field 'query_metadata' must be a dict, it is {value!r}.")
    return value


def fail_rate(pass_rate: Any) -> float:
    """Returns 1 - pass_rate; ValueError where that is no share."""
    if isinstance(pass_rate, bool) or not isinstance(pass_rate, int | float):
        raise ValueError(f"the field 'pass_rate' must be a number, it is {pass_rate!r}.")
    if not 0 <= pass_rate <= 1:
        raise ValueError(f"the field 'pass_rate' must be between 0 and 1, it is {pass_rate}.")
    return 1 - pass_rate


def rank_fail_rates(questions: Iterable[Question]) -> list[Question]:
    """Divides questions into five levels of the same size by their fail rates, 1 the easiest.

    By rank and not by fifths of the rate: most of MATH's questions are easy for the models that
    answered them. Of equal rates the ids decide, so that the order of rows does not.
    """
    questions = list(questions)
    rated = [i for i, q in enumerate(questions) if q.fact(FAIL_RATE) is not None]
    rated.sort(key=lambda i: (questions[i].fact(FAIL_RATE), questions[i].id))
    for rank, i in enumerate(rated):
        facts = dict(questions[i].facts)
        del facts[FAIL_RATE]
        facts["fail_rate_level"] = str(1 + 5 * rank // len(rated))
        questions[i] = dataclasses.replace(questions[i], facts=tuple(facts.items()))
    return questions
