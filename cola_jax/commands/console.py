"""What the subcommands print on."""

from rich.console import Console

console = Console()
