"""The rows of BFCL v4 as tasks, single-turn and multi-turn.

Start with `rows.py`, which reads the files; `tasks.py` makes prompts of them
and `episodes.py` tasks whose calls run.
"""
