"""Measuring a policy: held-out rows, BFCL, API-Bank and MMLU-Pro.

Start with `run.py`, the program behind `experiments/evaluate.py`; each
benchmark has a file that scores it.
"""
