"""The rows of a run's part files: one for each evaluation, one for each question."""

import hashlib
from typing import Any

import pyarrow as pa

from cola_jax.scoring.verdicts import NO_ANSWER, Said, Verdicts
from cola_jax.search.outcome import Outcome
from cola_jax.scoring.encode import Encoded

PATH = pa.list_(pa.int16())

EVALUATIONS = pa.schema(
    {
        "question": pa.string(),  # its id
        "path": PATH,
        "length": pa.int16(),
        "verdict": pa.bool_(),  # null where the grader failed
        "margin": pa.float32(),  # natural log-probability, per character for options-norm
        "answer": pa.int16(),  # the option chosen, -1 for none; gold is 0 of an open question
        "finite": pa.bool_(),
        "node": pa.int32(),  # number of the evaluation within its question
        "wave": pa.int32(),  # the step of the search, 0 for the baseline
        "parent": pa.int32(),  # the node whose path was edited, null for none
        "edit": pa.string(),
        # the rest is of the scorer `generate`, null for others
        "text": pa.string(),  # decoded, up to what ended it
        "said": pa.string(),  # the answer found in it
        "finish": pa.string(),  # stop, length or not finite
        "cut": pa.bool_(),  # the token limit ended it before the answer was complete
        "grade": pa.string(),  # right, wrong, or ungraded, of which the verdict is null
        "decoded": pa.int32(),  # tokens
        "logprob": pa.float32(),  # natural, of all tokens decoded
    }
)
QUESTIONS = pa.schema(
    {
        "question": pa.string(),
        "text": pa.string(),
        "options": pa.list_(pa.string()),
        "gold": pa.int16(),
        "tokens": pa.int32(),  # run through the model per evaluation
        "prompt_hash": pa.string(),
        "metadata": pa.map_(pa.string(), pa.string()),  # such as its level
        "evaluations": pa.int32(),
        # the rest is of searches, null for other runs
        "baseline": pa.bool_(),  # the verdict of the identity path, null where the grader failed
        "baseline_answer": pa.int16(),
        "best": PATH,  # the shortest correct path, null where there is none
        "confirmed": pa.bool_(),  # whether it is right in float32 too
        "front": pa.list_(PATH),  # the Pareto front of (verdict, length)
        "control": pa.int16(),  # a fixed wrong option, null where there is none
        "control_reached": pa.bool_(),  # whether some evaluation answered it
        "answers": pa.int16(),  # distinct options answered
    }
)


def evaluation_rows(
    encoded: Encoded, paths: list[tuple[int, ...]], verdicts: Verdicts
) -> list[dict[str, Any]]:
    """Makes the rows of one question's evaluations, in order."""
    return [
        {
            "question": encoded.question.id,
            "path": path,
            "length": len(path),
            "verdict": verdict if graded else None,
            "margin": margin,
            "answer": answer,
            "finite": finite,
            "node": node,
            "wave": 0,
            "parent": None,
            "edit": None,
            **said_row(said),
        }
        for node, (path, graded, verdict, margin, answer, finite, said) in enumerate(
            zip(
                paths,
                verdicts.graded.tolist(),
                *(column.tolist() for column in verdicts),
                strict=True,
            )
        )
    ]


def said_row(said: Said | None) -> dict[str, Any]:
    """Makes the columns of what a path decoded."""
    if said is None:
        return {}
    return {
        "text": said.text,
        "said": said.answer,
        "finish": said.finish,
        "cut": said.cut,
        "grade": said.grade.value,
        "decoded": len(said.ids),
        "logprob": said.logprob,
    }


def question_row(encoded: Encoded, evaluations: int) -> dict[str, Any]:
    """Makes a question's row, without what a search adds."""
    return {
        "question": encoded.question.id,
        "text": encoded.question.text,
        "options": encoded.question.options,
        "gold": encoded.question.answer,
        "tokens": encoded.num_tokens,
        "prompt_hash": encoded.prompt_hash,
        "metadata": encoded.question.metadata,
        "evaluations": evaluations,
    }


def search_evaluation_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Makes the rows of all that a search evaluated for one question."""
    rows = evaluation_rows(outcome.encoded, outcome.paths, outcome.verdicts)
    for node, row in enumerate(rows[1:], start=1):
        row |= {
            "wave": int(outcome.wave[node]),
            "parent": int(outcome.parent[node]),
            "edit": outcome.describe_edit(node),
        }
    return rows


def search_question_row(outcome: Outcome) -> dict[str, Any]:
    """Makes the row that sums up one question's search, its control included."""
    best = outcome.shortest_correct
    answers = outcome.verdicts.answer
    control = control_option(outcome)
    return question_row(outcome.encoded, outcome.evaluations) | {
        "baseline": outcome.baseline,
        "baseline_answer": int(answers[0]),
        "best": None if best is None else outcome.paths[best],
        "confirmed": outcome.confirmed,
        "front": [outcome.paths[i] for i in outcome.front],
        "control": control,
        "control_reached": None if control is None else bool((answers == control).any()),
        "answers": len(set(answers.tolist()) - {NO_ANSWER}),
    }


def control_option(outcome: Outcome) -> int | None:
    """Picks the wrong option that a search is compared with, by a hash of the question's id.

    The control must start where a wrong question starts: with an option that the pretrained model
    does not choose. So neither gold nor the baseline's answer is picked; None where no other
    option is left.
    """
    question = outcome.encoded.question
    taken = {question.answer, int(outcome.verdicts.answer[0])}
    others = [j for j in range(len(question.options)) if j not in taken]
    if not others:
        return None
    digest = hashlib.sha256(f"control {question.id}".encode()).digest()
    return others[int.from_bytes(digest[:8], "little") % len(others)]
