"""What a run found: its numbers, tables for the terminal, figures, and one HTML page."""

from cola_jax.report.compare import changes_table as changes_table
from cola_jax.report.compare import check_runs as check_runs
from cola_jax.report.compare import compare_runs as compare_runs
from cola_jax.report.compare import run_names as run_names
from cola_jax.report.markdown import write_markdown as write_markdown
from cola_jax.report.page import write_page as write_page
from cola_jax.report.paths import paths_table as paths_table
from cola_jax.report.paths import write_paths_page as write_paths_page
from cola_jax.report.results import tasks_table as tasks_table
from cola_jax.report.results import write_results as write_results
from cola_jax.report.summary import summarise as summarise
from cola_jax.report.table import summary_table as summary_table
