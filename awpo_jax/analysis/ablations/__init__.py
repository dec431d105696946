"""Grids of runs, and what their runs tell about each other.

Start with `grid.py`, which runs every cell with every seed; `comparison.py`
compares the cells over seeds, `by_row.py` over held-out rows.
"""
