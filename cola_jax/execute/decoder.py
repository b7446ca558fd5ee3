"""A decoder: a queue of rows on one worker, which are decoded step by step until all have ended.

    waiting -> prompt run -> decoding, a token a step -> ended: its slot and pages are free
       ^                          |
       +--- no page is free ------+

A row whose next page is not free is preempted if it has decoded fewest tokens: it waits again, and
is decoded anew from its prompt.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.execute.driver import Driver, open_prefix
from cola_jax.execute.forward import embed_tokens
from cola_jax.execute.inputs import bucket, cut, decode_tokens, token_counts
from cola_jax.execute.kv_cache import Allocator, DecodeRow, cover_rows, decode_tiles
from cola_jax.execute.layout import Layout, layout_of
from cola_jax.execute.memory import (
    DecodeSizes,
    Memory,
    choose_decode_sizes,
    growing_caches,
    held_bytes,
    layer_caches,
    round_questions,
)
from cola_jax.execute.plan import (
    Workload,
    drop_prefix,
    take,
)
from cola_jax.execute.readouts import Top, greedy_sample, random_sample
from cola_jax.execute.worker import Launches, Worker
from cola_jax.path import STOP, pad_path
from cola_jax.prompts import Prompts
from cola_jax.question import digest
from cola_jax.steps import without_runs

AHEAD = 2  # steps dispatched, so that the devices never wait to hear of a stop
STOPPED = "stop"  # why a row ended
TRUNCATED = "length"
NOT_FINITE = "not finite"
COLDEST = 0.001  # temperatures at which float32 can draw
HOTTEST = 1000.0
MARGIN = 8  # tokens decoded ahead of where a stop string may begin, for their neighbours' sake

Dispatched = tuple[list[DecodeRow], list[Top]]  # rows, and the tokens that they choose


@dataclasses.dataclass(frozen=True)
class Stop:
    """Token ids that end a text, strings that do, or a rule over the text so far.

    A text ends before the stop string or the stop token; the tokens that a row decoded hold both.
    Strings and rules need the tokenizer.
    """

    tokens: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    rule: Callable[[str], bool] | None = None  # whether the answer in a text is complete
    tokenizer: Any = None

    def __post_init__(self):
        if not all(isinstance(token, int) and token >= 0 for token in self.tokens):
            raise InputError(f"stop tokens are ids from 0 up, they are {list(self.tokens)}.")
        if "" in self.strings:
            raise InputError("an empty stop string would end every text at once: leave it out.")
        if (self.strings or self.rule) and self.tokenizer is None:
            raise InputError("stop strings and rules are about text: give the tokenizer as well.")

    def reached(self, ids: Sequence[int]) -> bool:
        """Return whether the last of the decoded tokens ends the text."""
        if ids[-1] in self.tokens:
            return True
        if self.strings:
            # each token adds at least a byte
            longest = max(len(string.encode()) for string in self.strings)
            if self.find_string(self.decode(ids[-longest - MARGIN :])) is not None:
                return True
        return self.rule is not None and self.rule(self.text(ids))

    def find_string(self, text: str) -> int | None:
        """Return the index at which the first stop string begins, None without any."""
        places = [text.find(string) for string in self.strings]
        return min((place for place in places if place >= 0), default=None)

    def text(self, ids: Sequence[int]) -> str:
        """Decode tokens up to the first stop token or stop string."""
        ends = (i for i, token in enumerate(ids) if token in self.tokens)
        text = self.decode(ids[: next(ends, len(ids))])
        return text[: self.find_string(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode tokens as they are: nothing skipped, no spaces tidied."""
        if self.tokenizer is None:
            raise InputError("the tokens of a text need the tokenizer: give it to Stop.")
        return decode_tokens(self.tokenizer, ids)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The choice of a token: the likeliest at temperature 0, else one drawn with a seed.

    Draws are from softmax(logits / temperature), over the fewest of the likeliest tokens that hold
    `top_p` of the probability: all of the vocabulary by default.
    """

    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        for name, kind in (("temperature", Real), ("top_p", Real), ("seed", Integral)):
            if not isinstance(value := getattr(self, name), kind):
                number = "a number" if kind is Real else "a whole number"
                raise InputError(f"{name} must be {number}, it is {shown(value)}.")
        if self.temperature and not COLDEST <= self.temperature <= HOTTEST:
            raise InputError(
                f"the temperature is {self.temperature}: give 0, which decodes greedily, or a "
                f"number from {COLDEST} to {HOTTEST}."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(
                f"top_p is {self.top_p}: give a share above 0 and up to 1, which draws from all "
                "tokens."
            )
        if self.top_p < 1 and not self.temperature:
            raise InputError(
                f"top_p is {self.top_p}, but nothing is drawn at temperature 0: give a temperature "
                "above 0 as well, such as 1."
            )

    def key(self, name: str, path: Sequence[int]) -> np.ndarray:
        """Return the key [2] of a prompt's draws on a path, the same in any batch and machine."""
        key = digest("sample", int(self.seed), name, list(path))
        return np.frombuffer(bytes.fromhex(key[:16]), "<u4").astype(np.uint32)

    def record(self) -> dict[str, Any]:
        """Describe draws in JSON values; empty at temperature 0."""
        if not self.temperature:
            return {}
        record = {"temperature": float(self.temperature), "sample_seed": self.seed}
        return record if self.top_p == 1 else record | {"top_p": float(self.top_p)}


GREEDY = Sampling()


class Decoder:
    """Decodes rows of the prompts it was made for; its buffers serve any number of rows."""

    def __init__(
        self,
        worker: Worker,
        prompts: Prompts,
        workload: Workload,
        *,
        max_new_tokens: int,
        stop: Stop,
        sampling: Sampling = GREEDY,
        names: Sequence[str] = (),
    ):
        """Take plain prompts of any lengths and number; `workload` bounds the paths.

        `names` identify the prompts where tokens are drawn.
        """

        def choose(prefix: int, memory: Memory) -> tuple[Layout, DecodeSizes]:
            rest = drop_prefix(prompts, prefix)
            layout = layout_of(rest, memory.limits, by_row=True)
            own = layout.tokens
            sizes = choose_decode_sizes(
                worker.config,
                prefix + own,
                memory,
                lengths=token_counts(prompts),
                positions=workload.positions,
                max_new_tokens=max_new_tokens,
                wanted=workload.wave * len(prompts.ids),
                prefix=prefix,
                held=held_bytes(worker.config, rest, own, memory),
            )
            return layout, sizes

        self.worker = worker
        self.stop = stop
        self.limit = max_new_tokens
        self.prefix, size, chosen = open_prefix(worker, prompts, workload, choose)
        self.layout, self.sizes = chosen
        self.longest = size + self.layout.tokens
        self.lengths = token_counts(prompts).astype(np.int32)
        self.prefix_tokens = size
        self.prompts = drop_prefix(prompts, size)
        self.prefilled = round_questions(min(len(prompts.ids), self.sizes.prefilled))
        sizes = self.sizes
        config = worker.config
        self.allocator = Allocator(sizes, layer_caches(config), growing_caches(config))
        self.prompt_cache, self.text_cache = (
            worker.take_pages(pages.pages, pages.tokens) for pages in (sizes.prompts, sizes.texts)
        )
        states = np.zeros((sizes.decode_slots + 1, 1, worker.config.state_width), worker.dtype)
        self.states = worker.put(states)
        self.tokens = worker.put(np.zeros(sizes.decode_slots + 1, np.int32))
        self.pages = worker.put((self.allocator.prompts.table, self.allocator.texts.table))
        self.step_layout = Layout.of_single_tokens(sizes.heights)
        self.planned: tuple[bytes, Launches] | None = None  # the last step's
        self.sampling = sampling
        self.names = names
        self.choose_tokens = greedy_sample
        if sampling.temperature:
            self.keys = np.zeros((sizes.decode_slots + 1, 2), np.uint32)
            temperature = worker.put(np.float32(sampling.temperature))
            top_p = None if sampling.top_p == 1 else worker.put(np.float32(sampling.top_p))
            self.choose_tokens = functools.partial(
                random_sample, temperature=temperature, top_p=top_p
            )

    def __call__(self, paths: np.ndarray) -> list[DecodeRow]:
        """Decode every path [B, C, P] that is not padding; return its rows in order."""
        rows = self.rows_of(paths)
        for _ in self.decode(rows):
            pass
        return rows

    def rows_of(self, paths: np.ndarray) -> list[DecodeRow]:
        """Make a row of every path [B, C, P] that is not padding, in order."""
        return decode_rows(self.worker.config.with_runs(paths))

    def decode(self, rows: Sequence[DecodeRow]) -> Iterator[list[DecodeRow]]:
        """Decode rows to their ends, and yield those that have ended, a step after the other."""
        # sorted, so that those that share a prefix are admitted together
        waiting = deque(sorted(rows, key=lambda row: (row.question, row.path.tolist())))
        dispatched: deque[Dispatched] = deque()
        while True:
            while len(dispatched) < AHEAD:
                step = self.advance(waiting, settled=not dispatched)
                if step is None:
                    break
                dispatched.append(step)
            if not dispatched:
                return
            stepped, pending = dispatched.popleft()
            if ended := self.collect(stepped, self.worker.wait(pending)):
                yield ended

    def advance(self, waiting: deque[DecodeRow], settled: bool) -> Dispatched | None:
        """Dispatch the prefill of new rows, or a step of admitted ones; return None without any.

        Where pages for a step are not free, rows are preempted once all steps are collected, as
        `settled` says: some may have ended.
        """
        room = self.count_fitting(waiting)
        admitted = self.allocator.live
        # few new rows fill their tiles badly, so they wait for more slots to be free
        enough = min(len(waiting), max(1, self.sizes.decode_slots // 8))
        if room and (not admitted or room >= enough):
            return self.prefill([waiting.popleft() for _ in range(room)])
        active = [row for row in admitted if row.dispatched < self.limit]
        while active and not self.allocator.grow(active):
            if not settled:
                return None
            row = min(active, key=lambda row: row.dispatched)
            active.remove(row)
            self.preempt(row)
            waiting.appendleft(row)
        return self.step(active) if active else None

    def preempt(self, row: DecodeRow) -> None:
        """Free what a row has, which is decoded anew."""
        self.allocator.release(row)
        self.worker.metrics.add(tokens=-len(row.tokens))
        row.restart()

    def count_fitting(self, waiting: Sequence[DecodeRow]) -> int:
        """Count the waiting rows, from the first on, whose prompts can be run now."""
        if not waiting or not len(self.allocator.slots.free):
            return 0
        rows = list(itertools.islice(waiting, self.sizes.prefilled))
        lengths = self.lengths[[row.question for row in rows]].tolist()
        room = self.allocator.count_fitting(rows, lengths)
        if room and self.prefix is not None:
            room = self.prefix.count_fitting([row.path for row in rows[:room]])
        return room

    def prefill(self, rows: list[DecodeRow]) -> Dispatched:
        """Admit rows, run their prompts, and choose the first token of each."""
        worker = self.worker
        numbers, questions = np.unique([row.question for row in rows], return_inverse=True)
        prompts = cut(take(self.prompts, numbers), self.layout.tokens, 0)
        layout = self.layout._replace(
            length=self.layout.length[numbers], reads=self.layout.reads[numbers]
        )
        lengths = self.lengths[numbers]
        paths = [pad_path(row.path.tolist(), self.sizes.positions) for row in rows]
        on_paths = contextlib.nullcontext()
        if self.prefix is not None:
            on_paths = self.prefix.on_paths(np.array(paths))
        with on_paths as blocks:
            chunks, cost = self.allocator.admit(
                rows, questions, lengths, self.sizes.slots, layout, blocks
            )
            if self.sampling.temperature:
                for row in rows:
                    name = self.names[row.question]
                    path = without_runs(row.path).tolist()
                    self.keys[row.slot] = self.sampling.key(name, path)
            self.copy_pages()
            driver = Driver(
                worker,
                prompts,
                (lengths - self.prefix_tokens - 1)[:, None],
                self.sizes.slots,
                layout,
                self.prefilled,
                self.prefix,
                self.pages[0],
            )
            chosen = self.count_dispatched(rows)
            worker.metrics.add(cost=cost)

            def program() -> list[Top]:
                for chunk in chunks:
                    self.states, self.prompt_cache = driver.run(
                        chunk, self.states, self.prompt_cache
                    )
                return self.sample(chosen)

            pending = worker.dispatch(program)
        worker.give_back(driver.slots)
        return rows, pending

    def copy_pages(self) -> None:
        """Copy the tables of pages that have changed to the devices."""
        tables = self.allocator.prompts, self.allocator.texts
        self.pages = tuple(
            self.worker.put(table.table.copy()) if table.changed else pages
            for table, pages in zip(tables, self.pages, strict=True)
        )
        for table in tables:
            table.changed = False

    def step(self, rows: list[DecodeRow]) -> Dispatched:
        """Run every layer of each row's path for the token it decoded last, and choose the next."""
        allocator = self.allocator
        worker = self.worker
        active = np.array([row.slot for row in rows], np.int32)
        allocator.decoded[active] = [row.dispatched for row in rows]
        lengths = worker.put((allocator.length.copy(), allocator.decoded.copy()))
        self.copy_pages()
        reach = self.reach(active)
        launches = self.plan(active)
        chosen = self.count_dispatched(rows)

        def program() -> list[Top]:
            self.states, views = embed_tokens(
                worker.model, self.states, self.tokens, *lengths, dtype=worker.dtype
            )
            modes = worker.modes_to_cache(views, self.prompt_cache, lengths, self.pages, reach)
            self.states, self.text_cache = worker.run(launches, self.states, modes, self.text_cache)
            return self.sample(chosen)

        return rows, worker.dispatch(program)

    def reach(self, active: np.ndarray) -> tuple[int, int]:
        """Return how many tokens of prompts and of texts these rows see: one of few numbers.

        A short text does not pay for a long one. A CPU reads no more pages than there are, and
        would compile each number.
        """
        texts = self.sizes.texts
        most = self.longest, texts.most * texts.tokens
        if self.worker.device.platform == "cpu":
            return most
        allocator = self.allocator
        seen = allocator.length[active].max(), allocator.decoded[active].max()
        return min(bucket(int(seen[0]), 32), most[0]), min(bucket(int(seen[1]), 32), most[1])

    def plan(self, active: np.ndarray) -> Launches:
        """Plan a step, or take the last plan where the same rows go on."""
        tables = self.allocator
        every = tables.path, tables.prompt_block
        key = b"".join([active.tobytes(), *(table[active].tobytes() for table in every)])
        if self.planned is None or self.planned[0] != key:
            tiles = decode_tiles(
                tables.path,
                active,
                tables.text_block,
                tables.prompt_block,
                self.step_layout,
                self.worker.memory.limits.decode_fixed,
            )
            self.planned = (key, self.worker.load(tiles, self.step_layout))
        return self.planned[1]

    def count_dispatched(self, rows: Sequence[DecodeRow]) -> list[tuple[np.ndarray, ...]]:
        """Note that rows choose a token; return the arguments of the choice, U rows at a time.

        These are slots [U], and where tokens are drawn keys [U, 2] and the tokens' indices [U].
        """
        slots = [row.slot for row in rows]
        for row in rows:
            row.dispatched += 1
        sizes = self.sizes
        heights = tuple({min(height, sizes.unembedded) for height in sizes.heights})
        cover = cover_rows(len(slots), heights, self.worker.memory.limits.decode_fixed)
        table = np.full(sum(cover), self.allocator.padding_slot, np.int32)
        table[: len(slots)] = slots
        parts = np.split(table, np.cumsum(cover)[:-1])
        if not self.sampling.temperature:
            return [(part,) for part in parts]
        return [(part, self.keys[part], self.allocator.decoded[part]) for part in parts]

    def sample(self, chosen: list[tuple[np.ndarray, ...]]) -> list[Top]:
        """Dispatch the choice of a token for rows, with the arguments of `count_dispatched`."""
        samples = []
        model = self.worker.model
        for part in self.worker.put(chosen):
            self.tokens, sample = self.choose_tokens(model, self.states, self.tokens, *part)
            samples.append(sample)
        return samples

    def collect(self, rows: Sequence[DecodeRow], samples: Sequence[Top]) -> list[DecodeRow]:
        """Take the tokens that rows chose, and release rows that have ended; return those."""
        chosen: Any = Top(*(np.concatenate(c).tolist() for c in zip(*samples, strict=True)))
        tokens = 0
        ended = []
        for i, row in enumerate(rows):
            if row.finish:  # it ended while this step was being computed
                continue
            if not chosen.finite[i]:
                row.finish = NOT_FINITE
            else:
                row.tokens.append(chosen.token[i])
                row.logprob.append(chosen.first[i])
                row.rival.append(chosen.second[i])
                tokens += 1
                if self.stop.reached(row.tokens):
                    row.finish = STOPPED
                elif len(row.tokens) == self.limit:
                    row.finish = TRUNCATED
            if row.finish:
                self.allocator.release(row)
                ended.append(row)
        self.worker.metrics.add(tokens=tokens, evaluations=len(ended))
        return ended

    def close(self) -> None:
        """Give the buffers back to the worker."""
        if self.prefix is not None:
            self.prefix.close()
        self.worker.give_back(*jax.tree.leaves((self.prompt_cache, self.text_cache)))


def check_decode_memory(
    config: ModelConfig, prompts: Prompts, memory: Memory, positions: int, max_new_tokens: int
) -> None:
    """Raise InputError where memory is too small to decode after prompts on the longest path."""
    tokens = layout_of(prompts, memory.limits, by_row=True).tokens
    choose_decode_sizes(
        config,
        tokens,
        memory,
        lengths=token_counts(prompts),
        positions=positions,
        max_new_tokens=max_new_tokens,
        held=held_bytes(config, prompts, tokens, memory),
    )


def decode_rows(paths: np.ndarray) -> list[DecodeRow]:
    """Make a row of every path [B, C, P] that is not padding, in order."""
    return [
        DecodeRow(b, paths[b, c][paths[b, c] != STOP], c)
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist()
    ]
