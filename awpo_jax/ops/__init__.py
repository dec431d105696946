"""The mathematics: pure functions of arrays, one per equation.

Start with `awpo.py` (from two rewards to one advantage) and `surrogate.py`
(from advantages to the loss); `advantages.py` lists every algorithm by its
flag.
"""
