"""Training: the order of examples, learning, and resuming to the same loss to the bit."""

import jax
import numpy as np
import pytest

from cola_jax.deploy.router.designs import Batch, make_design
from cola_jax.deploy.router.train import Trainer, TrainingConfig

N, L, D = 11, 3, 4
CONFIG = TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, seed=5)


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def trainer():
    """Trains heads to tell apart features that say their classes."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (N, L)).astype(np.int8)
    features = np.zeros((N, L, 8, D), np.float16)
    features[..., :3] = 3 * np.eye(3)[targets][:, :, None]

    def load(some):
        lengths = np.full(len(some), 8)
        weights = np.ones(len(some), np.float32)
        return Batch(features[some], lengths, targets[some], weights)

    return Trainer(make_design("drllm", L, D), CONFIG, N, load, np.ones(3, np.float32))


def test_rows_of_an_epoch_are_all_examples_in_an_order_of_their_own():
    epochs = [
        np.concatenate([CONFIG.rows(3 * epoch + i, N) for i in range(3)]) for epoch in range(3)
    ]
    assert CONFIG.steps(N) == 9
    assert all(sorted(rows.tolist()) == list(range(N)) for rows in epochs)
    assert len({tuple(rows.tolist()) for rows in epochs}) == 3
    assert [len(CONFIG.rows(step, N)) for step in range(3)] == [4, 4, 3]


def test_a_killed_training_resumes_to_the_same_bits(trainer, tmp_path):
    whole = trainer.train(tmp_path / "whole", 4)

    def kill(step, loss):
        if step == 6:  # the newest state is that of step 4
            raise Killed

    with pytest.raises(Killed):
        trainer.train(tmp_path / "killed", 4, kill)
    steps = []
    resumed = trainer.train(tmp_path / "killed", 4, lambda step, loss: steps.append(step))
    assert steps == [5, 6, 7, 8, 9]
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    losses = np.asarray(whole.losses)
    assert losses[-3:].mean() < losses[:3].mean()
    again = trainer.train(tmp_path / "killed", 4, kill)  # nothing is left to do
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_small_last_batch_is_filled_up_with_weight_0(trainer):
    batch = trainer.batch(2)
    assert np.asarray(batch.weights).tolist() == [1, 1, 1, 0]


def test_training_refuses_settings_and_losses_that_are_none(trainer, tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1, it is 0"):
        TrainingConfig(epochs=0)
    with pytest.raises(ValueError, match=r"must be positive, it is -1\.0"):
        TrainingConfig(learning_rate=-1.0)
    with pytest.raises(ValueError, match="every 1 or more steps, not 0"):
        trainer.train(tmp_path, 0)
    broken = Trainer(trainer.design, CONFIG, N, trainer.load, np.full(3, np.nan, np.float32))
    with pytest.raises(ValueError, match="the loss of step 0 is nan"):
        broken.train(tmp_path / "broken", 4)
