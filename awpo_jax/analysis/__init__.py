"""Looking back at runs: replayed rollouts, compared runs, the theory.

Start with `replay.py` (what would another gate have done?) and
`ablations/grid.py` (a grid of flags and seeds). The notebooks start from
`examples.py`.
"""
