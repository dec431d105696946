"""Codecs of tests: a tokenizer with what a run would have decided about it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import chat_template, codec, tokenizers


def make(tokenizer, *, stop_ids=(), reader=None, style=None) -> codec.Codec:
  """A codec; without stop tokens those that its chat template names."""
  return codec.Codec(
    tokenizer,
    stop_ids=tuple(stop_ids) or tokenizers.stop_token_ids(tokenizer),
    pad_id=0,
    style=style or chat_template.DEFAULT_STYLE,
    reader=reader,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded(codec.Codec):
  """A codec whose prompts are given: task id -> i32[S]."""

  encoded: Mapping[str, np.ndarray]

  def encode(self, task: types.Task) -> np.ndarray:
    return self.encoded[task.task_id]
