"""Checkpoints as they were written through version 0 of Orbax's API.

The runs of before 2026-11-29 have such ones. `FILES` holds three of that time,
of which the tests know every number; `rewrite` makes one of a new checkpoint,
with the calls that wrote them.
"""

import json
import pathlib
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint import v1

from awpo_jax import types
from awpo_jax.checkpointing import checkpoints

# Steps 3, 5 and 7: `state` of each, accuracies 0.9, none and 0.5. The arrays
# of step 3 were on four devices, and were given to Orbax as they were, as on
# accelerators.
FILES = pathlib.Path(__file__).with_name('v0_checkpoints.zip')
FLAGS = {'width': 4, 'lora_alpha': None}
POSITION = {'phase': 'rl', 'elapsed': 1.5}


@types.record
class State:
  """What was stored.

  Attributes:
    params: tree of arrays.
    opt_state: of AdamW.
    step: i32[].
  """

  params: types.ArrayTree
  opt_state: types.ArrayTree
  step: types.Array


def state(step: int) -> State:
  """The state of a step in `FILES`."""
  params = {
    'embed': jnp.arange(12, dtype='float32').reshape(3, 4) / 8 + step,
    'layer_0': {'scale': jnp.arange(4).astype('bfloat16') + step},
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  first, (adam, *rest) = tx.init(params)
  adam = adam._replace(
    count=jnp.int32(step),
    mu=jax.tree.map(lambda x: 2 * x, params),
    nu=jax.tree.map(lambda x: 3 * x, params),
  )
  return State(params, (first, (adam, *rest)), jnp.int32(step))


def unpack(folder: pathlib.Path) -> None:
  """Puts `FILES` into a folder."""
  with zipfile.ZipFile(FILES) as archive:
    archive.extractall(folder)


def rewrite(checkpoint: pathlib.Path) -> None:
  """Puts the folder of a new checkpoint in the old format."""
  new = checkpoint.rename(checkpoint.with_name('new'))
  position, flags, metrics = (
    json.loads(next((new / name).glob(pattern)).read_text())
    for name, pattern in (
      (checkpoints.POSITION, 'data.json'),
      (checkpoints.FLAGS, 'data.json'),
      (checkpoints.METRICS, 'metrics'),
    )
  )
  tree = v1.metadata(new, checkpoints.STATE).metadata
  example = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)
  tree = v1.load(new, example, checkpointable_name=checkpoints.STATE)
  shutil.rmtree(new)
  options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: 0.0)
  with ocp.CheckpointManager(checkpoint.parent, options=options) as manager:
    manager.save(
      int(checkpoint.name),
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(tree),
        position=ocp.args.JsonSave(position),
        flags=ocp.args.JsonSave(flags),
      ),
      metrics=metrics,
      force=True,
    )
