"""Settings of `cola distill`; it imports no NumPy or JAX."""

import dataclasses
from typing import Literal

from cola_jax.deploy import check_least
from cola_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """Training of a router."""

    early_layers: int | None = None
    """Layers whose states the router reads; a quarter of the model's by default."""
    labels: Literal["shortest", "all"] = "shortest"
    """Which of a question's correct paths are learned: the shortest, or all, each with weight
    1/n."""
    validation: float = 0.2
    """Share of the run's questions to hold out, chosen by a hash of their ids."""
    epochs: int = 25
    """Passes over the training examples."""
    batch_size: int = 16
    """Examples of a training step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a warm-up and before a cosine decay."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Random seed of the network, of dropout and of the order of examples."""

    def depth(self, num_layers: int) -> int:
        """Return the layers whose states are read; InputError for invalid settings."""
        check_least(self, epochs=1, batch_size=1, seed=0)
        if not 0 < self.validation < 1:
            raise InputError(f"validation must lie between 0 and 1, it is {self.validation}.")
        if not self.learning_rate > 0:
            raise InputError(f"the learning rate must be positive, it is {self.learning_rate}.")
        return max(num_layers // 4, 1) if self.early_layers is None else self.early_layers
