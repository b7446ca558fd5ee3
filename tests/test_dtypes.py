"""Names of dtypes, as users write them."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.dtypes import DTYPES, FLOATS, dtype_name


def test_dtype_name_takes_names_short_names_and_dtypes():
    for dtype in ("bf16", "bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")):
        assert dtype_name(dtype) == "bfloat16"
    assert dtype_name(np.float32) == dtype_name("fp32") == "float32"
    assert dtype_name("auto") is dtype_name(None) is None
    assert [dtype_name(name) for name in DTYPES] == list(DTYPES)


@pytest.mark.parametrize("dtype", ["bfloat", float, "int8", [], 16], ids=str)
def test_dtype_name_refuses_others(dtype):
    with pytest.raises(ValueError, match="is not one of float32, bfloat16, float16"):
        dtype_name(dtype, FLOATS)
