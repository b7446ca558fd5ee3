"""Features on disk: computed once, in parts of their own lengths."""

import numpy as np
import pytest
from etils import epath

from cola_jax.deploy.router.cache import FeatureCache

PARTS = [np.array([2, 0]), np.array([1])]


def test_feature_cache_computes_what_is_not_there(tmp_path):
    asked = []

    def compute(some):
        asked.append(some.tolist())
        return np.stack([np.full((2 + len(some), 3), i, np.float32) for i in some])

    for _ in range(2):
        cache = FeatureCache(epath.Path(tmp_path), PARTS)
        cache.fill(compute)
        assert asked == [[2, 0], [1]]
        assert cache.longest == 4
        rows = cache.take(np.array([1, 2]))
        assert rows.dtype == np.float16
        assert rows[0, :, 0].tolist() == [1, 1, 1, 0]
        assert rows[1, :, 0].tolist() == [2, 2, 2, 2]


def test_feature_cache_names_a_damaged_file(tmp_path):
    (tmp_path / "part-00000.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"part-00000\.npy is damaged"):
        FeatureCache(epath.Path(tmp_path), PARTS).fill(lambda some: np.zeros((len(some), 1)))
