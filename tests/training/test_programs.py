"""Every bucket is compiled at the start, and nothing afterwards."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from awpo_jax import config as config_lib
from awpo_jax import config_objective
from awpo_jax.ops import advantages
from awpo_jax.rollout import sampling
from awpo_jax.training import objectives, phases, prepare, programs, sharding
from tests import test_config
from tests.models import decoder_reference
from tests.training import tiny_run

PAIRS = set(
  itertools.product(tiny_run.PROMPT_BUCKETS, tiny_run.RESPONSE_BUCKETS)
)


class _Log(dict):
  """A dict that knows which entries were asked for."""

  def __init__(self, entries):
    super().__init__(entries)
    self.seen = set()

  def __getitem__(self, key):
    self.seen.add(key)
    return super().__getitem__(key)


def test_every_bucket_is_compiled():
  compiled = tiny_run.compiled()
  assert set(compiled.sample) == set(tiny_run.PROMPT_BUCKETS)
  assert set(compiled.evaluate) == set(tiny_run.PROMPT_BUCKETS)
  assert set(compiled.prepare) == PAIRS
  assert {k: set(v) for k, v in compiled.update.items()} == {
    'sft': PAIRS,
    'rl': PAIRS,
  }


@pytest.mark.parametrize(('phase', 'steps'), [('sft', 6), ('rl', 4)])
def test_nothing_compiles_after_the_start(phase, steps):
  compiled = tiny_run.compiled()
  log = _Log(compiled.update[phase])
  compiled = dataclasses.replace(compiled, update={phase: log})
  make_step = {'sft': phases.make_sft_step, 'rl': phases.make_rl_step}[phase]
  step = make_step(tiny_run.experiment(), compiled, tiny_run.mesh())
  state = tiny_run.new_state(phase)
  before = programs.compile_count()
  with jax.transfer_guard('disallow'):
    for index in range(steps):
      old = state
      state, report = step(state, index)
      assert report.phase == phase
      donated = jax.tree.leaves(old)
      assert all(leaf.is_deleted() for leaf in donated), 'not donated'
  assert programs.compile_count() == before
  # More than one bucket was in it, or it says nothing.
  assert len(log.seen) > 1, log.seen
  updates = steps * (2 if phase == 'rl' else 1)
  assert int(jax.device_get(state.step)) == updates


def test_a_compilation_is_counted():
  before = programs.compile_count()
  jax.jit(lambda x: x * 3 + 1)(np.arange(7))
  assert programs.compile_count() == before + 1


def _config(*flags):
  return config_lib.parse(
    [*tiny_run.FLAGS, '--model=model', '--output_dir=run', *flags]
  )


@pytest.mark.parametrize(
  ('flags', 'devices', 'named'),
  [
    ([], 2, []),
    ([], 4, ['--prompts_per_step=4']),
    (['--prompts_per_step=8'], 4, []),
    (['--sft_micro=2'], 4, ['--prompts_per_step=4', '--sft_batch=4']),
    (['--eval_batch=3'], 2, ['--eval_batch=3']),
    (['--rollout_micro=2'], 2, []),
    (
      ['--prompts_per_step=8', '--rollout_micro=4'],
      4,
      ['--prompts_per_step=8'],
    ),
    (['--rl_steps=0', '--prompts_per_step=3'], 2, []),
    (['--sft_steps=0', '--sft_batch=3'], 2, []),
  ],
)
def test_what_does_not_divide_is_named(flags, devices, named):
  problems = list(programs.check_devices(_config(*flags), devices))
  assert len(problems) == len(named)
  for problem, flag in zip(problems, named, strict=True):
    assert problem.startswith(flag) and f'{devices} devices' in problem


@functools.cache
def _others():
  """The tiny experiment with a value other than the default in every flag."""
  others = test_config.OTHERS
  config = config_lib.parse([test_config.as_flag(*x) for x in others.items()])
  return dataclasses.replace(tiny_run.experiment(), config=config)


def _assert_bound(bound, function, wanted):
  """A partial of `function`, these keywords and no others bound."""
  assert bound.func is function and not bound.args
  assert bound.keywords == wanted


def test_every_mechanism_is_bound_by_its_flags():
  experiment, others = _others(), test_config.OTHERS
  bound = programs.bound_prepare(experiment.config, experiment.decoder)
  keywords = dict(bound.keywords)
  _assert_bound(
    keywords.pop('clip_radius'),
    advantages.clip_radius,
    {name: others[name] for name in ('clip', 'clip_min', 'clip_max')},
  )
  names = {x.name for x in dataclasses.fields(config_objective.AdvantageConfig)}
  _assert_bound(
    keywords.pop('awpo_advantages'),
    advantages.awpo_advantages,
    {name: others[name] for name in names},
  )
  assert bound.func is prepare.prepare_rollout
  _assert_bound(
    keywords.pop('ref_logprobs'),
    objectives.completion_logprobs,
    {'decoder': experiment.decoder, 'temperature': 0.7, 'chunk': 13},
  )
  # `--old_logprobs=sampler`: those of the trainer are not computed.
  assert keywords == {'gate': 'binary', 'logprobs': None, 'micro': 2}


def test_old_logprobs_of_the_trainer():
  experiment = _others()
  rl = dataclasses.replace(experiment.config.rl, old_logprobs='trainer')
  config = dataclasses.replace(experiment.config, rl=rl)
  bound = programs.bound_prepare(config, experiment.decoder)
  _assert_bound(
    bound.keywords['logprobs'],
    objectives.completion_logprobs,
    {'decoder': experiment.decoder, 'temperature': 0.7, 'chunk': 13},
  )


def test_every_objective_is_bound_by_its_flags():
  experiment, others = _others(), test_config.OTHERS
  model = {'decoder': experiment.decoder, 'chunk': 13}
  sft = programs.make_objective(experiment, 'sft')
  _assert_bound(sft['weigh'], objectives.weigh, {'aggregation': 'token-mean'})
  _assert_bound(sft['terms'], objectives.sft_terms, model)
  rl = programs.make_objective(experiment, 'rl')
  _assert_bound(
    rl['weigh'],
    objectives.weigh,
    {'aggregation': 'seq-mean-token-mean', 'max_length': 16},
  )
  names = (
    *('temperature', 'clip_high_factor', 'dual_clip', 'entropy_coef'),
    *('kl_coef', 'kl_estimator'),
  )
  _assert_bound(
    rl['terms'],
    objectives.rl_terms,
    model | {name: others[name] for name in names},
  )


def _run(sampler, samples):
  """(prompts, completions) of a compiled program, on the first prompts."""
  experiment, mesh = tiny_run.experiment(), tiny_run.mesh()
  _, prompts = phases.next_prompts(experiment, 0)
  params = tiny_run.new_state('rl').params
  inputs = prompts, phases.sample_ids(prompts.ids, samples)
  completions = sampler[prompts.tokens.shape[-1]](
    params,
    *sharding.place_split(sharding.split(inputs, mesh.devices.size), mesh),
    sharding.place_replicated(sampling.facts(0, 'train', 0, 0), mesh),
  )
  return prompts, sharding.merge(jax.device_get(completions))


def _logits(prompt, own):
  """f64[T, V] that the completion's tokens were chosen by, in plain NumPy."""
  experiment, params = tiny_run.experiment(), tiny_run.new_state('rl').params
  size = experiment.decoder.config.vocab_size
  hf = tiny_run.MODEL | {'rms_norm_eps': 1e-6, 'rope_theta': 10000.0}
  logits = decoder_reference.logits([*prompt, *own], jax.device_get(params), hf)
  assert logits.shape[-1] == size
  return logits[len(prompt) - 1 : -1]


def test_evaluation_is_greedy():
  prompts, got = _run(tiny_run.compiled().evaluate, 1)
  for p, mask in enumerate(prompts.mask):
    own = got.tokens[p, 0][got.mask[p, 0]]
    logits = _logits(prompts.tokens[p][mask], own)
    np.testing.assert_array_equal(own, logits.argmax(axis=-1))


def test_rollouts_are_drawn_at_the_temperature_of_the_flags():
  prompts, got = _run(tiny_run.compiled().sample, 2)
  assert tiny_run.experiment().config.rl.temperature == 0.5
  for p, g in np.ndindex(got.finished.shape):
    own = got.tokens[p, g][got.mask[p, g]]
    logits = _logits(prompts.tokens[p][prompts.mask[p]], own) / 0.5
    chosen = logits[np.arange(len(own)), own]
    want = chosen - np.log(np.exp(logits).sum(axis=-1))
    np.testing.assert_allclose(
      got.logprobs[p, g][got.mask[p, g]], want, atol=1e-5
    )
  # The most likely tokens are hardly ever drawn from 320 that are alike.
  _, greedy = _run(tiny_run.compiled().evaluate, 1)
  assert (got.tokens[:, 0] != greedy.tokens[:, 0]).any()
