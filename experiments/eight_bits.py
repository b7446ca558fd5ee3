"""What weights of eight bits change: logits, verdicts, bytes and decoding speed.

`python -m experiments.eight_bits CHECKPOINT ... --questions arc_easy.jsonl` compares models, and
one of a named shape with random bfloat16 weights, with themselves in float32. Activations of int8
are float32 on a CPU and bfloat16 elsewhere; programs are timed in turns.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from tyro.conf import Positional

import cola_jax
from cola_jax.execute.benchmark import SHAPES, random_model
from cola_jax.int8 import INPUTS, Int8, cast, float_dtype, quantize
from cola_jax.params import Layer, Model
from cola_jax.path import identity, random_paths
from experiments.paper.results import show

BLOCK = 32  # as GGUF's Q8_0
COLUMNS = ("model", "weights", "MB", "layers MB", "worst logit", "mean logit", "top token differs")
COLUMNS += ("flips, identity", "flips, random paths", "decoded per CPU s", "decoded per s")


@dataclasses.dataclass(frozen=True)
class EightBits:
    """Compare weights of eight bits with floats."""

    models: Positional[tuple[str, ...]] = ()
    """What `cola_jax.load` takes."""
    questions: Path = Path("arc_easy.jsonl")
    """Multiple-choice questions."""
    shape: str | None = "llama-3.2-1b"
    """Named shape with random weights."""
    weights: tuple[str, ...] = ("float32", "bfloat16", "int8 by channel", "int8 in blocks")
    """Weights to compare; the first are float32."""
    limit: int = 200
    """Questions."""
    paths: int = 2
    """Random paths of each question."""
    texts: int = 16
    """Texts of 64 tokens, cut from the questions, whose logits are compared at every token."""
    rows: int = 8
    """Rows that are decoded at once."""
    tokens: int = 16
    """Tokens decoded of each."""
    rounds: int = 3
    """Number of times each program is timed."""


def by_blocks(name: str, weight: jax.Array) -> Int8:
    """Round a weight in blocks of inputs, scales in float16."""
    axis = weight.ndim + INPUTS[name][-1]
    shape = weight.shape
    split = weight.reshape(*shape[:axis], -1, BLOCK, *shape[axis + 1 :])
    values, scale = jax.tree.leaves(quantize(split, (axis + 1,)))
    half = scale.astype("float16").squeeze(axis + 1)
    return Int8(values.reshape(shape), half)


def converted(model: Model, convert: Callable[[str, jax.Array], Int8 | jax.Array]) -> Model:
    """Convert every weight of a model."""
    fields = {f.name: getattr(model.layers, f.name) for f in dataclasses.fields(Layer)}
    layers = {name: convert(name, x) for name, x in fields.items() if x is not None}
    whole = {"embedding": model.embedding, "norm": model.norm, "head": model.head}
    rest = {name: convert(name, x) for name, x in whole.items() if x is not None}
    return model.replace(layers=model.layers.replace(**layers), **rest)


def variants(model: Model) -> dict[str, Callable[[], Model]]:
    """Return functions that round the weights of a float32 model, or keep them."""
    wide = float_dtype("int8")

    def blocks(name: str, weight: jax.Array) -> Int8 | jax.Array:
        return by_blocks(name, weight) if name in INPUTS else weight.astype(wide)

    return {
        "float32": lambda: model,
        "bfloat16": lambda: converted(model, lambda name, x: x.astype("bfloat16")),
        "int8 by channel": lambda: converted(model, lambda name, x: cast(name, x, "int8")),
        "int8 in blocks": lambda: converted(model, blocks),
    }


def logits_of(model: Model, texts: np.ndarray) -> list[np.ndarray]:
    """Return the logits of every token of each text along the identity path."""
    path = identity(model.config.num_layers)
    return [np.asarray(cola_jax.run_path(model, text[None], path))[0] for text in texts]


def seconds(models: dict[str, Model], settings: EightBits) -> dict[str, np.ndarray]:
    """Decode with each model in turns; return the least CPU and wall seconds of each."""
    vocab = next(iter(models.values())).config.vocab_size
    ids = np.random.default_rng(0).integers(3, vocab, (settings.rows, 16)).astype(np.int32)
    best = {name: np.full(2, np.inf) for name in models}
    for turn in range(settings.rounds + 1):  # the first compiles
        for name, model in models.items():
            start = np.array([time.process_time(), time.perf_counter()])
            cola_jax.generate(model, ids, max_new_tokens=settings.tokens, progress=False)
            taken = np.array([time.process_time(), time.perf_counter()]) - start
            best[name] = np.minimum(best[name], taken) if turn else best[name]
    return best


def compare(name: str, model: Model, settings: EightBits) -> list[list[str]]:
    """Return the rows of a model."""
    rows, models = [], {weights: variants(model)[weights]() for weights in settings.weights}
    questions: list[cola_jax.Question] = []
    ids = np.random.default_rng(1).integers(3, model.config.vocab_size, settings.texts * 64)
    if model.checkpoint is not None:
        questions = cola_jax.load_questions(settings.questions, limit=settings.limit)
        tokenizer = cola_jax.load_tokenizer(model.checkpoint)
        ids = np.concatenate([tokenizer(q.text).input_ids for q in questions])[: len(ids)]
    texts = ids[: len(ids) // 64 * 64].astype(np.int32).reshape(-1, 64)
    layers = model.config.num_layers
    paths = [identity(layers), *random_paths(layers, settings.paths, 0)]
    times, exact, wanted = seconds(models, settings), logits_of(model, texts), None
    for weights, other in models.items():
        pairs = zip(logits_of(other, texts), exact, strict=True)
        errors = [(abs(a - b), a.argmax(-1) != b.argmax(-1)) for a, b in pairs]
        worst, mean = max(e.max() for e, _ in errors), np.mean([e.mean() for e, _ in errors])
        top = np.concatenate([t for _, t in errors]).mean()
        flips = ["", ""]
        if questions:
            made = cola_jax.evaluate(other, questions, paths, scorer="options", progress=False)
            verdict = made.verdicts.verdict
            wanted = verdict if wanted is None else wanted
            parts = (verdict != wanted)[:, :1], (verdict != wanted)[:, 1:]
            flips = [f"{part.sum()} of {part.size}" for part in parts]
        sizes = [sum(x.nbytes for x in jax.tree.leaves(t)) for t in (other, other.layers)]
        speed = settings.rows * settings.tokens / times[weights]
        numbers = f"{worst:.3f}", f"{mean:.4f}", f"{top:.1%}", *flips, *(f"{x:.1f}" for x in speed)
        rows.append([name, weights, *(f"{size / 1e6:,.1f}" for size in sizes), *numbers])
        print(rows[-1], flush=True)
    return rows


def main(settings: EightBits) -> None:
    rows = []
    for source in settings.models:
        rows += compare(Path(source).name, cola_jax.load(source, dtype="float32"), settings)
    if settings.shape is not None:
        model = random_model(SHAPES[settings.shape], "bfloat16")
        model = converted(model, lambda name, x: x.astype("float32"))
        rows += compare(f"random {settings.shape}", model, settings)
    device = jax.local_devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}; {settings}")
    show(COLUMNS, rows)


if __name__ == "__main__":
    main(tyro.cli(EightBits, description=__doc__))
