from .formats import Format, format_of
from .load import kind_of, load_questions
from .shots import load_shots
from .task import TaskConfig

__all__ = ["Format", "TaskConfig", "format_of", "kind_of", "load_questions", "load_shots"]
