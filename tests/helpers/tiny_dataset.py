"""A data set, rewards and a model with which a whole run takes seconds."""

import json
import os
import pathlib

from awpo_jax import types

MODEL = {
  'model_type': 'qwen3',
  'vocab_size': 300,
  'hidden_size': 32,
  'intermediate_size': 32,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'head_dim': 16,
  'tie_word_embeddings': True,
}
SFT_STEPS, RL_STEPS = 4, 3
FLAGS = (
  f'--dataset={__name__}:load',
  f'--reward={__name__}:reward',
  f'--judge={__name__}:judge',
  '--vocab_size=320',
  '--prompt_buckets=32',
  '--response_buckets=8',
  f'--sft_steps={SFT_STEPS}',
  '--sft_batch=4',
  '--sft_micro=2',
  '--sft_warmup=0',
  '--sft_learning_rate=1e-2',
  f'--rl_steps={RL_STEPS}',
  '--prompts_per_step=4',
  '--samples=4',
  '--minibatches=2',
  '--micro=1',
  '--learning_rate=1e-3',
  '--eval_batch=4',
  '--checkpoint_every=2',
  '--keep_checkpoints=10',
  '--transcripts=4',
  '--cpu_devices=2',
)
# Name of a task whose rewards are to overflow float32, for one process.
OVERFLOW = 'TINY_OVERFLOW'


class _Tasks:
  """Tasks that are made when asked for, as a generator's are."""

  def __init__(self, prefix: str, length: int):
    self._prefix, self._length = prefix, length

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self._length))]
    if not 0 <= index < self._length:
      raise IndexError(index)
    return types.Task(
      task_id=f'{self._prefix}_{index}',
      system='system',
      user='1' * (1 + index % 3) + 'ab'[index % 2],
      tools=(),
      ground_truth='b',
      kind=('odd', 'even')[index % 2],
    )


def load(*, seed, data=None) -> types.Dataset:
  """Twenty demonstrations of `bd`, prompts without end, four tasks to test."""
  del seed, data
  return types.Dataset(
    demonstrations=[
      types.Demonstration(task, 'bd' * (1 + i % 2))
      for i, task in enumerate(_Tasks('shown', 20)[:])
    ],
    train=_Tasks('train', 10**6),
    evals={'held_out': _Tasks('held_out', 4)},
  )


def reward(response: str, task: types.Task) -> types.Score:
  """Share of even code points: `b` and `d` are even, `a` and `c` are odd."""
  even = sum(ord(letter) % 2 == 0 for letter in response)
  share = even / max(len(response), 1)
  if task.task_id == os.environ.get(OVERFLOW):
    # Finite and within bounds, but the sum of a group is not.
    return types.Score(2e38 + 1e38 * share, -3.2e38, 3.2e38, {})
  return types.Score(2 * share - 1, -1, 1, {'length': float(len(response))})


def judge(requests) -> list[float | None]:
  """Shorter is better; no score where the length is a multiple of five."""
  lengths = [len(request.response) for request in requests]
  return [None if n % 5 == 0 else 1 / (1 + n) for n in lengths]


def mute(requests) -> None:
  """A judge that forgets to return what it has found."""
  del requests


def bare_scores(requests) -> list[str]:
  """A judge whose scores are texts."""
  return ['0.5'] * len(requests)


def bare(response: str, task: types.Task) -> float:
  """A reward that does not say what it could have been."""
  del task
  return float(len(response))


def flags(folder: pathlib.Path, *further: str) -> list[str]:
  """The flags of a run in `folder`; the model's file is written beside it."""
  model = folder.parent / 'model.json'
  model.write_text(json.dumps(MODEL))
  return [*FLAGS, f'--model={model}', f'--output_dir={folder}', *further]
