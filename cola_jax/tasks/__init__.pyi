from .formats import Format, format_of
from .load import load_questions
from .shots import Shots, load_shots
from .task import TaskConfig

__all__ = ["Format", "Shots", "TaskConfig", "format_of", "load_questions", "load_shots"]
