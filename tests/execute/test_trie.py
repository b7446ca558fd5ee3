"""The plans of waves, carried out on prefixes in place of states."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_jax.execute.plan import Cost, Layout, TileShape
from cola_jax.execute.schedule import count_token_rows
from cola_jax.execute.trie import PrefixTrie, Trie
from cola_jax.path import STOP, pad_path

SHAPES = (TileShape(5, 8), TileShape(3, 16), TileShape(2, 32))


def trie(slots, rows, outputs, questions=8):
    return Trie(slots, Layout.of_shape(TileShape(rows, 8), questions), outputs)


def wave(*paths, width=8):
    """Rows of questions and their paths."""
    return np.array([[question, *pad_path(path, width)] for question, path in paths])


def rows_of(tiles, layout, padding):
    """Yield the layer of each tile and its rows, which fit the tile's shape."""
    for table, shape in zip(tiles.table, tiles.shape, strict=True):
        real = table[2] != padding
        assert not real[layout.shapes[shape].rows :].any()
        assert (layout.length[table[3, real]] <= layout.shapes[shape].tokens).all()
        yield int(table[0, 0]), table[1:, real].T.tolist()


def carry_out(trie, chunks, paths, slots):
    """Run chunks on `slots`, {slot: (question, prefix)}, and check every row and output."""
    done = {}
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
        assert set(slots) <= set(range(trie.slots))
        for layer, rows in rows_of(chunk.last, trie.layout, len(chunk.paths)):
            for slot, output, asked, *_ in rows:
                assert slots[slot][0] == asked
                done[int(chunk.paths[output])] = (asked, (*slots[slot][1], layer))
    for number, path in enumerate(paths.tolist()):
        assert done[number] == (path[0], tuple(i for i in path[1:] if i != STOP))


PATHS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 4), min_size=1, max_size=7)),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200)
@given(
    st.lists(PATHS, min_size=1, max_size=4),
    st.one_of(st.integers(2, 9), st.sampled_from([40, 5000])),
    st.lists(st.integers(1, 32), min_size=4, max_size=4),
    st.integers(1, 20),
)
def test_plan_computes_any_paths_in_any_sizes(waves, slots, lengths, outputs):
    """Equal paths, prefixes of others, one layer again and again, and prompts of any lengths.

    Over waves of several widths, with states of earlier ones, and evictions where slots are few.
    """
    tokens = [shape.tokens for shape in SHAPES]
    layout = Layout(SHAPES, np.searchsorted(tokens, lengths), np.array(lengths))
    planned, held = Trie(slots, layout, outputs), {}
    for number, paths in enumerate(waves):
        table = wave(*paths, width=(8, 12, 7, 9)[number])
        chunks, cost = planned.plan(table)
        assert all(len(chunk.paths) <= outputs for chunk in chunks)
        carry_out(planned, chunks, table, held)
        assert cost.useful == (table[:, 1:] != STOP).sum()
        assert cost.last == len(paths)
        assert cost.unique + cost.last + cost.hits <= cost.useful
        assert cost.evicted == 0 or slots < 5000
        real = [(chunk.tiles, slots) for chunk in chunks]
        real += [(chunk.last, len(chunk.paths)) for chunk in chunks]
        assert cost.token_rows == sum(count_token_rows(tiles, layout) for tiles, _ in real)
        assert cost.tokens == sum(
            layout.length[tiles.table[:, 3][tiles.table[:, 2] != padding]].sum()
            for tiles, padding in real
        )


def test_plan_reuses_held_states():
    planned, path = trie(100, 2, 10), wave((0, (0, 1, 2, 3)))
    first, again = (planned.plan(path)[1] for _ in range(2))
    assert (first.unique, first.hits) == (3, 0)
    assert (again.unique, again.hits) == (0, 3)
    cost = planned.plan(wave((0, (0, 1, 2, 2, 3)), (1, (0, 1))))[1]
    assert (cost.unique, cost.hits) == (2, 3)  # 0,1,2,2 of one question, 0 of the other


def test_plan_evicts_states_on_few_paths():
    """With room for few states, those that most paths share are the ones that are left."""
    planned, base = trie(6, 1, 3), (0, 1, 2)
    planned.plan(wave(*((0, (*base, last, other)) for last in (3, 4) for other in (5, 3))))
    assert planned.plan(wave((0, (*base, 5))))[1].hits >= 2


def test_plan_of_no_paths_has_no_chunks():
    assert trie(4, 1, 4).plan(np.zeros((0, 5), int)) == ([], Cost())


@given(
    st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=3)),
    st.sampled_from([20, 60]),
)
def test_blocks_of_a_prefix_are_those_of_the_same_layers(waves, blocks):
    """A question on a path reads, for each state, the block of the prefix after these layers."""
    layout = Layout.of_shape(TileShape(2, 8), 2)
    prefix, questions, content, held = PrefixTrie(blocks, layout), Trie(99, layout, 9), {}, {}
    for paths in waves:
        padded = np.unique([pad_path(path, 8) for path in paths], axis=0)
        tiles, embedded, shared, cost = prefix.plan_prefix(padded)
        content |= {slot: () for _, slot in embedded.tolist()}
        for part in tiles:
            for layer, rows in rows_of(part, layout, blocks):
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
