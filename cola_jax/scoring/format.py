"""`Format`: the prompt of an open question, the shots in it, and how a completion is read."""

import dataclasses
from collections.abc import Sequence

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.scoring.answer import AnswerRule

# placeholders in `Format.reply`; str.format would take the braces of an answer for fields
ANSWER = "<ANSWER>"
SOLUTION = "<SOLUTION>"


@dataclasses.dataclass(frozen=True)
class Format:
    """The prompt around a question, where its answer ends, and the rule that extracts it."""

    name: str
    shots: int  # default
    max_new_tokens: int
    stop: tuple[str, ...]
    extract: AnswerRule
    before: str  # text before a question
    after: str  # text after it, from which the model continues
    reply: str  # the answer in a shot or a correct completion
    between: str = "\n\n"  # text between shots
    instruction: str = ""

    @property
    def shows_work(self) -> bool:
        """Whether an answer includes a worked solution: many completions are correct."""
        return SOLUTION in self.reply

    def ask(self, question: Question, shots: Sequence[Question] = ()) -> str:
        """Return the prompt that the model continues; for a chat, the user's message.

        Raises InputError for a shot without a solution if the format shows solutions.
        """
        answered = [self.opening(shot) + self.answer(shot, shot.gold) for shot in shots]
        return self.instruction + self.between.join([*answered, self.opening(question)])

    def opening(self, question: Question) -> str:
        return self.before + question.text + self.after

    def answer(self, question: Question, answer: str) -> str:
        """Return the text of an answer after a question."""
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
        """Return the completion that gives an answer, with its stop string.

        A chat's reply has no leading space, and ends with a token of the template, not a text.
        Raises InputError for a format that shows its work.
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

# by the names under which Python takes them, without shots
FREE_FORMATS = {"question": QUESTION, "prompt": PROMPT, "direct": DIRECT}
FORMATS = {  # by the kind of a task's rows; the first one is the default
    "gsm8k": (DIRECT, GSM8K),
    "math": (DIRECT, MATH),
    "arithmetic": (ARITHMETIC, DIRECT),
    "prompt": (PROMPT, DIRECT),
    "question": (QUESTION, DIRECT),
}


def format_of(kind: str, name: str | None = None) -> Format:
    """Return the format of a kind of open questions by its name, or the default.

    Raises InputError for an unknown name.
    """
    formats = {format.name: format for format in FORMATS[kind]}
    if name is not None and name not in formats:
        raise InputError(f"{kind} questions have the formats {', '.join(formats)}, not {name!r}.")
    return FORMATS[kind][0] if name is None else formats[name]
