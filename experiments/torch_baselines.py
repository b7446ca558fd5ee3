"""Baselines with transformers, whose layers are permuted along paths."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from cola_jax.config import ModelConfig
from cola_jax.deploy.export import export
from cola_jax.formats.config_json import write_config
from cola_jax.path import identity
from cola_jax.prompts import PROMPT, Readings
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded
from tests.oracle import rebuilt

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_theirs(config: ModelConfig, dtype: str) -> Any:
    """Make a random model of transformers with this config, on the GPU if there is one."""
    values = write_config(config, dtype)
    theirs = transformers.AutoConfig.for_model(**values)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(theirs, dtype=getattr(torch, dtype))
    return model.eval()


def same_model(session: Session) -> Any:
    """Load the weights of a session into transformers, by way of an export."""
    with tempfile.TemporaryDirectory(prefix="cola-rivals-") as folder:
        place = Path(folder) / "model"
        export(str(session.model.directory), identity(session.model.config.num_layers), place)
        dtype = getattr(torch, session.settings["dtype"])
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    return model.to(DEVICE).eval()


class Rows(NamedTuple):
    """The options of a question as rows of a batch, and where these are read."""

    ids: np.ndarray  # [J, T], right-padded
    row: np.ndarray  # [Q]
    column: np.ndarray  # [Q]


def rows_of(encoded: Encoded) -> Rows:
    """Write a row for each option; options that differ only in unread tokens share a row."""
    ids, branch = np.asarray(encoded.prompts.ids), np.asarray(encoded.prompts.branch)
    prompt, options = ids[branch == PROMPT], int(encoded.option.max()) + 1
    each = [(*prompt, *ids[branch == 1 + j]) for j in range(options)]
    distinct = list(dict.fromkeys(each))
    padded = np.zeros((len(distinct), max(map(len, distinct))), np.int64)
    for row, tokens in zip(padded, distinct, strict=True):
        row[: len(tokens)] = tokens
    column = np.asarray(encoded.prompts.positions)[np.asarray(encoded.prompts.read)]
    return Rows(padded, np.array([distinct.index(each[j]) for j in encoded.option]), column)


class OptionRows:
    """Evaluate paths as lm-evaluation-harness does: one by one, with a row for each option.

    The harness computes the logits of all tokens; without `all_logits`, those of the tokens that
    are read, and before them, are left out.
    """

    def __init__(self, model: Any, all_logits: bool):
        self.model, self.all_logits = model, all_logits

    def readings(self, encoded: Encoded, path: tuple[int, ...]) -> Readings:
        """Read the model on a path where the question's options are scored."""
        rows = rows_of(encoded)
        first = 0 if self.all_logits else int(rows.column.min())
        ids = torch.as_tensor(rows.ids, device=self.model.device)
        with torch.inference_mode(), rebuilt(self.model, path):
            # padding is on the right, so that a causal model needs no mask of it
            out = self.model(ids, use_cache=False, logits_to_keep=ids.shape[1] - first)
            logprobs = torch.log_softmax(out.logits, -1, dtype=torch.float32)
            read = logprobs[rows.row, rows.column - first]
            targets = torch.as_tensor(np.asarray(encoded.prompts.targets), device=read.device)
            return readings(read, targets.long())


def readings(logprobs: torch.Tensor, targets: torch.Tensor) -> Readings:
    """Return readings from log-probabilities [Q, V] on a path."""
    (best, second), token = logprobs.topk(2).values.T, logprobs.argmax(-1)
    each = {
        "logprob": logprobs.gather(-1, targets[:, None])[:, 0],
        "token": token,
        "rival": torch.where(token == targets, second, best),
        "finite": logprobs.isfinite().all(),
    }
    return Readings(**{name: value.cpu().numpy()[None] for name, value in each.items()})
