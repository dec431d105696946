"""An experiment of a few seconds: plug-ins, configuration, programs, state."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from typing import Any, cast
from unittest import mock

import jax

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training import steps as steps_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import tiny_training

MODEL = {
  'model_type': 'qwen3',
  'vocab_size': 320,
  'hidden_size': 16,
  'intermediate_size': 16,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'head_dim': 8,
  'tie_word_embeddings': True,
}
PROMPT_BUCKETS, RESPONSE_BUCKETS = (20, 40), (4, 8)
FLAGS = (
  f'--dataset={__name__}:load',
  f'--reward={__name__}:reward',
  f'--judge={__name__}:judge',
  '--vocab_size=320',
  f'--prompt_buckets={",".join(map(str, PROMPT_BUCKETS))}',
  f'--response_buckets={",".join(map(str, RESPONSE_BUCKETS))}',
  '--sft_steps=6',
  '--sft_batch=4',
  '--sft_micro=1',
  '--sft_warmup=0',
  '--sft_learning_rate=1e-2',
  '--rl_steps=4',
  '--prompts_per_step=4',
  '--samples=2',
  '--minibatches=2',
  '--micro=1',
  '--temperature=0.5',
  '--old_logprobs=trainer',
  '--learning_rate=1e-3',
  '--eval_batch=4',
)


def make_task(index: int) -> types.Task:
  """Every sixth prompt needs the longer bucket: a digit is a token."""
  question = '1' * (1 + 15 * (index % 6 == 5))
  return types.Task(
    task_id=f'task_{index}',
    system='system user assistant',
    user=question,
    tools=(),
    ground_truth='a',
    kind='letters',
  )


def load(*, seed, data=None) -> types.Dataset:
  """Two dozen prompts; every fifth answer needs the longer bucket."""
  del seed, data
  tasks = [make_task(i) for i in range(24)]
  return types.Dataset(
    demonstrations=[
      types.Demonstration(task, '123456' if i % 5 == 4 else '12')
      for i, task in enumerate(tasks)
    ],
    train=tasks,
    evals={'held_out': tasks[:3]},
  )


def reward(response: str, task: types.Task) -> types.Score:
  """Share of even code points, with the length as a part."""
  del task
  if response.startswith('z'):
    raise types.RewardUnavailable('no reward for this one')
  even = sum(ord(letter) % 2 == 0 for letter in response)
  share = even / max(len(response), 1)
  return types.Score(2 * share - 1, -1, 1, {'length': float(len(response))})


def judge(requests) -> list[float | None]:
  """Shorter is better; nothing to say about the answer `?`."""
  return [
    None if request.response == '?' else 1 / (1 + len(request.response))
    for request in requests
  ]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
  return tempfile.TemporaryDirectory()


@functools.cache
def config() -> config_lib.Config:
  """That of `FLAGS`."""
  folder = pathlib.Path(_folder().name)
  model = folder / 'config.json'
  model.write_text(json.dumps(MODEL))
  return config_lib.parse(
    [*FLAGS, f'--model={model}', f'--output_dir={folder / "run"}']
  )


@functools.cache
def experiment() -> setup_lib.Experiment:
  """The experiment of `FLAGS`."""
  return setup_lib.make_experiment(config())


def sampler(
  made: setup_lib.Experiment | None = None,
  settings: config_lib.Config | None = None,
  programs: compile_lib.Programs | None = None,
  **scorer: Any,
) -> sample.RolloutSampler:
  """The sampler of an experiment, of that of `FLAGS` if not told otherwise.

  Args:
    made: the experiment.
    settings: its configuration.
    programs: its programs; without any nothing can be sampled.
    **scorer: of its fields, e.g. another judge.
  """
  made = made or experiment()
  return sample.RolloutSampler(
    settings or config(),
    made.data,
    made.codec,
    dataclasses.replace(made.scorer, **scorer),
    made.rules,
    programs or cast(Any, None),
    mesh(),
  )


def rl_step(sampler: sample.RolloutSampler) -> steps_lib.Step:
  """The step of RL of a sampler."""
  return steps_lib.make_rl_step(sampler, sampler.programs)


def make_step(
  phase: str, programs: compile_lib.Programs | None = None
) -> steps_lib.Step:
  """The step of a phase of `FLAGS`."""
  programs, made = programs or compiled(), experiment()
  if phase == 'rl':
    return rl_step(sampler(programs=programs))
  return steps_lib.make_sft_step(
    config(), made.data, made.codec, programs, mesh()
  )


@functools.cache
def mesh() -> jax.sharding.Mesh:
  """Two of the devices."""
  return sharding.data_mesh(jax.devices()[:2])


@functools.cache
def _initial(phase: str) -> train_step.TrainState:
  decoder = experiment().decoder
  params = decoder_lib.init_params(decoder.config, jax.random.key(0))
  tx = optimizer.make_optimizers(config())[phase]
  return jax.device_get(train_step.init_state(params, tx))


def new_state(phase: str) -> train_step.TrainState:
  """The state before the first step of a phase, placed."""
  return sharding.place_replicated(_initial(phase), mesh())


@functools.cache
def compiled() -> compile_lib.Programs:
  """All programs, compiled as quickly as possible."""
  quickly = functools.partialmethod(
    jax.stages.Lowered.compile, compiler_options=tiny_training.quick()
  )
  with mock.patch.object(jax.stages.Lowered, 'compile', quickly):
    return compile_lib.compile_programs(
      config(),
      experiment().decoder,
      mesh(),
      new_state('sft'),
      optimizer.make_optimizers(config()),
      stop_ids=experiment().codec.stop_ids,
      pad_id=experiment().codec.pad_id,
    )
