"""What a run keeps on disk: its folder, checkpoints, and exported models.

Start with `checkpoints.py`; `policies.py` loads a trained or foreign model and
`initial_params.py` makes the parameters that a run starts from.
"""
