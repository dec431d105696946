"""The training loop and the wings it is made of.

Start with `steps.py`: sample, score, advantages, updates. `loop.py` takes one
step after another, `bookkeeping.py` keeps what comes of them. The wings:
`collection/` makes rollout batches, `update/` trains on them, `programs/`
compiles both, `dry_run/` says what they need without running.
"""
