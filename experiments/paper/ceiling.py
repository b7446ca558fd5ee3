"""The ceiling of the paper's ARC columns: do networks of random weights reach it as well?

The paper has 95.8 % on ARC-Easy for all of its six models and 98.2 % on ARC-Challenge for all of
its Llamas: 479 and 491 of 500 rows, which are the shares of rows whose correct label is a letter
and not a digit. A grader that knows A to D alone, and a search until the right letter comes up,
would explain both. So networks of random weights are searched here with the paper's budget, each
question until some path says its letter.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

import cola_jax
from cola_jax.files import write_whole
from cola_jax.params import Model
from cola_jax.question import Question
from cola_jax.scoring.statistics import Share
from cola_jax.tasks.registry import find_task, hub_rows
from cola_jax.tasks.tables import read_rows

PRESET = "cola-appendix"  # 200 simulations
GRADED = "ABCD"  # the labels that the paper's grader seems to know
FEW = 8  # layers of the smaller networks
SEEDS = (0, 1, 2)
TRAINED = "the model itself"
PUBLISHED = {"arc_easy": 0.958, "arc_challenge": 0.982}


class Reached(NamedTuple):
    """What the searches of one network reached."""

    first: list[int | None]  # [B], evaluations before the right letter; 0: the identity path's
    graded: list[bool]  # [B], whether the correct label is one of A to D

    @property
    def before(self) -> Share:
        """The questions that the network without edits gets right."""
        return Share(sum(first == 0 for first in self.first), len(self.first))

    @property
    def reached(self) -> Share:
        """The questions on which some path says the right letter."""
        return Share(sum(first is not None for first in self.first), len(self.first))

    @property
    def as_graded(self) -> Share:
        """The same where only labels A to D can be right."""
        pairs = zip(self.first, self.graded, strict=True)
        return Share(sum(first is not None and graded for first, graded in pairs), len(self.first))

    @property
    def most(self) -> Share:
        """The most that a grader of A to D can give."""
        return Share(sum(self.graded), len(self.graded))

    @property
    def median(self) -> float:
        """The median evaluations before the right letter, of questions that were wrong before."""
        tries = [first for first in self.first if first]
        return float(np.median(tries)) if tries else np.nan


class Network(NamedTuple):
    """A network that is searched, by a scorer of letters."""

    name: str
    scorer: str
    layers: int | None = None  # the first ones of the model's; None: all
    seed: int | None = None  # of random weights; None: those of the model

    def make(self, model: Model) -> Model:
        """Make the network from a model."""
        if self.layers is not None:
            model = first_layers(model, self.layers)
        return model if self.seed is None else random_weights(model, self.seed)


def networks_of(model: Model) -> Iterator[Network]:
    """Yield the networks in the order in which they are searched."""
    few = min(FEW, model.config.num_layers)
    if len(model.config.kinds) == 1 and not model.config.keys_of:
        for seed in SEEDS:
            yield Network(f"random weights, {few} layers, seed {seed}", "letter", few, seed)
    yield Network("random weights, all layers, seed 0", "letter", None, 0)
    yield Network(TRAINED, "letter")
    yield Network(f"{TRAINED}, of all tokens", "letter-strict")


def first_layers(model: Model, count: int) -> Model:
    """Keep the first layers of a model with one kind of layers."""
    config = dataclasses.replace(
        model.config,
        num_layers=count,
        layer_ropes=model.config.layer_ropes[:count],
        windows=model.config.windows[:count],
        layer_kinds=model.config.layer_kinds[:count],
    )
    layers = jax.tree.map(lambda weight: weight[:count], model.layers)
    return model.replace(config=config, layers=layers)


def random_weights(model: Model, seed: int) -> Model:
    """Draw each matrix anew, normal with the mean square of the model's; norms are kept."""
    random = np.random.default_rng(seed)

    def draw(weight: jax.Array) -> jax.Array:
        if weight.ndim < 2 or (weight[0].ndim < 2 and weight.shape[0] == model.config.num_layers):
            return weight  # of a norm
        values = np.asarray(weight, np.float32)
        scale = np.sqrt(np.mean(np.square(values)))
        drawn = random.standard_normal(values.shape, np.float32) * scale
        return jax.numpy.asarray(drawn, weight.dtype)

    return jax.tree.map(draw, model)


def labels_of(task: str) -> dict[str, str]:
    """Return the correct label of each row of ARC, by its id."""
    found = find_task(task)
    rows = read_rows(task) if found.own else hub_rows(found, None, None)
    return {str(row["id"]): str(row["answerKey"]) for _, _, row in rows}


def search_network(
    network: Network, model: Model, questions: Sequence[Question], labels: Mapping[str, str]
) -> Reached:
    """Search a network until it says the right letter of each question, or the budget ends."""
    outcomes = cola_jax.search(
        network.make(model),
        questions,
        scorer=network.scorer,
        preset=PRESET,
        early_stop=True,
        control="none",
        prompts=0,
    )
    first = []
    for outcome in outcomes:
        hits = np.flatnonzero(outcome.verdicts.verdict)
        first.append(int(hits[0]) if len(hits) else None)
    graded = [labels[outcome.question.id] in GRADED for outcome in outcomes]
    return Reached(first, graded)


def search_networks(
    model: Model, questions: Sequence[Question], labels: Mapping[str, str], file: epath.Path
) -> dict[str, Reached]:
    """Search each network that a file of results lacks, and write them to it."""
    done = read_ceiling(file)
    for network in networks_of(model):
        known = done.get(network.name)
        if known is None or len(known.first) < len(questions):
            done[network.name] = search_network(network, model, questions, labels)
            write_whole(
                file, json.dumps({name: each._asdict() for name, each in done.items()}).encode()
            )
    return done


def read_ceiling(file: epath.Path) -> dict[str, Reached]:
    """Read what was reached by the name of each network; nothing where there is no file yet."""
    if not file.exists():
        return {}
    values: dict[str, Any] = json.loads(file.read_text())
    return {name: Reached(**each) for name, each in values.items()}
