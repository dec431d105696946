"""A bundled task in which the thought computes what the call says.

Start with `facts.py`, which draws and writes the facts and reads them again;
`tasks.py` makes tasks and demonstrations of them.
"""
