"""Demonstrations as token batches: answers to imitate, of one turn or more."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import (
  chat_template,
  observations,
  prompts,
  templates,
  tokenizers,
)

# An answer to imitate, or several with what came between them.
Shown: TypeAlias = str | types.Demonstration


def fits(
  tokenizer: tokenizers.Tokenizer,
  tasks: Sequence[types.Task],
  responses: Sequence[Shown] | None = None,
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  overlong: str = 'error',
  style: chat_template.Style = chat_template.DEFAULT_STYLE,
  reader: observations.Reader | None = None,
) -> np.ndarray:
  """Which prompts, or demonstrations, fit into the largest buckets.

  To drop or refuse the others, and to say how many: `(~fits(...)).sum()`. A
  response cut off in the middle would teach the policy never to stop, so none
  is cut, whatever becomes of the prompts.

  Args:
    tokenizer: encodes both.
    tasks: N prompts.
    responses: N answers to imitate; None: only the prompts must fit.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    overlong: with `truncate_left` every prompt fits.
    style: of the prompts.
    reader: of what comes between the turns of demonstrations.

  Returns:
    bool[N].
  """
  fit = np.ones(len(tasks), bool)
  if overlong != 'truncate_left':
    lengths = [
      len(prompts.encode_prompt(tokenizer, task, style)) for task in tasks
    ]
    fit &= np.array(lengths, int) <= max(prompt_buckets)
  if responses is not None:
    lengths = [
      shown_length(tokenizer, each, reader, prompts.opened(tokenizer, x, style))
      for x, each in zip(tasks, responses, strict=True)
    ]
    fit &= np.array(lengths, int) <= max(response_buckets)
  return fit


def shown_length(
  tokenizer: tokenizers.Tokenizer,
  shown: Shown,
  reader: observations.Reader | None = None,
  opened: str | None = None,
) -> int:
  """Tokens of an answer to imitate, stop tokens and observations included.

  Args:
    tokenizer: encodes it.
    shown: the answer.
    reader: of what comes between its turns.
    opened: what its prompt holds of it, see `prompts.encode_response`.
  """
  return sum(
    len(tokens) + chosen
    for tokens, chosen in _parts(tokenizer, shown, reader, opened)
  )


def _parts(
  tokenizer: tokenizers.Tokenizer,
  shown: Shown,
  reader: observations.Reader | None,
  opened: str | None,
) -> list[tuple[np.ndarray, bool]]:
  """Tokens of answers, and of what comes between them, in turn.

  True marks the answers, whose stop token is still missing.
  """
  if isinstance(shown, str):
    return [(prompts.encode_response(tokenizer, shown, opened), True)]
  parts = [(prompts.encode_response(tokenizer, shown.response, opened), True)]
  for exchange in shown.further:
    if reader is None:
      raise ValueError(
        f'demonstration of task {shown.task.task_id}: it has several turns; '
        'name the --environment whose tools return what stands between them'
      )
    parts.append((reader.encode(exchange.observations), False))
    opened = reader.opened(exchange.observations)
    answer = prompts.encode_response(tokenizer, exchange.response, opened)
    parts.append((answer, True))
  return parts


def demonstration_batch(
  tokenizer: tokenizers.Tokenizer,
  prompts_encoded: Sequence[np.ndarray],
  responses: Sequence[Shown],
  ids: Sequence[int],
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  pad_id: int,
  stop_ids: Sequence[int],
  overlong: str = 'error',
  task_ids: Sequence[str] | None = None,
  reader: observations.Reader | None = None,
  opened: Sequence[str] | None = None,
) -> tuple[types.Prompts, types.Completions]:
  """Prompts with answers to imitate, in the layout of a rollout with G = 1.

  Args:
    tokenizer: encodes the responses.
    prompts_encoded: P times i32[S], of `prompts.encode_prompt`.
    responses: P answers, or demonstrations of one or several turns.
    ids: P positions in the run's data order.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    pad_id: fills both paddings.
    stop_ids: what ends an answer; the first ends each of these and is trained
      on like the rest of it.
    overlong: as in `prompts.prompt_batch`, of the prompts; a response is never
      cut.
    task_ids: P names for the error messages; `ids` where there are none.
    reader: of what comes between the turns of demonstrations.
    opened: P texts of `prompts.opened`, which the prompts hold of their answers
      and the completions leave out; None: what the chat template opens by
      itself.

  Returns:
    `Prompts` [P, Sp] and `Completions` [P, 1, Sc] of NumPy arrays; every token
    of an answer counts as the policy's own, with log-probability 0; those of
    observations do not.

  Raises:
    ValueError: a prompt or a response is too long (see `fits`), or a response
      holds a stop token itself.
  """
  prompted = prompts.prompt_batch(
    prompts_encoded,
    ids,
    buckets=prompt_buckets,
    pad_id=pad_id,
    overlong=overlong,
    task_ids=task_ids,
  )
  encoded = []
  starts = opened or [templates.opened(tokenizer)] * len(responses)
  for name, response, start in zip(
    task_ids or ids, responses, starts, strict=True
  ):
    parts = _parts(tokenizer, response, reader, start)
    if any(np.isin(x, stop_ids).any() for x, chosen in parts if chosen):
      raise ValueError(f'response of task {name}: holds a stop token')
    row = _row(parts, stop_ids[0])
    if row.shape[1] > max(response_buckets):
      raise ValueError(
        f'response of task {name}: {row.shape[1] - 1} tokens and the stop '
        f'token, but the largest of --response_buckets is '
        f'{max(response_buckets)}; add a larger one or leave the demonstration '
        'out'
      )
    encoded.append(row)
  lengths = prompted.mask.sum(axis=-1, dtype=np.int32)
  return prompted, _completions(encoded, lengths, response_buckets, pad_id)


def _row(parts, stop_id: int) -> np.ndarray:
  """i32[3, S]: tokens, whether the policy's own, and the turn."""
  columns, turn = [], 0
  for tokens, chosen in parts:
    turn += not chosen  # What is read counts in the turn that reads it.
    row = np.append(tokens, np.int32(stop_id)) if chosen else tokens
    columns.append(
      np.stack([row, np.full_like(row, chosen), np.full_like(row, turn)])
    )
  return np.concatenate(columns, axis=1)


def _completions(encoded, prompt_lengths, buckets, pad_id) -> types.Completions:
  """Answers [P, 1, Sc], padded on the right as the sampler pads them."""
  lengths = np.array([row.shape[1] for row in encoded])
  width = prompts.smallest_bucket(lengths.max(), buckets)
  columns = np.arange(width, dtype=np.int32)
  mask = columns < lengths[:, None]
  tokens = np.full(mask.shape, pad_id, np.int32)
  chosen, turn = np.zeros(mask.shape, bool), np.zeros(mask.shape, np.int32)
  tokens[mask], chosen[mask], turn[mask] = np.concatenate(encoded, axis=1)
  positions = np.where(mask, prompt_lengths[:, None] + columns, 0)
  mask = mask[:, None]
  return types.Completions(
    tokens=tokens[:, None],
    mask=mask,
    policy_mask=chosen[:, None],
    positions=positions[:, None].astype(np.int32),
    turn=turn[:, None],
    logprobs=np.zeros(mask.shape, np.float32),
    entropy=np.zeros(mask.shape, np.float32),
    finished=np.ones(mask.shape[:2], bool),
  )
