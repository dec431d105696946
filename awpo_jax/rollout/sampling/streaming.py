"""Answers to one prompt as text that grows: the sampler in chunks of tokens."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import decoding_params
from awpo_jax.rollout.sampling import decode_loop, sampler
from awpo_jax.rollout.text import templates, tokenizers

# Prompts are padded to a multiple of this: few shapes are compiled.
_PROMPT_UNIT = 64
# What decoding writes for bytes that are no character, perhaps not yet.
_REPLACEMENT = '\ufffd'

# Of each sample: its tokens so far, and whether there will be no more.
Snapshot: TypeAlias = list[tuple[np.ndarray, bool]]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How answers are drawn.

  Attributes:
    samples: G, at least 1.
    max_tokens: Sc, the longest answer, at least 1.
    temperature: 0 takes the most likely token.
    seed: fixes every draw, in [0, 2^31).
    chunk: tokens between two looks at them.
  """

  samples: int = 1
  max_tokens: int = 512
  temperature: float = 1.0
  seed: int = 0
  chunk: int = 8


def check_settings(settings: Settings, prompt: int, positions: int) -> None:
  """Raises `ValueError` for settings with which nothing can be sampled.

  Args:
    settings: to be checked.
    prompt: tokens of the prompt.
    positions: that the model was made for.

  Raises:
    ValueError: names the flag and the remedy.
  """
  for name in ('samples', 'max_tokens'):
    if getattr(settings, name) < 1:
      raise ValueError(f'--{name}={getattr(settings, name)}: at least 1.')
  if not 0 <= settings.temperature < float('inf'):
    raise ValueError(f'--temperature={settings.temperature}: 0 or above.')
  if not 0 <= settings.seed < 2**31:
    raise ValueError(f'--seed={settings.seed}: from 0 to {2**31 - 1}.')
  if not prompt:
    raise ValueError('The prompt has no tokens: nothing to answer.')
  if prompt + settings.max_tokens > positions:
    raise ValueError(
      f'A prompt of {prompt} tokens and --max_tokens={settings.max_tokens} are '
      f'more than the max_position_embeddings={positions} of the model: '
      'shorten the prompt or lower --max_tokens.'
    )


def snapshots(
  params: types.ArrayTree,
  prompt: np.ndarray,
  settings: Settings,
  *,
  decoder: decoder_lib.Decoder,
  stop_ids: tuple[int, ...],
  pad_id: int,
) -> Iterator[Snapshot]:
  """Samples answers to one prompt, which is read once for all of them.

  The tokens are those of `sampler.sample` with the same key; a few programs
  are compiled, whatever the number of chunks.

  Args:
    params: of the model.
    prompt: i32[S].
    settings: checked.
    decoder: the model.
    stop_ids: tokens that end an answer; the one chosen is part of it.
    pad_id: fills what is not a token.

  Yields:
    The G answers so far, after every chunk, the last of them complete.
  """
  decoding = sampler.Decoding(
    decoder,
    settings.max_tokens,
    stop_ids,
    pad_id,
    settings.temperature,
    in_place=decode_loop.reads_in_place(jax.devices()[0]),
  )
  params = jax.jit(functools.partial(decoding_params.make, decoder.config))(
    params
  )
  begin = jax.jit(functools.partial(sampler.prefill, decoding=decoding))
  go_on = jax.jit(
    _make_chunk(decoding, settings.chunk),
    donate_argnums=1,  # One cache, not two.
  )
  ids = np.arange(settings.samples, dtype=np.int32)[None]
  key = sampler.fact_key(sampler.facts(settings.seed, 'generate'))
  state, inputs = begin(params, _padded(prompt, pad_id), ids, key)
  done = False
  while not done:
    state = go_on(params, state, inputs)
    tokens, length, over = jax.device_get(
      (state.completions.tokens, state.length, state.done)
    )
    done = bool(over.all())
    yield [
      (row[:count], bool(end))
      for row, count, end in zip(tokens, length, over, strict=True)
    ]


def _make_chunk(decoding: sampler.Decoding, chunk: int):
  """(params, state, inputs) -> the state after `chunk` more tokens."""

  def run(params, state, inputs):
    def step(state: sampler.SamplerState, left: types.Array, used: int):
      state = sampler.advance(
        params, state, inputs, decoding, used, together=True
      )
      return state, left - 1

    left = jnp.int32(chunk)
    return decode_loop.run(
      step,
      state,
      left,
      in_place=decoding.in_place,
      going=lambda left: left > 0,
    )[0]

  return run


def _padded(prompt: np.ndarray, pad_id: int) -> types.Prompts:
  """The prompt alone, padded on the left to a multiple of `_PROMPT_UNIT`."""
  missing = -len(prompt) % _PROMPT_UNIT
  tokens = np.pad(prompt, (missing, 0), constant_values=pad_id)
  return types.Prompts(
    tokens=tokens[None].astype(np.int32),
    mask=(np.arange(len(tokens)) >= missing)[None],
    ids=np.zeros(1, np.int32),
  )


def stream(
  tokenizer: tokenizers.Tokenizer,
  grown: Iterable[Snapshot],
  stop_ids: Sequence[int],
  opened: str,
) -> Iterator[tuple[int, str]]:
  """Text as it grows, one sample after the other.

  Later samples grow while an earlier one is written; each is written on from
  where it stands when its turn comes.

  Args:
    tokenizer: of the model.
    grown: of `snapshots`.
    stop_ids: left out where one ends an answer.
    opened: what the prompt holds of the answers, of `templates.opened`.

  Yields:
    Sample and new text, the sample at least once. The texts of a sample,
    joined, are `tokenizers.decode_answer` of its tokens.
  """
  current, written = 0, 0
  for snapshot in grown:
    while current < len(snapshot):
      tokens, done = snapshot[current]
      text = tokenizers.decode_answer(tokenizer, tokens, stop_ids, '')
      if not done:
        text = _settled(text)
      # Whether the policy writes the tag itself is not known at once.
      wait = bool(opened) and not done and templates.may_open(text)
      text = '' if wait else templates.complete(opened, text)
      if len(text) > written or done:
        yield current, text[written:]
        written = max(written, len(text))
      if not done:
        break
      current, written = current + 1, 0


def _settled(text: str) -> str:
  """What further tokens leave as it is: without a character half read.

  A character has four bytes at most, so three may wait for the next one.
  """
  for _ in range(3):
    text = text.removesuffix(_REPLACEMENT)
  return text


def write(pieces: Iterable[tuple[int, str]], samples: int, out: TextIO) -> None:
  """Prints text as it comes, under a heading each where there are several.

  Args:
    pieces: of `stream`.
    samples: how many there will be.
    out: where to.
  """
  last = None
  for sample, text in pieces:
    if sample != last and last is not None:
      out.write('\n')
    if sample != last and samples > 1:
      out.write(f'--- answer {sample + 1} of {samples}\n')
    last = sample
    out.write(text)
    out.flush()
  out.write('\n')
  out.flush()
