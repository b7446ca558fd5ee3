"""The plans of waves, carried out on prefixes in place of states, and those of decode steps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_jax.execute.driver import PrefixTrie
from cola_jax.execute.kv_cache import cover_rows, decode_tiles
from cola_jax.execute.layout import Layout, TileShape
from cola_jax.execute.plan import TileColumns
from cola_jax.execute.schedule import Trie, count_token_rows, number_steps
from cola_jax.metrics import Cost
from cola_jax.path import STOP, pad_path, random_paths
from cola_jax.steps import ATTENTION, MLP, Step

SHAPES = (
    TileShape(48, 5, 32),
    TileShape(32, 3, 32),
    TileShape(8, 2, 32),
    TileShape(64, 4, 32, reads=6, most_reads=4),
    TileShape(32, 2, 32, reads=4, most_reads=4),
)
LENGTH, READS = (TileColumns._fields.index(name) for name in ("length", "reads"))


def one_shape(rows, questions=8):
    return Layout.of_rows(8, rows, questions)


def wave(*paths, width=8):
    """Rows of questions and their paths."""
    return np.array([[question, *pad_path(path, width)] for question, path in paths])


def rows_of(tiles, layout, padding):
    """Yield the layer of each tile and its rows, which fit the tile's shape."""
    for table, number in zip(tiles.table, tiles.shape, strict=True):
        shape = layout.shapes[number]
        real = table[2] != padding
        assert real[: real.sum()].all()  # they lie end to end
        assert real.sum() <= shape.rows
        assert (table[LENGTH, real] == layout.taken[table[3, real]]).all()
        assert table[LENGTH].sum() <= shape.tokens
        assert table[READS].sum() <= shape.reads
        yield int(table[0, 0]), np.delete(table, [0, LENGTH, READS], axis=0)[:, real].T.tolist()


def carry_out(trie, chunks, paths, slots):
    """Run chunks on `slots`, {slot: (question, prefix)}, and check every row and output.

    Return the states that have run, in order.
    """
    done = {}
    ran = []
    for chunk in chunks:
        for question, slot in chunk.embedded.tolist():
            slots[slot] = (question, ())
        computed = set()
        for layer, rows in rows_of(chunk.tiles, trie.layout, trie.slots):
            # a tile reads all its slots before it writes any
            read = [slots[source] for source, *_ in rows]
            for (question, prefix), (_, slot, asked, *_) in zip(read, rows, strict=True):
                assert question == asked
                slots[slot] = state = (asked, (*prefix, layer))
                assert state not in computed  # a state runs once
                computed.add(state)
        ran += computed
        assert set(slots) <= set(range(trie.slots))
        for layer, rows in rows_of(chunk.last, trie.layout, len(chunk.paths)):
            for slot, output, asked, *_ in rows:
                assert slots[slot][0] == asked
                done[int(chunk.paths[output])] = (asked, (*slots[slot][1], layer))
    for number, path in enumerate(paths.tolist()):
        assert done[number] == (path[0], tuple(i for i in path[1:] if i != STOP))
    return ran


STEPS = [*range(5), Step(1, MLP).id, Step(1, ATTENTION).id, Step(3, share=0.5).id]
PATHS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200)
@given(
    st.lists(PATHS, min_size=1, max_size=4),
    st.one_of(st.integers(2, 9), st.sampled_from([40, 5000])),
    st.lists(st.tuples(st.integers(1, 32), st.integers(1, 4)), min_size=4, max_size=4),
    st.sampled_from([1, 4]),
    st.integers(1, 20),
)
def test_plan_computes_any_paths_in_any_sizes(waves, slots, prompts, page, outputs):
    """Equal paths, prefixes of others, one step again and again, and prompts of any lengths.

    Over waves of several widths, with states of earlier ones, and evictions where slots are few.
    """
    lengths, reads = np.array(prompts).T
    layout = Layout([shape._replace(page=page) for shape in SHAPES], 3, lengths, reads)
    planned, held, ran = Trie(slots, layout, outputs), {}, []
    for number, paths in enumerate(waves):
        table = wave(*paths, width=(8, 12, 7, 9)[number])
        chunks, cost = planned.plan(table)
        assert all(len(chunk.paths) <= outputs for chunk in chunks)
        before = len(set(ran))
        states = carry_out(planned, chunks, table, held)
        ran += states
        assert cost.unique == len(states)
        assert cost.again == len(states) - (len(set(ran)) - before)
        assert cost.useful == (table[:, 1:] != STOP).sum()
        assert cost.last == len(paths)
        assert cost.unique + cost.last + cost.hits <= cost.useful
        assert cost.evicted == 0 or slots < 5000
        real = [(chunk.tiles, slots) for chunk in chunks]
        real += [(chunk.last, len(chunk.paths)) for chunk in chunks]
        assert cost.token_rows == sum(count_token_rows(tiles, layout) for tiles, _ in real)
        tokens = [layout.length[t.table[:, 3][t.table[:, 2] != last]].sum() for t, last in real]
        done = sum(tokens[: len(chunks)]) + layout.reads[table[:, 0]].sum()
        assert cost.tokens == done


def test_plan_reuses_held_states():
    planned, path = Trie(100, one_shape(2), 10), wave((0, (0, 1, 2, 3)))
    first, again = (planned.plan(path)[1] for _ in range(2))
    assert (first.unique, first.hits) == (3, 0)
    assert (again.unique, again.hits) == (0, 3)
    cost = planned.plan(wave((0, (0, 1, 2, 2, 3)), (1, (0, 1))))[1]
    assert (cost.unique, cost.hits) == (2, 3)  # 0,1,2,2 of one question, 0 of the other


def test_plan_evicts_states_on_few_paths():
    """With room for few states, those that most paths share are the ones that are left."""
    planned, base = Trie(6, one_shape(1), 3), (0, 1, 2)
    planned.plan(wave(*((0, (*base, last, other)) for last in (3, 4) for other in (5, 3))))
    assert planned.plan(wave((0, (*base, 5))))[1].hits >= 2
    assert Trie(4, one_shape(1), 4).plan(np.zeros((0, 5), int)) == ([], Cost())


@given(
    st.lists(
        st.lists(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), min_size=1, max_size=3)
    ),
    st.sampled_from([20, 60]),
)
def test_blocks_of_a_prefix_are_those_of_the_same_layers(waves, blocks):
    """A question on a path reads, for each state, the block of the prefix after these layers."""
    layout, content, held = one_shape(2, 2), {}, {}
    prefix, questions = PrefixTrie(blocks, layout, blocks), Trie(99, layout, 9)
    for paths in waves:
        padded = np.unique([pad_path(path, 8) for path in paths], axis=0)
        chunks, shared, cost = prefix.plan_prefix(padded)
        for chunk in chunks:
            content |= {slot: () for _, slot in chunk.embedded.tolist()}
            for layer, rows in rows_of(chunk.tiles, layout, blocks):
                read = [content[source] for source, *_ in rows]
                for state, (_, slot, _, block, _) in zip(read, rows, strict=True):
                    assert block == slot
                    content[slot] = (*state, layer)
        assert cost.last == cost.useful == 0
        table = wave(*((question, path) for path in paths for question in (0, 1)))
        chunks, _ = questions.plan(table, shared)
        carry_out(questions, chunks, table, held)
        for chunk in chunks:
            for layer, rows in rows_of(chunk.tiles, layout, 99):
                assert all(content[block][-1] == layer for *_, block in rows)
            for _, rows in rows_of(chunk.last, layout, len(chunk.paths)):
                for _, output, _, _, block in rows:
                    path = table[chunk.paths[output], 1:]
                    assert content[block] == tuple(path[path != STOP].tolist())


def test_schedule_fills_tiles_of_a_layer_first():
    """Paths that meet in a layer run it together, whatever their depth."""
    trie = Trie(100, one_shape(4), 100)
    paths = wave(*((q, (*[q] * q, 5, 4)) for q in range(4)))
    (chunk,), cost = trie.plan(paths)
    (layer_5,) = np.flatnonzero(chunk.tiles.step == 5)
    assert (chunk.tiles.table[layer_5, 2] != trie.slots).all()
    assert cost.unique == 3 * 4 // 2 + 4


def test_parts_of_a_layer_run_before_higher_layers():
    """Steps are numbered by layer, so that states soon wait together at the layers above."""
    numbers = number_steps(np.array(STEPS))
    assert numbers.tolist() == [0, 1, 4, 5, 7, 3, 2, 6]
    assert number_steps(np.array([5, 2])).tolist() == [5, 2]


def test_schedule_packs_last_layers_by_layer():
    """So their weights are read once, whatever the order of the paths."""
    trie = Trie(100, one_shape(4), 100)
    paths = wave(*((q, (0, q % 2)) for q in range(8)))
    (chunk,), _ = trie.plan(paths)
    assert chunk.last.step.tolist() == [0, 1]
    assert chunk.paths.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_schedule_fills_tiles_with_rows_of_several_lengths():
    """Those that fill them whole, and the rest in the smallest tile that holds it."""
    lengths = np.array([30, 7, 25, 3, 18, 8, 5])
    trie = Trie(100, Layout(SHAPES, 3, lengths, np.ones(7, int)), 100)
    (chunk,), cost = trie.plan(wave(*((q, (0, 1)) for q in range(7))))
    assert chunk.tiles.table[:, LENGTH].sum(axis=1).tolist() == [48, 48]
    assert chunk.tiles.shape.tolist() == [0, 0]
    assert chunk.last.table[:, READS].sum(axis=1).tolist() == [3, 4]
    assert cost.tokens == 96 + 7
    assert cost.token_rows == 96 + 6 + 6


def tables(paths, positions):
    """Decode slots on these paths and one for padding, with a block from 1 for each position."""
    slots = len(paths)
    path = np.full((slots + 1, positions), STOP, np.int32)
    for slot, layers in enumerate(paths):
        path[slot, : len(layers)] = layers
    number = 1 + np.arange(path.size).reshape(path.shape)
    own = np.where(path == STOP, 0, number)
    prompt = np.where(path == STOP, 0, path.size + 1 - number)
    return path, own.astype(np.int32), prompt.astype(np.int32)


def check_step(paths, active, *heights):
    """Runs the tiles of a decode step on lists of layers; returns the tiles."""
    path, own, prompt = tables(paths, 8)
    layout = Layout.of_single_tokens(heights)
    tiles = decode_tiles(path, np.array(active, np.int32), own, prompt, layout, fixed=2)
    done = {slot: [] for slot in active}
    for table, shape in zip(tiles.table, tiles.shape, strict=True):
        seen = set()
        assert (table[1, layout.shapes[shape].rows :] == len(paths)).all()
        rows_of_tile = np.delete(table, [LENGTH, READS], axis=0).T.tolist()
        for layer, source, target, question, block, prompt_block in rows_of_tile:
            assert source == target == question  # a row's state, token and view
            if source == len(paths):
                assert (block, prompt_block) == (0, 0)
                continue
            assert source not in seen  # a row runs one layer at a time
            seen.add(source)
            position = len(done[source])
            assert (block, prompt_block) == (own[source, position], prompt[source, position])
            done[source].append(layer)
    assert done == {slot: list(paths[slot]) for slot in active}
    return tiles


@given(
    st.lists(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8), min_size=1, max_size=9),
    st.sets(st.integers(1, 5), min_size=1),
    st.randoms(use_true_random=False),
)
def test_decode_tiles_run_every_path_in_order(paths, heights, random):
    """Each active row runs its steps in order, on its own blocks; the others rest."""
    active = random.sample(range(len(paths)), random.randint(1, len(paths)))
    check_step(paths, active, *sorted(heights))


@given(st.integers(0, 40), st.sets(st.integers(1, 9), min_size=1), st.integers(0, 20))
def test_cover_rows_takes_the_least_time(rows, heights, fixed):
    """And all tiles but the last are full, as rows are dealt to the tallest first."""
    cover = cover_rows(rows, tuple(sorted(heights)), fixed)
    assert list(cover) == sorted(cover, reverse=True)
    assert sum(cover) >= rows > sum(cover[:-1]) or not rows
    times = [0] + [10**6] * rows
    for count in range(1, rows + 1):
        times[count] = min(fixed + height + times[max(0, count - height)] for height in heights)
    assert sum(cover) + fixed * len(cover) == times[rows]


def test_tiles_are_as_tall_as_many_rows_wait():
    """Eleven rows run layer 0; of those three run layer 1 as well."""
    paths = [(0, 1)] * 3 + [(0,)] * 8
    tiles = check_step(paths, list(range(11)), 3, 12)
    assert tiles.shape.tolist() == [1, 0]


def test_decode_tiles_visit_layers_seldom():
    """Rows wait for those with a repeat, so that they run what follows together."""
    plain, repeat = (0, 1, 2, 3, 4), (0, 1, 1, 2, 3, 4)
    tiles = check_step([plain, repeat, plain, repeat], [0, 1, 2, 3], 4)
    assert tiles.step.tolist() == [0, 1, 1, 2, 3, 4]
    paths = random_paths(6, 32, seed=0)
    paths = [path for path in paths if len(path) <= 8]
    merged = check_step(paths, list(range(len(paths))), 64)
    assert len(merged.step) < sum(map(len, paths)) / 3
