"""Script that writes a message with a chat template, within limits; started by `tokenizer_trial`.

It is run by path and not imported from the package, so that it does not load JAX. It exits with
`EXCEEDED` where memory does not suffice, and is killed where time does not. Any other error of a
template is left to transformers, whose sandbox has what this one lacks.
"""

import contextlib
import json
import sys

EXCEEDED = 3


def main(memory: int, seconds: int) -> None:
    """Renders the template on stdin; `memory` is in bytes, `seconds` are of the processor."""
    variables = json.load(sys.stdin)
    template = variables.pop("template")
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block {% generation %}, which marks what the model writes."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["strftime_now"] = lambda form: form
    limit(memory, seconds)
    try:
        environment.from_string(template).render(**variables)
    except MemoryError:
        sys.exit(EXCEEDED)
    except Exception:
        pass


def limit(memory: int, seconds: int) -> None:
    """Limits the address space and the time of the processor, where the system supports it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
