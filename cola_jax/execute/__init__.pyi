from .inputs import bucket, pad_paths
from .prompt_states import state_batches
from .reference import replicated

__all__ = [
    "bucket",
    "pad_paths",
    "replicated",
    "state_batches",
]
