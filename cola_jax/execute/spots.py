"""The spots of a batch: the different places at which its questions are read, and what is asked."""

from typing import NamedTuple

import numpy as np

from cola_jax.execute.forward import Places
from cola_jax.execute.memory import ceil_power
from cola_jax.prompts import NO_READ, Prompts, Readings


class Asked(NamedTuple):
    """What to read in the outputs of a chunk, in pieces of U places."""

    places: np.ndarray  # [N, U] rows of O W; N is enough for O outputs, so that shapes stay
    targets: np.ndarray  # [N, U, M]
    pieces: np.ndarray  # [] how many pieces are in use


class Spots:
    """Maps the reads [B, Q] of questions to spots [B, W], each asked about up to M targets.

    Prompts with packed options read the end of the prompt once for each of them, which is one
    spot here.
    """

    def __init__(self, prompts: Prompts, width: int):
        reads, targets = np.asarray(prompts.read), np.asarray(prompts.targets)
        self.valid = reads != NO_READ
        found = [
            np.unique(read[valid], return_inverse=True, return_counts=True)
            for read, valid in zip(reads, self.valid, strict=True)
        ]
        # at least eight, so that questions with more or fewer options compile the same
        most = max((int(counts.max(initial=1)) for _, _, counts in found), default=1)
        most = ceil_power(max(most, 8))
        self.read = np.zeros((len(reads), width), np.int32)
        self.count = np.array([len(spots) for spots, _, _ in found])
        self.targets = np.zeros((len(reads), width, most), np.int32)
        self.spot = np.zeros(reads.shape, np.int64)  # of each read
        self.nth = np.zeros(reads.shape, np.int64)  # which of the spot's targets it asks about
        for b, (spots, inverse, counts) in enumerate(found):
            self.read[b, : len(spots)] = spots
            self.read[b, len(spots) :] = spots[0] if len(spots) else 0
            order = np.argsort(inverse, kind="stable")
            nth = np.empty_like(inverse)
            nth[order] = np.arange(len(inverse)) - np.repeat(np.cumsum(counts) - counts, counts)
            valid = self.valid[b]
            self.spot[b, valid], self.nth[b, valid] = inverse, nth
            self.targets[b, inverse, nth] = targets[b, valid]

    def ask(self, question: np.ndarray, outputs: int, piece: int) -> Asked:
        """Says what to read where output i is of `question[i]`, of at most O outputs."""
        width, counts = self.read.shape[1], self.count[question]
        begin = np.cumsum(counts) - counts
        spot = np.arange(counts.sum()) - np.repeat(begin, counts)
        row = np.repeat(np.arange(len(question)), counts)
        most = -(-outputs * width // piece)
        places = np.zeros(most * piece, np.int32)
        targets = np.zeros((most * piece, self.targets.shape[2]), np.int32)
        places[: len(row)] = row * width + spot
        targets[: len(row)] = self.targets[question[row], spot]
        used = np.asarray(-(-len(row) // piece), np.int32)
        return Asked(places.reshape(most, piece), targets.reshape(most, piece, -1), used)

    def spread(
        self, got: Places, question: np.ndarray, candidate: np.ndarray, out: Readings
    ) -> None:
        """Writes what was read in outputs of these questions to their candidates in `out`."""
        counts = self.count[question]
        begin = np.cumsum(counts) - counts
        at, nth, valid = (
            begin[:, None] + self.spot[question],
            self.nth[question],
            self.valid[question],
        )
        token, finite = got.token.reshape(-1), got.finite.reshape(-1)
        logprob, rival = (x.reshape(-1, x.shape[-1]) for x in (got.logprob, got.rival))
        out.logprob[question, candidate] = np.where(valid, logprob[at, nth], -np.inf)
        out.rival[question, candidate] = np.where(valid, rival[at, nth], -np.inf)
        out.token[question, candidate] = np.where(valid, token[at], -1)
        path = np.repeat(np.arange(len(question)), counts)
        broken = np.bincount(path, weights=~finite[: len(path)], minlength=len(question))
        out.finite[question, candidate] = broken == 0
