"""Demonstrations as token batches: answers to imitate, of one turn or more."""

from collections.abc import Sequence

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.rollout.text import prompts


def fits(
  codec: codec_lib.Codec,
  tasks: Sequence[types.Task],
  shown: Sequence[types.Demonstration] | None = None,
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  overlong: str = 'error',
) -> np.ndarray:
  """Which prompts, or demonstrations, fit into the largest buckets.

  To drop or refuse the others, and to say how many: `(~fits(...)).sum()`. A
  response cut off in the middle would teach the policy never to stop, so none
  is cut, whatever becomes of the prompts.

  Args:
    codec: encodes both.
    tasks: N prompts.
    shown: N demonstrations; None: only the prompts must fit.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    overlong: with `truncate_left` every prompt fits.

  Returns:
    bool[N].
  """
  fit = np.ones(len(tasks), bool)
  if overlong != 'truncate_left':
    lengths = [len(codec.encode(task)) for task in tasks]
    fit &= np.array(lengths, int) <= max(prompt_buckets)
  if shown is not None:
    lengths = [shown_length(codec, each) for each in shown]
    fit &= np.array(lengths, int) <= max(response_buckets)
  return fit


def too_long(
  codec: codec_lib.Codec,
  tasks: Sequence[types.Task],
  shown: Sequence[types.Demonstration] | None,
  wrong: np.ndarray,
) -> str:
  """Names of the first few of the tasks at `wrong`, and the longest of all."""
  names = [tasks[i].task_id for i in wrong[:3]]
  text = ', '.join(names) + ', ...' * (wrong.size > len(names))
  length = max(len(codec.encode(tasks[i])) for i in wrong)
  text += f': prompts up to {length} tokens'
  if shown is not None:
    length = max(shown_length(codec, shown[i]) for i in wrong)
    text += f', answers up to {length} with the stop token'
  return text


def shown_length(codec: codec_lib.Codec, shown: types.Demonstration) -> int:
  """Tokens of an answer to imitate, stop tokens and observations included."""
  return sum(len(tokens) + chosen for tokens, chosen in _parts(codec, shown))


def _parts(
  codec: codec_lib.Codec, shown: types.Demonstration
) -> list[tuple[np.ndarray, bool]]:
  """Tokens of answers, and of what comes between them, in turn.

  True marks the answers, whose stop token is still missing.
  """
  (opened,) = codec.opened([shown.task])
  first = prompts.encode_response(codec.tokenizer, shown.response, opened)
  parts = [(first, True)]
  for exchange in shown.further:
    if codec.reader is None:
      raise ValueError(
        f'demonstration of task {shown.task.task_id}: it has several turns; '
        'name the --environment whose tools return what stands between them'
      )
    parts.append((codec.reader.encode(exchange.observations), False))
    opened = codec.reader.opened(exchange.observations)
    answer = prompts.encode_response(codec.tokenizer, exchange.response, opened)
    parts.append((answer, True))
  return parts


def batch(
  codec: codec_lib.Codec,
  shown: Sequence[types.Demonstration],
  ids: Sequence[int],
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  overlong: str = 'error',
) -> tuple[types.Prompts, types.Completions]:
  """Prompts with answers to imitate, in the layout of a rollout with G = 1.

  What a prompt holds of its answer the completion leaves out; the first of the
  codec's stop tokens ends each answer and is trained on like the rest of it.

  Args:
    codec: encodes them.
    shown: P demonstrations of one or several turns.
    ids: P positions in the run's data order.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    overlong: as in `prompts.prompt_batch`, of the prompts; a response is never
      cut.

  Returns:
    `Prompts` [P, Sp] and `Completions` [P, 1, Sc] of NumPy arrays; every token
    of an answer counts as the policy's own, with log-probability 0; those of
    observations do not.

  Raises:
    ValueError: a prompt or a response is too long (see `fits`), or a response
      holds a stop token itself.
  """
  prompted = codec.prompts(
    [each.task for each in shown],
    ids,
    buckets=prompt_buckets,
    overlong=overlong,
  )
  encoded = []
  for each in shown:
    parts, name = _parts(codec, each), each.task.task_id
    if any(np.isin(x, codec.stop_ids).any() for x, chosen in parts if chosen):
      raise ValueError(f'response of task {name}: holds a stop token')
    row = _row(parts, codec.stop_ids[0])
    if row.shape[1] > max(response_buckets):
      raise ValueError(
        f'response of task {name}: {row.shape[1] - 1} tokens and the stop '
        f'token, but the largest of --response_buckets is '
        f'{max(response_buckets)}; add a larger one or leave the demonstration '
        'out'
      )
    encoded.append(row)
  lengths = prompted.mask.sum(axis=-1, dtype=np.int32)
  completions = _completions(encoded, lengths, response_buckets, codec.pad_id)
  return prompted, completions


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
