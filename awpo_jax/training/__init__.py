"""The training loop and the wings it is made of.

Start with `loop.py`, then `steps.py`: sample, score, advantages, updates. The
wings: `collection/` makes rollout batches, `update/` trains on them,
`programs/` compiles both, `dry_run/` says what they need without running.
"""
