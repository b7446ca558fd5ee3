"""Copies of modules that share their parameters."""

import types
from typing import TypeGuard, TypeVar

from torch import nn

Held = TypeVar("Held")


def shallow_copy(original: Held) -> Held:
    """Copy an object with the same values; methods that it keeps are those of the copy."""
    copied = object.__new__(type(original))
    vars(copied).update(vars(original))
    for name, value in vars(original).items():
        if is_method_of(value, original):
            vars(copied)[name] = types.MethodType(value.__func__, copied)
    return copied


def copy_module(original: nn.Module) -> nn.Module:
    """Copy a module, with tables of its own for the same parameters and modules."""
    copied = shallow_copy(original)
    for table in ("_parameters", "_buffers", "_modules"):
        vars(copied)[table] = dict(vars(original)[table])
    return copied


def is_method_of(value: object, owner: object) -> TypeGuard[types.MethodType]:
    """Whether a value is a method that is bound to an object."""
    return isinstance(value, types.MethodType) and value.__self__ is owner
