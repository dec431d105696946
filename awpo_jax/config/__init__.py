"""Every flag: declared, bounded and explained once, and checked together.

Start with `sections.py` (the run), `phases.py` (SFT and RL), `data.py` (data
and rewards) and `advantage.py` (the method); `experiment.py` makes one record
of them, and `checks.py` refuses what cannot work together.
"""
