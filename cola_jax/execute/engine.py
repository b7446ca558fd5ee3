"""The fast executor: an `Engine` runs the planned waves of `Batch`es on all devices of a model."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from cola_jax.execute import memory as budgets
from cola_jax.execute.batch import Batch, Use
from cola_jax.execute.compilation import compilations
from cola_jax.execute.decoder import Decoder
from cola_jax.execute.inputs import Paths, buckets, check_batch, cut, no_readings
from cola_jax.execute.pipeline import Flight, fly_once, interleave
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Lane
from cola_jax.params import Model
from cola_jax.prompts import Prompts, Readings

MOST_TOGETHER = 4096  # questions of a batch: a trie numbers them in 16 bits


def run_paths(
    model: Model,
    prompts: Prompts,
    paths: Paths,
    *,
    dtype: DTypeLike | None = None,
    memory_budget: int | None = None,
    rows: int | None = None,
    on_progress: Callable[[int], None] = lambda evaluations: None,
) -> Readings:
    """Runs the candidate paths of each question and reads the model at the positions asked about.

    Args:
      model: the pretrained model; questions are divided over the `data` axis of its mesh.
      prompts: a batch of B Prompts with `read` and `targets` [B, Q].
      paths: [B, C, P] padded with STOP, or for each question a list of paths of any lengths and
        number. An entry of STOP alone is no path and is not evaluated.
      dtype: that of the activations; the weights' own when None.
      memory_budget: bytes for states and other buffers on each device, beside the weights; by
        default half of what is free on an accelerator, a quarter of a machine's memory on a CPU.
      rows: R, the states that run a layer together; by default chosen for the backend.
      on_progress: called with the number of evaluations done since the last call.

    Returns:
      Readings [B, C, Q] as numpy; entries without a path or a position to read are -inf, and not
      finite.

    Raises:
      ValueError: as `run_path`, and where the prompts do not say what to read, the budget is too
        small for one path, or there are fewer questions than places on the `data` axis.

    Compiles once for each bucket of T and Q. In float32 it agrees with `run_path` but for rounding.
    """
    prompts, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(prompts.read).shape[1])
    with Engine(model, memory_budget=memory_budget, rows=rows, dtype=dtype) as engine:
        engine.check_count(len(padded))
        for key in sorted(set(buckets(prompts)), reverse=True):
            engine.sizes(key)

        def fly(some: np.ndarray, lane: Lane) -> Flight[Readings]:
            batch = engine.batch(take(prompts, some), padded.shape[1], lane)
            return fly_once(batch, padded[some], on_progress)

        groups = split(buckets(prompts), len(engine.lanes))
        # one at a time on a lane: each has the whole budget
        for some, readings in interleave(engine.lanes, groups, fly, in_flight=1):
            for name in ("logprob", "token", "rival", "finite"):
                getattr(out, name)[some] = getattr(readings, name)
    return out


def split(
    keys: Sequence[tuple[int, int]], parts: int, largest: int | None = None
) -> list[np.ndarray]:
    """Splits indices into groups of equal keys, in the order of the keys.

    There are at least `parts` groups where there are as many indices, and none has more than
    `largest`, or than a batch may have.
    """
    size = -(-len(keys) // parts) if keys else 1
    size = min(size, largest or size, MOST_TOGETHER)
    groups = []
    for key in sorted(set(keys), reverse=True):  # what needs most memory first
        same = np.flatnonzero([other == key for other in keys])
        groups += np.array_split(same, -(-len(same) // size))
    return groups


def take(prompts: Prompts, some: np.ndarray) -> Prompts:
    """Takes some questions of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[some], prompts)


class Engine:
    """Runs batches of questions on the lanes of a model; a context manager that owns threads."""

    def __init__(
        self,
        model: Model,
        *,
        memory_budget: int | None = None,
        rows: int | None = None,
        dtype: DTypeLike | None = None,
        in_flight: int = 1,
        reference: bool = False,
    ):
        """As `run_paths`; `in_flight` batches on a lane share its budget.

        With `reference`, paths run one by one: what the engine's speed is compared with.
        """
        self.config = model.config
        self.dtype = jnp.dtype(dtype or model.embedding.dtype)
        devices = model_devices(model)
        self.lanes = [Lane(model, row) for row in devices]
        default = memory_budget is None
        self.memory = budgets.Memory(
            budgets.default_budget(devices.flat[0]) if default else memory_budget,
            sharing=in_flight,
            itemsize=self.dtype.itemsize,
            backend=devices.flat[0].platform,
            rows=rows,
        )
        self.use = Use()
        self.reference = reference
        self.begun, self.compiled = time.perf_counter(), compilations()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        for lane in self.lanes:
            lane.close()

    def check_count(self, questions: int) -> None:
        """Raises ValueError where a lane would have no question."""
        if questions < len(self.lanes):
            raise ValueError(
                f"there are {questions} questions for {len(self.lanes)} places on the 'data' axis "
                "of the mesh, and each runs questions of its own: use fewer devices."
            )

    def sizes(self, key: tuple[int, int], wanted: int = budgets.FEWEST_SLOTS) -> budgets.Sizes:
        """Chooses the sizes of a batch of a bucket, with slots for at most the states wanted."""
        return budgets.choose_sizes(self.config, *key, self.memory, wanted)

    def batch(self, prompts: Prompts, paths: int, lane: Lane | None = None) -> "Batch":
        """Makes a batch of questions of one bucket that will run about so many paths each."""
        (key,) = set(buckets(prompts))
        capacity = budgets.capacity(len(prompts.ids))
        sizes = self.sizes(key, capacity * paths * self.config.num_layers)
        return Batch(
            lane or self.lanes[0],
            prompts,
            sizes,
            capacity=capacity,
            dtype=self.dtype,
            use=self.use,
            reference=self.reference,
        )

    def decode_sizes(
        self, tokens: int, positions: int, max_new_tokens: int, wanted: int = 1
    ) -> budgets.DecodeSizes:
        """Chooses the sizes of a decoder for prompts of a bucket and at most so many rows."""
        return budgets.choose_decode_sizes(
            self.config,
            tokens,
            self.memory,
            positions=positions,
            max_new_tokens=max_new_tokens,
            wanted=wanted,
        )

    def decoder(
        self,
        prompts: Prompts,
        lane: Lane | None = None,
        *,
        positions: int,
        max_new_tokens: int,
        stop: Stop,
        wanted: int,
    ) -> Decoder:
        """Makes a decoder of plain prompts of one bucket, for paths of at most so many layers."""
        (tokens,) = {tokens for tokens, _ in buckets(prompts)}
        return Decoder(
            lane or self.lanes[0],
            cut(prompts, tokens, 0),
            self.decode_sizes(tokens, positions, max_new_tokens, wanted),
            max_new_tokens=max_new_tokens,
            stop=stop,
            capacity=budgets.capacity(len(prompts.ids)),
            dtype=self.dtype,
            use=self.use,
        )

    def report(self) -> dict[str, Any]:
        """Returns what this engine has done so far, what it took, and what it saved."""
        seconds = time.perf_counter() - self.begun
        compiled = compilations() - self.compiled
        cost, evaluations = self.use.cost, self.use.evaluations
        clocks = [lane.clock.read() for lane in self.lanes]
        wall = sum(clock.wall for clock in clocks)
        run = cost.unique + cost.finals
        return {
            "evaluations": evaluations,
            "seconds": round(seconds, 3),
            "evaluations_per_second": round(evaluations / seconds, 3),
            # layers of all paths in full over layers run: what sharing saves
            "sharing": round(cost.useful / run, 3) if run else None,
            "hit_share": round(cost.hits / (cost.hits + run), 4) if run else None,
            "padding_share": round(1 - run / cost.rows, 4) if cost.rows else None,
            "evicted": cost.evicted,
            "planning_seconds": round(self.use.planning, 3),
            "idle_share": round(1 - sum(c.busy for c in clocks) / wall, 4) if wall else None,
            "tokens": self.use.tokens,
            "tokens_per_second": round(self.use.tokens / seconds, 3),
            "turn_padding_share": round(1 - self.use.turns / self.use.turn_rows, 4)
            if self.use.turn_rows
            else None,
            "compilations": compiled.count,
            "compilation_seconds": round(compiled.seconds, 2),
        }


def model_devices(model: Model) -> np.ndarray:
    """Returns the devices of a model [data, tensor]."""
    sharding = model.embedding.sharding
    if not isinstance(sharding, NamedSharding):
        return np.array([[next(iter(model.embedding.devices()))]])
    mesh = sharding.mesh
    order = [mesh.axis_names.index(name) for name in ("data", "tensor") if name in mesh.axis_names]
    devices = np.asarray(mesh.devices).transpose(order)
    return devices.reshape(mesh.shape.get("data", 1), mesh.shape.get("tensor", 1))
