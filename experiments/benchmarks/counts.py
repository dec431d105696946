"""Rollouts and updates by formula: operations, bytes, columns, steps.

A multiplication and its addition are two. Matrix products alone are counted,
prompts once per group, nothing that is computed a second time, a causal mask at
full width: what the work asks for, however a program does it.
"""

import heapq
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.models import config as model_config


def forward(
  model: model_config.DecoderConfig,
  *,
  prompts: int,
  samples: int,
  prompt: int,
  response: int,
  causal: bool = False,
) -> float:
  """Of the log-probabilities of `prompts` x `samples` responses.

  Args:
    model: its shapes.
    prompts: P.
    samples: G.
    prompt: tokens of each prompt.
    response: tokens of each response.
    causal: counts the keys that a token may see, as decoding does, and not the
      whole square.
  """
  read, written = prompts * prompt, prompts * samples * response
  attention = model.heads * model.head_width
  projections = model.width * (
    2 * attention + 2 * model.kv_heads * model.head_width
  )
  block = projections + 3 * model.width * model.mlp_width
  own = response / 2 if causal else response
  before = prompt / 2 if causal else prompt
  scores = 2 * attention * (written * (prompt + own) + read * before)
  per_layer = block * (read + written) + scores
  return 2.0 * (
    model.layers * per_layer + model.width * model.vocab_size * written
  )


def update(model: model_config.DecoderConfig, **sizes: Any) -> float:
  """Of a forward and a backward pass, which costs twice the forward one."""
  return 3.0 * forward(model, **sizes)


def decode_bytes(
  model: model_config.DecoderConfig,
  *,
  rows: int,
  prompts: int,
  prompt: int,
  own: float,
) -> float:
  """Bytes that a decoding step of `rows` rows reads, if each is read once.

  Args:
    model: its shapes and dtypes.
    rows: that take a step.
    prompts: whose keys and values the rows share.
    prompt: tokens of each.
    own: tokens that the rows have of their own so far, on average.
  """
  attention = model.heads * model.head_width
  kept = model.kv_heads * model.head_width
  block = model.width * (2 * attention + 2 * kept + 3 * model.mlp_width)
  weights = model.layers * block + model.width * model.vocab_size
  cache = 2 * kept * model.layers * (rows * own + prompts * prompt)
  return float(
    weights * model.param_dtype.itemsize + cache * model.dtype.itemsize
  )


def tokens_and_columns(batch: types.Batch) -> tuple[int, int]:
  """Tokens of a mini-batch, and columns that are computed for them.

  Args:
    batch: of `minibatches.cut`, [parts, M, P, ...], packed or not.
  """
  tokens = int(batch.prompt_mask.sum() + batch.mask.sum())
  padded = batch.prompt_mask.size + batch.mask.size
  rows = batch.layout
  if rows is None:
    return tokens, padded
  assert rows.alone is not None
  # What does not fit into a row is padded, as without packing.
  alone = int((rows.alone >= 0).sum()) * padded // batch.clip_radius.size
  filled = int((rows.groups >= 0).any(axis=-1).sum())
  return tokens, alone + filled * rows.targets.shape[-1]


def steps_in_slots(lengths: np.ndarray, *, slots: int, shared: int = 1) -> int:
  """Decoding steps that one part takes for samples of known lengths.

  Args:
    lengths: i[P, G], tokens of each.
    slots: as of `continuous_batching.sample`.
    shared: likewise.
  """
  lanes = [0] * max(slots // shared, 1)
  for longest in lengths.reshape(-1, shared).max(axis=1):
    heapq.heapreplace(lanes, lanes[0] + int(longest))
  return max(lanes)
