"""Batches made ahead: the numbers of one after the other, one step late."""

import dataclasses
import functools
import json
import statistics
import threading
import time
from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.training import setup as setup_lib
from awpo_jax.training import steps
from awpo_jax.training.collection import prefetch, sample
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import tiny_run, tiny_training

STEPS = 4
# 0: two devices sample and train; 2: two others sample.
PLACES = (0, 2)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp('overlap')
  model = folder / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  return config_lib.parse(
    [
      *tiny_run.FLAGS,
      f'--model={model}',
      f'--output_dir={folder / "run"}',
      '--prompt_buckets=40',
      '--response_buckets=8',
      '--sft_steps=0',
      f'--rl_steps={STEPS}',
      # Far enough that a step later another answer is drawn.
      '--learning_rate=1e-1',
      '--temperature=1',
      '--overlap',
      '--mismatch=tis',
    ]
  )


@pytest.fixture(scope='module')
def experiment(config):
  return setup_lib.make_experiment(config)


def _placed(config, places, **rl):
  return dataclasses.replace(
    config,
    devices=dataclasses.replace(config.devices, rollout_devices=places),
    rl=dataclasses.replace(config.rl, **rl),
  )


@pytest.fixture(scope='module')
def new_state(config, experiment):
  decoder = experiment.decoder
  params = decoder_lib.init_params(decoder.config, jax.random.key(0))
  tx = optimizer.make_optimizers(config)['rl']
  state = jax.device_get(train_step.init_state(params, tx))
  return lambda: sharding.place_replicated(state, tiny_run.mesh())


def _compile(config, experiment, state):
  return compile_lib.compile_programs(
    config,
    experiment.decoder,
    tiny_run.mesh(),
    state,
    optimizer.make_optimizers(config),
    stop_ids=experiment.codec.stop_ids,
    pad_id=experiment.codec.pad_id,
  )


@pytest.fixture(scope='module')
def compiled(config, experiment, new_state):
  """By number of devices that only sample."""
  quickly = functools.partialmethod(
    jax.stages.Lowered.compile, compiler_options=tiny_training.quick()
  )
  with mock.patch.object(jax.stages.Lowered, 'compile', quickly):
    return {
      places: _compile(_placed(config, places), experiment, new_state())
      for places in PLACES
    }


def _step(sampler, ahead=None):
  """The step of RL, its batches made ahead if there is what makes them."""
  collect = steps.make_collect(sampler, sampler.programs)
  rollouts = sampler.in_turn(collect)
  if ahead is not None:
    rollouts = functools.partial(ahead.collect, sampler, collect)
  return steps.make_rl_step(
    sampler.config, rollouts, sampler.programs, sampler.mesh
  )


def _run(step, state, first=0, last=STEPS):
  """The host's copy of the last state and of all reports."""
  reports = []
  with jax.transfer_guard('disallow'):
    for index in range(first, last):
      state, report = step(state, index)
      reports.append(jax.device_get(report))
  return jax.device_get(state), reports


@pytest.fixture(scope='module')
def one_by_one(config, experiment, compiled, new_state):
  """Each batch sampled when its turn comes, from parameters kept on the host.

  By how many steps these are behind.
  """
  sampler = tiny_run.sampler(experiment, config, compiled[0])
  in_turn = sampler.in_turn(steps.make_collect(sampler, compiled[0]))

  def run(behind):
    before = []

    def rollouts(params, index, clock):
      before.append(jax.device_get(params))
      old = before[max(index - behind, 0)]
      params = sharding.place_replicated(old, sampler.mesh)
      return in_turn(params, index, clock)

    step = steps.make_rl_step(config, rollouts, compiled[0], sampler.mesh)
    return _run(step, new_state())

  return {behind: run(behind) for behind in (0, 1)}


def _assert_same(got, wanted):
  """Every rollout, every update and the last state, bit for bit."""
  state, reports = got
  tiny_training.assert_equal(state, wanted[0])
  assert len(reports) <= len(wanted[1])
  for ours, theirs in zip(reports, wanted[1][-len(reports) :], strict=True):
    tiny_training.assert_equal(ours.rollout, theirs.rollout)
    tiny_training.assert_equal(ours.updates, theirs.updates)
    assert ours.transcripts == theirs.transcripts and ours.ids == theirs.ids
    timed = {
      name: value
      for name, value in theirs.metrics.items()
      if not name.startswith(('time/', 'tokens/'))
    }
    assert timed.items() <= ours.metrics.items()


@pytest.mark.parametrize('places', PLACES)
def test_equals_one_by_one_with_the_parameters_before(
  config, experiment, compiled, new_state, one_by_one, places
):
  placed = _placed(config, places)
  sampler = tiny_run.sampler(experiment, placed, compiled[places])
  with prefetch.ahead(placed, None) as ahead:
    got = _run(_step(sampler, ahead), new_state())
  _assert_same(got, one_by_one[1])
  # The first two batches are of the same parameters either way, if only the
  # first: what comes later is not.
  ours, fresh = got[1], one_by_one[0][1]
  tiny_training.assert_equal(ours[0].rollout, fresh[0].rollout)
  for late, soon in zip(ours[1:], fresh[1:], strict=True):
    assert (
      late.rollout.completions.tokens.shape
      != soon.rollout.completions.tokens.shape
      or (
        late.rollout.completions.tokens != soon.rollout.completions.tokens
      ).any()
    )
  assert all(
    report.metrics['time/rollout'] > 0 and report.metrics['time/wait'] > 0
    for report in ours
  )


def test_weights_correct_from_the_old_parameters_to_the_new(one_by_one):
  # `test_equals...` has it that these are the numbers of the overlapped run.
  _, reports = one_by_one[1]
  for index, report in enumerate(reports):
    rollout, metrics = report.rollout, report.metrics
    policy = rollout.completions.policy_mask
    new = np.float64(rollout.trainer_logprobs[policy])
    old = np.float64(rollout.completions.logprobs[policy])
    off = np.mean(np.abs(new - old))
    assert (off > 1e-2) == (index > 0), (index, off)
    np.testing.assert_allclose(
      metrics['ratio/sampler_abs_log_mean'], off, rtol=1e-4, atol=1e-6
    )
    weight = np.mean(np.minimum(np.exp(new - old), 2.0))
    np.testing.assert_allclose(metrics['mismatch/weight'], weight, rtol=1e-5)
    # The ratio itself begins at the new ones.
    assert report.updates[0].maxima['ratio_abs_log_max'] < 1e-5


def _after_updates(compiled, *, release):
  """Programs whose updates on a batch, once over, are told."""
  updates = {}
  for shape, program in compiled.update['rl'].items():

    def update(state, batch, program=program):
      state, metrics = jax.block_until_ready(program(state, batch))
      update.count += 1
      if update.count % 2 == 0:  # Two mini-batches.
        release()
      return state, metrics

    update.count = 0
    updates[shape] = update
  return dataclasses.replace(compiled, update={'rl': updates})


def test_samples_beside_the_updates_whatever_becomes_of_their_memory(
  config, experiment, compiled, new_state, one_by_one
):
  # Each batch is sampled only after the updates before it are over, which were
  # given the memory of the parameters it is sampled from.
  updated, samplers = threading.Semaphore(0), {}
  made = _after_updates(compiled[2], release=updated.release)
  calls = []
  for length, program in made.sample.items():

    def sample(*arguments, program=program):
      calls.append(arguments)
      assert len(calls) == 1 or updated.acquire(timeout=60)
      return program(*arguments)

    samplers[length] = sample
  made = dataclasses.replace(made, sample=samplers)
  placed = _placed(config, 2)
  sampler = tiny_run.sampler(experiment, placed, made)
  with prefetch.ahead(placed, None) as ahead:
    got = _run(_step(sampler, ahead), new_state())
  assert len(calls) == STEPS
  # The sampler's copy is on the devices that only sample.
  for params, *_ in calls:
    for leaf in jax.tree.leaves(params):
      assert leaf.devices() == set(jax.devices()[-2:])
  _assert_same(got, one_by_one[1])


@pytest.mark.parametrize('micro', [0, 1])
def test_scores_beside_the_updates(
  config, experiment, compiled, new_state, one_by_one, micro
):
  updated, asked = threading.Semaphore(0), []

  def judge(requests):
    asked.append(requests)
    # The first batch has no updates before it.
    parts = 2 if micro else 1
    assert len(asked) <= parts or updated.acquire(timeout=60)
    return tiny_run.judge(requests)

  release = updated.release if not micro else lambda: updated.release(2)
  made = _after_updates(compiled[0], release=release)
  placed = _placed(config, 0, rollout_micro=micro)
  if micro:
    samplers = _compile(placed, experiment, new_state()).sample
    made = dataclasses.replace(made, sample=samplers)
  asking = patient.Judging(judge)
  sampler = tiny_run.sampler(experiment, placed, made, judge=asking)
  with prefetch.ahead(placed, None) as ahead:
    _, reports = _run(_step(sampler, ahead), new_state())
  asking.close()
  assert sum(map(len, asked)) == STEPS * 4 * 2
  for ours, theirs in zip(reports, one_by_one[1][1], strict=True):
    tiny_training.assert_equal(
      ours.rollout.completions.tokens, theirs.rollout.completions.tokens
    )


@pytest.mark.parametrize('places', PLACES)
@pytest.mark.parametrize('stop', [1, 3])
def test_goes_on_with_what_was_under_way(
  config, experiment, compiled, new_state, one_by_one, places, stop
):
  placed = _placed(config, places)
  sampler = tiny_run.sampler(experiment, placed, compiled[places])
  with prefetch.ahead(placed, None) as ahead:
    step, state = _step(sampler, ahead), new_state()
    for index in range(stop):
      state, _ = step(state, index)
    ahead.settle()
    saved = jax.device_get(ahead.saved(state))
  # Shaped as a checkpoint of that step is expected to be.
  example = prefetch.stored(placed, jax.eval_shape(lambda: state), stop)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), saved) == jax.tree.map(
    lambda x: (x.shape, x.dtype), example
  )
  state, under_way = prefetch.apart(saved)
  state = sharding.place_replicated(state, tiny_run.mesh())
  with prefetch.ahead(placed, under_way) as ahead:
    got = _run(_step(sampler, ahead), state, first=stop)
  _assert_same(got, one_by_one[1])
  assert len(got[1]) == STEPS - stop
  # Nobody sampled it in this process.
  assert 'tokens/sampled_per_second' not in got[1][0].metrics


def test_what_checkpoints_hold(config):
  state = train_step.TrainState(step=1, params=2, opt_state=3)
  held = [
    isinstance(prefetch.stored(config, state, step), prefetch.Saved)
    for step in range(STEPS + 1)
  ]
  # The first batch belongs to its step; after the last there is none.
  assert held == [False, True, True, True, False]
  after_sft = dataclasses.replace(
    config, run=dataclasses.replace(config.run, sft_steps=2)
  )
  assert prefetch.stored(after_sft, state, 2) is state
  assert isinstance(prefetch.stored(after_sft, state, 3), prefetch.Saved)
  off = dataclasses.replace(
    config, rl=dataclasses.replace(config.rl, overlap=False)
  )
  assert prefetch.stored(off, state, 2) is state
  with prefetch.ahead(off, None) as ahead:
    assert ahead is None


@pytest.mark.parametrize('places', PLACES)
def test_without_a_judge_what_was_sampled_is_kept(
  config, experiment, compiled, new_state, one_by_one, places
):
  down = threading.Event()

  def judge(requests):
    if down.is_set():
      raise types.JudgeUnavailable('down')
    return tiny_run.judge(requests)

  placed = _placed(config, places)
  sampler = tiny_run.sampler(experiment, placed, compiled[places], judge=judge)
  with prefetch.ahead(placed, None) as ahead:
    step = _step(sampler, ahead)
    state, _ = step(new_state(), 0)
    ahead.settle()
    down.set()
    state, _ = step(state, 1)
    ahead.settle()  # That is for the step that needs the scores.
    with pytest.raises(types.JudgeUnavailable, match='down'):
      step(state, 2)
    saved = jax.device_get(ahead.saved(state))
  down.clear()
  state, under_way = prefetch.apart(saved)
  state = sharding.place_replicated(state, tiny_run.mesh())
  with prefetch.ahead(placed, under_way) as ahead:
    got = _run(_step(sampler, ahead), state, first=2)
  _assert_same(got, one_by_one[1])


def test_a_batch_that_cannot_be_sampled_is_told_before_a_checkpoint(
  config, experiment, compiled, new_state, monkeypatch
):
  draw = sample.RolloutSampler.rollout

  def broken(sampler, params, index, number=0):
    if index == 2:
      raise RuntimeError('no memory left')
    return draw(sampler, params, index, number)

  monkeypatch.setattr(sample.RolloutSampler, 'rollout', broken)
  placed = _placed(config, 2)
  sampler = tiny_run.sampler(experiment, placed, compiled[2])
  with prefetch.ahead(placed, None) as ahead:
    step = _step(sampler, ahead)
    state, _ = step(new_state(), 0)
    ahead.settle()
    state, _ = step(state, 1)
    with pytest.raises(RuntimeError, match='no memory left'):
      ahead.settle()


def test_the_devices_that_only_sample_are_the_last(config):
  flags = _placed(config, 3).devices
  every = jax.devices()
  assert sharding.rollout_mesh(flags).devices.tolist() == every[1:]
  assert sharding.make_mesh(flags).devices.tolist() == every[:1]
  flags = dataclasses.replace(flags, rollout_devices=0)
  assert sharding.rollout_mesh(flags) is None
  assert sharding.make_mesh(flags).devices.tolist() == every
  flags = dataclasses.replace(flags, rollout_devices=4)
  with pytest.raises(flags_lib.ConfigError, match='=4 leaves none of 4'):
    sharding.make_mesh(flags)


# Seconds of a rollout's sampling, of its judging, and of the updates on it.
SAMPLING, JUDGING, UPDATES = 2.0, 1.5, 2.0


def _as_long_as(seconds, program):
  """A program that keeps its caller waiting like one of a larger model."""

  def run(*arguments):
    began = time.perf_counter()
    results = jax.block_until_ready(program(*arguments))
    time.sleep(max(0.0, seconds - (time.perf_counter() - began)))
    return results

  return run


@pytest.mark.slow
def test_seconds_of_a_step(config, experiment, compiled, new_state):
  """Prints its figures: `python -m pytest -s -m slow FILE`."""

  def judge(requests):
    time.sleep(JUDGING)
    return tiny_run.judge(requests)

  found = {}
  for name, places in {'one by one': None, 'beside': 0, 'apart': 2}.items():
    placed = _placed(config, places or 0, overlap=places is not None)
    made = compiled[places or 0]
    made = dataclasses.replace(
      made,
      sample={k: _as_long_as(SAMPLING, x) for k, x in made.sample.items()},
      update={
        'rl': {
          k: _as_long_as(UPDATES / 2, x) for k, x in made.update['rl'].items()
        }
      },
    )
    sampler = tiny_run.sampler(experiment, placed, made, judge=judge)
    with prefetch.ahead(placed, None) as ahead:
      _, reports = _run(_step(sampler, ahead), new_state())
    # In the first step nothing is ahead, in the last there is nothing to make.
    times = [report.metrics['time/step'] for report in reports[1:-1]]
    found[name] = statistics.median(times)
    print(f'{name}: {found[name]:.2f} s')
  wanted = {
    'one by one': SAMPLING + JUDGING + UPDATES,
    'beside': SAMPLING + max(JUDGING, UPDATES),
    'apart': max(SAMPLING + JUDGING, UPDATES),
  }
  for name, seconds in wanted.items():
    assert seconds <= found[name] <= seconds + 0.5, (name, found[name])
