"""From a scored rollout batch to new parameters.

Start with `prepare.py` (advantages, clip radius, old log-probabilities) and
`train_step.py` (one update).
"""
