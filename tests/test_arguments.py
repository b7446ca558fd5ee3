"""The arguments of public functions: mistakes, and what is taken beside the usual type."""

import subprocess
import sys

import cola_jax


def test_mistakes_are_one_line_that_names_the_argument(tiny_checkpoint):
    command = [sys.executable, "-m", "tests.mistakes", str(tiny_checkpoint)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_question_takes_options_as_a_list():
    assert cola_jax.Question("q", "?", ["a", "b"], 1).options == ("a", "b")
