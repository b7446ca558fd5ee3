"""The scorer `exact` against decoding: `python -m experiments.exact --help`.

Judges the same paths of the same questions twice, from one forward pass a path and by decoding the
answer, and counts the verdicts that agree; and times both.
"""

import dataclasses
import time

import tyro

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.edits import random_paths
from cola_jax.execute.engine import Engine
from cola_jax.path import identity
from cola_jax.scoring.judge import grading
from cola_jax.search.evaluate import evaluate_groups
from cola_jax.search.search import IN_FLIGHT
from cola_jax.tasks.task import Asking


@dataclasses.dataclass(frozen=True)
class Exact:
    """Compares the verdicts and the speed of `exact` and `generate`."""

    model: str
    """A converted model."""
    task: str = "arithmetic"
    level: int | None = 1
    limit: int = 60
    edits: int = 1
    """The most edits of a path: the more there are, the fewer answers are right."""
    paths: int = 40
    """Paths of each question, the identity path among them."""
    group: int = 16
    format: str | None = None
    """The prompt; by default plain, where a line break ends an answer. In direct, a box does."""
    shots: int | None = None


def judged(settings: Exact, model: cola_jax.Model, scorer, paths) -> tuple[dict, dict, float]:
    """Returns verdicts and golds by question, and evaluations per second once all is compiled."""
    asking = Asking(
        settings.task,
        limit=settings.limit,
        level=settings.level,
        scorer=scorer,
        format=settings.format,
        shots=settings.shots,
    )
    tokenizer = cola_jax.load_tokenizer(settings.model)
    questions, _ = asking.ask(
        tokenizer, context=model.config.context, stop_tokens=lambda: stop_tokens(settings.model)
    )
    found = {}
    with grading(questions) as grader, Engine(model, in_flight=IN_FLIGHT) as engine:
        for timed in (False, True):  # compiles, then counts
            begun = time.perf_counter()
            some = questions if timed else questions[: settings.group * IN_FLIGHT]
            for mine, verdicts in evaluate_groups(
                engine, some, paths, settings.group, lambda n: None, grader
            ):
                for b, encoded in enumerate(mine):
                    found[encoded.question.id] = type(verdicts)(*(x[b] for x in verdicts))
    golds = {encoded.question.id: encoded.question.gold for encoded in questions}
    return found, golds, len(questions) * len(paths) / (time.perf_counter() - begun)


def main(settings: Exact) -> None:
    model = cola_jax.load(settings.model, dtype="float32")
    num_layers = model.config.num_layers
    drawn = random_paths(num_layers, settings.paths - 1, seed=0, edits=settings.edits)
    paths = [identity(num_layers), *drawn]
    exact, golds, fast = judged(settings, model, "exact", paths)
    decoded, _, slow = judged(settings, model, "generate", paths)
    agree = right = graded = other = 0
    for q, mine in exact.items():
        for c, said in enumerate(decoded[q].said):
            # to the letter: what was decoded, up to the end, is the gold answer behind a blank;
            # of a box, whatever stands behind it in the token that closed it
            box = f" \\boxed{{{golds[q]}}}"
            same = said.text == f" {golds[q]}" or said.text.startswith(box)
            same = same and said.finish == "stop"
            right += same
            other += bool(decoded[q].verdict[c]) and not same
            graded += bool(decoded[q].verdict[c])
            if same == bool(mine.verdict[c]):
                agree += 1
                continue
            margin = float(mine.margin[c])
            print(f"  {q} path {c}: exact {not same} (margin {margin:.2e}), decoded {said.text!r}")
    pairs = len(exact) * len(paths)
    print(f"{pairs} pairs: {agree} agree; decoding gives gold to the letter in {right} of them")
    print(
        f"graded right {graded}, of which {other} are written otherwise, such as with a full stop"
    )
    print(f"exact {fast:.1f} evaluations/s, generate {slow:.1f}: {fast / slow:.2f} times")


if __name__ == "__main__":
    main(tyro.cli(Exact))
