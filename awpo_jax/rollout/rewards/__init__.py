"""Scoring of answers: the outcome reward, and how both rewards are asked for.

Start with `scoring.py`, which scores a batch; `toolrl.py` is the default
outcome reward and `judges/` grades the reasoning.
"""
