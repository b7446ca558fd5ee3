"""Training of a router: AdamW over examples in an order that the seed alone decides, resumable."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from flax import struct
from jaxtyping import Array, Float, Int

from cola_jax.checkpoint import absolute, orbax_writing, quieten_orbax
from cola_jax.deploy.router.designs import Batch, Design
from cola_jax.errors import InputError

WARMUP = 0.08  # share of the steps
SECONDS = 10.0  # between two saved states, at most


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a router is trained."""

    epochs: int = 25
    """Passes over the training examples."""
    batch_size: int = 16
    """Examples of a step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a warm-up and before a cosine decay."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Random seed of the network, of dropout and of the order of examples."""

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise InputError(f"the learning rate must be positive, it is {self.learning_rate}.")

    def steps(self, examples: int) -> int:
        """Counts the steps of all epochs."""
        return self.epochs * self.steps_per_epoch(examples)

    def steps_per_epoch(self, examples: int) -> int:
        """Counts the steps of one epoch; the last may have fewer examples."""
        return -(-examples // self.batch_size)

    def rows(self, step: int, examples: int) -> np.ndarray:
        """Returns the examples of a step: a function of the seed and the step alone."""
        epoch, place = divmod(step, self.steps_per_epoch(examples))
        order = np.random.default_rng([self.seed, epoch]).permutation(examples)
        return order[place * self.batch_size :][: self.batch_size]


class TrainState(struct.PyTreeNode):
    """All that a step changes."""

    params: Any
    optimizer: Any
    step: Int[Array, ""]
    losses: Float[Array, " S"]  # of the steps done, NaN after them


class Trainer:
    """Trains a design on rows that `load` makes batches of."""

    def __init__(
        self,
        design: Design,
        config: TrainingConfig,
        examples: int,
        load: Callable[[np.ndarray], Batch],
        class_weights: np.ndarray,
    ):
        self.design, self.config, self.examples, self.load = design, config, examples, load
        self.class_weights = jnp.asarray(class_weights)
        self.steps = config.steps(examples)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, max(round(WARMUP * self.steps), 1), self.steps + 1
        )
        self.optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
        self.update = jax.jit(self.updated, donate_argnums=0)
        self.seconds, self.timed = 0.0, 0  # of the examples of a call after its first step

    def initial(self) -> TrainState:
        """Returns the state before the first step."""
        params = jax.jit(self.design.init)(jax.random.key(self.config.seed))
        losses = jnp.full(self.steps, jnp.nan, jnp.float32)
        return TrainState(params, self.optimizer.init(params), jnp.int32(0), losses)

    def updated(self, state: TrainState, batch: Batch) -> TrainState:
        """The compiled part of a step: rows of weight 0 fill up the batch."""
        key = jax.random.fold_in(jax.random.key(self.config.seed + 1), state.step)

        def mean_loss(params):
            losses = self.design.losses(params, batch, self.class_weights, key)
            weights = jnp.asarray(batch.weights)
            return jnp.sum(weights * losses) / jnp.sum(weights > 0)

        loss, gradients = jax.value_and_grad(mean_loss)(state.params)
        updates, optimizer = self.optimizer.update(gradients, state.optimizer, state.params)
        return TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer=optimizer,
            step=state.step + 1,
            losses=state.losses.at[state.step].set(loss),
        )

    def batch(self, step: int) -> Batch:
        """Loads the examples of a step, filled up with the first at weight 0."""
        rows = self.config.rows(step, self.examples)
        missing = min(self.config.batch_size, self.examples) - len(rows)
        batch = self.load(np.concatenate([rows, np.repeat(rows[:1], missing)]))
        real = np.arange(len(rows) + missing) < len(rows)
        return dataclasses.replace(batch, weights=np.where(real, batch.weights, 0.0))

    def train(
        self,
        directory: epath.PathLike,
        save_every: int,
        report: Callable[[int, float], None] = lambda step, loss: None,
    ) -> TrainState:
        """Trains to the last step, from the newest state in the directory.

        Saves a state every `save_every` steps, every few seconds and after the last. After each
        step of this call, `report` is told how many are done, and the loss. Raises ValueError
        where a loss is not finite.
        """
        if save_every < 1:
            raise InputError(f"a state is saved every 1 or more steps, not {save_every}.")
        with saved_states(directory) as manager:
            state = restore_newest(manager, self.initial())
            first, saved = int(state.step), time.monotonic()
            for step in range(first, self.steps):
                begun, batch = time.perf_counter(), self.batch(step)
                state = self.update(state, batch)
                loss = float(state.losses[step])
                if step > first:  # the first step compiles
                    self.seconds += time.perf_counter() - begun
                    self.timed += int((np.asarray(batch.weights) > 0).sum())
                if not np.isfinite(loss):
                    raise InputError(
                        f"the loss of step {step} is {loss}: choose a lower learning rate."
                    )
                report(step + 1, loss)
                due = (step + 1) % save_every == 0 or time.monotonic() - saved > SECONDS
                if due or step + 1 == self.steps:
                    with orbax_writing():
                        manager.save(step + 1, args=ocp.args.StandardSave(state))
                    saved = time.monotonic()
        return state


def saved_states(directory: epath.PathLike) -> ocp.CheckpointManager:
    """Opens the folder of training states, of which the newest two are kept."""
    quieten_orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(absolute(directory), options=options)


def restore_newest(manager: ocp.CheckpointManager, initial: TrainState) -> TrainState:
    """Restores the newest state, of the form of `initial`; `initial` itself where there is none."""
    step = manager.latest_step()
    if step is None:
        return initial
    abstract: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, initial)
    found: Any = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    return found
