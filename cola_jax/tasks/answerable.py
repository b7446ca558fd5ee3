"""Answers of a user's own file that no completion can give are refused before the run."""

from collections.abc import Sequence
from typing import Any

from cola_jax.errors import InputError, shown
from cola_jax.question import Question
from cola_jax.scoring.answer import find_answer
from cola_jax.scoring.generation import Generation

REPLIES = {  # the completion in which a rule finds an answer
    "boxed": "\\boxed{{{}}}",
    "hashes": "#### {}",
    "number": "{}",
    "minerva": "Final Answer: The final answer is {}. I hope it is correct.",
    "line": "{}\n",
}
NUMBERS = ("hashes", "number")  # rules that find a number, which may be written otherwise
AROUND = "$. \n"  # what does not matter around an answer


def check_answerable(questions: Sequence[Question], scorer: Generation, tokenizer: Any) -> None:
    """Raises ValueError that names a question whose answer no completion can give.

    Either the rule does not find it in the completion that states it, a stop string ends the
    completion within it, or it is far longer than what is decoded.
    """
    for question in questions:
        gold, rule = question.gold, scorer.rule
        stated = gold if rule not in NUMBERS else find_answer(gold, "number", False).text
        text = REPLIES[rule].format(stated or "")
        found = find_answer(text[: scorer.stop.found(text)], rule, False).text
        if stated is None or found is None or found.strip(AROUND) != stated.strip(AROUND):
            raise InputError(
                f"question {question.id}: no completion can give the answer {shown(gold)}, of "
                f"which the rule {rule!r} finds {shown(found)}: change the answer, or give another "
                "rule or format."
            )
        size = len(tokenizer(gold, add_special_tokens=False).input_ids)
        # a model may give a text in fewer tokens than the tokenizer, but hardly in half of them
        if size > 2 * scorer.max_new_tokens:
            raise InputError(
                f"question {question.id}: the answer {shown(gold)} has {size} tokens, but at most "
                f"{scorer.max_new_tokens} are decoded: raise --max-new-tokens."
            )
