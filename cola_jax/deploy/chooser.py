"""What chooses the path of each prompt for the harness's model: one for all, a router or a menu."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cola_jax.deploy.menu_file import MenuFile
from cola_jax.deploy.model_args import ModelArguments
from cola_jax.deploy.packing import PackedRow
from cola_jax.deploy.rules import CONFIDENCE, Signals, signals
from cola_jax.execute.allocator import Row
from cola_jax.execute.decoder import NOT_FINITE
from cola_jax.params import Model
from cola_jax.path import identity, parse_path, validate
from cola_jax.prompts import Prompts, Readings
from cola_jax.scoring.verdicts import Verdicts

Path = tuple[int, ...]
Chooser = Callable[[Prompts], Sequence[Sequence[int]]]  # prompts [B, T] -> B paths


def path_chooser(
    given: ModelArguments, path: Path, model: Model, menu: MenuFile | None = None
) -> Chooser:
    """Returns what chooses the path of each prompt before any has run.

    That is a router, the selector of a menu, or the one path for all.
    """
    if menu is not None and menu.selector is not None:
        return functools.partial(menu.select, model)
    if given.router is not None:
        from cola_jax.deploy.router import load_router

        router = load_router(given.router, model)
        return lambda prompts: [best for best, *_ in router.paths(prompts, beams=1)]
    return lambda prompts: [path] * len(prompts.ids)


def read_path(given: ModelArguments, num_layers: int) -> Path:
    """Reads the path that was given, that of the pretrained model where none was."""
    if given.path is None:
        return identity(num_layers)
    if isinstance(given.path, str):
        return parse_path(given.path.strip("[]"), num_layers)
    return validate(given.path, num_layers, max_length=2 * num_layers)


def choose_readings(menu: MenuFile, row: PackedRow, readings: Readings) -> Readings:
    """Chooses the readings [Q] of a path, of those [k, Q] of all paths of a menu.

    The continuations of a row are its options; one alone says nothing, so its path is the first.
    """
    each = [jax.tree.map(lambda x, c=c: x[c], readings) for c in range(len(menu.paths))]
    scores = np.array([[score for _, score, _ in row.answers(one)] for one in each])
    told = signals(Verdicts.of_scores(scores[None], 0, np.asarray(readings.finite)[None]))
    return each[int(menu.choose(told)[0])]


def choose_row(menu: MenuFile, rows: Sequence[Row], texts: Sequence[str]) -> int:
    """Chooses among what the paths of a menu decoded after one prompt."""
    fine = np.array([row.finish != NOT_FINITE and bool(row.tokens) for row in rows])

    def mean(values: Sequence[Sequence[float]]) -> np.ndarray:
        means = [np.mean(one) if ok else -np.inf for one, ok in zip(values, fine, strict=True)]
        return np.array([means])

    answers = [text.strip() if ok else None for text, ok in zip(texts, fine, strict=True)]
    values = (mean([getattr(row, name) for row in rows]) for name in CONFIDENCE)
    told = Signals(np.array([answers], object), *values)
    return int(menu.choose(told)[0])
