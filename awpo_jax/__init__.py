"""Training of tool-using language models with AWPO.

The method stands in three files: `ops/awpo.py` (gate, difficulty weight,
combined advantage), `ops/surrogate.py` (the clipped loss) and
`training/steps.py`. A folder may import those before it in this order: ops,
models, reporting, rollout, config, distributed, checkpointing, evaluation,
training, analysis; `types.py` holds the records that travel between them.
"""
