"""What a run writes for people: metrics, curves, summary, rollout archive.

Start with `metrics.py`, through which every number passes.
"""
