"""From a task to scored answers: data sets, text, sampling, tools, rewards.

Start with `rewards/scoring.py` for what an answer earns and with
`sampling/sampler.py` for how it is drawn.
"""
