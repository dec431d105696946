"""From prompts to a scored rollout batch.

`sample.py` draws the answers, `score.py` asks for their rewards, and
`dynamic_sampling.py` fills a batch of several rounds; `steps.py` puts these in
a row.
"""
