"""Kinds of files that users give to commands, by name, each with the module that has it."""

from tests.fuzz import models

MODULES = {name: module for module in (models,) for name in module.NAMES}
