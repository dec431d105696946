"""Every algorithm's batch has the shapes that its update is compiled for."""

import functools

import jax
import numpy as np
import pytest

from awpo_jax import config as config_lib
from awpo_jax import config_objective
from awpo_jax.models import lora
from awpo_jax.training import bind, objectives
from awpo_jax.training import shapes as shapes_lib
from tests.training import row_by_row, tiny, tiny_run

REWARD = ('--kl_placement=reward', '--kl_coef=0.1', '--kl_estimator=k1')
GRPO = 'grpo'
CASES = {
  **{
    name: (name,)
    for name in ('awpo', 'gdpo', 'egpo', 'arm', 'acpo', 'disco', 'apa', 'tis')
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
  if config_objective.has_reference(config):
    references = (lora.split(params)[0],)
  prepared = jax.eval_shape(
    bind.bound_prepare(config, decoder), params, rollout, *references
  )
  want = _plain(shapes.batch('rl', 20, 4))
  # Two prompts of a device are two mini-batches of one microbatch of one.
  got = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, 1, *x.shape[1:]), x.dtype),
    prepared.batch,
  )
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert jax.tree.leaves(got) == jax.tree.leaves(want)
  objective = bind.make_objective(config, decoder, 'rl')

  def terms(params, batch):
    batch = objective['weigh'](batch, lambda x: x)
    if 'before' in objective:
      batch = objective['before'](params, batch, lambda x: x)
    return objective['terms'](params, jax.tree.map(lambda x: x[0], batch))

  loss, metrics = jax.eval_shape(terms, params, want)
  assert loss.shape == () and metrics.sums['loss'].shape == ()


def test_log_probability_of_the_prompt():
  batch = row_by_row.random_batch(0)
  got = tiny.jit(
    functools.partial(
      objectives.prompt_logprob, decoder=tiny.DECODER, temperature=1.0, chunk=3
    )
  )(tiny.params(), batch)
  for p, mask in enumerate(batch.prompt_mask):
    tokens = batch.prompt_tokens[p][mask][None]
    logits = tiny.DECODER.apply(
      {'params': tiny.params()}, tokens, np.ones(tokens.shape, bool)
    )
    logits = np.float64(logits[0])
    table = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    want = table[np.arange(tokens.size - 1), tokens[0, 1:]].mean()
    np.testing.assert_allclose(got[p], want, rtol=1e-4)
