"""Formats: the prompt of an open question, and how a completion gives the answer."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError, shown
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, find_answer

if TYPE_CHECKING:
    from cola_jax.scoring import Generation

# Placeholders of the gold answer and the worked solution in `Format.reply`. They are replaced by
# str.replace, since str.format would take the braces of an answer for fields.
ANSWER, SOLUTION = "<ANSWER>", "<SOLUTION>"
REPLIES = {  # the completion in which a rule finds an answer
    "boxed": "\\boxed{{{}}}",
    "hashes": "#### {}",
    "number": "{}",
    "minerva": "Final Answer: The final answer is {}. I hope it is correct.",
    "line": "{}\n",
}
NUMBERS = ("hashes", "number")  # rules that find a number, which may be written otherwise
AROUND = "$. \n"  # what does not matter around an answer


@dataclasses.dataclass(frozen=True)
class Format:
    """The prompt around a question, where its answer ends, and the rule that extracts it."""

    name: str
    shots: int  # default
    max_new_tokens: int
    stop: tuple[str, ...]
    extract: Rule
    before: str  # text before a question
    after: str  # text after it, from which the model continues
    reply: str  # what follows in a shot or a correct completion
    between: str = "\n\n"  # text between shots
    instruction: str = ""

    @property
    def shows_work(self) -> bool:
        """Say whether an answer includes a worked solution: many completions are correct."""
        return SOLUTION in self.reply

    def ask(self, question: Question, shots: Sequence[Question] = ()) -> str:
        """Return the prompt that the model continues; for a chat, the user's message.

        Raises InputError for a shot without a solution if the format shows solutions.
        """
        shots_shown = [self.opening(shot) + self.answer(shot, shot.gold) for shot in shots]
        return self.instruction + self.between.join([*shots_shown, self.opening(question)])

    def opening(self, question: Question) -> str:
        """Return a question with the text before and after it."""
        return self.before + question.text + self.after

    def answer(self, question: Question, answer: str) -> str:
        """Return what follows a question if that is its answer."""
        reply = self.reply
        if self.shows_work:
            if not question.solution:
                raise InputError(
                    f"question {question.id} has no worked solution to show in the format "
                    f"{self.name!r}: use shots that have one, or 0 shots."
                )
            reply = reply.replace(SOLUTION, question.solution)
        if self.opening(question)[-1:].isspace():
            reply = reply.lstrip(" ")  # the prompt ends with a space already
        return reply.replace(ANSWER, answer)

    def completion(self, question: Question, answer: str, *, chat: bool = False) -> str:
        """Return the completion that gives that answer, with its stop string.

        A chat's reply has no leading space and ends with the template's own token, which is not
        part of the text. Raises InputError for a format that shows its work.
        """
        if self.shows_work:
            raise InputError(
                f"the format {self.name!r} includes a worked solution, so no single completion is "
                "the correct one: use the scorer `generation`, or another format."
            )
        text = self.answer(question, answer)
        return text.lstrip() if chat else text + (self.stop[0] if self.stop else "")


DIRECT = Format(
    name="direct",
    shots=0,
    max_new_tokens=50,
    stop=(),
    extract="boxed",
    # the box is left empty: models echo any word inside it
    instruction=(
        "Solve the problem and reply with its final answer alone, inside \\boxed{}. "
        "Do not explain, and show no steps.\n\n"
    ),
    before="### Problem Start\n",
    after="\n### Problem End\nAnswer:",
    reply=f" \\boxed{{{ANSWER}}}",
)
GSM8K = Format(
    name="harness",
    shots=5,
    max_new_tokens=256,
    stop=("Question:", "</s>", "<|im_end|>"),
    extract="hashes",
    before="Question: ",
    after="\nAnswer:",
    reply=f" {SOLUTION}\n#### {ANSWER}",
)
MATH = Format(
    name="harness",
    shots=4,
    max_new_tokens=512,
    stop=("Problem:",),
    extract="minerva",
    before="Problem:\n",
    after="\n\nSolution:",
    reply=f" {SOLUTION}\nFinal Answer: The final answer is ${ANSWER}$. I hope it is correct.",
)
ARITHMETIC = Format(
    name="plain",
    shots=2,
    max_new_tokens=12,
    stop=("\n",),
    extract="line",
    before="",
    after=" =",
    reply=f" {ANSWER}",
    between="\n",
)
PROMPT = dataclasses.replace(ARITHMETIC, shots=0, max_new_tokens=50, after="")
QUESTION = dataclasses.replace(PROMPT, before="Question: ", after="\nAnswer:", between="\n\n")

FORMATS = {  # by the kind of a task's rows; the first one is the default
    "gsm8k": (DIRECT, GSM8K),
    "math": (DIRECT, MATH),
    "dart": (DIRECT, MATH),
    "arithmetic": (ARITHMETIC, DIRECT),
    "prompt": (PROMPT, DIRECT),
    "question": (QUESTION, DIRECT),
}


def format_of(kind: str, name: str | None = None) -> Format:
    """Return the format of that name for a kind, or its default; InputError if it has none."""
    if kind not in FORMATS:
        raise InputError(
            f"{kind} questions are multiple choice: use the scorer `letter` or `options`."
        )
    for format in FORMATS[kind]:
        if name in (None, format.name):
            return format
    names = ", ".join(format.name for format in FORMATS[kind])
    raise InputError(f"{kind} questions have the formats {names}, not {name!r}.")


def check_answerable(questions: Iterable[Question], scorer: "Generation", tokenizer: Any) -> None:
    """Raise InputError that names a question whose answer no completion can give.

    Either the rule does not find it in the completion that states it, a stop string ends the
    completion within it, or it is far longer than what is decoded.
    """
    for question in questions:
        gold, rule = question.gold, scorer.rule
        stated = gold if rule not in NUMBERS else find_answer(gold, "number", False).text
        text = REPLIES[rule].format(stated or "")
        answer = find_answer(text[: scorer.stop.found(text)], rule, False).text
        if stated is None or answer is None or answer.strip(AROUND) != stated.strip(AROUND):
            raise InputError(
                f"question {question.id}: no completion can give the answer {shown(gold)}, of "
                f"which the rule {rule!r} finds {shown(answer)}: change the answer, or give "
                "another rule or format."
            )
        size = len(tokenizer(gold, add_special_tokens=False).input_ids)
        # a model may give a text in fewer tokens than the tokenizer, but hardly in half of them
        if size > 2 * scorer.max_new_tokens:
            raise InputError(
                f"question {question.id}: the answer {shown(gold)} has {size} tokens, but at most "
                f"{scorer.max_new_tokens} are decoded: raise --max-new-tokens."
            )
