"""Kinds of files that users give to commands, by name, each with the module that has it."""

from tests.fuzz import deployed_files, flag_files, gguf_fields, models, run_files, task_files

MODULES = {
    name: module
    for module in (models, gguf_fields, task_files, flag_files, run_files, deployed_files)
    for name in module.NAMES
}
