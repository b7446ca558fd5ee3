"""Formats: how an open question is put to a model, and how its answer is found again."""

import dataclasses
from collections.abc import Sequence

from cola_jax.question import Question
from cola_jax.scoring.answer import Rule

# Stands for the gold answer, and for the worked solution, in `Format.reply`. Replaced as text:
# answers are full of braces, which would be fields to str.format.
ANSWER, SOLUTION = "<ANSWER>", "<SOLUTION>"


@dataclasses.dataclass(frozen=True)
class Format:
    """The texts around a question, where the answer ends, and the rule that finds it."""

    name: str
    shots: int  # by default
    max_new_tokens: int
    stop: tuple[str, ...]
    extract: Rule
    before: str  # a question
    after: str  # a question; the model goes on from here
    reply: str  # behind it, in shots and in a right answer
    between: str = "\n\n"  # shots
    instruction: str = ""

    @property
    def works(self) -> bool:
        """Whether an answer shows its work, so that no one text is the right one."""
        return SOLUTION in self.reply

    def ask(self, question: Question, shots: Sequence[Question] = ()) -> str:
        """Returns the prompt up to where the model goes on; for a chat, the user's message.

        Raises ValueError for a shot without a solution where the format shows solutions.
        """
        worked = [self.opening(shot) + self.answer(shot, shot.gold) for shot in shots]
        return self.instruction + self.between.join([*worked, self.opening(question)])

    def opening(self, question: Question) -> str:
        """Returns a question with the texts around it."""
        return self.before + question.text + self.after

    def answer(self, question: Question, answer: str) -> str:
        """Returns what follows a question, with that answer."""
        reply = self.reply
        if self.works:
            if not question.solution:
                raise ValueError(
                    f"question {question.id} has no worked solution to show in the format "
                    f"{self.name!r}: give shots that have, or 0 shots."
                )
            reply = reply.replace(SOLUTION, question.solution)
        if self.opening(question)[-1:].isspace():
            reply = reply.lstrip(" ")  # the prompt has the blank already
        return reply.replace(ANSWER, answer)

    def completion(self, question: Question, answer: str, *, chat: bool = False) -> str:
        """Returns the text that a greedy decode of that answer gives, its stop string included.

        A chat's reply has no blank in front and ends with the template's own token, which is not
        part of the text. Raises ValueError for a format that shows its work: many texts are right.
        """
        if self.works:
            raise ValueError(
                f"the format {self.name!r} lets a model work towards its answer, so no single "
                "text is the right one: use the scorer `generate`, or another format."
            )
        text = self.answer(question, answer)
        return text.lstrip() if chat else text + (self.stop[0] if self.stop else "")


DIRECT = Format(
    name="direct",
    shots=0,
    max_new_tokens=50,
    stop=(),
    extract="boxed",
    # no word inside the box: models echo it
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

FORMATS = {  # by the kind of a task's rows; the first is the default
    "gsm8k": (DIRECT, GSM8K),
    "math": (DIRECT, MATH),
    "dart": (DIRECT, MATH),
    "arithmetic": (ARITHMETIC, DIRECT),
    "prompt": (PROMPT, DIRECT),
    "question": (QUESTION, DIRECT),
}


def format_of(kind: str, name: str | None = None) -> Format:
    """Returns a kind's format of that name, its default when None; ValueError where it has none."""
    if kind not in FORMATS:
        raise ValueError(
            f"{kind} questions are multiple choice: use a scorer of letters or options."
        )
    found = [each for each in FORMATS[kind] if name in (None, each.name)]
    if not found:
        names = ", ".join(each.name for each in FORMATS[kind])
        raise ValueError(f"{kind} questions have the formats {names}, not {name!r}.")
    return found[0]
