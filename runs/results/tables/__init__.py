"""The papers' tables and ours: every cell with its interval, the optimum and a verdict."""

from runs.results.tables.cells import Cell, Table, learns
from runs.results.tables.missing import missing_runs
from runs.results.tables.pictures import draw_headline, draw_table
from runs.results.tables.registered import register_row, tables
from runs.results.tables.render import FORMATS, Format, render
from runs.results.tables.rows import Row, choose, table_rows

__all__ = [
    "FORMATS",
    "Cell",
    "Format",
    "Row",
    "Table",
    "choose",
    "draw_headline",
    "draw_table",
    "learns",
    "missing_runs",
    "register_row",
    "render",
    "table_rows",
    "tables",
]
