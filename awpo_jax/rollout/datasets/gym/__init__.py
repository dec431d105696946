"""Generators of the package `reasoning-gym` as tasks of one tool call.

Start with `tasks.py`; `steps.py` reads the intermediate states off a request.
The package itself is met in `rollout/rewards/generators.py`, which also says
what answers are right.
"""
