"""The scorer `exact` against decoding: `python -m experiments.exact --help`.

Judges the same paths of the same questions twice, from one forward pass per path and by decoding
the answer, counts the verdicts that agree, and times both.
"""

import dataclasses
import time

import tyro

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.execute.decoder import STOPPED
from cola_jax.path import identity, random_paths
from cola_jax.scoring import Completion, Verdicts
from cola_jax.scoring.evaluator import ModelEvaluator, default_threads
from cola_jax.tasks.task import Prepared, ScorerName, TaskConfig


@dataclasses.dataclass(frozen=True)
class ExactAgainstGeneration:
    """Compare the verdicts and the speed of `exact` and `generation`."""

    model: str
    """Converted model."""
    task: str = "arithmetic"
    """Task of open questions."""
    level: int | None = 1
    """Difficulty of the questions."""
    limit: int = 60
    """Number of questions, from the first."""
    edits: int = 1
    """Most edits of a path; the more edits, the fewer answers are right."""
    paths: int = 40
    """Paths of each question, the identity path among them."""
    batch_size: int = 16
    """Questions per batch."""
    format: str | None = None
    """Prompt format; by default plain, where a line break ends an answer. In direct, a box does."""
    shots: int | None = None
    """Number of questions shown with their answers before each."""


def prepare(settings: ExactAgainstGeneration, scorer: ScorerName, context: int) -> Prepared:
    """Encodes the questions for a scorer."""
    task = TaskConfig(
        settings.task,
        limit=settings.limit,
        level=settings.level,
        scorer=scorer,
        format=settings.format,
        shots=settings.shots,
    )
    return task.prepare(
        cola_jax.load_tokenizer(settings.model),
        context=context,
        stop_tokens=lambda: stop_tokens(settings.model),
    )


def evaluate(
    model: cola_jax.Model, prepared: Prepared, paths: list[tuple[int, ...]], batch_size: int
) -> tuple[Verdicts, float]:
    """Returns verdicts [B, C], and evaluations per second after compilation."""

    def run(count: int) -> Verdicts:
        encoded = prepared.encoded[:count]
        evaluator = ModelEvaluator(model, encoded, prepared.scorer, batch_size=batch_size)
        return evaluator([paths] * len(encoded))

    run(batch_size * default_threads())  # compiles
    begun = time.perf_counter()
    verdicts = run(len(prepared.encoded))
    return verdicts, verdicts.verdict.size / (time.perf_counter() - begun)


def is_gold(completion: Completion, gold: str) -> bool:
    """Whether a completion is the gold answer to the letter.

    That is the gold answer after a blank, or a box that contains it, whatever the token that closes
    the box adds after it.
    """
    box = f" \\boxed{{{gold}}}"
    same = completion.text == f" {gold}" or completion.text.startswith(box)
    return same and completion.finish == STOPPED


def main(settings: ExactAgainstGeneration) -> None:
    model = cola_jax.load(settings.model, dtype="float32")
    config = model.config
    drawn = random_paths(config.num_layers, settings.paths - 1, seed=0, edits=settings.edits)
    paths = [identity(config.num_layers), *drawn]
    prepared = prepare(settings, "exact", config.context)
    exact, fast = evaluate(model, prepared, paths, settings.batch_size)
    decoding = prepare(settings, "generation", config.context)
    decoded, slow = evaluate(model, decoding, paths, settings.batch_size)
    agree = right = graded = other = 0
    for b, encoded in enumerate(prepared.encoded):
        for c in range(len(paths)):
            completion = decoded.completion[b, c]
            same, verdict = is_gold(completion, encoded.question.gold), exact.verdict[b, c]
            right += same
            graded += bool(decoded.verdict[b, c])
            other += bool(decoded.verdict[b, c]) and not same
            agree += same == bool(verdict)
            if same != bool(verdict):
                print(
                    f"  {encoded.question.id} path {c}: exact {verdict} (margin "
                    f"{exact.margin[b, c]:.2e}), decoded {completion.text!r}"
                )
    pairs = exact.verdict.size
    print(f"{pairs} pairs: {agree} agree; decoding gives gold to the letter in {right} of them")
    print(f"graded right: {graded}, of which {other} are written differently, such as 10. for 10")
    print(f"exact {fast:.1f} evaluations/s, generation {slow:.1f}: {fast / slow:.2f} times")


if __name__ == "__main__":
    main(tyro.cli(ExactAgainstGeneration))
