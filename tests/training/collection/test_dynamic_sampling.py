"""Rounds of sampling become one batch of static shape."""

import dataclasses

import numpy as np

from awpo_jax import types
from awpo_jax.training.collection import dynamic_sampling
from tests.helpers import tiny_training


def _scored(number, prompt, width):
  """A round of 32 groups whose ids say which it was."""
  rollout = tiny_training.rollout(number)
  cut = rollout.prompts.tokens.shape[-1] - prompt
  completions = {
    field.name: getattr(rollout.completions, field.name)
    for field in dataclasses.fields(rollout.completions)
  }
  rollout = rollout.replace(
    prompts=rollout.prompts.replace(
      tokens=rollout.prompts.tokens[:, cut:],
      mask=rollout.prompts.mask[:, cut:],
      ids=rollout.prompts.ids + 100 * number,
    ),
    completions=types.Completions(
      **{
        name: x[:, :, :width] if x.ndim == 3 else x
        for name, x in completions.items()
      }
    ),
    thinking=rollout.completions.mask[:, :, :width],
  )
  task = types.Task('', '', '', (), '', '')
  tasks = [
    dataclasses.replace(task, task_id=str(i)) for i in rollout.prompts.ids
  ]
  return types.Scored(
    tasks, rollout, {f'part_{number}': rollout.rewards.outcome}
  )


def test_filled_in_order_and_padded():
  first, second = _scored(0, 5, 6), _scored(1, 7, 4)
  useful = [np.zeros(32, bool), np.zeros(32, bool)]
  useful[0][:20] = useful[1][3:10] = True
  got = dynamic_sampling.fill([first, second], useful, pad_id=9)
  # 20 and 7 that differ, and the first 5 of the others.
  want = [*range(25), *range(103, 110)]
  np.testing.assert_array_equal(got.rollout.prompts.ids, want)
  assert [task.task_id for task in got.tasks] == [str(i) for i in want]
  prompts, completions = got.rollout.prompts, got.rollout.completions
  assert prompts.tokens.shape == (32, 7)
  assert completions.tokens.shape == (32, 4, 6)
  # What was narrower is padded on its side, and masked there.
  np.testing.assert_array_equal(prompts.tokens[:25, :2], 9)
  assert not prompts.mask[:25, :2].any()
  np.testing.assert_array_equal(
    prompts.tokens[:25, 2:], first.rollout.prompts.tokens[:25]
  )
  np.testing.assert_array_equal(completions.tokens[25:, :, 4:], 9)
  assert not completions.mask[25:, :, 4:].any()
  assert not got.rollout.thinking[25:, :, 4:].any()
  np.testing.assert_array_equal(
    completions.logprobs[25:, :, :4],
    second.rollout.completions.logprobs[3:10],
  )
  # A part that a round did not report is missing there.
  assert np.isnan(got.parts['part_0'][25:]).all()
  np.testing.assert_array_equal(
    got.parts['part_0'][:25], first.rollout.rewards.outcome[:25]
  )


def test_more_than_enough_are_cut():
  rounds = [_scored(0, 7, 6), _scored(1, 7, 6)]
  useful = [np.arange(32) % 2 == 0, np.ones(32, bool)]
  got = dynamic_sampling.fill(rounds, useful, pad_id=0)
  want = [*range(0, 32, 2), *range(100, 116)]
  np.testing.assert_array_equal(got.rollout.prompts.ids, want)


def test_one_round_is_itself():
  scored = _scored(0, 7, 6)
  assert (
    dynamic_sampling.fill([scored], [np.zeros(32, bool)], pad_id=0) is scored
  )
