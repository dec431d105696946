"""From prompts to a scored rollout batch.

Start with `collect.py`; `sample.py` draws the answers, `score.py` asks for
their rewards.
"""
