"""A decoder: rows of one token bucket on one lane, decoded step by step until all have ended."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from cola_jax.execute.batch import Use, enlarge
from cola_jax.execute.device import CALL, calls, view_of_all
from cola_jax.execute.forward import plant
from cola_jax.execute.inputs import bucket
from cola_jax.execute.kv_cache import Entrance, Row, Seating
from cola_jax.execute.memory import DecodeSizes
from cola_jax.execute.pipeline import Flight
from cola_jax.execute.plan import Chunk, Tiles, lengthen
from cola_jax.execute.rows import (
    Cells,
    Seats,
    Top,
    Turns,
    begin,
    choose,
    go_on,
    prefill,
    settle,
)
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Lane
from cola_jax.path import STOP
from cola_jax.prompts import PROMPT, Prompts

AHEAD = 2  # steps on their way to the device, so that it never waits to hear of a stop
STOPPED, CUT, BROKEN = "stop", "length", "not finite"  # why a row ended


class Decoder:
    """Decodes rows of the questions it was made for; its buffers serve any number of rows."""

    def __init__(
        self,
        lane: Lane,
        prompts: Prompts,
        sizes: DecodeSizes,
        *,
        max_new_tokens: int,
        stop: Stop,
        capacity: int,
        dtype: Any,
        use: Use,
    ):
        """Takes prompts of one bucket, cut to it."""
        self.lane, self.sizes, self.dtype, self.use = lane, sizes, dtype, use
        self.stop, self.limit = stop, max_new_tokens
        self.config = lane.model.config
        self.lengths = (np.asarray(prompts.branch) == PROMPT).sum(axis=1).astype(np.int32)
        self.seating = Seating(sizes.seats, sizes.cells, sizes.positions)
        inputs = jax.tree.map(lambda x: enlarge(np.asarray(x), capacity), prompts)
        self.ids, self.ends = lane.put((inputs.ids, enlarge(self.lengths - 1, capacity)))
        self.view = view_of_all(self.config, lane.put(inputs))
        tokens, config = inputs.ids.shape[1], self.config
        cells, heads = sizes.cells + 1, config.num_kv_heads
        self.slots = lane.buffer((sizes.slots + 1, tokens, config.width), dtype, split=2)
        self.prompt, self.decoded = (
            Cells(
                k=lane.buffer((cells, heads, length, config.head_dim), dtype, split=1),
                v=lane.buffer((cells, heads, length, config.head_dim), dtype, split=1),
            )
            for length in (tokens, max_new_tokens)
        )
        self.states = lane.put(np.zeros((sizes.seats + 1, config.width), dtype))
        self.tokens = lane.put(np.zeros(sizes.seats + 1, np.int32))
        self.turns: tuple[bytes, Turns, Any] | None = None  # of the last seats, and on the device

    def decode(
        self, rows: Sequence[Row], on_progress: Callable[[int], None] = lambda rows: None
    ) -> Flight[None]:
        """Decodes rows to their ends; what they decoded is then in them."""
        # sorted, so that those that share a beginning are seated together
        waiting = deque(sorted(rows, key=lambda row: (row.question, row.path.tolist())))
        coming: deque[tuple[list[Row], Future[Top]]] = deque()
        while True:
            while len(coming) < AHEAD and (submitted := self.advance(waiting)) is not None:
                coming.append(submitted)
            if not coming:
                return
            some, future = coming.popleft()
            on_progress(self.hear(some, (yield future)))

    def advance(self, waiting: deque[Row]) -> tuple[list[Row], Future[Top]] | None:
        """Submits whatever comes next: the prefill of new rows, or a step of those seated."""
        count = self.seating.room(list(itertools.islice(waiting, self.sizes.seats)))
        seated = [row for row in self.seating.row if row is not None]
        # few new rows fill their tiles badly, so they wait for more seats to be left
        if count and (not seated or count >= min(len(waiting), max(1, self.sizes.seats // 4))):
            return self.enter([waiting.popleft() for _ in range(count)])
        going_on = [row for row in seated if row.asked < self.limit]
        return self.step(going_on) if going_on else None

    def enter(self, rows: list[Row]) -> tuple[list[Row], Future[Top]]:
        """Seats rows, runs their prompts, and chooses the first token of each."""
        begun = time.perf_counter()
        entrance = self.seating.seat(rows, self.lengths, self.sizes.slots, self.sizes.tile)
        chunks = entrance.chunks()
        for _, cost in chunks:
            self.use.add(cost, 0.0)
        self.use.planning += time.perf_counter() - begun
        pieces = self.ask(rows)

        def dispatch() -> Top:
            for chunk, _ in chunks:
                self.prefill(chunk, entrance)
            return self.choose(pieces)

        return rows, self.lane.submit(dispatch)

    def step(self, rows: list[Row]) -> tuple[list[Row], Future[Top]]:
        """Runs every layer of each row's path for the token it decoded last, and chooses one."""
        seats = np.array([row.seat for row in rows], np.int32)
        self.seating.count[seats] = [row.asked for row in rows]
        facts = self.facts()
        reach = min(bucket(int(self.seating.count[seats].max()), 32), self.limit)
        turns = self.plan(seats)
        pieces = self.ask(rows)

        def dispatch() -> Top:
            self.run_step(facts, turns, reach)
            return self.choose(pieces)

        return rows, self.lane.submit(dispatch)

    def plan(self, seats: np.ndarray) -> Any:
        """Plans a step, or takes the last plan where the same rows go on: calls on the device."""
        key = self.seating.path[seats].tobytes() + seats.tobytes()
        if self.turns is None or self.turns[0] != key:
            begun = time.perf_counter()
            turns = self.seating.turns(seats, self.sizes.abreast)
            self.turns = (key, turns, list(self.calls(turns)))
            self.use.planning += time.perf_counter() - begun
        turns = self.turns[1]
        self.use.turns += int((turns.seat != self.seating.nobody).sum())
        self.use.turn_rows += turns.seat.size
        return self.turns[2]

    def calls(self, turns: Turns) -> Iterator[Any]:
        """Yields the weights, turns, first and last of each call of `go_on`."""
        for weights, tiles, first, last in calls(
            self.lane, Tiles(turns.layer, turns.seat, turns.position, turns.position)
        ):
            yield weights, Turns(tiles.layer, tiles.source, tiles.target), first, last

    def facts(self) -> Seats:
        """Copies what the host knows of the seats to the device."""
        seating = self.seating
        return self.lane.put(
            Seats(
                seating.length.copy(),
                seating.count.copy(),
                seating.shared.copy(),
                seating.own.copy(),
            )
        )

    def prefill(self, chunk: Chunk, entrance: Entrance) -> None:
        """Dispatches the programs of a chunk."""
        put, config = self.lane.put, self.config
        planted = lengthen(chunk.planted.astype(np.int32), len(self.ids))
        count = put(np.int32(len(chunk.planted)))
        self.slots = plant(
            self.lane.model, self.slots, self.ids, put(planted), count, dtype=self.dtype
        )
        for tiles in parts(chunk.tiles):
            cell = put(lengthen(entrance.cells_of(tiles), CALL))
            for layers, fixed, first, last in calls(self.lane, tiles):
                self.slots, self.prompt = prefill(
                    config, layers, self.slots, self.prompt, self.view, fixed, cell, first, last
                )
        for tiles in parts(chunk.finals):
            cell = put(lengthen(entrance.cells_of(tiles), CALL))
            for layers, fixed, first, last in calls(self.lane, tiles):
                self.prompt, self.states = settle(
                    config,
                    layers,
                    self.slots,
                    self.prompt,
                    self.states,
                    self.view,
                    self.ends,
                    fixed,
                    cell,
                    first,
                    last,
                )

    def run_step(self, facts: Seats, turns: Any, reach: int) -> None:
        """Dispatches the programs of a step, but for the choice."""
        self.states, here = begin(
            self.lane.model, self.states, self.tokens, facts, dtype=self.dtype
        )
        for layers, some, first, last in turns:
            self.states, self.decoded = go_on(
                self.config,
                layers,
                self.states,
                self.decoded,
                self.prompt,
                here,
                facts,
                some,
                first,
                last,
                reach=reach,
            )

    def ask(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.int32]:
        """Notes that rows are to choose a token; returns their seats in pieces, and how many."""
        piece, seats = self.sizes.piece, [row.seat for row in rows]
        for row in rows:
            row.asked += 1
        most = -(-self.sizes.seats // piece)
        table = np.full(most * piece, self.seating.nobody, np.int32)
        table[: len(seats)] = seats
        return table.reshape(most, piece), np.int32(-(-len(seats) // piece))

    def choose(self, pieces: tuple[np.ndarray, np.int32]) -> Top:
        """Dispatches the choice of a token for each seat asked."""
        self.tokens, top = choose(self.lane.model, self.states, self.tokens, *self.lane.put(pieces))
        return top

    def hear(self, rows: Sequence[Row], top: Top) -> int:
        """Takes the tokens that rows chose; returns how many rows have ended."""
        token, first, second, finite = (x.reshape(-1).tolist() for x in top)
        ended = 0
        for i, row in enumerate(rows):
            if row.finish:  # it ended while this step was on its way
                continue
            if not finite[i]:
                row.finish = BROKEN
            else:
                row.tokens.append(token[i])
                row.logprob.append(first[i])
                row.rival.append(second[i])
                self.use.tokens += 1
                if self.stop.reached(row.tokens):
                    row.finish = STOPPED
                elif len(row.tokens) == self.limit:
                    row.finish = CUT
            if row.finish:
                self.seating.leave(row)
                ended += 1
        return ended

    def close(self) -> None:
        """Gives the buffers back to the lane; nothing that was submitted may be left to run."""
        for buffer in (self.slots, *jax.tree.leaves((self.prompt, self.decoded))):
            self.lane.give_back(buffer)


def parts(tiles: Tiles) -> Iterator[Tiles]:
    """Cuts tiles into those of one call."""
    for start in range(0, len(tiles.layer), CALL):
        yield tiles.part(start, start + CALL)


def rows_of(paths: np.ndarray) -> list[Row]:
    """Makes a row of every path [B, C, P] that is one, in their order."""
    return [
        Row(int(b), paths[b, c][paths[b, c] != STOP])
        for b, c in np.argwhere(paths[:, :, 0] != STOP)
    ]
