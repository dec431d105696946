"""Every algorithm's batch has the shapes that its update is compiled for."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import algorithm as algorithm_lib
from awpo_jax.config import experiment as config_lib
from awpo_jax.models import lora
from awpo_jax.training.programs import from_flags
from awpo_jax.training.programs import shapes as shapes_lib
from awpo_jax.training.update import objectives
from tests.helpers import row_by_row, tiny_run, tiny_training

REWARD = ('--kl_placement=reward', '--kl_coef=0.1', '--kl_estimator=k1')
GRPO = 'grpo'
CASES = {
  **{
    name: (name,)
    for name in (
      'awpo',
      'awpo_thought',
      'awpo_group_clip',
      'gdpo',
      'gdpo_parts',
      'egpo',
      'arm',
      'acpo',
      'disco',
      'apa',
      'tis',
    )
  },
  'kl in the reward': (GRPO, *REWARD, '--estimator=rloo'),
  'returns of tokens': (GRPO, *REWARD, '--estimator=reinforce_pp'),
  'entropy of tokens': (GRPO, '--entropy_share=0.5', '--kl_coef=0.1'),
}


def _config(algorithm, *flags):
  return config_lib.parse(
    [
      *tiny_run.FLAGS,
      '--model=model',
      '--output_dir=run',
      f'--flagfile=experiments/algorithms/{algorithm}.flags',
      *flags,
    ]
  )


ALGORITHMS = pathlib.Path(__file__).parents[2] / 'experiments/algorithms'


def _plain(tree):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree
  )


@pytest.mark.parametrize('name', CASES)
def test_shapes(name):
  config = _config(*CASES[name])
  decoder = tiny_run.experiment().decoder
  params = tiny_run.new_state('rl').params
  shapes = shapes_lib.Shapes(config, tiny_run.mesh())
  rollout = _plain(shapes.rollout(2, 20, 2, 4))
  references = ()
  if algorithm_lib.has_reference(config):
    references = (lora.split(params)[0],)
  prepared = jax.eval_shape(
    from_flags.bound_prepare(config, decoder, platform='cpu'),
    params,
    rollout,
    *references,
  )
  want = _plain(shapes.batch('rl', 20, 4))
  # Two prompts of a device are two mini-batches of one microbatch of one.
  got = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, 1, *x.shape[1:]), x.dtype),
    prepared.batch,
  )
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert jax.tree.leaves(got) == jax.tree.leaves(want)
  objective = from_flags.make_objective(config, decoder, 'rl')

  def terms(params, batch):
    batch = objective['weigh'](batch, lambda x: x)
    if 'before' in objective:
      batch = objective['before'](params, batch, lambda x: x)
    return objective['terms'](params, jax.tree.map(lambda x: x[0], batch))

  loss, metrics = jax.eval_shape(terms, params, want)
  assert loss.shape == () and metrics.sums['loss'].shape == ()


def test_log_probability_of_the_prompt():
  batch = row_by_row.random_batch(0)
  got = tiny_training.jit(
    functools.partial(
      objectives.prompt_logprob,
      decoder=tiny_training.DECODER,
      temperature=1.0,
      chunk=3,
    )
  )(tiny_training.params(), batch)
  for p, mask in enumerate(batch.prompt_mask):
    tokens = batch.prompt_tokens[p][mask][None]
    logits = tiny_training.DECODER.apply(
      {'params': tiny_training.params()}, tokens, np.ones(tokens.shape, bool)
    )
    logits = np.float64(logits[0])
    table = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    want = table[np.arange(tokens.size - 1), tokens[0, 1:]].mean()
    np.testing.assert_allclose(got[p], want, rtol=1e-4)


RIVALS = [
  name
  for name in sorted(x.stem for x in ALGORITHMS.glob('*.flags'))
  if _config(name).advantage.gate == 'none'
  and _config(name).advantage.advantage == 'awpo'
]


@pytest.mark.parametrize('name', RIVALS)
def test_no_rival_weighs_calls_more_than_replies(name):
  # Half of the answers to a call have 4 of (-3, 4), half of those to a reply 1
  # of (0, 1): their advantages are equally far apart. (An outcome of 7 counted
  # seven times as much as one of 1 wherever no deviation of the group divides.)
  rewards = types.Rewards(
    outcome=np.float32([[4, -3, 4, -3], [1, 0, 1, 0]]),
    outcome_valid=np.ones((2, 4), bool),
    reasoning=np.zeros((2, 4), np.float32),
    reasoning_valid=np.ones((2, 4), bool),
    outcome_min=np.float32([-3, 0]),
    outcome_max=np.float32([4, 1]),
    wants_call=np.array([True, False]),
  )
  rollout = tiny_training.rollout(0)
  rollout = jax.tree.map(lambda x: x[:2], rollout).replace(rewards=rewards)
  algorithm = from_flags.make_algorithm(_config(name, '--length_buffer=0'))
  samples = algorithm.samples(rollout, rollout.completions.logprobs)
  # Answers of one length: opo weighs by it.
  samples = samples.replace(mask=np.ones(samples.mask.shape, bool))
  made = algorithm.advantages(rewards, samples).advantages
  call, reply = np.ptp(made, axis=1)
  assert reply > 0.5
  np.testing.assert_allclose(call, reply, rtol=1e-4)
