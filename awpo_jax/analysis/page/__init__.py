"""A run as one HTML file: its curves, groups, answers and tokens.

Start with `reading.py`, which makes plain data of a run's folder; `writing.py`
puts it into the page, whose parts are the `page.*` files beside it.
"""
