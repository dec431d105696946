"""Answers of a policy: to batches of prompts, and to one conversation."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.checkpointing import policies
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.reporting import progress
from awpo_jax.rollout.sampling import decode_loop, sampler, streaming
from awpo_jax.rollout.text import (
  chat_template,
  conversations,
  templates,
  tokenizers,
)
from awpo_jax.rollout.text import prompts as prompts_lib


class Answerer:
  """Samples answers; one program for each prompt bucket and group size.

  Draws are made from the seed and the samples' ids alone, so that the makeup
  of a batch changes none.

  Attributes:
    compile_seconds: what compiling has taken so far.
    devices: that share the rows of a batch.
  """

  def __init__(
    self,
    params: types.ArrayTree,
    decoder: decoder_lib.Decoder,
    tokenizer: tokenizers.Tokenizer,
    stop_ids: tuple[int, ...],
    *,
    buckets: Sequence[int],
    batch: int,
    max_tokens: int,
    temperature: float,
    seed: int,
  ):
    """Compiles nothing yet.

    Args:
      params: of `decoder`.
      decoder: the model.
      tokenizer: turns tokens into text.
      stop_ids: tokens that end an answer.
      buckets: widths of prompts.
      batch: rows of every batch; what is missing is filled up. They are dealt
        to all devices of this process, or to so many that they divide.
      max_tokens: of an answer.
      temperature: 0 takes the most likely token.
      seed: of all draws.
    """
    self._tokenizer = tokenizer
    self._stop_ids, self._buckets, self._batch = stop_ids, buckets, batch
    self._pad_id = tokenizers.pad_token_id(tokenizer, stop_ids)
    self._facts = sampler.facts(seed, 'generate', 1)
    self._mesh = _mesh(batch)
    self.devices = self._mesh.size
    decoding = sampler.Decoding(
      decoder,
      max_tokens,
      stop_ids,
      self._pad_id,
      temperature,
      in_place=decode_loop.reads_in_place(self._mesh.devices.flat[0]),
    )

    def run(params, prompts, ids, facts, *, axis_name):
      del axis_name  # Rows of different devices have nothing to say to another.
      key = sampler.fact_key(facts)
      return sampler.sample(params, prompts, ids, key, decoding)

    self._sample = device_map.mapped(
      run, self._mesh, in_axes=(None, 0, 0, None), out_axes=0
    )
    self._params = sharding.place_replicated(params, self._mesh)
    self._programs: dict[tuple[int, int], jax.stages.Compiled] = {}
    self.compile_seconds = 0.0

  def answer(
    self, encoded: Sequence[np.ndarray], sample_ids: np.ndarray
  ) -> list[list[tuple[str, int]]]:
    """Answers P prompts, `batch` of them at most.

    Args:
      encoded: P times i32[S].
      sample_ids: i32[P, G].

    Returns:
      The text and the number of tokens of each answer, [P][G], without what
      the prompts hold of it.
    """
    rows = len(encoded)
    # Filled up with the first prompt: one shape, one program.
    fill = [0] * (self._batch - rows)
    prompts = prompts_lib.prompt_batch(
      [*encoded, *(encoded[i] for i in fill)],
      range(self._batch),
      buckets=self._buckets,
      pad_id=self._pad_id,
    )
    ids = np.concatenate([sample_ids, sample_ids[fill]]).astype(np.int32)
    rows_of_each = sharding.split((prompts, ids), self.devices)
    inputs = (
      self._params,
      *sharding.place_split(rows_of_each, self._mesh),
      sharding.place_replicated(self._facts, self._mesh),
    )
    completions = self._program(inputs)(*inputs)
    completions = sharding.merge(sharding.fetch_split(completions))
    texts = prompts_lib.decode_completions(
      self._tokenizer, completions, self._stop_ids, [''] * self._batch
    )
    lengths = completions.policy_mask.sum(axis=-1)
    return [
      [(text, int(n)) for text, n in zip(group, counts, strict=True)]
      for group, counts in zip(texts[:rows], lengths[:rows], strict=True)
    ]

  def _program(self, inputs) -> jax.stages.Compiled:
    """The program for the shape of the inputs, compiled where it is new."""
    _, prompts, ids, _ = inputs
    shape = prompts.tokens.shape[-1], ids.shape[-1]
    if shape not in self._programs:
      begun = time.perf_counter()
      with progress.working(lambda: f'Compiling for prompts of {shape[0]}'):
        self._programs[shape] = self._sample.lower(*inputs).compile()
      self.compile_seconds += time.perf_counter() - begun
    return self._programs[shape]


def _mesh(batch: int) -> jax.sharding.Mesh:
  """As many devices of this process as divide the rows of a batch."""
  devices = jax.local_devices()
  count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
  return sharding.data_mesh(devices[:count])


def answers(
  policy: policies.Policy,
  talk: conversations.Conversation,
  settings: streaming.Settings,
  enable_thinking: str = 'default',
  template_date: str = '',
  prompt_style: str = 'auto',
) -> Iterator[tuple[int, str]]:
  """Answers to a conversation, as `streaming.stream` yields them.

  Args:
    policy: of `load`.
    talk: what to answer.
    settings: how to draw.
    enable_thinking: key of `chat_template.THINKING`; `default` is the policy's
      own.
    template_date: as 2024-07-26; '' is the policy's own.
    prompt_style: how tools are given, as `--prompt_style`; `auto` is the
      policy's own.

  Raises:
    ValueError: at once, before anything is sampled, where the template or the
      model cannot take it.
  """
  chosen = enable_thinking, template_date, prompt_style
  talk, style = asked(policy.tokenizer, policy.style, talk, *chosen)
  options: dict[str, Any] = {'tools': talk.tools, **style.options()}
  prompt = chat_template.encode(policy.tokenizer, talk.messages, **options)
  opened = templates.opened(policy.tokenizer, talk.messages, **options)
  streaming.check_settings(settings, len(prompt), policy.config.max_positions)
  stop_ids = policy.stop_ids
  grown = streaming.snapshots(
    policy.params,
    prompt,
    settings,
    decoder=decoder_lib.Decoder(policy.config),
    stop_ids=stop_ids,
    pad_id=tokenizers.pad_token_id(policy.tokenizer, stop_ids),
  )
  return streaming.stream(policy.tokenizer, grown, stop_ids, opened)


def asked(
  tokenizer: tokenizers.Tokenizer,
  style: chat_template.Style,
  talk: conversations.Conversation,
  enable_thinking: str = 'default',
  template_date: str = '',
  prompt_style: str = 'auto',
) -> tuple[conversations.Conversation, chat_template.Style]:
  """The conversation as the policy will see it, and in which style.

  Args:
    tokenizer, style: the policy's own.
    talk, enable_thinking, template_date, prompt_style: as of `answers`.

  Raises:
    ValueError: the template cannot take it.
  """
  if enable_thinking != 'default':
    style = style._replace(
      enable_thinking=chat_template.THINKING[enable_thinking]
    )
  if template_date:
    style = style._replace(date=template_date)
  if prompt_style != 'auto':
    style = style._replace(prompt_style=prompt_style)
  talk = conversations.in_style(talk, style)
  # A prompt without tools asks nothing of the template.
  chat_template.check_style(
    tokenizer,
    style._replace(prompt_style='template' if talk.tools else 'rlla'),
  )
  return talk, style
