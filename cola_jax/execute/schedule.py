"""The scheduler: the order in which states run their steps, and the slots that hold them.

The paths of a batch form a trie. `Schedule` orders the states of a chunk of paths, with or without
a KV cache; `Trie` keeps states in their slots from wave to wave.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from cola_jax.execute.layout import FULL, Layout
from cola_jax.execute.plan import NONE, Chunk, StepRows, TileColumns, Tiles, pack_tiles
from cola_jax.metrics import Cost
from cola_jax.path import STOP
from cola_jax.steps import MOST_LAYERS, layer_of

HASH = np.uint64(0x9E3779B97F4A7C15)  # an odd number without a pattern, the golden ratio's bits


class Nodes:
    """The prefixes of paths as arrays, numbered along the sorted paths.

    Neighbours in this order share the longest prefixes: chunks are cut along it.
    """

    def __init__(self, rows: np.ndarray, held: np.ndarray | None = None):
        """Take rows from `as_rows` [n, 1 + P], and the slots that hold these prefixes, likewise."""
        self.order = lexicographic(rows)
        self.rows = rows = rows[self.order]
        count, width = rows.shape
        depths = np.arange(width)
        self.length = (rows[:, 1:] > 0).sum(axis=1)
        self.inside = depths <= self.length[:, None]
        fresh = np.ones(rows.shape, bool)  # the first path, in this order, with this prefix
        fresh[1:] = ~np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
        first = np.maximum.accumulate(np.where(fresh, np.arange(count)[:, None], 0), axis=0)
        fresh &= self.inside
        numbers = np.cumsum(fresh).reshape(rows.shape) - 1
        self.grid = np.where(self.inside, numbers[first, depths], 0)  # the node of each prefix

        path, self.depth = np.nonzero(fresh)
        self.step = rows[path, self.depth].astype(np.int32) - 1  # meaningless at a root
        self.number = number_steps(self.step)
        self.parent = np.where(self.depth > 0, self.grid[path, self.depth - 1], NONE)
        self.question = rows[path, 0].astype(np.int32)
        through = np.bincount(self.grid[self.inside], minlength=len(path))
        # of two states on equally many paths, the deeper one is one step away from the other
        self.value = through * width - self.depth
        self.slot = np.full(len(path), NONE, np.int32)
        if held is not None:
            held = held[self.order]
            has_slot = held != NONE
            self.slot[self.grid[has_slot]] = held[has_slot]
        self.pinned = np.zeros(len(path), bool)  # which keep their slots even if nothing reads them
        self.runs = np.zeros(len(path), np.int32)  # times that each is run, by the chunks of a plan
        # KV blocks of each node by the name of a column, with that of padding at the end
        self.blocks: dict[str, np.ndarray] = {}


def number_steps(steps: np.ndarray) -> np.ndarray:
    """Number the steps of nodes [n] in the order of layers; whole layers alone by their ids."""
    if steps.max(initial=0) < MOST_LAYERS:
        return steps
    distinct, number = np.unique(steps, return_inverse=True)
    rank = np.empty_like(distinct)
    rank[np.lexsort((distinct, layer_of(distinct)))] = np.arange(len(distinct))
    return rank[number]


def lexicographic(rows: np.ndarray) -> np.ndarray:
    """Sort rows of uint32; return their order [n]."""
    # big-endian bytes compare as the numbers do, in one pass for all columns
    text = np.ascontiguousarray(rows.astype(">u4")).view(f"S{4 * rows.shape[1]}")
    return np.argsort(text[:, 0], kind="stable")


class Schedule:
    """Orders the states that some paths need into tiles, and finds their slots.

    The step for which most tokens wait goes first, in whole tiles while there are any, and then
    that of the lowest layer. The loop is over groups of tiles, never over paths.
    """

    def __init__(
        self,
        nodes: Nodes,
        paths: np.ndarray,
        slots: int,
        layout: Layout,
        outputs: np.ndarray | None = None,
    ):
        """Take rows of the nodes, and the outputs that paths of the wave write, padding's last.

        By default, outputs are numbered in the order in which last steps run.
        """
        self.nodes = nodes
        self.slots = slots
        self.layout = layout
        self.outputs = outputs
        self.wave = nodes.order[paths]
        self.taken = layout.taken[nodes.question]  # tokens of a tile
        self.part = self.taken / layout.shapes[0].tokens
        depths = np.arange(nodes.grid.shape[1])
        length = nodes.length[paths]
        grid = nodes.grid[paths]
        before_last = depths < length[:, None]
        has_slot = before_last & (nodes.slot[grid] != NONE)
        deepest = np.where(has_slot, depths, NONE).max(axis=1)
        missing = np.zeros(len(nodes.slot), bool)
        missing[grid[before_last & (depths > deepest[:, None])]] = True
        self.needed = np.flatnonzero(missing)
        nodes.runs[self.needed] += nodes.depth[self.needed] > 0
        self.ends = grid[np.arange(len(paths)), length]
        self.hits = int(np.maximum(deepest, 0).sum())
        self.useful = int(length.sum())

        parents = nodes.parent[self.needed]
        inner = parents != NONE
        children = self.needed[inner]
        order = np.argsort(parents[inner], kind="stable")
        self.children = children[order]
        self.fanout = np.bincount(parents[inner], minlength=len(missing))
        self.start = np.cumsum(self.fanout) - self.fanout
        # reads still to come: by children, and by the last steps of paths
        self.readers = self.fanout + np.bincount(nodes.parent[self.ends], minlength=len(missing))
        self.waiting: list[list[np.ndarray]] = [[] for _ in range(int(nodes.number.max()) + 1)]
        self.tiles = np.zeros(len(self.waiting))  # that wait for each step

        held = np.flatnonzero(nodes.slot != NONE)
        free = np.ones(slots, bool)
        free[nodes.slot[held]] = False
        self.free = np.flatnonzero(free).astype(np.int32)
        # held and not needed: may be evicted
        self.idle = [held[(self.readers[held] == 0) & ~nodes.pinned[held]]]
        self.num_idle = len(self.idle[0])
        self.evicted = 0
        # states that can be computed at once, since their parents are held
        self.ready = children[~missing[parents[inner]]]

    def chunk(self) -> tuple[Chunk, Cost]:
        """Make the chunk; the nodes' slots are then those after it has run."""
        nodes = self.nodes
        layout = self.layout
        roots = self.needed[nodes.parent[self.needed] == NONE]
        nodes.slot[roots] = self.take_slots(len(roots))
        embedded = np.stack([nodes.question[roots], nodes.slot[roots]], axis=1)
        self.enqueue(self.ready)
        self.enqueue(self.children_of(roots))
        tiles = self.pack(list(self.steps()), self.slots)
        last, order = self.last_tiles()
        length = layout.length[nodes.question]
        reads = layout.reads[nodes.question]
        cost = Cost(
            useful=self.useful,
            unique=len(self.needed) - len(roots),
            last=len(order),
            tokens=int(length[self.needed].sum() - length[roots].sum() + reads[self.ends].sum()),
            token_rows=count_token_rows(tiles, layout) + count_token_rows(last, layout),
            hits=self.hits,
            evicted=self.evicted,
        )
        return Chunk(embedded, tiles, last, self.wave[order]), cost

    def last_tiles(self) -> tuple[Tiles, np.ndarray]:
        """Pack the last steps of the paths by step; return their order [n] as well."""
        number = self.nodes.number[self.ends]
        by_step = np.argsort(number, kind="stable")
        reads = self.layout.reads[self.nodes.question[self.ends]]
        padding = len(number) if self.outputs is None else int(self.outputs[-1])
        order: list[int] = []
        steps = []
        for group in np.split(by_step, np.flatnonzero(np.diff(number[by_step])) + 1):
            states = self.ends[group]
            tiles = self.layout.fill_last(self.taken[states].tolist(), reads[group].tolist())
            paths = group[np.concatenate(tiles)]
            if self.outputs is None:
                outputs = np.arange(len(order), len(order) + len(paths), dtype=np.int32)
            else:
                outputs = self.outputs[self.wave[paths]]
            order += paths.tolist()
            steps.append(self.step(self.ends[paths], outputs, tiles, reads[paths]))
        return self.pack(steps, padding), np.array(order)

    def step(
        self,
        states: np.ndarray,
        target: np.ndarray,
        tiles: Sequence[Sequence[int]],
        reads: np.ndarray | None = None,
    ) -> StepRows:
        """Make the rows of states of one step, in the order of their tiles; reads of last ones."""
        nodes = self.nodes
        blocks = {name: block[states] for name, block in nodes.blocks.items()}
        taken = self.taken[states]
        columns = TileColumns(
            int(nodes.step[states[0]]),
            source=nodes.slot[nodes.parent[states]],
            target=target,
            question=nodes.question[states],
            length=taken,
            reads=np.zeros_like(taken) if reads is None else reads,
            **blocks,
        )
        ends = list(itertools.accumulate(map(len, tiles)))
        tokens = taken.tolist()
        read = columns.reads.tolist()
        shapes = [
            self.layout.smallest(sum(tokens[start:end]), end - start, sum(read[start:end]))
            for start, end in itertools.pairwise([0, *ends])
        ]
        return StepRows(columns, ends, shapes)

    def pack(self, steps: list[StepRows], target: int) -> Tiles:
        """Pack steps into tiles, whose padding rows write to the target."""
        blocks = {name: block[-1] for name, block in self.nodes.blocks.items()}
        return pack_tiles(steps, self.layout, TileColumns(0, 0, target, 0, **blocks))

    def steps(self) -> Iterator[StepRows]:
        """Yield the states that run together."""
        nodes = self.nodes
        while True:
            number = int(self.tiles.argmax())
            if self.tiles[number] < 1:
                # no tile is full: a low layer's states soon wait at the layers above it
                number = int((self.tiles > 0).argmax())
            if not self.waiting[number]:
                return
            parts = self.waiting[number]
            waiting = parts[0] if len(parts) == 1 else np.concatenate(parts)
            tiles = self.fill(waiting[: len(self.free) + self.num_idle])
            chosen = list(itertools.chain(*tiles))
            states = waiting[chosen]
            self.waiting[number] = []
            self.tiles[number] = 0
            if len(chosen) < len(waiting):
                left = np.ones(len(waiting), bool)
                left[chosen] = False
                rest = waiting[left]
                self.waiting[number] = [rest]
                self.tiles[number] = self.part[rest].sum()
            parents = nodes.parent[states]  # all different: a parent has one child of each step
            slots = self.take_slots(len(states))
            nodes.slot[states] = slots
            yield self.step(states, slots, tiles)
            self.readers[parents] -= 1
            self.release(parents[self.readers[parents] == 0])
            self.enqueue(self.children_of(states))

    def fill(self, states: np.ndarray) -> list[list[int]]:
        """Divide states of one step among tiles, and return the numbers of those of full tiles.

        Where no tile is full, the fullest count. The other states wait for more of their step.
        """
        lengths = self.taken[states].tolist()
        tiles = self.layout.fill(lengths)
        filled = [sum(lengths[i] for i in tile) for tile in tiles]
        least = min(FULL * self.layout.shapes[0].tokens, max(filled))
        return [tile for tile, tokens in zip(tiles, filled, strict=True) if tokens >= least]

    def children_of(self, nodes: np.ndarray) -> np.ndarray:
        """Return the needed children of nodes."""
        fanout = self.fanout[nodes]
        total = int(fanout.sum())
        if total == len(nodes) and fanout.max(initial=1) == 1:  # the common case: one child each
            return self.children[self.start[nodes]]
        offset = np.repeat(self.start[nodes] - np.cumsum(fanout) + fanout, fanout)
        return self.children[offset + np.arange(total)]

    def enqueue(self, nodes: np.ndarray) -> None:
        """Queue nodes whose parents are computed by the step that they need."""
        if not len(nodes):
            return
        numbers = self.nodes.number[nodes]
        if (numbers == numbers[0]).all():
            parts = [nodes]
        else:
            order = np.argsort(numbers, kind="stable")
            nodes = nodes[order]
            numbers = numbers[order]
            parts = np.split(nodes, np.flatnonzero(np.diff(numbers)) + 1)
        for part in parts:
            number = self.nodes.number[part[0]]
            self.waiting[number].append(part)
            self.tiles[number] += self.part[part].sum()

    def release(self, nodes: np.ndarray) -> None:
        """Mark states as no longer needed; they are kept until their slots are needed."""
        nodes = nodes[~self.nodes.pinned[nodes]]
        if len(nodes):
            self.idle.append(nodes)
            self.num_idle += len(nodes)

    def take_slots(self, count: int) -> np.ndarray:
        """Take slots, from idle states where no slot is free."""
        if len(self.free) < count:
            idle = np.concatenate(self.idle)
            # more at once than is needed now, since finding the least valuable costs a pass
            evicted = min(len(idle), max(count - len(self.free), self.slots // 32))
            order = np.argpartition(self.nodes.value[idle], evicted - 1)
            victims = idle[order[:evicted]]
            kept = idle[order[evicted:]]
            self.free = np.concatenate([self.free, self.nodes.slot[victims]])
            self.nodes.slot[victims] = NONE
            self.idle = [kept]
            self.num_idle = len(kept)
            self.evicted += evicted
        taken = self.free[:count]
        self.free = self.free[count:]
        return taken


def plan_chunks(
    nodes: Nodes,
    paths: np.ndarray,
    chunk_size: int,
    slots: int,
    layout: Layout,
    outputs: np.ndarray | None = None,
) -> tuple[list[Chunk], Cost]:
    """Plan paths, rows of the nodes, in chunks of at most `chunk_size`, which run in this order."""
    chunks = []
    cost = Cost()
    for start in range(0, len(paths), chunk_size):
        part = paths[start : start + chunk_size]
        chunk, added = Schedule(nodes, part, slots, layout, outputs).chunk()
        chunks.append(chunk)
        cost += added
    return chunks, cost


def count_token_rows(tiles: Tiles, layout: Layout) -> int:
    """Count the tokens of tiles, or the positions that last layers compute, padding included."""
    sizes = np.array([shape.reads or shape.tokens for shape in layout.shapes])
    return int(sizes[tiles.shape].sum())


def most_paths(slots: int, rows: int) -> int:
    """Return the largest number of paths of a chunk.

    n paths never keep more than n states waiting to be read, and need one slot to go on; room for
    a whole tile keeps padding low.
    """
    return slots - (rows if slots > 2 * rows else 1)


class Trie:
    """The prefixes of all paths of a batch, and the slots that hold their states.

    The states of earlier waves keep their slots until others need them. Those on the fewest paths
    are evicted first, and recomputed when a path needs them again.
    """

    def __init__(self, slots: int, layout: Layout, outputs: int):
        """Plan for S >= 2 slots, tiles of these shapes, and at most `outputs` paths in a chunk."""
        self.slots = slots
        self.layout = layout
        self.chunk_size = min(outputs, most_paths(slots, layout.rows))
        self.paths = np.zeros((0, 0), np.uint32)  # [n, 1 + P], as `as_rows` writes them
        self.held = np.zeros((0, 0), np.int32)  # [n, 1 + P] slots of each path's prefixes
        self.ran: set[int] = set()  # keys of the states that have been run, held or not

    def plan(
        self, paths: np.ndarray, prefix: "PrefixBlocks | None" = None
    ) -> tuple[list[Chunk], Cost]:
        """Plan a wave of paths [n, 1 + P], each a question and steps padded with STOP.

        `prefix` are the KV blocks of the prefix that all questions continue. Chunks must run in
        their order.
        """
        nodes, new = self.merge(as_rows(paths))
        if prefix is not None:
            nodes.blocks["prompt_block"] = prefix.of_nodes(nodes, new)
        chunks, cost = plan_chunks(nodes, new, self.chunk_size, self.slots, self.layout)
        self.keep_held(nodes)
        return chunks, cost._replace(again=self.count_again(nodes, new))

    def count_again(self, nodes: Nodes, wave: np.ndarray) -> int:
        """Count the runs of states that have been run before; `wave` are rows of the nodes."""
        keys = np.zeros(len(nodes.slot), np.uint64)
        inside = nodes.inside[wave]
        keys[nodes.grid[wave][inside]] = prefix_keys(nodes.rows[wave])[inside]
        new = set(keys[nodes.runs > 0].tolist()) - self.ran
        self.ran |= new
        return int(nodes.runs.sum()) - len(new)

    def merge(self, wave: np.ndarray) -> tuple[Nodes, np.ndarray]:
        """Return the nodes of all paths, and which of their rows are the wave's."""
        width = max(self.paths.shape[1], wave.shape[1])
        rows = np.concatenate([widen(wave, width, 0), widen(self.paths, width, 0)])
        held = np.full(rows.shape, NONE, np.int32)
        held[len(wave) :] = widen(self.held, width, NONE)
        nodes = Nodes(rows, held)
        return nodes, np.flatnonzero(nodes.order < len(wave))

    def keep_held(self, nodes: Nodes) -> None:
        """Keep the slots that states have now, and a path through each of them."""
        held = np.where(nodes.inside, nodes.slot[nodes.grid], NONE)
        row, depth = np.nonzero(held != NONE)
        _, first = np.unique(held[row, depth], return_index=True)
        kept = np.unique(row[first])
        self.paths = nodes.rows[kept]
        self.held = held[kept]


class PrefixBlocks:
    """The KV blocks of a prefix that all questions share, one for each state on some paths."""

    def __init__(self, nodes: Nodes, wave: np.ndarray, padding: int):
        """Take the nodes of the prefix, the rows of them on the paths asked for, and M."""
        self.grid = nodes.slot[nodes.grid[wave]]
        self.padding = padding
        rows = nodes.rows[wave, 1:]
        rows[np.arange(len(wave)), nodes.length[wave] - 1] = 0  # the layer more of `PrefixTrie`
        self.row = {key_of(row): i for i, row in enumerate(rows)}

    def of_nodes(self, nodes: Nodes, wave: np.ndarray) -> np.ndarray:
        """Return the block that each node on rows of questions' nodes reads, and padding's last."""
        out = np.full(len(nodes.slot) + 1, self.padding, np.int32)
        same_path = np.array([self.row[key_of(row)] for row in nodes.rows[wave, 1:]], np.int64)
        width = min(nodes.grid.shape[1], self.grid.shape[1])
        inside = nodes.inside[wave, :width]
        out[nodes.grid[wave, :width][inside]] = self.grid[same_path, :width][inside]
        return out


def key_of(row: np.ndarray) -> bytes:
    """Return the steps of a row of uint32 as bytes, without the zeros after them."""
    return row[: np.count_nonzero(row)].tobytes()


def as_rows(paths: np.ndarray) -> np.ndarray:
    """Write paths [n, 1 + P], each a question and steps, as uint32: steps from 1, STOP as 0."""
    return (paths - np.where(np.arange(paths.shape[1]) > 0, STOP, 0)).astype(np.uint32)


def prefix_keys(rows: np.ndarray) -> np.ndarray:
    """Return a number of 64 bits for each prefix of rows [n, 1 + P], the same for equal ones."""
    keys = np.empty(rows.shape, np.uint64)
    key = np.zeros(len(rows), np.uint64)
    for i, column in enumerate(rows.T):
        key = (key + column + np.uint64(1)) * HASH
        key ^= key >> np.uint64(32)
        keys[:, i] = key
    return keys


def widen(rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Pad the columns of [n, w] to [n, width]."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)
