"""The time a token and the memory of found paths, against those of the identity path.

The paper says of shorter paths that they are faster, and need as much memory.
"""

import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

import cola_jax
from cola_jax.checkpoint import tokenizer_of
from cola_jax.files import write_whole
from cola_jax.params import Model
from cola_jax.path import LayerPath, format_path, identity
from cola_jax.runs.layer_use import COLUMNS as SEARCH_COLUMNS
from cola_jax.runs.layer_use import RETAINED, group_searches, list_lengths
from experiments.paper.results import Result

TOKENS = (2, 22)  # decoded in a short and in a long call: the difference is free of the prompt
ROUNDS = 3
ROWS = 1  # prompts at once
QUANTILES = (0.1, 0.5)  # of the found paths, by length


class Times(NamedTuple):
    """The cost of decoding along a path and along the identity path."""

    model: str
    path: str
    layers: int
    milliseconds: float  # a token, the median of rounds
    cache_bytes: int  # keys and values of a token
    identity_layers: int
    identity_milliseconds: float
    identity_cache_bytes: int
    weight_bytes: int  # of all layers, which stay loaded
    rounds: int
    load: float  # processes that wanted a core meanwhile, on the mean of a minute, by core


def found_paths(result: Result) -> list[LayerPath]:
    """Return short and middling paths on which right answers survive, each once."""
    paths = group_searches(result.run.questions(SEARCH_COLUMNS))[RETAINED].drop_null()
    order = np.argsort(list_lengths(paths), kind="stable")
    last = len(order) - 1
    places = [int(order[int(quantile * last)]) for quantile in QUANTILES if len(order)]
    found = [tuple(paths[place].as_py()) for place in places]
    return [path for path in dict.fromkeys(found) if len(path) < result.num_layers]


def time_paths(model: Model, name: str, text: str, paths: Sequence[LayerPath]) -> list[Times]:
    """Time the decoding after a text along paths, and along the identity path in turns."""
    plain = identity(model.config.num_layers)
    ids = np.array([tokenizer_of(str(model.checkpoint))(text)["input_ids"]] * ROWS)
    seconds: dict[LayerPath, list[float]] = {path: [] for path in (plain, *paths)}
    for number in range(1 + ROUNDS):
        for path, measured in seconds.items():
            short, long = (seconds_of(model, ids, path, count) for count in TOKENS)
            if number:  # the first round compiles
                measured.append((long - short) / (TOKENS[1] - TOKENS[0]))
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    cost = {path: 1000 * statistics.median(each) for path, each in seconds.items()}
    return [
        Times(
            model=name,
            path=format_path(path),
            layers=len(path),
            milliseconds=cost[path],
            cache_bytes=cache_bytes(model, path),
            identity_layers=len(plain),
            identity_milliseconds=cost[plain],
            identity_cache_bytes=cache_bytes(model, plain),
            weight_bytes=weights,
            rounds=ROUNDS,
            load=load,
        )
        for path in paths
    ]


def seconds_of(model: Model, ids: np.ndarray, path: LayerPath, tokens: int) -> float:
    """Time one call; ids have no stop token that would end it early."""
    start = time.perf_counter()
    cola_jax.generate(model, ids, path, max_new_tokens=tokens)
    return time.perf_counter() - start


def cache_bytes(model: Model, path: LayerPath) -> int:
    """Count the bytes of a token's keys and values: each position of a path has its own."""
    total = 0
    for layer in path:
        kind = model.config.kinds[model.config.kind_of(layer)]
        if not kind.convolution:  # a recurrent layer keeps one state, however long the text
            total += 2 * kind.num_kv_heads * kind.head_dim * model.embedding.dtype.itemsize
    return total


def write_times(times: Sequence[Times], file: epath.Path) -> None:
    """Write what was measured."""
    write_whole(file, json.dumps([each._asdict() for each in times], indent=1).encode())


def read_times(file: epath.Path) -> list[Times]:
    """Read what was measured; nothing where there is no file yet."""
    return [Times(**each) for each in json.loads(file.read_text())] if file.exists() else []
