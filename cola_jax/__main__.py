"""`python -m cola_jax`: the command `cola`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main handles it: Python prints a traceback

from cola_jax.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
