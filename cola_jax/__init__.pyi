from .config import ModelConfig
from .deploy.front import choose
from .deploy.transformers_path import apply_path, remove_path
from .engine.ray import RayEngine
from .execute.decoder import Stop
from .execute.generate import Generated, generate
from .execute.reference import run_path
from .execute.run_paths import run_paths
from .formats.cache import load, load_tokenizer
from .formats.conversion import convert
from .metrics import Metrics
from .params import Model
from .path import format_path, parse_path
from .prompts import Prompts, Readings
from .question import Question
from .runs.evaluate import evaluate
from .runs.evaluation import Evaluation
from .runs.outcomes import Outcomes
from .runs.search import confirm, save_run, search
from .scoring.scorer import Scorer
from .scoring.verdicts import Verdicts
from .strategies.outcome import Outcome
from .tasks.registry import load_questions

__version__: str

__all__ = [
    "Evaluation",
    "Generated",
    "Metrics",
    "Model",
    "ModelConfig",
    "Outcome",
    "Outcomes",
    "Prompts",
    "Question",
    "RayEngine",
    "Readings",
    "Scorer",
    "Stop",
    "Verdicts",
    "apply_path",
    "choose",
    "confirm",
    "convert",
    "evaluate",
    "format_path",
    "generate",
    "load",
    "load_questions",
    "load_tokenizer",
    "parse_path",
    "remove_path",
    "run_path",
    "run_paths",
    "save_run",
    "search",
]
