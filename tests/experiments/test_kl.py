"""Whole runs with adapters and a KL term, undisturbed and killed."""

import signal

import pytest

from tests.helpers import tiny_dataset, whole_runs

# A KL term whose reference outlives a kill: all weights from the start of the
# run, adapters from the end of SFT.
KL_RUNS = {
  'all weights': ('--sft_steps=0',),
  'adapters': ('--sft_steps=1', '--lora_rank=2', '--old_logprobs=sampler'),
}


@pytest.mark.parametrize(
  'name',
  ['all weights', pytest.param('adapters', marks=pytest.mark.slow)],
)
def test_killed_with_a_kl_term(cache, tmp_path, name):
  flags = (
    *KL_RUNS[name],
    '--kl_coef=0.5',
    '--checkpoint_every=1',
    '--keep_checkpoints=1',
    '--learning_rate=1e-2',
    cache,
  )
  whole, broken = tmp_path / 'whole' / 'run', tmp_path / 'broken' / 'run'
  for folder in (whole, broken):
    folder.parent.mkdir()
  result = whole_runs.forked(tiny_dataset.flags(whole, *flags), whole.parent)
  assert result.returncode == 0, result.stderr
  begins = int(name == 'adapters')
  last = begins + tiny_dataset.RL_STEPS
  assert whole_runs.saved_steps(whole) == [begins, last]
  kl = [row['kl'] for row in whole_runs.rows(whole)[begins:]]
  # Of two updates the first begins at the reference.
  assert 0 <= kl[0] < kl[-1] and kl[-1] > 1e-3
  # In the second rollout, after the parameters have left the reference.
  at = whole_runs.Signal(
    'awpo_jax.training.collection.sample:RolloutSampler.next_prompts', call=3
  )
  broken_flags = tiny_dataset.flags(broken, *flags)
  result = whole_runs.forked(broken_flags, broken.parent, at=at)
  assert result.returncode == -signal.SIGKILL, result
  assert whole_runs.saved_steps(broken)[-1] > begins
  result = whole_runs.forked(broken_flags, broken.parent)
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(broken, whole, last)
