"""Part files: thousands of small tables in one."""

import pyarrow as pa

from cola_jax.runs.parts import TOGETHER, join


def test_join_keeps_the_order_and_has_few_chunks():
    tables = [pa.table({"n": [i], "path": [[i, i]]}) for i in range(3 * TOGETHER + 1)]
    joined = join(tables[:1], iter(tables[1:]))
    assert joined.to_pylist() == [{"n": i, "path": [i, i]} for i in range(len(tables))]
    assert joined["n"].num_chunks == 4
