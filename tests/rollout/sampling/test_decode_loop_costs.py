"""What each token of the samplers must not do again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import decoding_params, lora_layers
from awpo_jax.rollout.sampling import continuous_batching, multi_turn, sampler
from tests.helpers import sampling_cases as cases

LORA = lora_layers.LoraConfig(rank=3, alpha=6.0)


def inner(jaxpr):
  """The programs within the equations of a program."""
  for equation in jaxpr.eqns:
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      program = getattr(value, 'jaxpr', value)
      if hasattr(program, 'eqns'):
        yield equation.primitive.name, program


def equations(jaxpr, *, looped=False):
  """All equations that lie in a loop."""
  if looped:
    yield from jaxpr.eqns
  for name, program in inner(jaxpr):
    yield from equations(program, looped=looped or name == 'while')


def casts(jaxpr, params):
  """Shapes of the float32 parameters that are cast in a loop."""
  known = {x.shape for x in jax.tree.leaves(params) if x.ndim > 1}
  assert len(known) >= 5
  return [
    x.invars[0].aval.shape
    for x in equations(jaxpr)
    if x.primitive.name == 'convert_element_type'
    and x.invars[0].aval.dtype == jnp.float32
    and x.invars[0].aval.shape in known
  ]


def shapes(config):
  """The config, how it is sampled, and its parameters as shapes."""
  decoder = decoder_lib.Decoder(config)
  params = jax.eval_shape(
    functools.partial(decoder_lib.init_params, config), jax.random.key(0)
  )
  decoding = sampler.Decoding(decoder, 8, cases.STOP_IDS, cases.PAD_ID)
  return config, decoding, params


def traced(run, *arguments):
  return jax.make_jaxpr(run)(*arguments).jaxpr


def sampled(run, decoding, params):
  return traced(
    functools.partial(run, decoding=decoding),
    params,
    cases.prompts(),
    cases.sample_ids(),
    cases.key(),
  )


def gone_on(decoding, params):
  begin = functools.partial(
    multi_turn.begin, decoding=decoding, observation_tokens=3
  )
  state, shared = jax.eval_shape(
    begin, params, cases.prompts(), cases.sample_ids(), cases.key()
  )
  rows = state.done.shape[0]
  return traced(
    functools.partial(multi_turn.go_on, decoding=decoding),
    params,
    state,
    shared,
    cases.key(),
    np.zeros((rows, 3), np.int32),
    np.ones(rows, np.int32),
  )


SAMPLERS = {
  'sample': functools.partial(sampled, sampler.sample),
  'slots': functools.partial(
    sampled, functools.partial(continuous_batching.sample, slots=2)
  ),
  'begin': functools.partial(
    sampled, functools.partial(multi_turn.begin, observation_tokens=3)
  ),
  'go_on': gone_on,
}


@pytest.mark.parametrize('lora', [None, LORA])
@pytest.mark.parametrize('name', SAMPLERS)
def test_parameters_are_cast_once(name, lora):
  # Untied, so that the head is one of them.
  config = config_lib.from_hf_dict(cases.HF, dtype='bfloat16')
  config, decoding, params = shapes(dataclasses.replace(config, lora=lora))
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'float32'}
  jaxpr = SAMPLERS[name](decoding, params)
  made = jax.eval_shape(functools.partial(decoding_params.make, config), params)
  assert casts(jaxpr, [params, made]) == []
  # The loop is seen: it multiplies by the parameters.
  products = [x for x in equations(jaxpr) if x.primitive.name == 'dot_general']
  assert len(products) > 7 * config.layers


@pytest.mark.parametrize('name', ['sample', 'begin'])
def test_rows_that_advance_together_write_one_column(name):
  config, decoding, params = shapes(config_lib.from_hf_dict(cases.HF))
  names = [
    x.primitive.name for x in equations(SAMPLERS[name](decoding, params))
  ]
  # Keys and values of each layer, and of completions seven fields.
  assert names.count('dynamic_update_slice') == 2 * config.layers + 7
  assert not [x for x in names if x.startswith('scatter')]
