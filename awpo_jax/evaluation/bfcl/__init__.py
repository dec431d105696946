"""How BFCL v4 scores calls, single-turn and multi-turn.

Start with `checker.py`, which decides whether calls are right;
`multi_turn.py` plays the rows whose calls run.
"""
