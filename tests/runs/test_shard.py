"""Shards: how they are written."""

import pytest

from cola_jax.runs.shard import Shard


def test_shard_is_parsed_as_it_is_written():
    assert Shard.parse(" 3/12 ") == Shard(3, 12)
    assert str(Shard(3, 12)) == "3/12"


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "1/0", "a/b", "1.0/2"])
def test_shard_refuses_other_text(text):
    with pytest.raises(ValueError, match="is not one of 0/N to N-1/N"):
        Shard.parse(text)
