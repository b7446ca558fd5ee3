"""Counts and compiles a search that runs whole on the device, beside the trie and `vmap`.

`python -m experiments.compile.search v5e` and `... h100`, each with its compiler, as
experiments/compile/tpu.py and gpu.py say; `--programs` without any counts alone, in a minute. Trees
grow by verdicts of a hash, waves are planned as they would run, and each layer of a tile, product
with the head and copy of weights takes its time at the chip's peaks: hosts, and what XLA makes of
it, take longer. One JSON line a row; `--out` adds them to a file.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

# before jax is imported
from experiments.compile.tpu_kernel import CHIPS, topology_of

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec
from tyro.conf import Positional

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.execute.memory import SHARE, Memory, count_states
from cola_jax.execute.run_paths import choose_path_sizes
from cola_jax.execute.schedule import Trie
from cola_jax.execute.turns import TurnSizes, choose_turn_sizes, embed_batch, padded_batch
from cola_jax.params import weight_bytes
from cola_jax.path import STOP, LayerPath, pad_lists
from cola_jax.prompts import Prompts
from cola_jax.question import Question, stable_hash
from cola_jax.scoring.answer_key import AnswerKey, mark_options
from cola_jax.strategies.mcts import plant_all
from cola_jax.strategies.on_device import CallLimits, Searches, Seen, State, run_waves
from cola_jax.strategies.rules import PRESETS, Settings, TreeRules
from cola_jax.strategies.tree import tables_of
from experiments.compile import hlo
from experiments.compile.programs import (
    READS,
    Abstract,
    Sizes,
    layer_flops,
    lower_prefill,
    lower_vmap,
    shard_shape,
)
from experiments.shapes import SHAPES

LEAVES, SIMULATIONS, OPTIONS, TOKENS = 16, 100, 4, 128
DEVICE = "on the device"
TRIE = "trie"
VMAP = "vmap"
WAYS = (DEVICE, TRIE, VMAP)
VMAPPED = 4  # paths of the `vmap` that is compiled; its memory grows with their number


class Peaks(NamedTuple):
    """A chip: bfloat16 operations and bytes per second, bytes of memory, and its backend."""

    flops: float
    bandwidth: float
    memory: float
    backend: str


PEAKS = {
    "v5e": Peaks(CHIPS["v5e"].flops, CHIPS["v5e"].bandwidth, 16e9, "tpu"),
    "h100": Peaks(989e12, 3.352e12, 80e9, "gpu"),
}


@dataclasses.dataclass(frozen=True)
class SearchCompile:
    """Count waves of searches, and compile the programs that run them."""

    chip: Positional[Literal["v5e", "h100"]]
    """Chip to compile for."""
    models: tuple[str, ...] = ("smollm2-135m", "llama-3.2-3b")
    """Named shapes."""
    searches: tuple[int, ...] = (16, 64)
    """Searches of a batch, with 16 leaves each in a wave."""
    preset: str = "best"
    """Strategy of the trees."""
    programs: tuple[str, ...] = WAYS
    """Programs that are compiled, for their memory and copies of weights."""
    out: Path | None = None
    """JSON file, whose rows of other chips stay."""


class Work(NamedTuple):
    """What the waves of a search make a device do."""

    paths: int
    layers: int  # of all paths
    tiles: int  # or turns
    rows: int  # of a tile
    last: int = 0  # tiles of last layers, run at the positions read
    planned: float = 0  # seconds of a CPU that the host takes to plan


def waves_of(config: ModelConfig, searches: int, preset: str) -> list[list[list[LayerPath]]]:
    """Grow trees by verdicts of a hash; return the paths of each wave, of each search."""

    def scores(paths: np.ndarray) -> np.ndarray:
        words = [[stable_hash(str((b, *path))) for path in row] for b, row in enumerate(paths)]
        bits = np.array(words, np.uint64)[..., None] >> np.arange(0, 64, 16).astype(np.uint64)
        return np.where(paths[:, :, :1] == STOP, np.nan, (bits & 0xFFFF).astype(float) / 2**14)

    asked = [Question(f"q{i}", "?", tuple("abcd"), i % OPTIONS) for i in range(searches)]
    layers = config.num_layers
    budget: Any = {"simulations": SIMULATIONS, "leaves": LEAVES, "control": "none"}
    outcomes = cola_jax.search(scores, asked, preset=preset, num_layers=layers, **budget)
    last = max(int(outcome.wave.max()) for outcome in outcomes)
    return [
        [[o.paths[i] for i in np.flatnonzero(o.wave == wave)] for o in outcomes]
        for wave in range(1, last + 1)
    ]


def prompts_of(searches: int) -> Prompts:
    """Make prompts of 128 tokens that are read at their last sixteen."""
    ids = np.zeros((searches, TOKENS), np.int32)
    place = np.broadcast_to(np.arange(TOKENS, dtype=np.int32), ids.shape)
    read = place[:, -READS:]
    return Prompts(ids, place, np.zeros_like(ids), read, np.zeros_like(read))


def memory_of(config: ModelConfig, peaks: Peaks) -> Memory:
    """Return the memory beside the weights, as a worker of one batch has it."""
    weights = weight_bytes(config, "bfloat16", jnp.bfloat16)
    backend = "cuda" if peaks.backend == "gpu" else peaks.backend
    return Memory(int(SHARE * (peaks.memory - weights)), sharing=1, itemsize=2, backend=backend)


def work_of_trie(config: ModelConfig, waves: Any, memory: Memory, searches: int) -> Work:
    """Plan the waves as `run_paths` does."""
    kept = count_states(config, searches, LEAVES, SIMULATIONS)
    layout, sizes = choose_path_sizes(config, prompts_of(searches), memory, kept)
    trie = Trie(sizes.slots, layout, sizes.outputs)
    paths = layers = tiles = last = 0
    planned = 0.0
    for wave in waves:
        rows = [(b, *path) for b, row in enumerate(wave) for path in row]
        began = time.process_time()
        chunks, cost = trie.plan(pad_lists([rows], max(map(len, rows)))[0])
        planned += time.process_time() - began
        paths += len(rows)
        layers += cost.useful
        tiles += sum(len(chunk.tiles.step) for chunk in chunks)
        last += sum(len(chunk.last.step) for chunk in chunks)
    return Work(paths, layers, tiles, layout.rows, last, planned)


def turns_of(paths: Sequence[LayerPath], tile: int) -> int:
    """Count the turns of rows, as `run_turns` takes them."""
    padded = pad_lists([list(paths)], max(map(len, paths)) + 1)[0]
    place = np.zeros(len(padded), int)
    every = np.arange(len(padded))
    turns = 0
    while (needed := padded[every, place]).max() != STOP:
        (rows,) = np.nonzero(needed == np.bincount(needed[needed != STOP]).argmax())
        place[rows[:tile]] += 1
        turns += 1
    return turns


def work_of_turns(waves: Any, sizes: TurnSizes) -> Work:
    """Count the turns of the waves."""
    paths = layers = turns = 0
    for wave in waves:
        rows = [path for row in wave for path in row]
        paths += len(rows)
        layers += sum(map(len, rows))
        for first in range(0, len(rows), sizes.rows):
            turns += turns_of(rows[first : first + sizes.rows], sizes.tile)
    return Work(paths, layers, turns, sizes.tile)


def seconds_of(work: Work, config: ModelConfig, peaks: Peaks, copies: float = 0) -> float:
    """Return the time of work at a chip's peaks; each tile copies so many bytes of weights."""
    weights = 2 * layer_flops(config, 1) / 2  # bytes: two operations and two bytes a parameter
    states = 4 * TOKENS * config.width

    def tile(rows: int, flops: float) -> float:
        moved = weights + rows * states
        return max(rows * flops / peaks.flops, moved / peaks.bandwidth) + copies / peaks.bandwidth

    (kind,) = config.kinds
    keys = 4.0 * (TOKENS - READS) * config.width * kind.num_kv_heads * kind.head_dim
    total = work.tiles * tile(work.rows, layer_flops(config, TOKENS))
    total += work.last * tile(work.rows, layer_flops(config, READS) + keys)
    head = 2.0 * work.paths * READS * config.width * config.vocab_size
    return total + head / peaks.flops


def seconds_of_vmap(work: Work, config: ModelConfig, peaks: Peaks, copies: float = 0) -> float:
    """Return the time of `vmap` over `run_path`, which reads the weights of a layer by path.

    It writes so many bytes of them for each path and layer, and reads these again.
    """
    weights = layer_flops(config, 1)  # bytes, as above
    flops = work.layers * layer_flops(config, TOKENS)
    flops += 2.0 * work.paths * READS * config.width * config.vocab_size
    return max(flops / peaks.flops, (weights + 2 * copies) * work.layers / peaks.bandwidth)


def lower_search(make: Abstract, searches: int, sizes: TurnSizes, rules: TreeRules) -> Any:
    """Lower the program of a batch of searches."""
    config = make.config
    platform = "cuda" if make.platform == "gpu" else make.platform
    whole = NamedSharding(make.worker, PartitionSpec())

    def shaped(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=whole), tree
        )

    memory = Memory(2**40, sharing=1, itemsize=2, backend=platform)
    padded, reads = padded_batch(prompts_of(searches), memory)
    model = make.model()
    embed = functools.partial(embed_batch, dtype=jnp.bfloat16)
    batch = jax.eval_shape(embed, model, shaped(padded), shaped(reads))
    option = np.repeat(np.arange(OPTIONS), READS // OPTIONS)
    one = AnswerKey.of(option, np.zeros(READS, np.int32), [1.0] * OPTIONS)
    key = AnswerKey.stack([one] * len(padded.ids), reads.valid.shape[1], OPTIONS, 1)
    settings = Settings(rules, SIMULATIONS, LEAVES, seed=0)
    layers = config.num_layers
    tables = tables_of(rules, layers, settings.costs(layers), SIMULATIONS + 1)
    columns = [np.zeros(searches, dtype) for dtype in (bool, np.float32, bool)]
    keys = np.zeros((searches, 2), np.uint32)
    trees = jax.eval_shape(plant_all, tables, keys, np.int32(layers), *columns)
    count = np.zeros(searches, np.int32)
    nodes = trees.parent.shape[1]
    seen = Seen.empty(searches, nodes, OPTIONS)
    state = State(trees, count, count.astype(bool), seen, np.array(0, np.int32))
    peers = np.zeros((searches, OPTIONS), np.int32)
    facts = Searches(count, count, count.astype(bool), peers)
    number = np.array(1, np.int32)
    limits = CallLimits(number, number, number, number, np.array(False))
    return run_waves.lower(
        model,
        *map(shaped, (batch, key, facts, tables, state, limits)),
        mark=mark_options,
        sizes=sizes,
        platform=platform,
        most=LEAVES,
    )


def read(lowered: Any, make: Abstract) -> dict[str, Any]:
    """Compile a program; return its memory, and the largest copies of weights in a loop of it."""
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    parsed = hlo.parse(compiled.as_text())
    weights = {
        name: shard_shape(leaf)[1:]
        for name in ("q", "k", "v", "o", "gate", "up", "down")
        if (leaf := getattr(make.model().layers[0], name)) is not None
    }
    bodies = {one.body for rows in parsed.values() for one in rows if one.body}
    copied = {
        name
        for body in bodies
        for name, _, staged in hlo.weight_copies(parsed, body, weights, "bf16")
        if not staged
    }
    return {
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
        "copied": sorted(copied),
        "copied_mb": sum(2 * math.prod(weights[name]) for name in copied) / 1e6,
    }


def rows_of(settings: SearchCompile, make: Abstract | None, name: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of searches and each way to run their paths."""
    config = SHAPES[name]
    peaks = PEAKS[settings.chip]
    memory = memory_of(config, peaks)
    rules = PRESETS[settings.preset]
    assert isinstance(rules, TreeRules)
    compiled: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    shapes = Sizes(TOKENS, memory.limits.tile_tokens // TOKENS, 2048)
    if make is not None and TRIE in settings.programs:
        compiled[TRIE] = read(lower_prefill(make, shapes).lowered, make)
    if make is not None and VMAP in settings.programs:
        compiled[VMAP] = read(lower_vmap(make, shapes, VMAPPED).lowered, make)
        compiled[VMAP]["compiled_paths"] = VMAPPED
    for searches in settings.searches:
        waves = waves_of(config, searches, settings.preset)
        padded, _ = padded_batch(prompts_of(searches), memory)
        sizes = choose_turn_sizes(config, padded, memory, searches * LEAVES)
        works = {
            DEVICE: work_of_turns(waves, sizes),
            TRIE: work_of_trie(config, waves, memory, searches),
        }
        if make is not None and DEVICE in settings.programs:
            compiled[DEVICE] = read(lower_search(make, searches, sizes, rules), make)
        facts = {"chip": settings.chip, "model": name, "searches": searches}
        facts |= {"preset": settings.preset, "paths_a_wave": searches * LEAVES}
        for way, work in works.items():
            found = compiled[way]
            seconds = seconds_of(work, config, peaks, 2e6 * found.get("copied_mb", 0))
            layers = work.rows * (work.tiles + work.last)
            yield facts | {
                "way": way,
                "paths": work.paths,
                "layers_a_path": work.layers / work.paths,
                "rows_run_a_path": layers / work.paths,
                "tiles": work.tiles,
                "last_tiles": work.last,
                "rows": work.rows,
                "paths_a_second": work.paths / seconds,
                **({"planning_ms_a_path": 1e3 * work.planned / work.paths} if way == TRIE else {}),
                **found,
            }
        work = works[DEVICE]
        found = compiled[VMAP]
        seconds = seconds_of_vmap(work, config, peaks, 1e6 * found.get("copied_mb", 0))
        yield facts | {
            "way": VMAP,
            "paths": work.paths,
            "layers_a_path": work.layers / work.paths,
            "paths_a_second": work.paths / seconds,
            # weights of a layer for every path of a wave
            "weights_gb": layer_flops(config, 1) * searches * LEAVES / 1e9,
            **found,
        }


def main(settings: SearchCompile) -> None:
    rows: list[dict[str, Any]] = []
    for name in settings.models:
        make = None
        if settings.programs and settings.chip == "h100":
            from experiments.compile.gpu import devices

            make = Abstract(SHAPES[name], devices())
        elif settings.programs:
            make = Abstract(SHAPES[name], np.array(topology_of(settings.chip).devices[:1]))
        for row in rows_of(settings, make, name):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if settings.out is not None:
        kept: list[Any] = []
        if settings.out.exists():
            kept = [x for x in json.loads(settings.out.read_text()) if x["chip"] != settings.chip]
        settings.out.write_text(json.dumps(kept + rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(SearchCompile, description=__doc__))
