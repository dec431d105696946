"""Dynamic sampling: what the algorithm calls useful, and how far it goes."""

import types as python_types
from unittest import mock

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.reporting import stopwatch
from awpo_jax.training import steps
from awpo_jax.training.collection import sample
from awpo_jax.training.collection import score as score_lib
from awpo_jax.training.programs import from_flags
from tests.helpers import tiny_run, tiny_training

# ToolRL's bounds: of a call (-3, 4), of a reply (0, 1). Judges of two minds.
SPLIT = [0.2, 0.4, 0.6, 0.8]
GROUPS = {
  'mixed': ([4, 1, -3, 4], SPLIT, True),
  'solved call': ([4, 4, 4, 4], SPLIT, True),
  'solved reply': ([1, 1, 1, 1], SPLIT, False),
  'all wrong': ([-3, -3, -3, -3], SPLIT, True),
  'none right': ([1, 1, -3, -3], SPLIT, True),
  'flat': ([1, 1, 1, 1], [0.5] * 4, True),
  'alone': ([4, 1, -3, 4], SPLIT, True),
}


def _rollout():
  """The groups, their answers of 1, 2, 3 and 4 tokens."""
  outcome, reasoning, wanted = zip(*GROUPS.values(), strict=True)
  wanted = np.array(wanted)
  valid = np.ones((len(GROUPS), 4), bool)
  valid[list(GROUPS).index('alone'), 1:] = False
  mask = np.broadcast_to(np.tri(4, dtype=bool), (len(GROUPS), 4, 4))
  zeros = np.zeros(mask.shape, np.float32)
  return types.Rollout(
    prompts=None,
    completions=types.Completions(
      tokens=zeros.astype(np.int32),
      mask=mask,
      policy_mask=mask,
      positions=zeros.astype(np.int32),
      turn=zeros.astype(np.int32),
      logprobs=zeros,
      entropy=zeros,
      finished=np.ones(valid.shape, bool),
    ),
    rewards=types.Rewards(
      outcome=np.float32(outcome),
      outcome_valid=valid,
      reasoning=np.float32(reasoning),
      reasoning_valid=np.ones(valid.shape, bool),
      outcome_min=np.where(wanted, -3, 0).astype(np.float32),
      outcome_max=np.where(wanted, 4, 1).astype(np.float32),
      wants_call=wanted,
    ),
    sample_ids=None,
  )


def _config(*flags):
  return config_lib.parse(
    [*tiny_run.FLAGS, '--model=model', '--output_dir=run', *flags]
  )


def _file(name):
  return f'--flagfile=experiments/algorithms/{name}.flags'


OUTCOMES_DIFFER = {'mixed', 'none right'}


@pytest.mark.parametrize(
  ('flags', 'want'),
  [
    # A solved call is saturated: it used to fill AWPO's batches.
    ((_file('awpo_paper'),), {*OUTCOMES_DIFFER, 'solved reply', 'all wrong'}),
    (
      (_file('awpo_paper'), '--saturation=solved'),
      {*OUTCOMES_DIFFER, 'all wrong'},
    ),
    # Its weight is 0 at p = 0 and at p = 1.
    ((_file('awpo_paper'), '--difficulty=parabola'), OUTCOMES_DIFFER),
    # Where the outcome alone counts.
    ((_file('grpo'),), OUTCOMES_DIFFER),
    ((_file('opo'),), OUTCOMES_DIFFER),
    ((_file('reinforce_pp_baseline'),), OUTCOMES_DIFFER),
    # Of two kinds only the first: 1 is not correct, as little as -3.
    ((_file('disco'),), {'mixed'}),
    # No saturation; and the norm over the batch moves flat groups, too.
    (
      (_file('gdpo'),),
      {*OUTCOMES_DIFFER, 'solved call', 'solved reply', 'all wrong'},
    ),
    # Of 8 tokens at most the last 7 cost: lengths 2, 3, 4 differ by a seventh.
    (
      (_file('grpo'), '--length_buffer=7'),
      {*GROUPS} - {'alone'},
    ),
  ],
)
def test_useful_is_what_has_an_advantage(flags, want):
  got = from_flags.make_useful(_config(*flags))(_rollout())
  assert {x for x, is_useful in zip(GROUPS, got, strict=True) if is_useful} == (
    want
  )


class _Clock(stopwatch.Clock):
  """One on which sampling took a second."""

  def lap(self, name):
    self.laps[f'time/{name}'] = 1.0


def _collected(useful, limit):
  """What `make_collect` makes of rounds whose useful groups are given."""
  drawn = []

  def draw(number):
    drawn.append(number)
    rollout = tiny_training.rollout(number)
    tasks = [types.Task('', '', '', (), '', '')] * tiny_training.PROMPTS
    return sample.Sampled(
      tasks, rollout.prompts, rollout.sample_ids, rollout.completions, []
    )

  def score(sampled, *unused):
    scored = types.Scored(sampled.tasks, tiny_training.rollout(drawn[-1]), {})
    return scored, []

  sampler = tiny_run.sampler(settings=_config(f'--sampling_rounds={limit}'))
  found = {} if useful is None else _Same(lambda _: useful[drawn[-1]])
  programs = python_types.SimpleNamespace(useful=found)
  with mock.patch.object(score_lib, 'score', score):
    collect = steps.make_collect(sampler, programs)
    _, metrics, _ = collect(draw, _Clock())
  return drawn, metrics


class _Same:
  """Programs of which any shape has the same."""

  def __init__(self, program):
    self._program = program

  def __getitem__(self, shape):
    return self._program


def test_rounds_until_enough_groups_are_useful():
  half = np.arange(tiny_training.PROMPTS) % 2 == 0
  drawn, metrics = _collected([half, half, half], 3)
  assert drawn == [0, 1]
  assert metrics['selection/rounds'] == 2
  assert metrics['selection/useful'] == 0.5
  # There is an end to it.
  few = np.arange(tiny_training.PROMPTS) < 2
  drawn, metrics = _collected([few] * 9, 3)
  assert drawn == [0, 1, 2]
  assert metrics['selection/useful'] == 2 / tiny_training.PROMPTS


def test_one_round_asks_nothing():
  drawn, metrics = _collected(None, 1)
  assert drawn == [0] and metrics['selection/rounds'] == 1
  assert 'selection/useful' not in metrics
