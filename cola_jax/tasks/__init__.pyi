from .formats import Shots, load_shots
from .registry import TASKS, load_questions
from .task import TaskConfig

__all__ = ["TASKS", "Shots", "TaskConfig", "load_questions", "load_shots"]
