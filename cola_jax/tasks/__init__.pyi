from .formats import Format, Shots, format_of, load_shots
from .registry import load_questions
from .task import TaskConfig

__all__ = ["Format", "Shots", "TaskConfig", "format_of", "load_questions", "load_shots"]
