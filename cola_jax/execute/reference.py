"""Running paths one by one on a lane: what the other executors are held against."""

from concurrent.futures import Future

import jax
import numpy as np
from jax.typing import DTypeLike

from cola_jax.execute.inputs import no_readings, question_of
from cola_jax.execute.scan import path_readings
from cola_jax.execute.worker import Lane
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings


def submit_reference(
    lane: Lane,
    prompts: Prompts,
    paths: np.ndarray,
    dtype: DTypeLike,
    precision: str | None = "highest",
) -> tuple[Readings, list[Future[int]]]:
    """Runs a wave [B, C, P] path by path with the reference executor, by default in full precision.

    Returns Readings [B, C, Q] that fill as the futures end, each with the evaluations it adds.
    """
    out = no_readings(paths, np.asarray(prompts.read).shape[1])
    model = lane.model
    # one compilation for the weights' own dtype, however it was asked for
    given = None if dtype == model.embedding.dtype else dtype
    if lane.device.platform == "cpu":
        precision = None  # it is that anyway, and a setting would compile everything again

    def submit(b: int, c: int) -> Future[int]:
        row, mine = question_of(prompts, b)

        def dispatch() -> Readings:
            with jax.default_matmul_precision(precision):
                return path_readings(model, *lane.put((row, paths[b, c])), given)

        def assemble(one: Readings) -> int:
            for name in ("logprob", "token", "rival"):
                getattr(out, name)[b, c, mine] = getattr(one, name)[0, : mine.sum()]
            out.finite[b, c] = one.finite[0]
            return 1

        return lane.submit(dispatch, assemble)

    return out, [submit(b, c) for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist()]
