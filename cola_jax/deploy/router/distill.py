"""`distill`: from the labels of a run to a trained router and what it is worth."""

import dataclasses
import functools
import json
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from cola_jax.checkpoint import absolute
from cola_jax.deploy.router import checkpoint
from cola_jax.deploy.router.cache import FeatureCache
from cola_jax.deploy.router.designs import Batch, Design
from cola_jax.deploy.router.evaluate import ClassMetrics, Collapse, Routed, evaluate_paths
from cola_jax.deploy.router.examples import Examples, Which, make_examples, match
from cola_jax.deploy.router.features import (
    fill_up,
    length_buckets,
    on_devices,
    prompt_alone,
    prompt_lengths,
)
from cola_jax.deploy.router.routing import Router, make_router
from cola_jax.deploy.router.targets import CLASSES, count_layers
from cola_jax.deploy.router.tracking import Tracker, TrackerName, tracking
from cola_jax.deploy.router.train import Trainer, TrainingConfig
from cola_jax.execute.batches import cut_batches, take
from cola_jax.files import write_whole
from cola_jax.identity import question_digest, set_digest
from cola_jax.prompts import Prompts
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session
from cola_jax.runs.settings import asked_by_run, asked_here, check_comparable
from cola_jax.runs.stored import read_labels
from cola_jax.scoring.evaluator import default_batch_size

log = logging.getLogger(__name__)
FEATURES = "features"  # the folder of features
METRICS = "metrics.json"
TRACKING = "tracking"  # the folder of what a tracker writes


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """What a router is trained on, and how."""

    labels: Which = "shortest"
    """Which of a question's correct paths are labels: the shortest, or all, each with weight 1/n;
    of a run with variants, paths that are right in all of them."""
    validation: float = 0.2
    """Share of the run's questions that is held out, chosen by a hash of their ids."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    save_every: int = 100
    """Steps between saved training states, at most; slow steps are saved every ten seconds."""


@dataclasses.dataclass(frozen=True, eq=False)
class Distilled:
    """A trained router, and what it is worth on the held-out questions."""

    router: Router
    examples: Examples
    heads: dict[str, ClassMetrics]  # of the network's outputs, along the labelled path
    layers: ClassMetrics  # of how often each layer runs, in the path named
    collapse: Collapse
    routed: Routed
    losses: np.ndarray  # [steps]
    examples_per_second: float | None  # None where too few steps were left to tell

    def to_json(self) -> dict[str, Any]:
        """Returns all metrics as JSON has them."""
        training = self.examples.training
        return {
            "examples": {"training": training, "held_out": len(self.examples.paths) - training},
            "left_out": self.examples.left_out,
            "final_loss": float(self.losses[-1]),
            "examples_per_second": self.examples_per_second,
            "heads": {name: metrics.to_json() for name, metrics in self.heads.items()},
            "layers": self.layers.to_json(),
            "collapse": self.collapse.to_json(),
            "held_out": self.routed.to_json(),
        }


class Features:
    """The features of all examples of a session, computed once and kept beside the router."""

    def __init__(self, session: Session, design: Design, examples: Examples, directory: str):
        self.design, self.examples = design, examples
        every = Prompts.stack([session.encoded[i].prompts for i in examples.question])
        self.prompts = prompt_alone(every, session.model.pad_token)
        self.lengths = prompt_lengths(self.prompts)
        self.unit, units = self.units()
        tokens = length_buckets(take(self.prompts, units))
        parts = cut_batches(tokens, 1, default_batch_size())
        self.cache = FeatureCache(absolute(directory) / FEATURES, parts)
        self.cache.fill(lambda some: self.compute(session, units[some]))

    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the row of each example [N], and an example of each row.

        Examples of one question share a row where their features do not depend on the path.
        """
        every = np.arange(len(self.examples.paths))
        if self.design.follows_path:
            return every, every
        _, first, row = np.unique(self.examples.question, return_index=True, return_inverse=True)
        return row, first

    def compute(self, session: Session, some: np.ndarray) -> np.ndarray:
        """Computes the features of examples whose prompts have similar lengths."""
        rows = fill_up(some)
        prompts, targets = take(self.prompts, rows), self.examples.targets[rows]
        batch = on_devices(session.model, prompts, max(length_buckets(prompts)))
        return np.asarray(self.design.features(session.model, batch, targets))[: len(some)]

    def batch(self, some: np.ndarray) -> Batch:
        """Makes a batch of examples."""
        examples = self.examples
        return Batch(
            features=self.cache.take(self.unit[some]),
            lengths=self.lengths[some],
            targets=examples.targets[some],
            weights=examples.weights[some],
        )


def distill(
    session: Session,
    run: str,
    directory: str,
    design: Design,
    config: DistillConfig = DistillConfig(),
    *,
    beams: int = 1,
    track: TrackerName | None = None,
    report: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> Distilled:
    """Trains a router on the correct paths of a run, and evaluates it on held-out questions.

    Args:
      session: the model and the task of the run, as it was asked.
      run: the run's directory.
      directory: of the router; created, or resumed.
      design: what `make_design` returns.
      beams: paths named for each held-out question; the first is what counts.
      track: where metrics of training go too; needs the extra `tracking`.
      report: is told after each epoch how many are done, of how many, and the mean loss.

    Raises:
      ValueError: where the run is of another model or asked other questions, leaves nothing to
        train on, or the directory holds a router with other settings.
    """
    checkpoint.refuse_foreign(directory)
    examples = read_examples(session, run, design, config)
    settings = {
        "labels": config.labels,
        "validation": config.validation,
        "examples": examples.digest,
        "questions": set_digest(question_digest(asked.question) for asked in session.encoded),
        "task": session.settings["task"],
        "dtype": session.settings["dtype"],
        **dataclasses.asdict(config.training),
    }
    name = str(session.environment["origin"].get("name") or session.handle.source)
    model = checkpoint.describe_model(session.model, name, session.settings["model"])
    checkpoint.begin(directory, checkpoint.make_record(model, design, settings))
    features = Features(session, design, examples, directory)
    trainer = make_trainer(design, config.training, features)
    with tracking(track, absolute(directory) / TRACKING, settings) as tracker:
        watch, states = Watch(trainer, report, tracker), absolute(directory) / checkpoint.TRAINING
        state = trainer.train(states, config.save_every, watch)
    checkpoint.save_weights(directory, state.params)
    router = make_router(design, state.params, session.model)
    distilled = evaluate_router(session, router, features, np.asarray(state.losses), beams, trainer)
    content = json.dumps(distilled.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_whole(absolute(directory) / METRICS, content.encode())
    return distilled


def read_examples(session: Session, run: str, design: Design, config: DistillConfig) -> Examples:
    """Reads the examples of a run that asked this model these questions; ValueError otherwise."""
    there = Run(run)
    labels = read_labels(there)
    here = asked_here(session.settings, session.encoded)
    allowed = ("dtype", "options") if session.scorer.open else ("dtype",)  # options are decoys
    if told := check_comparable(asked_by_run(there), here, allowed):
        log.info("%s was made with other settings: %s", run, "; ".join(told))
    question = match(labels, session.encoded, run)
    return make_examples(labels, question, design.target, config.labels, config.validation)


def make_trainer(design: Design, config: TrainingConfig, features: Features) -> Trainer:
    """Makes a trainer of the examples that are not held out."""
    some = slice(features.examples.training)
    targets, weights = features.examples.targets[some], features.examples.weights[some]
    classes = design.class_weights(targets, weights)
    return Trainer(design, config, len(targets), features.batch, classes)


class Watch:
    """Tells a tracker every loss, and a report the mean loss of every epoch."""

    def __init__(
        self, trainer: Trainer, report: Callable[[int, int, float], None], tracker: Tracker
    ):
        self.config, self.report, self.tracker = trainer.config, report, tracker
        self.per_epoch = trainer.config.steps_per_epoch(trainer.examples)
        self.losses: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        """Takes the loss of the step that is the `step`-th, from 1."""
        self.losses.append(loss)
        self.tracker.log(step, {"loss": loss})
        if step % self.per_epoch == 0:
            epoch = step // self.per_epoch
            self.report(epoch, self.config.epochs, float(np.mean(self.losses)))
            self.losses = []


def evaluate_router(
    session: Session,
    router: Router,
    features: Features,
    losses: np.ndarray,
    beams: int,
    trainer: Trainer,
) -> Distilled:
    """Evaluates a router on the held-out questions."""
    examples, layers = features.examples, session.num_layers
    rows = np.arange(examples.training, len(examples.paths))
    encoded = [session.encoded[i] for i in examples.question[rows]]
    labels = [examples.paths[i] for i in rows]
    paths = router.paths(take(features.prompts, rows), beams)
    named = [own[0] for own in paths]
    counts, wanted = (np.stack([count_layers(p, layers) for p in some]) for some in (named, labels))
    decided = float(np.mean([router.design.layers_run(path) for path in named]))
    budget = session.run_config.devices.budget
    return Distilled(
        router=router,
        examples=examples,
        heads=head_metrics(router, features, rows),
        layers=ClassMetrics.of(np.minimum(wanted, 2), np.minimum(counts, 2), CLASSES),
        collapse=Collapse.of(named, labels, layers),
        routed=evaluate_paths(session.model, encoded, session.scorer, paths, decided, budget),
        losses=losses,
        examples_per_second=trainer.timed / trainer.seconds if trainer.timed else None,
    )


def head_metrics(router: Router, features: Features, rows: np.ndarray) -> dict[str, ClassMetrics]:
    """Compares what the network says along the labelled paths of examples with their targets."""
    found: dict[str, list[ClassMetrics]] = defaultdict(list)
    for start in range(0, len(rows), default_batch_size()):
        some = rows[start : start + default_batch_size()]
        outputs = heads(router.design, router.params, features.batch(fill_up(some)))
        for name, classes in router.design.class_names.items():
            targets, predicted = (np.asarray(x)[: len(some)] for x in outputs[name])
            found[name].append(ClassMetrics.of(targets, predicted, classes))
    return {name: ClassMetrics.joined(parts) for name, parts in found.items()}


@functools.partial(jax.jit, static_argnames="design")
def heads(design: Design, params: Any, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """The compiled part of `head_metrics`."""
    return design.heads(params, batch)
