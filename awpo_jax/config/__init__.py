"""Every flag: declared, bounded and explained once, and checked together.

Start with `sections.py` (the run), `data.py` (data and rewards) and
`algorithm.py` (the method). `experiment.py` makes one record of them,
`flags.py` says what stands at a flag, and `checks.py` refuses what cannot work
together.
"""
