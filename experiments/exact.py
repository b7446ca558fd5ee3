"""The scorer `exact` against decoding: `python -m experiments.exact --help`.

Judges the same paths of the same questions twice, from one forward pass a path and by decoding the
answer, and counts the verdicts that agree; and times both.
"""

import dataclasses
import time

import tyro

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.evaluate import evaluate_groups
from cola_jax.execute.engine import Engine
from cola_jax.judge import grading
from cola_jax.path import identity, random_paths
from cola_jax.search.search import IN_FLIGHT
from cola_jax.tasks.asking import Asking


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
    shots: int | None = None


def judged(settings: Exact, model: cola_jax.Model, scorer, paths) -> tuple[dict, float]:
    """Returns the verdicts by question, and the evaluations per second behind the first group."""
    asking = Asking(
        settings.task,
        limit=settings.limit,
        level=settings.level,
        scorer=scorer,
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
    return found, len(questions) * len(paths) / (time.perf_counter() - begun)


def main(settings: Exact) -> None:
    model = cola_jax.load(settings.model, dtype="float32")
    num_layers = model.config.num_layers
    drawn = random_paths(num_layers, settings.paths - 1, seed=0, edits=settings.edits)
    paths = [identity(num_layers), *drawn]
    exact, fast = judged(settings, model, "exact", paths)
    decoded, slow = judged(settings, model, "generate", paths)
    pairs = [
        (bool(exact[q].verdict[c]), bool(decoded[q].verdict[c]), q, c)
        for q in exact
        for c in range(len(paths))
    ]
    agree = sum(a == b for a, b, _, _ in pairs)
    right = sum(b for _, b, _, _ in pairs)
    wrong = len(pairs) - right
    print(f"{len(pairs)} pairs: {agree} agree, {right} right and {wrong} wrong by decoding")
    for a, b, q, c in pairs:
        if a != b:
            said = decoded[q].said[c]
            margin = float(exact[q].margin[c])
            print(f"  {q} path {c}: exact {a} (margin {margin:.2e}), decoded {said.text!r} {b}")
    print(f"exact {fast:.1f} evaluations/s, generate {slow:.1f}: {fast / slow:.2f} times")


if __name__ == "__main__":
    main(tyro.cli(Exact))
