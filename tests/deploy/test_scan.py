"""Blocks of a scan and their paths."""

import pytest

from cola_jax.deploy.scan import Block, block_of, blocks, scan_paths


def test_block_paths() -> None:
    assert Block("skip", 1, 3).path(5) == (0, 3, 4)
    assert Block("repeat", 1, 3).path(5) == (0, 1, 2, 1, 2, 3, 4)
    assert Block("skip", 3, 5).path(5) == (0, 1, 2)
    assert Block("repeat", 0, 5).path(5) == (0, 1, 2, 3, 4) * 2


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_scan_has_every_block_once(layers: int) -> None:
    paths = scan_paths(layers)
    assert len(paths) == len(set(paths)) == layers * (layers + 1)
    assert paths[0] == tuple(range(layers))
    assert [block_of(path, layers) for path in paths[1:]] == blocks(layers)


def test_longest_block_bounds_a_scan() -> None:
    assert len(blocks(30, longest=2)) == 2 * (30 + 29)
    for longest in (0, 31):
        with pytest.raises(ValueError, match=f"up to {longest} layers cannot be scanned"):
            blocks(30, longest)


def test_scan_of_one_kind_of_edit() -> None:
    assert {block.kind for block in blocks(5, kinds=("repeat",))} == {"repeat"}
    assert len(scan_paths(5, 1, ("skip",))) == 6
