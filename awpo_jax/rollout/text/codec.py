"""What turns tasks into tokens and tokens into answers, made once for a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import (
  chat_template,
  observations,
  prompts,
  tokenizers,
)


@dataclasses.dataclass(frozen=True)
class Codec:
  """A tokenizer and all that a run has decided about its use.

  Attributes:
    tokenizer: of prompts and answers.
    stop_ids: tokens that end an answer.
    pad_id: fills the columns without a token.
    style: in which tasks become prompts.
    reader: of what the calls of an episode return; None without episodes.
  """

  tokenizer: tokenizers.Tokenizer
  stop_ids: tuple[int, ...]
  pad_id: int
  style: chat_template.Style
  reader: observations.Reader | None = None

  def encode(self, task: types.Task) -> np.ndarray:
    """i32[S] tokens of a task up to where the answer begins."""
    return prompts.encode_prompt(self.tokenizer, task, self.style)

  def opened(self, tasks: Sequence[types.Task]) -> list[str]:
    """What each prompt holds of its answers; see `templates.opened`."""
    return [prompts.opened(self.tokenizer, x, self.style) for x in tasks]

  def prompts(
    self,
    tasks: Sequence[types.Task],
    ids: Sequence[int],
    *,
    buckets: Sequence[int],
    overlong: str,
  ) -> types.Prompts:
    """Prompts [P, Sp] of tasks, padded to a bucket.

    Args:
      tasks: P of them.
      ids: P positions in the run's data order.
      buckets: the widths a batch may have.
      overlong: as in `prompts.prompt_batch`.

    Raises:
      ValueError: a prompt is too long.
    """
    return prompts.prompt_batch(
      [self.encode(task) for task in tasks],
      ids,
      buckets=buckets,
      pad_id=self.pad_id,
      overlong=overlong,
      task_ids=[task.task_id for task in tasks],
    )

  def decode(
    self, completions: types.Completions, tasks: Sequence[types.Task]
  ) -> list[list[str]]:
    """Answers [P][G] of the tokens that the policy chose, whole as the rewards
    read them: with what the prompt holds of them already.

    Args:
      completions: [P, G, Sc].
      tasks: P of them.
    """
    return prompts.decode_completions(
      self.tokenizer, completions, self.stop_ids, self.opened(tasks)
    )


def make_codec(
  tokenizer: tokenizers.Tokenizer,
  generation: Mapping[str, Any],
  style: chat_template.Style,
  *,
  observation_tokens: int | None = None,
) -> Codec:
  """The codec of a run.

  Args:
    tokenizer: with a chat template.
    generation: the model's generation config, which may name stop tokens.
    style: of the prompts.
    observation_tokens: the most that is read between two turns of an episode;
      None: an answer is one turn.

  Raises:
    ValueError: the template cannot write that style, names no stop token, or
      cannot go on after an answer.
  """
  chat_template.check_style(tokenizer, style)
  stop_ids = tokenizers.stop_token_ids(
    tokenizer, tokenizers.eos_token_ids(generation)
  )
  reader = None
  if observation_tokens is not None:
    reader = observations.Reader(tokenizer, stop_ids, style, observation_tokens)
  pad_id = tokenizers.pad_token_id(tokenizer, stop_ids)
  return Codec(tokenizer, stop_ids, pad_id, style, reader)
