"""The bundled task: twelve tools, generated requests, flawed demonstrations.

Start with `tasks.py`; `flaws.py` holds the habits that the demonstrations have,
and `episodes.py` the tasks of several turns.
"""
