"""Reports of runs: numbers, tables for the terminal and Markdown, figures, and an HTML page."""

from cola_jax.report.controls import check_runs as check_runs
from cola_jax.report.controls import compare_runs as compare_runs
from cola_jax.report.evaluation import evaluation_report as evaluation_report
from cola_jax.report.evaluation import path_results as path_results
from cola_jax.report.page import write_page as write_page
from cola_jax.report.page import write_search_page as write_search_page
from cola_jax.report.prompts import prompts_report as prompts_report
from cola_jax.report.results import held_out_of as held_out_of
from cola_jax.report.results import tasks_table as tasks_table
from cola_jax.report.results import write_results as write_results
from cola_jax.report.search import changes_table as changes_table
from cola_jax.report.search import run_names as run_names
from cola_jax.report.search import search_report as search_report
from cola_jax.report.summary import summarise as summarise
from cola_jax.report.tables import effect_cells as effect_cells
