"""The hidden state at the end of a prompt, which a selector reads."""

from collections.abc import Sequence

import jax
import numpy as np

from cola_jax.deploy.router.features import (
    length_buckets,
    on_devices,
    prompt_alone,
    prompt_lengths,
    states_after,
)
from cola_jax.params import Model
from cola_jax.prompts import Prompts

BATCH = 8  # prompts at a time


def prompt_states(model: Model, prompts: Sequence[Prompts], layers: int) -> np.ndarray:
    """Returns the state [n, D] of the last token of each prompt, after the first `layers` layers.

    Each state is divided by its root mean square; float32. What is packed after a prompt, options
    or an answer, is not seen. Compiles once for each bucket of lengths.
    """
    whole = prompt_alone(Prompts.stack(prompts))
    lengths, sizes = prompt_lengths(whole), np.array(length_buckets(whole))
    out = np.zeros((len(prompts), model.config.width), np.float32)
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        for first in range(0, len(same), BATCH):
            some = same[first : first + BATCH]
            padded = np.resize(some, BATCH)  # so that the last batch compiles nothing
            batch = jax.tree.map(lambda x, rows=padded: np.asarray(x)[rows], whole)
            states = states_after(model, on_devices(model, batch, int(size)), layers)
            out[some] = np.asarray(states)[np.arange(len(some)), lengths[some] - 1]
    return out
