"""DART-Math's fields: query_id, query, gt_ans, query_metadata, pass_rate.

The response pool has many rows per question and the query table has one, so a row is known by
its query_id and only the first one counts.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

from cola_jax.tasks.mathematics import math_level
from cola_jax.tasks.question import Question, open_question
from cola_jax.tasks.source import hash_of, id_of, text_of

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
        facts.append(("fail_rate_level", fail_rate_level(row["pass_rate"])))
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


def fail_rate_level(pass_rate: Any) -> str:
    """Bins the fail rate 1 - pass_rate: 1 is [0, 0.2), 2 is [0.2, 0.4), and 5 is [0.8, 1]."""
    if isinstance(pass_rate, bool) or not isinstance(pass_rate, int | float):
        raise ValueError(f"the field 'pass_rate' must be a number, it is {pass_rate!r}.")
    if not 0 <= pass_rate <= 1:
        raise ValueError(f"the field 'pass_rate' must be between 0 and 1, it is {pass_rate}.")
    # rounded, since 1 - 0.8 is a little less than 0.2
    return str(min(5, 1 + math.floor(round((1 - pass_rate) / 0.2, 9))))
