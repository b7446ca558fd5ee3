"""The first prompts of a task, their continuations, and the positions at which they are read."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_jax.errors import count, escaped
from cola_jax.execute.inputs import decode_tokens
from cola_jax.question import Question
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.generation import DecodingScorer
from cola_jax.tasks.prepared import Prepared
from cola_jax.tasks.task import TaskConfig

EDGE = "  | "  # before each line of a prompt, which may read like anything


def wording_records(config: TaskConfig, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
    """Return JSON values of the questions of a task in each wording."""
    records = []
    for number, wording in enumerate(prepared, start=1):
        name = "the task's own prompt"
        if len(prepared) > 1:
            name = f"prompt {number} of {len(prepared)} to measure in"
        elif config.chooses_over_several:
            name = f"each question in one of {config.choose_prompts} prompts to choose by"
        head = {"task": config.task, "wording": name, **described(wording.record)}
        records.append(head | questions_of(wording.encoder, wording.questions))
        for place, worded in enumerate(wording.again, start=1):
            name = f"wording {place} of {len(wording.again)} to ask again in"
            head = {"task": config.task, "wording": name, **described(worded.record)}
            questions = list(map(worded.ask, wording.questions))
            records.append(head | questions_of(worded.encoder, questions))
    return records


def described(record: dict[str, Any]) -> dict[str, Any]:
    """Return the format, the shots and the draw of a wording."""
    prompt = record.get("prompt") or {}
    style = prompt.get("format", "plain")
    return {
        "format": style["name"] if isinstance(style, dict) else style,
        "shots": list(prompt.get("shots", ())),
        "drawn": record.get("prompt_set"),
    }


def questions_of(encoder: Encoder, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the scorer of a wording, and its questions as they are encoded."""
    scorer = encoder.scorer
    return {
        "scorer": scorer.name,
        "chat": scorer.chat,
        "questions": [question_record(each, scorer) for each in encoder.tokenize(questions)],
    }


def question_record(encoded: Encoded, scorer: Scorer) -> dict[str, Any]:
    """Return the prompt of a question, and what is read or decoded after it."""
    question, row = encoded.question, encoded.prompts
    record: dict[str, Any] = {
        "question": question.id,
        "tokens": int((np.asarray(row.branch) == 0).sum()),
        "prompt": encoded.prompt,
    }
    if question.options:
        record["gold"] = question.gold
    if isinstance(scorer, DecodingScorer):
        record["max_new_tokens"] = scorer.max_new_tokens
        record["stop"] = list(scorer.stop.strings)
        return record
    record["continuations"] = continuations(encoded, scorer.tokenizer)
    return record


def continuations(encoded: Encoded, tokenizer: Any) -> list[dict[str, Any]]:
    """Return the options of a question with their reads: position, token there, and target."""
    ids = np.asarray(encoded.prompts.ids)
    reads = defaultdict(list)
    columns = (np.asarray(encoded.prompts.read), np.asarray(encoded.prompts.targets))
    for option, position, target in zip(encoded.option.tolist(), *columns, strict=True):
        reads[option].append(
            {
                "position": int(position),
                "token": decode_tokens(tokenizer, [int(ids[position])]),
                "target": decode_tokens(tokenizer, [int(target)]),
            }
        )
    options = encoded.question.options
    return [
        {
            "option": options[j] if j < len(options) else None,
            "gold": j == encoded.question.answer,
            "reads": reads[j],
        }
        for j in sorted(reads)
    ]


def wording_lines(record: dict[str, Any]) -> Iterator[str]:
    """Write a record of `wording_records` in lines of text, with control characters escaped."""
    details = [f"scorer {record['scorer']}"]
    if "format" in record:
        shots = record["shots"]
        listed = f" ({', '.join(shots)})" if shots else ""
        details += [f"format {record['format']}", f"{count(len(shots), 'shot')}{listed}"]
    if record["chat"]:
        details.append("in the chat template")
    if record.get("drawn"):
        details.append(f"drawn as {record['drawn']}")
    yield escaped(f"# {record['task']}, {record['wording']}: {', '.join(details)}")
    for question in record["questions"]:
        yield ""
        yield from question_lines(question)
    yield ""


def question_lines(record: dict[str, Any]) -> Iterator[str]:
    """Write the prompt of a question and its reads in lines of text."""
    yield escaped(f"question {record['question']}, a prompt of {count(record['tokens'], 'token')}:")
    for line in (record["prompt"] or "").split("\n"):
        yield EDGE + escaped(line)
    if "continuations" not in record:
        gold = f"gold {record['gold']!r}, " if "gold" in record else ""
        stop = "".join(f" or {text!r}" for text in record["stop"])
        most = count(record["max_new_tokens"], "token")
        yield f"decoded after it: {gold}up to {most}, a stop token{stop}"
        return
    yield "read (position: token there -> target):"
    for each in record["continuations"]:
        reads = (f"{x['position']}: {x['token']!r} -> {x['target']!r}" for x in each["reads"])
        gold = " (gold)" if each["gold"] else ""
        yield f"  {each['option']!r}{gold}  {', '.join(reads)}"
