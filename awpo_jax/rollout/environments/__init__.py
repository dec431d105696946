"""Where tool calls run, and the episodes of several turns they make.

Start with `protocol.py`, the interface of an environment, and `episodes.py`,
which plays them.
"""
