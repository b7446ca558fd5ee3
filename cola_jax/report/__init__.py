"""Renderers of results: tables for the terminal and Markdown, figures, and an HTML page."""
