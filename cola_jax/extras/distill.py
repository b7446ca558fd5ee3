"""`distill`: train a router on the correct paths of a run, and measure it on held-out questions."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cola_jax.engine import EngineEvaluator
from cola_jax.errors import InputError
from cola_jax.execute import bucket, pad_paths, replicated, state_batches
from cola_jax.extras.router import (
    NO_SEGMENT,
    Record,
    Router,
    SegmentNetwork,
    segment_logits,
    target_of_path,
)
from cola_jax.extras.settings import DistillSettings
from cola_jax.path import LayerPath, identity
from cola_jax.prompts import Prompts
from cola_jax.question import content, digest, distinct, split
from cola_jax.runs import (
    LAYERS,
    MODEL,
    Estimate,
    Labels,
    Measurement,
    Recommendation,
    Run,
    Session,
    Try,
    asked_here,
    check_comparable,
    read_labels,
    settings_of,
)
from cola_jax.scoring import Share

log = logging.getLogger(__name__)
WARMUP = 0.08  # share of the steps
ROUTER = "the router"  # group of its estimates
COLLAPSED = 0.95  # share of questions with the same path from which on a router chooses nothing


class Examples(NamedTuple):
    """N labelled paths to train on, and the questions that are held out."""

    questions: np.ndarray  # [N], indices among the encoded questions
    targets: np.ndarray  # [N, L]
    weights: np.ndarray  # [N], mean 1
    held_out: list[int]  # indices among the encoded questions
    left_out: Counter[str]  # training questions and paths that were not used, by reason


class Distilled(NamedTuple):
    """A trained router, and the effect of its first path for each of the held-out questions."""

    router: Router
    examples: Examples
    losses: list[float]  # mean of each epoch
    right: np.ndarray  # [n, K] bool, of n held-out questions in K prompts
    plain: np.ndarray  # [n, K] bool, of the pretrained model
    layers: float  # mean, of the paths
    paths: Counter[LayerPath]  # with the number of their questions
    earlier: tuple[Try, ...] = ()  # results on some of the held-out questions

    @property
    def recommendation(self) -> Recommendation:
        """What to use, by the held-out questions."""
        return Recommendation({ROUTER: self.right}, self.plain, ROUTER, self.earlier)

    @property
    def identity_share(self) -> float:
        """The share of questions for which the router names the identity path."""
        return self.paths[identity(self.router.model.config.num_layers)] / self.paths.total()

    @property
    def warning(self) -> str | None:
        """A line where the router names one path for nearly all questions, otherwise None."""
        most = max(self.paths.values())
        questions = self.paths.total()
        if most < COLLAPSED * questions:
            return None
        names = f"for {most} of {questions} held-out questions it names the"
        if self.identity_share >= COLLAPSED:
            return f"identity collapse: {names} identity path, so it changes nothing"
        return f"collapse to one path: {names} same path, so `cola static` does as much"

    def estimates(self) -> list[Estimate]:
        """Compare the router with the pretrained model, and describe its training."""
        recommendation = self.recommendation
        estimates = []
        num_layers = self.router.model.config.num_layers
        for group, layers in ((MODEL, num_layers), (ROUTER, self.layers)):
            estimates.append(Estimate(LAYERS, group, layers, unit="layers"))
            estimates += recommendation.of_group(group)
        estimates += recommendation.estimates()
        named = Estimate.count("distinct paths named", len(self.paths), note=self.warning or "")
        early = Estimate.count("layers run to name a path", self.router.early_layers)
        share = Share(self.paths[identity(num_layers)], self.paths.total())
        estimates += [named, Estimate.of("identity path named", share), early]
        estimates.append(Estimate.count("paths trained on", len(self.examples.targets)))
        for reason, number in self.examples.left_out.items():
            if number:
                estimates.append(Estimate.count(f"left out: {reason}", number))
        estimates.append(Estimate("loss of the last epoch", value=self.losses[-1], unit="loss"))
        return estimates


def distill(
    session: Session,
    run: str,
    directory: str,
    settings: DistillSettings,
    prompts: Sequence[Session] = (),
) -> Distilled:
    """Train a router on the correct paths of a run, and measure it on held-out questions.

    The session has the model, the task and the questions of the run, and `prompts` are sessions of
    those in which the router is measured, the session's own by default. `directory` is that of the
    router, written when training has finished. Raises InputError where the run is of another model
    or asked other questions, or leaves nothing to train on, and where the directory has a router
    with other settings.
    """
    model = session.model
    num_layers = session.model.config.num_layers
    early_layers = settings.depth(num_layers)
    source = Run(run)
    if source.layout.has_steps:
        raise InputError(
            f"{run} has paths with parts or shares of layers, and a router names paths of whole "
            "layers: give a run without --parts and --shares."
        )
    asked = session.asked
    all_settings = settings_of(session)
    ours = asked_here(all_settings, asked.questions, asked.sample)
    allowed = ("dtype", "options") if asked.scorer.open else ("dtype",)  # options are decoys
    check_comparable(source.asked(), ours, allowed)
    examples = make_examples(read_labels(source), session, settings)
    digests = digest(*(part.tolist() for part in examples[:3]), examples.held_out)
    shared = {name: all_settings[name] for name in ("questions_digest", "dtype")}
    held_out = [asked.questions[i] for i in examples.held_out]
    record = Record(
        model=str(session.environment["origin"].get("name") or model.source),
        identity=model.digest,
        num_layers=num_layers,
        width=model.config.width,
        early_layers=early_layers,
        settings={**dataclasses.asdict(settings), "examples": digests, **shared},
        chosen_on=source.chosen_on().without(held_out).to_json(),
    )
    record.check_free(directory)
    params, losses = train(read_states(session, examples, early_layers), examples, settings)
    weights = model.load()
    router = Router(weights, jax.device_put(params, replicated(weights)), early_layers)
    prompts = prompts or [session]
    distilled = measure_router(prompts, router, examples, losses)
    measurement = Measurement.of(session, prompts, held_out, record.settings, early_layers)
    distilled = distilled._replace(earlier=tuple(measurement.earlier()))
    recommendation = distilled.recommendation
    recommended = record.model_copy(update={"recommended": recommendation.recommended})
    recommended.save(directory, params)
    measurement.record(ROUTER, recommendation)
    return distilled


def make_examples(labels: list[Labels], session: Session, settings: DistillSettings) -> Examples:
    """Hold out a share of the questions, and choose examples from the correct paths of the others.

    InputError where no question is left to train on.
    """
    questions = session.asked.questions
    places = {question.id: i for i, question in enumerate(questions)}
    contents = {question.id: content(question) for question in questions}
    known = [label for label in labels if label.question in places]
    order = split([label.question for label in known], "validation")
    held = order[: max(round(settings.validation * len(known)), 1)]
    held_contents = {contents[known[i].question] for i in held}
    left_out = Counter({"questions that the task does not have": len(labels) - len(known)})
    rows = []
    for label in (known[i] for i in sorted(order[len(held) :])):
        num_layers = session.model.config.num_layers
        targets = [target_of_path(path, num_layers) for path in label.correct]
        targets = [target for target in targets if target is not None]
        left_out["questions without a correct path"] += not label.correct
        left_out["paths not expressible"] += len(label.correct) - len(targets)
        if contents[label.question] in held_contents:
            left_out["questions asked in both parts"] += 1
            continue
        chosen = targets[:1] if settings.labels == "shortest" else targets
        rows += [(places[label.question], target, 1 / len(chosen)) for target in chosen]
    if not rows:
        raise InputError(
            f"no question with a correct path is left to train on ({dict(left_out)}): give the "
            "task flags of the run, search more questions, or choose a smaller --validation."
        )
    trained, targets, weights = map(np.array, zip(*rows, strict=True))
    held_out = sorted(places[known[i].question] for i in held)
    return Examples(trained, targets, weights / weights.mean(), held_out, left_out)


def read_states(session: Session, examples: Examples, layers: int) -> list[np.ndarray]:
    """Read the states [T, D] of the prompt of each example, as float16, once for a question."""
    questions, inverse = np.unique(examples.questions, return_inverse=True)
    encoded = session.asked.take(questions.tolist()).encode(session.model)
    prompts = Prompts.stack([each.prompts for each in encoded])
    states: dict[int, np.ndarray] = {}
    for rows, batch, lengths in state_batches(session.model.load(), prompts, layers):
        for row, h, length in zip(rows.tolist(), np.asarray(batch), lengths, strict=False):
            states[row] = h[:length].astype(np.float16)
    return [states[row] for row in inverse.tolist()]


def train(
    states: Sequence[np.ndarray], examples: Examples, settings: DistillSettings
) -> tuple[Any, list[float]]:
    """Train a network on examples with the states [T, D] of their prompts.

    Returns the parameters, and the mean loss of each epoch. InputError where one is not finite.
    """
    count, num_layers = examples.targets.shape
    size = min(settings.batch_size, count)
    batches = -(-count // size)
    steps = settings.epochs * batches + 1
    rate = settings.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(round(WARMUP * steps), 1), steps)
    optimizer = optax.adamw(schedule, weight_decay=settings.weight_decay)
    lengths = np.array([len(h) for h in states])
    tokens = bucket(int(lengths.max()), 32)

    @jax.jit
    def update(params, state, key, h, lengths, targets, weights):
        def loss_of(params):
            boundary, ops = segment_logits(params, h, lengths, key)
            return jnp.mean(weights * segment_loss(boundary, ops, targets))

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    key = jax.random.key(settings.seed)
    network = SegmentNetwork(num_layers)
    params = jax.jit(network.init)(key, states[0][None, :1], np.ones((1, 1), bool))["params"]
    state = optimizer.init(params)
    means = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(count)
        losses = []
        for rows in np.resize(order, (batches, size)):  # the last is filled with the first
            chosen = [states[i] for i in rows.tolist()]
            h = np.stack([np.pad(x, ((0, tokens - len(x)), (0, 0))) for x in chosen])
            key, dropout = jax.random.split(key)
            parts = lengths[rows], examples.targets[rows], examples.weights[rows]
            params, state, loss = update(params, state, dropout, h, *parts)
            losses.append(loss)
        means.append(float(np.mean(losses)))
        if not np.isfinite(means[-1]):
            raise InputError(
                f"the loss of epoch {epoch + 1} is {means[-1]}: choose a lower learning rate."
            )
        log.info("epoch %d/%d  loss %.4f", epoch + 1, settings.epochs, means[-1])
    return params, means


def segment_loss(
    boundary: Float[Array, "B L"], ops: Float[Array, "B L O"], targets: Int[Array, "B L"]
) -> Float[Array, " B"]:
    """Return the loss of each example: of its boundaries, and of operations where segments start.

    Binary cross-entropy, a mean over layers 1..L-1 (a segment always starts at layer 0), plus
    cross-entropy, a mean over the segments.
    """
    starts = targets != NO_SEGMENT
    at_boundary = optax.losses.sigmoid_binary_cross_entropy(boundary, starts)[:, 1:]
    at_start = optax.losses.softmax_cross_entropy_with_integer_labels(ops, jnp.maximum(targets, 0))
    return at_boundary.mean(axis=-1) + jnp.mean(at_start, axis=-1, where=starts)


def measure_router(
    sessions: Sequence[Session], router: Router, examples: Examples, losses: list[float]
) -> Distilled:
    """Evaluate the pretrained model and the paths that a router names on held-out questions.

    They are asked in the prompt of each session.
    """
    num_layers = sessions[0].model.config.num_layers
    plain = identity(num_layers)
    chosen = list[LayerPath]()
    rows = []
    questions = sessions[0].asked.questions
    once = distinct([questions[place] for place in examples.held_out])
    for session in sessions:
        asked = session.asked.take([examples.held_out[i] for i in once])
        prompts = Prompts.stack([each.prompts for each in asked.encode(session.model)])
        paths = [first for (first,) in router.paths(prompts)]
        evaluate = EngineEvaluator(session.engine, session.model, asked)
        wave = pad_paths([[plain, path] for path in paths], len(paths), num_layers)
        rows.append(evaluate(wave).verdict)
        chosen += paths
    right = np.stack(rows, axis=1)  # [n, K, 2]
    layers = float(np.mean(list(map(len, chosen))))
    plain_right, router_right = np.moveaxis(right, -1, 0)
    return Distilled(router, examples, losses, router_right, plain_right, layers, Counter(chosen))
