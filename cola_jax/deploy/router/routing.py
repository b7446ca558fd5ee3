"""`Router`: names paths for prompts, without their answers."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from cola_jax.deploy.router.checkpoint import check_model, design_of, load_weights, read_record
from cola_jax.deploy.router.designs import Design
from cola_jax.deploy.router.features import fill_up, length_buckets, on_devices, prompt_alone
from cola_jax.deploy.router.targets import Path
from cola_jax.errors import InputError
from cola_jax.execute.batches import cut_batches, take
from cola_jax.execute.inputs import check_prompts
from cola_jax.execute.reference import replicated
from cola_jax.params import Model
from cola_jax.prompts import Prompts, PromptsLike
from cola_jax.scoring.evaluator import default_batch_size


@dataclasses.dataclass(frozen=True, eq=False)
class Router:
    """A trained network and the model whose states it reads."""

    design: Design
    params: Any  # on the devices of the model
    model: Model

    def paths(self, prompts: PromptsLike, beams: int = 1) -> list[list[Path]]:
        """Names up to `beams` paths for each prompt, best first; there are fewer if no more exist.

        What is packed after a prompt is not read. The result is what `run_paths` and `generate`
        take: every row follows its own path. Raises ValueError for prompts that the model cannot
        read, and for no beams. Compiles once for each bucket of T and of rows.
        """
        if beams < 1:
            raise InputError(f"at least 1 path is named, not {beams}.")
        alone = prompt_alone(prompts, self.model.pad_token)
        check_prompts(self.model, alone)
        tokens = length_buckets(alone)
        out: list[list[Path]] = [[] for _ in tokens]
        for some in cut_batches(tokens, 1, max(default_batch_size() // beams, 1)):
            named = self.name(take(alone, some), tokens[some[0]], beams)
            for b, paths in zip(some, named, strict=False):  # rows after the last are padding
                out[b] = paths
        return out

    def name(self, prompts: Prompts, tokens: int, beams: int) -> list[list[Path]]:
        """Names the paths of one batch of T = `tokens`, filled up to one of few numbers of rows."""
        rows = fill_up(np.arange(len(prompts.ids)))
        batch = on_devices(self.model, take(prompts, rows), tokens)
        return self.design.paths(self.params, self.model, batch, beams)


def load_router(directory: epath.PathLike, model: Model) -> Router:
    """Loads a router that `cola distill` trained for this model.

    Raises InputError where the directory is not a router, its training did not finish, it was
    trained for another model, or its weights are not those that were written.
    """
    record = read_record(directory)
    check_model(directory, record, model)
    return Router(design_of(record), load_weights(directory, record, model), model)


def make_router(design: Design, params: Any, model: Model) -> Router:
    """Puts trained parameters beside a model."""
    return Router(design, jax.device_put(params, replicated(model)), model)
