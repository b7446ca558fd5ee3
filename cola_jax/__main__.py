"""`python -m cola_jax`: the command `cola`."""

from cola_jax.cli.main import main

if __name__ == "__main__":
    main()
