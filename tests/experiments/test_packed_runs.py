"""A run whose updates are packed has the numbers of one that pads."""

import signal

import numpy as np
import pytest

from tests.helpers import tiny_dataset, whole_runs

# Rows of two blocks.
PACKED = '--pack_tokens=128'


@pytest.mark.slow
def test_a_packed_run_killed_and_resumed(reference, start, tmp_path):
  # While demonstrations are packed, and between the updates of a rollout.
  stops = (
    ('awpo_jax.training.update.minibatches:of_demonstrations', 3, 'before'),
    ('awpo_jax.training.update.minibatches:Dealer.cut', 2, 'second'),
  )
  for function, call, when in stops:
    result = start(PACKED, at=whole_runs.Signal(function, call, when))
    assert result.returncode == -signal.SIGKILL, result.stderr
  result = start(PACKED)
  assert result.returncode == 0, result.stderr
  folder = tmp_path / 'run'
  steps = [row['step'] for row in whole_runs.rows(folder)]
  assert steps == list(range(1, reference.last + 1))
  ours, theirs = (
    whole_runs.rows(x, 'transcripts.jsonl') for x in (folder, reference.folder)
  )
  # A draw may differ where rounding carries it over an edge; none does here.
  assert [x['response'] for x in ours] == [x['response'] for x in theirs]
  for got, want in zip(
    whole_runs.untimed(folder),
    whole_runs.untimed(reference.folder),
    strict=True,
  ):
    assert got.keys() == want.keys()
    for name, value in want.items():
      if isinstance(value, float):
        assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
      else:
        assert got[name] == value, name
  got, want = (
    whole_runs.stored(x, reference.last) for x in (folder, reference.folder)
  )
  assert got.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_allclose(array, got[name], atol=2e-5, err_msg=name)


def test_a_padded_run_goes_on_packed(reference, start, tmp_path):
  at = whole_runs.Signal(
    'awpo_jax.training.collection.score:score', 1, number=signal.SIGTERM
  )
  assert start(at=at).returncode == 128 + signal.SIGTERM
  assert start(PACKED).returncode == 0
  last = [
    whole_runs.untimed(x)[-1] for x in (tmp_path / 'run', reference.folder)
  ]
  assert last[0]['step'] == tiny_dataset.SFT_STEPS + tiny_dataset.RL_STEPS
  assert last[0]['loss'] == pytest.approx(last[1]['loss'], rel=1e-3, abs=1e-5)
