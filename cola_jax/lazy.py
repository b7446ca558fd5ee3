"""Names of a package that are listed in its stub, and imported when they are first used."""

import functools
from collections.abc import Callable


def attach(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package with a stub beside its file.

    lazy_loader is imported with the first name: the plugin of vLLM imports this package where
    nothing that it needs is installed.
    """

    @functools.cache
    def names() -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
        import lazy_loader

        return lazy_loader.attach_stub(package, file)

    def load_name(name: str) -> object:
        if name == "__all__":
            return names()[2]
        if name.startswith("__"):  # which the import system and others look for
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return names()[0](name)

    def list_names() -> list[str]:
        return names()[1]()

    return load_name, list_names
