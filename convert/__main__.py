"""`python -m convert SOURCE DESTINATION`: the command `cola convert`, from a checkout."""

import sys

from cola_jax.cli.main import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
