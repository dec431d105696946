"""What a configuration names, made real: data, tokenizer, model, rewards."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np

from awpo_jax import types
from awpo_jax.checkpointing import model_files
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import eval_sets
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction_init
from awpo_jax.rollout import datasets, plugins
from awpo_jax.rollout.environments import (
  episode_rewards,
  episodes,
  protocol,
  registry,
  sandbox,
)
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import (
  chat_template,
  demonstrations,
  observations,
  prompts,
  tokenizers,
)
from awpo_jax.training import judge as judge_lib

# Rows whose tools run at once; what a machine has for them is up to them.
_THREADS = 32
# Reading more at the start would take a minute: they raise when they come up.
_CHECKED_PROMPTS = 10**5

# Tasks and perhaps the answers to them -> bool[N], of `demonstrations.fits`.
_Fits = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts of a run, without its state.

  Attributes:
    config: resolved.
    dataset: as loaded, demonstrations and train prompts that do not fit left
      out where `--overlong=drop`.
    tokenizer: of prompts and answers.
    decoder: the model.
    stop_ids: tokens that end an answer.
    reward: outcome of an answer.
    judge: of the reasoning; None for none.
    environment: where calls run; None: an answer is one turn. With one, reward
      and judge take whole episodes.
    reader: of what its calls return; None without one.
    demonstration_order: step-independent index -> demonstration.
    prompt_order: index of a prompt in the run -> prompt of the data set.
    left_out: part of the data -> how much of it `--overlong=drop` left out.
    eval_rewards: evaluation set -> its own reward, where it has one.
  """

  config: config_lib.Config
  dataset: types.Dataset
  tokenizer: tokenizers.Tokenizer
  decoder: decoder_lib.Decoder
  stop_ids: tuple[int, ...]
  reward: types.Reward
  judge: types.Judge | None
  environment: protocol.Environment | None
  reader: observations.Reader | None
  demonstration_order: Sequence[int]
  prompt_order: Sequence[int]
  left_out: Mapping[str, int]
  eval_rewards: Mapping[str, types.Reward]

  @property
  def pad_id(self) -> int:
    """What fills the columns without a token."""
    return tokenizers.pad_token_id(self.tokenizer, self.stop_ids)

  def encode_prompt(self, task: types.Task) -> np.ndarray:
    """i32[S] tokens of a task, in the style of the flags."""
    return prompts.encode_prompt(self.tokenizer, task, _style(self.config))

  def opened(self, tasks: Sequence[types.Task]) -> list[str]:
    """What each prompt holds of its answers; see `templates.opened`."""
    style = _style(self.config)
    return [prompts.opened(self.tokenizer, task, style) for task in tasks]

  def episode_rules(self) -> episodes.Rules:
    """What `episodes.play` needs; only with an environment."""
    assert self.environment is not None and self.reader is not None
    flags = self.config.environment
    return episodes.Rules(
      environment=self.environment,
      reader=self.reader,
      tokenizer=self.tokenizer,
      stop_ids=self.stop_ids,
      max_turns=flags.max_turns,
      max_tokens=self.config.data.response_buckets[-1],
      threads=_THREADS,
      style=_style(self.config),
    )

  def scorers(self, name: str) -> dict[str, Any]:
    """Reward and judge of an evaluation set; a benchmark has no judge."""
    if name in self.eval_rewards:
      return {'reward': self.eval_rewards[name], 'judge': None}
    return {'reward': self.reward, 'judge': self.judge}


def _style(config: config_lib.Config) -> chat_template.Style:
  data = config.data
  return chat_template.Style(
    data.prompt_style,
    chat_template.THINKING[data.enable_thinking],
    data.template_date,
  )


def make_experiment(config: config_lib.Config) -> Experiment:
  """Loads and checks everything a run needs; compiles nothing.

  The tokenizer is stored in the run's folder, and read from there when the run
  goes on.

  Raises:
    ValueError, FileNotFoundError: what a flag names is not there or does not
      fit; the message names the flag.
  """
  data = config.data
  reward = plugins.load(data.reward, toolrl.REWARDS, flag='reward')
  judge = judge_lib.make_judge(
    data.judge, config.judge, run=os.path.abspath(config.run.output_dir)
  )
  skipped: list[str] | None = [] if data.bad_rows == 'skip' else None
  loaded = datasets.load(
    data.dataset,
    seed=config.run.seed,
    data=data.data or None,
    skipped=skipped,
  )
  loaded, eval_rewards = eval_sets.with_benchmarks(config, loaded, skipped)
  if skipped:
    print(f'{len(skipped)} bad rows left out, the first: {skipped[0]}')
  _check_sizes(config, loaded)
  environment = _environment(config, loaded)
  if environment is not None:
    reward = _episode_reward(config, environment, reward)
    judge = judge and episode_rewards.EpisodeJudge(judge)
  tokenizer, generation = model_files.make_tokenizer(config, loaded)
  chat_template.check_style(tokenizer, _style(config))
  stop_ids = tokenizers.stop_token_ids(
    tokenizer, tokenizers.eos_token_ids(generation)
  )
  reader = None
  if environment is not None:
    reader = observations.Reader(
      tokenizer,
      stop_ids,
      _style(config),
      config.environment.observation_tokens,
    )
  dataset = _fitting(config, loaded, tokenizer, reader)
  model = model_files.decoder_config(config, tokenizer)
  _check_model(config, tokenizer, model)
  return Experiment(
    config=config,
    dataset=dataset,
    tokenizer=tokenizer,
    decoder=decoder_lib.Decoder(model),
    stop_ids=stop_ids,
    reward=reward,
    judge=judge,
    environment=environment,
    reader=reader,
    demonstration_order=_order(len(dataset.demonstrations), config.run.seed, 0),
    prompt_order=_order(len(dataset.train), config.run.seed, 1),
    left_out={
      name: count - _counts(dataset)[name]
      for name, count in _counts(loaded).items()
    },
    eval_rewards=eval_rewards,
  )


def _episode_reward(config: config_lib.Config, environment, reward):
  if config.data.reward != 'toolrl':
    return episode_rewards.available(reward)
  return episode_rewards.make_reward(
    environment, config.environment.episode_reward
  )


def _environment(
  config: config_lib.Config, dataset: types.Dataset
) -> protocol.Environment | None:
  flags = config.environment
  limits = sandbox.Limits(
    seconds=flags.tool_seconds,
    megabytes=flags.tool_megabytes,
    chars=flags.tool_chars,
    workers=flags.tool_workers,
  )
  return registry.load(flags.environment, limits, dataset)


def _counts(dataset: types.Dataset) -> dict[str, int]:
  return {
    'demonstrations': len(dataset.demonstrations),
    'train': len(dataset.train),
    **{name: len(tasks) for name, tasks in dataset.evals.items()},
  }


def _check_sizes(config: config_lib.Config, dataset: types.Dataset) -> None:
  if config.run.sft_steps and not dataset.demonstrations:
    raise ValueError(
      f'--dataset={config.data.dataset} has no demonstrations: set '
      '--sft_steps=0.'
    )
  if config.run.rl_steps and not len(dataset.train):
    raise ValueError(f'--dataset={config.data.dataset} has no train prompts.')
  if not dataset.evals or not all(len(x) for x in dataset.evals.values()):
    raise ValueError(
      f'--dataset={config.data.dataset} has an empty evaluation set.'
    )


def _fitting(
  config: config_lib.Config,
  dataset: types.Dataset,
  tokenizer: tokenizers.Tokenizer,
  reader: observations.Reader | None,
) -> types.Dataset:
  """The data set, what exceeds the buckets refused, dropped or to be cut."""
  fits = functools.partial(
    demonstrations.fits,
    tokenizer,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
    overlong=config.data.overlong,
    style=_style(config),
    reader=reader,
  )
  if config.data.overlong != 'drop':
    _refuse_overlong(config, dataset, tokenizer, reader, fits)
    return dataset
  kept = _without_overlong(config, dataset, fits)
  _check_sizes(config, kept)
  return kept


def _refuse_overlong(
  config: config_lib.Config,
  dataset: types.Dataset,
  tokenizer: tokenizers.Tokenizer,
  reader: observations.Reader | None,
  fits: _Fits,
) -> None:
  """Raises at the start what would raise in the middle of the run."""
  parts: dict[
    str,
    tuple[Sequence[types.Task], Sequence[types.Demonstration] | None],
  ] = {}
  if config.run.sft_steps:
    shown = dataset.demonstrations
    parts['demonstrations'] = [x.task for x in shown], shown
  if config.run.rl_steps and len(dataset.train) <= _CHECKED_PROMPTS:
    parts['train prompts'] = list(dataset.train), None
  for name, tasks in dataset.evals.items():
    parts[f'held-out tasks of {name}'] = tasks[: config.run.eval_tasks], None

  def measure(shown: types.Demonstration) -> int:
    opened = prompts.opened(tokenizer, shown.task, _style(config))
    return demonstrations.shown_length(tokenizer, shown, reader, opened)

  problems = []
  for what, (tasks, responses) in parts.items():
    wrong = np.flatnonzero(~fits(tasks, responses))
    if wrong.size:
      encode = functools.partial(
        prompts.encode_prompt, tokenizer, style=_style(config)
      )
      text = _overlong(tasks, responses, wrong, encode, measure)
      problems.append(f'{wrong.size} of {len(tasks)} {what} ({text})')
  if problems:
    data = config.data
    raise ValueError(
      f'Longer than the last of --prompt_buckets={_joined(data.prompt_buckets)}'
      f' or of --response_buckets={_joined(data.response_buckets)}: '
      f'{"; ".join(problems)}. Add a larger bucket, or leave them out with '
      '--overlong=drop; --overlong=truncate_left cuts prompts, never answers.'
    )


def _overlong(tasks, responses, wrong: np.ndarray, encode, measure) -> str:
  """Names of the first few of the tasks at `wrong`, and the longest of all."""
  names = [tasks[i].task_id for i in wrong[:3]]
  text = ', '.join(names) + ', ...' * (wrong.size > len(names))
  length = max(len(encode(tasks[i])) for i in wrong)
  text += f': prompts up to {length} tokens'
  if responses is not None:
    length = max(measure(responses[i]) for i in wrong)
    text += f', answers up to {length} with the stop token'
  return text


def _joined(numbers: Sequence[int]) -> str:
  return ','.join(map(str, numbers))


def _without_overlong(
  config: config_lib.Config, dataset: types.Dataset, fits: _Fits
) -> types.Dataset:
  """What fits, with a line on how much does not."""
  if len(dataset.train) > 10**6:
    raise ValueError(
      f'--overlong=drop reads every prompt of --dataset={config.data.dataset} '
      'at the start, which has too many: use error or truncate_left.'
    )
  shown = dataset.demonstrations
  short = fits([x.task for x in shown], shown)

  def kept(tasks):
    return list(itertools.compress(tasks, fits(tasks)))

  result = types.Dataset(
    demonstrations=list(itertools.compress(shown, short)),
    train=kept(dataset.train),
    evals={name: kept(tasks) for name, tasks in dataset.evals.items()},
  )
  held_out = [sum(map(len, each.evals.values())) for each in (dataset, result)]
  print(
    f'Left out as too long: '
    f'{len(shown) - len(result.demonstrations)} demonstrations, '
    f'{len(dataset.train) - len(result.train)} prompts, '
    f'{held_out[0] - held_out[1]} held-out tasks.'
  )
  return result


def _check_model(
  config: config_lib.Config,
  tokenizer: tokenizers.Tokenizer,
  model: model_config.DecoderConfig,
) -> None:
  if len(tokenizer) > model.vocab_size:
    raise ValueError(
      f'The tokenizer has {len(tokenizer)} tokens, the model an embedding of '
      f'{model.vocab_size}: --tokenizer and --model do not belong together.'
    )
  prompt = config.data.prompt_buckets[-1]
  response = config.data.response_buckets[-1]
  if prompt + response > model.max_positions:
    raise ValueError(
      f'A prompt of --prompt_buckets={prompt} with an answer of '
      f'--response_buckets={response} has more positions than the '
      f'max_position_embeddings={model.max_positions} of '
      f'--model={config.model.model}: take smaller buckets.'
    )
  # Traced, not computed: it refuses a model that has no room for it.
  init = induction_init.INIT_WEIGHTS.get(config.model.init_weights)
  if init:
    jax.eval_shape(functools.partial(init, model), jax.random.key(0))


def _order(length: int, seed: int, purpose: int) -> Sequence[int]:
  """An endless shuffle, drawn anew each time around; any index at once."""
  if not length:
    return ()
  drawn = np.random.SeedSequence([seed, purpose]).generate_state(1)[0]
  return grain.MapDataset.range(length).shuffle(seed=int(drawn)).repeat()
