"""Every bucket is compiled at the start, and nothing afterwards."""

import dataclasses
import functools
import itertools
from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import device_checks, sharding
from awpo_jax.ops import advantages, aggregation, clipping, surrogate
from awpo_jax.rollout.sampling import continuous_batching
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import from_flags, options
from awpo_jax.training.update import objectives, optimizer, prepare
from tests.config import test_experiment
from tests.helpers import decoder_reference, tiny_run

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
  assert set(compiled.prepare) == set(compiled.cut) == PAIRS
  assert {k: set(v) for k, v in compiled.update.items()} == {
    'sft': PAIRS,
    'rl': PAIRS,
  }


@pytest.mark.parametrize(('phase', 'steps'), [('sft', 6), ('rl', 4)])
def test_nothing_compiles_after_the_start(phase, steps):
  compiled = tiny_run.compiled()
  log = _Log(compiled.update[phase])
  compiled = dataclasses.replace(compiled, update={phase: log})
  step = tiny_run.make_step(phase, compiled)
  state = tiny_run.new_state(phase)
  before = compile_lib.compile_count()
  with jax.transfer_guard('disallow'):
    for index in range(steps):
      old = state
      state, report = step(state, index)
      assert report.phase == phase
      donated = jax.tree.leaves(old)
      assert all(leaf.is_deleted() for leaf in donated), 'not donated'
  assert compile_lib.compile_count() == before
  # More than one bucket was in it, or it says nothing.
  assert len(log.seen) > 1, log.seen
  updates = steps * (2 if phase == 'rl' else 1)
  assert int(jax.device_get(state.step)) == updates


def test_a_compilation_is_counted():
  before = compile_lib.compile_count()
  jax.jit(lambda x: x * 3 + 1)(np.arange(7))
  assert compile_lib.compile_count() == before + 1


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
  problems = list(device_checks.check_devices(_config(*flags), devices))
  assert len(problems) == len(named)
  for problem, flag in zip(problems, named, strict=True):
    assert problem.startswith(flag) and f'{devices} devices' in problem


@functools.cache
def _others():
  """A value other than the default in every flag."""
  others = test_experiment.OTHERS
  return test_experiment.unchecked(
    [test_experiment.as_flag(*x) for x in others.items()]
  )


def _assert_bound(bound, function, wanted):
  """A partial of `function`, these keywords and no others bound."""
  assert bound.func is function and not bound.args
  assert bound.keywords == wanted


def _section(name):
  """The flags of a section, and their values."""
  fields = dataclasses.fields(config_lib.sections()[name])
  return {x.name: test_experiment.OTHERS[x.name] for x in fields}


MODEL = {'temperature': 0.7, 'chunk': 13}


def test_every_mechanism_is_bound_by_its_flags():
  made = from_flags.make_algorithm(_others())
  # Of a section all flags: a function takes those it needs.
  advantage, loss = _section('advantage'), _section('loss')
  _assert_bound(made.samples, advantages.make_samples, advantage)
  _assert_bound(
    made.advantages,
    advantages.rollout_advantages,
    advantage | {'max_length': 16},
  )
  _assert_bound(made.shape, advantages.shape, _section('shaping'))
  _assert_bound(made.clip_radius, clipping.clip_radius, loss)
  _assert_bound(made.select, aggregation.selected, _section('selection'))
  _assert_bound(made.clip_high, clipping.upper_radius, loss)
  _assert_bound(made.correction, surrogate.mismatch_weights, loss)
  # 0.01 of k2 at u = 2: 0.01 * 2^2 / 2
  log_p = np.float32([[[-1]]])
  np.testing.assert_allclose(
    made.penalty(log_p, log_p - 2, log_p < 0), [[[0.02]]], rtol=1e-6
  )


def test_what_is_off_is_not_computed():
  made = from_flags.make_algorithm(_config())
  assert made.clip_high is made.correction is made.penalty is None


@pytest.mark.parametrize('source', ['trainer', 'sampler'])
def test_log_probabilities_are_bound_by_their_flags(source):
  config, decoder = _others(), tiny_run.experiment().decoder
  rl = dataclasses.replace(config.rl, old_logprobs=source)
  config = dataclasses.replace(config, rl=rl)
  bound = from_flags.bound_prepare(config, decoder, platform='cpu')
  assert bound.func is prepare.prepare_rollout
  scores = bound.keywords['scores']
  assert scores.old('theirs', lambda: 'ours') == (
    'ours' if source == 'trainer' else 'theirs'
  )
  _assert_bound(
    scores.logprobs,
    objectives.completion_logprobs,
    MODEL | {'decoder': decoder},
  )
  # Shaped by egpo, with a KL: no prompts, but a reference.
  assert scores.prompt is None and scores.reference and scores.micro == 2
  shaping = dataclasses.replace(config.shaping, shaper='arm')
  config = dataclasses.replace(config, shaping=shaping)
  bound = from_flags.bound_prepare(config, decoder, platform='cpu')
  _assert_bound(
    bound.keywords['scores'].prompt,
    objectives.prompt_logprob,
    MODEL | {'decoder': decoder},
  )


def test_every_objective_is_bound_by_its_flags():
  config, decoder = _others(), tiny_run.experiment().decoder
  sft = from_flags.make_objective(config, decoder, 'sft')
  assert sft.keys() == {'weigh', 'terms'}
  _assert_bound(sft['weigh'], objectives.weigh, {'aggregation': 'token-mean'})
  _assert_bound(
    sft['terms'], objectives.sft_terms, {'decoder': decoder, 'chunk': 13}
  )
  rl = from_flags.make_objective(config, decoder, 'rl')
  assert rl.keys() == {'weigh', 'terms'}
  _assert_bound(
    rl['weigh'],
    objectives.weigh,
    {'aggregation': 'seq-mean-token-mean', 'max_length': 16},
  )
  wanted = _section('loss') | {
    'decoder': decoder,
    'prompts': 24 // 3,
    # It is in the reward.
    'kl_coef': 0.0,
    **MODEL,
    **_section('numbers'),
  }
  _assert_bound(rl['terms'], objectives.rl_terms, wanted)


def test_a_group_loss_finds_its_trust_region_first():
  config, decoder = _others(), tiny_run.experiment().decoder
  loss = dataclasses.replace(config.loss, loss='disco', kl_placement='loss')
  config = dataclasses.replace(config, loss=loss)
  rl = from_flags.make_objective(config, decoder, 'rl')
  _assert_bound(
    rl['before'],
    objectives.find_pull,
    MODEL | {'decoder': decoder} | _section('numbers'),
  )
  assert rl['terms'].keywords['kl_coef'] == test_experiment.OTHERS['kl_coef']


def _run(sampler, samples):
  """(prompts, completions) of a compiled program, on the first prompts."""
  mesh = tiny_run.mesh()
  _, prompts, _ = tiny_run.sampler().next_prompts(0)
  params = tiny_run.new_state('rl').params
  inputs = prompts, sample.sample_ids(prompts.ids, samples)
  completions = sampler[prompts.tokens.shape[-1]](
    params,
    *sharding.place_split(sharding.split(inputs, mesh.devices.size), mesh),
    sharding.place_replicated(sampler_lib.facts(0, 'train', 0, 0), mesh),
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
  assert tiny_run.config().rl.temperature == 0.5
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


def test_evaluations_are_drawn_at_their_own_temperature():
  config = tiny_run.config()
  run = dataclasses.replace(config.run, eval_temperature=0.25)

  def asked(*arguments, temperature, **others):
    del arguments, others
    return temperature

  with mock.patch.object(compile_lib, '_lower_sampler', asked):
    made = compile_lib.lower_programs(
      dataclasses.replace(config, run=run),
      tiny_run.experiment().decoder,
      tiny_run.mesh(),
      tiny_run.new_state('rl'),
      {'rl': optimizer.make_optimizers(config)['rl']},
      lambda *arguments: None,
    )
  assert made.evaluate == dict.fromkeys(tiny_run.PROMPT_BUCKETS, 0.25)
  assert made.sample == dict.fromkeys(tiny_run.PROMPT_BUCKETS, 0.5)


def test_slots_of_the_flags_draw_the_same():
  _, want = _run(tiny_run.compiled().sample, 2)
  config, experiment = tiny_run.config(), tiny_run.experiment()
  rl = dataclasses.replace(config.rl, slots=2, slots_shared=2)
  with mock.patch.object(
    continuous_batching, 'sample', wraps=continuous_batching.sample
  ) as refilled:
    config = dataclasses.replace(config, rl=rl)
    program = compile_lib.make_sampler(
      config,
      experiment.decoder,
      tiny_run.mesh(),
      temperature=0.5,
      stop_ids=experiment.codec.stop_ids,
      pad_id=experiment.codec.pad_id,
      sample=options.rollout_sampler(config, tiny_run.mesh()),
    )
    _, got = _run(dict.fromkeys(tiny_run.PROMPT_BUCKETS, program), 2)
  # Of each device, which under `pmap` sees its own part alone.
  bound = refilled.call_args.kwargs
  assert (bound['slots'], bound['shared'], bound['parts']) == (2, 2, 1)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
