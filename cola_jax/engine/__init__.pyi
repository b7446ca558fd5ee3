from .evaluator import EngineEvaluator

__all__ = [
    "EngineEvaluator",
]
