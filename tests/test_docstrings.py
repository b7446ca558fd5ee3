"""The API page: every exported name is documented, and pdoc renders it without a warning."""

import inspect

import pytest

import cola_jax

METHODS = [
    (f"{name}.{method}", function)
    for name in cola_jax.__all__
    if inspect.isclass(exported := getattr(cola_jax, name))
    for method, function in vars(exported).items()
    if not method.startswith("_") and inspect.isfunction(function)
]


@pytest.mark.parametrize("name", cola_jax.__all__)
def test_every_name_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(cola_jax, name)) or ""
    assert text[:1].isupper()
    assert not text.startswith(f"{name}(")  # the docstring that dataclasses write


def test_every_public_method_is_documented() -> None:
    assert not [name for name, method in METHODS if not inspect.getdoc(method)]


# pydantic annotates the constructor of its dataclasses with a class that pdoc cannot import
@pytest.mark.filterwarnings("ignore:.*PydanticDataclass:UserWarning")
def test_api_page_has_no_warnings(tmp_path) -> None:
    pdoc = pytest.importorskip("pdoc")
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("cola_jax", output_directory=tmp_path)  # a warning is an error in tests
    page = (tmp_path / "cola_jax.html").read_text()
    assert all(f'id="{name}"' in page for name in cola_jax.__all__)
