"""What lasts of a run: its folder, checkpoints, and models in other formats.

Start with `checkpoints.py`; `policies.py` loads a trained or foreign model and
`initial_params.py` makes the parameters that a run starts from.
"""
