"""What a run needs of devices it does not have (`--dry_run`).

Start with `memory.py`, which makes the report.
"""
