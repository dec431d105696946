"""The notebooks' hand-written groups, and the run that they open."""

import jax
import numpy as np
import pytest

from awpo_jax.analysis import examples, replay
from awpo_jax.reporting import rollout_archive
from tests.helpers import whole_runs


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.delenv('AWPO_RUN', raising=False)
  monkeypatch.chdir(whole_runs.ROOT)


def test_the_numbers_of_the_six_groups():
  # Worked out in float64 from the definitions, for the flags' defaults.
  config = replay.variant(examples.carried_run())
  got = replay.advantages(config, examples.six_groups())
  want = [
    [1.163553, -0.191194, -2.048509, 1.076150],
    [1.404871, -0.561948, 0, -0.842922],
    [0, 0, 0, 0],
    [-0.424807, -0.424807, 1.486824, -0.637210],
    [0, 0, 0, 0],
    [1.415964, 0.155824, -1.571787, 0],
  ]
  np.testing.assert_allclose(got.advantages, want, atol=2e-6)
  np.testing.assert_allclose(
    got.gate, [0.516861, 0.999997, 0, 0.575192, 0, 0.524143], atol=1e-6
  )
  np.testing.assert_allclose(
    got.solve_rate, [0.642857, 0, 1, 0.035714, 0.571429, 0.523810], atol=1e-6
  )
  np.testing.assert_array_equal(got.difficulty, [1.5, 1, 1, 1, 1.5, 1.5])
  # They are one rollout, whose mean gate is .4360322: .2 - .1 wbar.
  one = jax.tree.map(lambda x: x[None], got)
  np.testing.assert_allclose(replay.radii(config, one), [0.156397], atol=1e-6)
  assert len(examples.NAMES) == len(want)


def test_the_carried_run_is_small_and_whole():
  folder = examples.carried_run()
  files = [x for x in folder.rglob('*') if x.is_file()]
  assert sum(x.stat().st_size for x in files) <= 300_000
  rollouts = rollout_archive.open_archive(folder)
  assert len(rollouts) >= 4
  for step in rollouts.steps:
    rewards = rollouts.rollout(step).rewards
    # Some groups are ranked by the outcome, and some by the reasoning.
    assert np.any(np.ptp(rewards.outcome, axis=1) > 0)
    assert np.any(np.ptp(rewards.reasoning, axis=1) > 0)


def test_a_run_is_found_from_anywhere_in_the_repository(monkeypatch):
  carried = whole_runs.ROOT / 'notebooks' / 'run'
  for folder in ('.', 'notebooks', 'tests/analysis'):
    monkeypatch.chdir(whole_runs.ROOT / folder)
    assert examples.chosen_run() == examples.carried_run() == carried
  monkeypatch.setenv('AWPO_RUN', 'runs/x')
  assert examples.chosen_run() == whole_runs.ROOT / 'runs' / 'x'
  assert examples.carried_run() == carried


def test_a_run_elsewhere_is_named_by_its_whole_path(monkeypatch, tmp_path):
  monkeypatch.setenv('AWPO_RUN', str(tmp_path))
  assert examples.chosen_run() == tmp_path


def test_outside_of_the_repository_there_is_none(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError, match='start from the repository'):
    examples.chosen_run()
