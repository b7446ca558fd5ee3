"""`ModelHandle`: refusals before weights load."""

import dataclasses

import numpy as np
import pytest

from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError
from cola_jax.tasks.task import TaskConfig


def test_check_refuses_tokens_outside_the_vocabulary(tiny_checkpoint):
    handle = ModelHandle(str(tiny_checkpoint), Devices())
    prepared = handle.encode(handle.prepare(TaskConfig("arithmetic", limit=1).prepare))
    handle.check(prepared)
    (encoded,) = prepared.encoded
    ids = np.asarray(encoded.prompts.ids) + handle.config.vocab_size
    beyond = dataclasses.replace(encoded, prompts=encoded.prompts.replace(ids=ids))
    for changes in ({"encoded": [beyond]}, {"held_out": [beyond]}):
        with pytest.raises(InputError, match="token ids"):
            handle.check(dataclasses.replace(prepared, **changes))
