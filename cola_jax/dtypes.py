"""Names of the dtypes of weights and activations."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from cola_jax.errors import InputError, did_you_mean, shown

FloatDtype = Literal["float32", "bfloat16", "float16"]
Dtype = Literal[FloatDtype, "int8"]  # the last of weights alone
FLOATS: tuple[str, ...] = get_args(FloatDtype)
DTYPES: tuple[str, ...] = get_args(Dtype)
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def dtype_name(dtype: Any, names: Sequence[str] = DTYPES) -> str | None:
    """Return the name of a dtype, which is a name, a short name, or a dtype of NumPy or JAX.

    None for None and "auto", which stand for the dtype of the source. InputError for a dtype that
    is not among the names.
    """
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    name = SHORT.get(dtype, dtype) if isinstance(dtype, str) else name_of_dtype(dtype)
    if name not in names:
        near = did_you_mean(name, names) if isinstance(name, str) else ""
        raise InputError(f"dtype {shown(dtype)} is not one of {', '.join(names)}{near}.")
    return name


def name_of_dtype(dtype: Any) -> str | None:
    """Return the name of a dtype of NumPy or JAX, None for other values."""
    import jax.numpy as jnp  # which the command line does without

    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return None
