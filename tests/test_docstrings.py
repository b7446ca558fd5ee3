"""The docstrings of what `cola_jax` exports say what is returned, in one style."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cola_jax
from cola_jax.formats.conversion import convert
from cola_jax.strategies.loop import search

PACKAGES = {"convert": convert, "search": search}  # which can be called as well
SECTIONS = ("Args:", "Returns:", "Raises:")


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yields the exported functions, and the public methods of exported classes that are ours."""
    for name in cola_jax.__all__:
        exported = PACKAGES.get(name, getattr(cola_jax, name))
        if not inspect.isclass(exported):
            yield name, exported
            continue
        for method, value in vars(exported).items():
            function = getattr(value, "__func__", value)
            ours = inspect.isfunction(function) and function.__module__.startswith("cola_jax.")
            if ours and not method.startswith("_") and inspect.getdoc(function) != FLAX:
                yield f"{name}.{method}", function


FLAX = inspect.getdoc(cola_jax.Prompts.replace)  # which flax writes into our classes


@pytest.mark.parametrize(("name", "function"), list(functions()))
def test_docstring_says_what_is_returned(name: str, function: Callable[..., Any]) -> None:
    lines = (inspect.getdoc(function) or "").splitlines()
    assert lines, name
    assert lines[0].endswith("."), lines[0]
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert "Returns:" in lines, name
        # then the one line does not say the same
        assert not lines[0].startswith("Returns")
    assert [line for line in lines if line in SECTIONS] == [s for s in SECTIONS if s in lines]
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line in SECTIONS:
            assert before == ""
            assert after.startswith("  ")


@pytest.mark.parametrize("name", cola_jax.__all__)
def test_every_name_is_documented(name: str) -> None:
    exported = PACKAGES.get(name, getattr(cola_jax, name))
    text = inspect.getdoc(exported) or ""
    assert text[:1].isupper()
    assert not text.startswith(f"{name}(")  # what dataclasses write where there is none
