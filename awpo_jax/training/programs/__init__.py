"""The compiled programs of a run.

Start with `from_flags.py`, where flags choose the functions, and `compile.py`,
which compiles them for the devices.
"""
