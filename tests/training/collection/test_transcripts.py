"""What the transcripts tell of an answer and of its group."""

import dataclasses

import numpy as np

from awpo_jax import types
from awpo_jax.training.collection import sample, transcripts
from tests.helpers import tiny_run

NAN = np.nan


def _rows(reasons):
  """Two groups of two answers; the second group is not to be shown."""
  config = tiny_run.config()
  config = dataclasses.replace(
    config, run=dataclasses.replace(config.run, transcripts=1)
  )
  tasks = [tiny_run.make_task(0), tiny_run.make_task(1)]
  tokens = np.zeros((2, 2, 3), np.int32)
  finished = np.array([[True, False], [True, True]])
  sampled = sample.Sampled(
    tasks,
    # Four prompts a step: 8 is the first of the third step.
    types.Prompts(
      tokens=tokens[:, 0], mask=tokens[:, 0] > 0, ids=np.array([8, 9])
    ),
    np.arange(4).reshape(2, 2),
    types.Completions(
      tokens=tokens,
      mask=tokens > 0,
      policy_mask=tokens > 0,
      positions=tokens,
      turn=tokens,
      logprobs=tokens * 0.0,
      entropy=tokens * 0.0,
      finished=finished,
    ),
    [['a', 'b'], ['c', 'd']],
  )
  rewards = types.Rewards(
    outcome=np.float32([[4, NAN], [0, 0]]),
    outcome_valid=np.array([[True, False], [True, True]]),
    reasoning=np.float32([[0.5, 0.25], [0, 0]]),
    reasoning_valid=np.ones((2, 2), bool),
    outcome_min=np.float32([-3, 0]),
    outcome_max=np.float32([4, 1]),
    wants_call=np.ones(2, bool),
  )
  parts = {
    'solved': np.float32([[1, NAN], [0, 0]]),
    'format': np.float32([[1, NAN], [0, 0]]),
  }
  return transcripts.rows(config, sampled, rewards, parts, reasons)


def test_a_row_says_what_was_paid_and_why():
  said = {'a': 'It checks the city.', 'b': None}
  (number, first), (_, second) = _rows(
    lambda requests: [said[x.response] for x in requests]
  )
  assert number == first['prompt'] == second['prompt'] == 8
  assert (first['sample'], second['sample']) == (0, 1)
  assert (first['finished'], second['finished']) == (True, False)
  assert (first['outcome'], second['outcome']) == (4.0, None)
  assert first['outcome_bounds'] == [-3.0, 4.0]
  assert (first['parts'], second['parts']) == ({'format': 1.0}, {})
  assert (first['solved'], second['solved']) == (True, None)
  assert (first['reasoning'], second['reasoning']) == (0.5, 0.25)
  assert first['said'] == 'It checks the city.' and 'said' not in second


def test_advantages_join_the_rows_of_their_prompt_and_sample():
  rows = [row for _, row in _rows(lambda requests: [None] * len(requests))]
  elsewhere = {**rows[0], 'prompt': 12}
  groups = {
    'gate': np.float32([0.25, 0.5]),
    'advantage': np.float32([[9, 8], [1, -1]]),
  }
  got = transcripts.with_advantages(
    [*rows, elsewhere], np.array([9, 8]), groups
  )
  assert [(row['gate'], row['advantage']) for row in got[:2]] == [
    (0.5, 1.0),
    (0.5, -1.0),
  ]
  # Sampled in another round, and not trained on.
  assert got[2] == elsewhere
