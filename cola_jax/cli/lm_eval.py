"""`cola lm-eval`."""

import dataclasses
import importlib.util
import sys
import traceback
from pathlib import Path

from cola_jax.cli.signals import keeping
from cola_jax.errors import InputError, first_line

UNKEPT = "the harness keeps answers with --use_cache alone, and then goes on with the same command."


@dataclasses.dataclass(frozen=True)
class LmEval:
    """Run lm-evaluation-harness with the model `cola`; all arguments are the harness's own."""

    arguments: tuple[str, ...] = ()
    """Such as --model cola --model_args checkpoint=DIRECTORY,path=0-5,8-29 --tasks arc_easy."""

    def run(self) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError(
                "lm-evaluation-harness is not installed: pip install 'cola-jax[lm-eval]'."
            )
        from lm_eval.__main__ import cli_evaluate

        import cola_jax.deploy.lm_eval  # noqa: F401 - registers the model
        from cola_jax.deploy.model_args import join_path

        given = sys.argv
        # the harness reads its command line from nowhere else
        sys.argv = ["lm-eval", *(join_path(argument) for argument in self.arguments)]
        try:
            with keeping(UNKEPT):
                cli_evaluate()
        except ValueError as error:
            if not about_arguments(error):
                raise
            raise InputError(f"lm-evaluation-harness: {first_line(error)}.") from error
        finally:
            sys.argv = given


def about_arguments(error: ValueError) -> bool:
    """Whether an error was raised where the harness checks its command line."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return file.parts[-2:] in (("lm_eval", "evaluator.py"), ("lm_eval", "__main__.py")) or (
        file.parts[-3:-1] in (("lm_eval", "_cli"), ("lm_eval", "config"))
    )
