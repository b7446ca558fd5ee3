"""Small runs that are shared by the tests of a folder."""

from tests.small_runs import evaluated_run, open_evaluated, open_run, run

__all__ = ["evaluated_run", "open_evaluated", "open_run", "run"]
