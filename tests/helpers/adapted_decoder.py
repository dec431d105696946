"""A tiny decoder with adapters that make a difference, and its plain twin."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora, lora_layers
from tests.helpers import tiny_decoder

LORA = lora_layers.LoraConfig(rank=3, alpha=7.5)


def make(family='qwen3', *, settings=LORA, seed=0, **options):
  """(config with adapters, parameters of the base, the adapters).

  `family` is a name or a whole config.json.
  """
  hf = tiny_decoder.FAMILIES[family] if isinstance(family, str) else family
  decoder, base = tiny_decoder.make(hf, seed=seed, **options)
  config = dataclasses.replace(decoder.config, lora=settings)
  shapes = jax.eval_shape(lambda: lora.new_adapters(config, jax.random.key(0)))
  rng = np.random.default_rng(seed + 1)
  trained = jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype(x.dtype), shapes
  )
  return config, base, trained


def apply(config, params, tokens):
  """Logits of a decoder."""
  return decoder_lib.Decoder(config).apply({'params': params}, tokens)


def merged(base, trained, scale):
  """W + scale A B in float64, by NumPy."""
  flat = traverse_util.flatten_dict(base)
  adapted = traverse_util.flatten_dict(trained)
  for path in {path[:-1] for path in adapted}:
    down, up = (np.float64(adapted[*path, x]) for x in ('lora_a', 'lora_b'))
    kernel = np.float64(flat[*path, 'kernel'])
    flat[*path, 'kernel'] = kernel + scale * down @ up
  return traverse_util.unflatten_dict(flat)
