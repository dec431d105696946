"""What is trained on, by hand and over devices."""

import functools

import jax
import numpy as np
import pytest

from awpo_jax.ops import advantages as advantages_lib
from awpo_jax.ops import aggregation, collectives
from tests.helpers import flags


def _selected(**changed):
  # Two groups of two; the second has no advantage, one answer was cut off.
  mask = np.ones((2, 2, 2), bool)
  mask[0, 1, 1] = False
  return aggregation.selected(
    mask,
    np.float32([[1, -1], [0, 0]]),
    np.array([[True, True], [False, True]]),
    np.float32([[[0.1, 0.8], [0.5, 9]], [[0.7, 0.2], [0.3, 0.4]]]),
    **flags.section('selection', **changed),
  )


@pytest.mark.parametrize(
  ('changed', 'want'),
  [
    ({}, [[[1, 1], [1, 0]], [[1, 1], [1, 1]]]),
    ({'empty_groups': 'drop'}, [[[1, 1], [1, 0]], [[0, 0], [0, 0]]]),
    ({'unfinished': 'drop'}, [[[1, 1], [1, 0]], [[0, 0], [1, 1]]]),
    # Of seven tokens the three of .8, .7 and .5; 9 is masked.
    ({'entropy_share': 3 / 7}, [[[0, 1], [1, 0]], [[1, 0], [0, 0]]]),
    # Of the three that are left one.
    (
      {'empty_groups': 'drop', 'entropy_share': 1 / 3},
      [[[0, 1], [0, 0]], [[0, 0], [0, 0]]],
    ),
  ],
)
def test_by_hand(changed, want):
  np.testing.assert_array_equal(_selected(**changed), np.array(want, bool))


def test_groups_with_an_advantage_of_any_token_count():
  advantages = np.zeros((2, 2, 3), np.float32)
  advantages[1, 0, 2] = 0.1
  np.testing.assert_array_equal(
    aggregation.drop_empty(advantages), [False, True]
  )


def test_highest_entropies_of_all_devices():
  rng = np.random.default_rng(0)
  entropy = rng.exponential(size=(4, 50)).astype(np.float32)
  mask = rng.random((4, 50)) < 0.7
  run = functools.partial(aggregation.top_entropy, share=0.2)
  got = jax.pmap(
    functools.partial(run, all_sum=collectives.make_all_sum('data')),
    axis_name='data',
  )(entropy, mask)
  wanted = int(np.ceil(0.2 * mask.sum()))
  threshold = np.sort(entropy[mask])[-wanted]
  np.testing.assert_array_equal(got, mask & (entropy >= threshold))
  # Devices keep unequal shares.
  assert len(set(np.asarray(got).sum(axis=1))) > 1


def test_nothing_to_select_from():
  none = np.zeros((2, 3), bool)
  got = aggregation.top_entropy(np.ones((2, 3)), none, share=0.5)
  np.testing.assert_array_equal(got, none)


def test_overlong_penalty_by_hand():
  # Limit 10, buffer 4: nothing up to 6, then a quarter a token.
  got = advantages_lib.overlong_penalty(
    np.array([[0, 6, 7], [8, 9, 10]]), max_length=10, buffer=4, penalty=1.0
  )
  np.testing.assert_allclose(got, [[0, 0, -0.25], [-0.5, -0.75, -1]])
  # DAPO's own numbers, half of the penalty.
  got = advantages_lib.overlong_penalty(
    np.array([[18432]]), max_length=20480, buffer=4096, penalty=0.5
  )
  np.testing.assert_allclose(got, [[-0.25]])


def test_unknown_values_are_refused():
  with pytest.raises(ValueError, match='count, drop'):
    _selected(empty_groups='skip')
  with pytest.raises(ValueError, match='train, drop'):
    _selected(unfinished='skip')
