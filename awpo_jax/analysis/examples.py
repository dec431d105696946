"""What the notebooks start from: six hand-written groups, and a run."""

import os
import pathlib

import numpy as np

from awpo_jax import types

NAMES = ('mixed', 'all wrong', 'solved', 'hard', 'flat', 'one invalid')
# The fourth answer of the last group is not valid.
_OUTCOME = [
  [4, 1, -3, 4],
  [-3, -3, -3, -3],
  [4, 4, 4, 4],
  [-3, -3, -2, -3],
  [1, 1, 1, 1],
  [4, 1, -3, 4],
]
_REASONING = [
  [0.8, 0.6, 0.1, 0.4],
  [0.9, 0.2, 0.4, 0.1],
  [0.8, 0.6, 0.1, 0.4],
  [0.5, 0.5, 0.75, 0.25],
  [0.5, 0.5, 0.5, 0.5],
  [0.8, 0.6, 0.1, 0.4],
]
# The run that the repository carries; experiments/notebook_archive.flags says
# how it was made.
_CARRIED = 'notebooks/run'


def six_groups() -> types.Rollout:
  """Six prompts that want a call, with four answers of one token each.

  They are in the order of `NAMES`; all tokens are 0, and the outcomes are
  those of ToolRL's reward, from -3 to 4.
  """
  valid = np.ones((6, 4), bool)
  valid[-1, -1] = False
  present, zeros = np.ones((6, 4, 1), bool), np.zeros((6, 4, 1), np.float32)
  tokens = np.zeros((6, 4, 1), np.int32)
  return types.Rollout(
    prompts=types.Prompts(
      tokens=tokens[:, 0], mask=present[:, 0], ids=np.arange(6, dtype=np.int32)
    ),
    completions=types.Completions(
      tokens=tokens,
      mask=present,
      policy_mask=present,
      positions=tokens + 1,
      turn=tokens,
      logprobs=zeros,
      entropy=zeros,
      finished=np.ones((6, 4), bool),
    ),
    rewards=types.Rewards(
      outcome=np.asarray(_OUTCOME, np.float32),
      outcome_valid=valid,
      reasoning=np.asarray(_REASONING, np.float32),
      reasoning_valid=valid,
      outcome_min=np.full(6, -3, np.float32),
      outcome_max=np.full(6, 4, np.float32),
      wants_call=np.ones(6, bool),
    ),
    sample_ids=np.arange(24, dtype=np.int32).reshape(6, 4),
  )


def carried_run() -> pathlib.Path:
  """The run with an archive that the repository carries.

  Raises:
    FileNotFoundError: the working directory is not in the repository.
  """
  return _root() / _CARRIED


def chosen_run() -> pathlib.Path:
  """The run that the variable `AWPO_RUN` names; without it `carried_run`.

  A path that is not absolute starts at the root of the repository, from
  wherever in it a notebook was opened.

  Raises:
    FileNotFoundError: the working directory is not in the repository.
  """
  return _root() / (os.environ.get('AWPO_RUN') or _CARRIED)


def _root() -> pathlib.Path:
  here = pathlib.Path.cwd()
  for folder in (here, *here.parents):
    if (folder / _CARRIED).is_dir():
      return folder
  raise FileNotFoundError(
    f'Neither {here} nor a folder above it has {_CARRIED}: start from the '
    'repository.'
  )
