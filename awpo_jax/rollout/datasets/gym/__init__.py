"""Generators of the package `reasoning-gym` as tasks of one tool call.

Start with `tasks.py`, which makes tasks of what `package.py` generates and
scores; `steps.py` reads the intermediate states off a request.
"""
