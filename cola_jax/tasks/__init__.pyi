from .formats import Shots, load_shots
from .registry import load_questions
from .task import TaskConfig

__all__ = ["Shots", "TaskConfig", "load_questions", "load_shots"]
