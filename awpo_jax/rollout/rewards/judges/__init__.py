"""Judges of the reasoning: an offline rubric, a language model, bad ones.

Start with `rubric.py` for what a judge is, and with `llm.py` for a model behind
an endpoint; `patient.py` is how a run waits for either.
"""
