"""Makes what the flags name: data, tokenizer, model, rewards and judge."""

import dataclasses
import functools
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.checkpointing import model_files
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import benchmarks
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction_init
from awpo_jax.rollout import datasets, plugins
from awpo_jax.rollout.datasets import lengths
from awpo_jax.rollout.environments import (
  episode_rewards,
  episodes,
  protocol,
  registry,
  sandbox,
)
from awpo_jax.rollout.rewards import exact
from awpo_jax.rollout.rewards import scorer as scorer_lib
from awpo_jax.rollout.rewards.judges import process
from awpo_jax.rollout.text import chat_template, demonstrations, tokenizers
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.training import judge as judge_lib

# Rows whose tools run at once; what a machine has for them is up to them.
_THREADS = 32
# Reading more at the start would take a minute: they raise when they come up.
_CHECKED_PROMPTS = 10**5


@dataclasses.dataclass(frozen=True)
class Data:
  """What a run trains on and is evaluated on, and in which order.

  Attributes:
    dataset: as loaded, without what `--overlong=drop`, `--max_prompt_tokens`
      and `--max_answer_tokens` leave out.
    demonstration_order: step-independent index -> demonstration.
    prompt_order: index of a prompt in the run -> prompt of the data set.
    left_out: part of the data -> how much of it is too long and left out.
  """

  dataset: types.Dataset
  demonstration_order: Sequence[int]
  prompt_order: Sequence[int]
  left_out: Mapping[str, int]

  def demonstrations(self, order: Iterable[int]) -> list[types.Demonstration]:
    """The demonstrations at these places of the order."""
    shown = self.dataset.demonstrations
    return [shown[self.demonstration_order[i]] for i in order]

  def tasks(self, order: Iterable[int]) -> list[types.Task]:
    """The train prompts at these places of the order."""
    return [self.dataset.train[self.prompt_order[i]] for i in order]


class Experiment(NamedTuple):
  """The parts of a run that the flags name, each made by one function.

  Attributes:
    scorer: rewards and judge.
    codec: tokenizer and prompts.
    data: what is trained on.
    decoder: the model.
    rules: how episodes are played; None where an answer is one turn.
  """

  scorer: scorer_lib.Scorer
  codec: codec_lib.Codec
  data: Data
  decoder: decoder_lib.Decoder
  rules: episodes.Rules | None


def make_experiment(config: config_lib.Config) -> Experiment:
  """Loads and checks everything a run needs; compiles nothing.

  The tokenizer is stored in the run's folder, and read from there when the run
  goes on.

  Raises:
    ValueError, FileNotFoundError: what a flag names is not there or does not
      fit; the message names the flag.
  """
  loaded, eval_rewards = _load(config)
  environment = _environment(config, loaded)
  scorer = _make_scorer(config, environment, eval_rewards)
  if config.data.judge == 'process':
    judged = loaded.evals.keys() - eval_rewards.keys()
    for name in sorted(judged):
      process.check([*{x.kind: x for x in loaded.evals[name]}.values()])
  codec = _make_codec(config, loaded)
  data = _make_data(config, loaded, codec, eval_rewards)
  decoder = _make_decoder(config, codec)
  rules = _rules(config, environment, codec)
  return Experiment(scorer, codec, data, decoder, rules)


def _load(
  config: config_lib.Config,
) -> tuple[types.Dataset, Mapping[str, types.Reward]]:
  """The data set with its benchmarks, and the rewards of these."""
  data = config.data
  skipped: list[str] | None = [] if data.bad_rows == 'skip' else None
  loaded = datasets.load(
    data.dataset,
    seed=config.run.seed,
    data=data.data or None,
    skipped=skipped,
  )
  loaded, eval_rewards = benchmarks.with_benchmarks(config, loaded, skipped)
  if skipped:
    print(f'{len(skipped)} bad rows left out, the first: {skipped[0]}')
  _check_sizes(config, loaded)
  return loaded, eval_rewards


def _make_scorer(
  config: config_lib.Config,
  environment: protocol.Environment | None,
  eval_rewards: Mapping[str, types.Reward],
) -> scorer_lib.Scorer:
  """Reward and judge; with an environment they score whole episodes."""
  data = config.data
  reward = plugins.load(data.reward, exact.REWARDS, flag='reward')
  judge = judge_lib.make_judge(
    data.judge, config.judge, run=os.path.abspath(config.run.output_dir)
  )
  if environment is not None:
    reward = _episode_reward(config, environment, reward)
    judge = judge and episode_rewards.EpisodeJudge(judge)
  return scorer_lib.Scorer(reward, judge, eval_rewards)


def _make_codec(
  config: config_lib.Config, dataset: types.Dataset
) -> codec_lib.Codec:
  tokenizer, generation = model_files.make_tokenizer(config, dataset)
  data, flags = config.data, config.environment
  style = chat_template.Style(
    data.prompt_style,
    chat_template.THINKING[data.enable_thinking],
    data.template_date,
  )
  return codec_lib.make_codec(
    tokenizer,
    generation,
    style,
    observation_tokens=(
      flags.observation_tokens if flags.environment != registry.NONE else None
    ),
  )


def _make_data(
  config: config_lib.Config,
  loaded: types.Dataset,
  codec: codec_lib.Codec,
  benchmark_names: Collection[str],
) -> Data:
  dataset = _within_limits(config, loaded, codec, benchmark_names)
  dataset, seed = _fitting(config, dataset, codec), config.run.seed
  counts = lengths.counts(dataset)
  return Data(
    dataset=dataset,
    demonstration_order=_order(len(dataset.demonstrations), seed, 0),
    prompt_order=_order(len(dataset.train), seed, 1),
    left_out={
      name: count - counts[name]
      for name, count in lengths.counts(loaded).items()
    },
  )


def _make_decoder(
  config: config_lib.Config, codec: codec_lib.Codec
) -> decoder_lib.Decoder:
  model = model_files.decoder_config(config, codec.tokenizer)
  _check_model(config, codec.tokenizer, model)
  return decoder_lib.Decoder(model)


def _rules(
  config: config_lib.Config,
  environment: protocol.Environment | None,
  codec: codec_lib.Codec,
) -> episodes.Rules | None:
  if environment is None or codec.reader is None:
    return None
  return episodes.Rules(
    environment=environment,
    reader=codec.reader,
    codec=codec,
    max_turns=config.environment.max_turns,
    max_tokens=config.data.response_buckets[-1],
    threads=_THREADS,
  )


def _episode_reward(config: config_lib.Config, environment, reward):
  if config.data.reward not in exact.REWARDS:
    return episode_rewards.available(reward)
  graded = episode_rewards.make_reward(
    environment, config.environment.episode_reward
  )
  return exact.made_exact(graded) if reward is exact.exact else graded


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


def _check_sizes(
  config: config_lib.Config, dataset: types.Dataset, within: str = ''
) -> None:
  """Refuses a data set that lacks a part, `within` the limits on lengths."""
  problem = None
  if config.run.sft_steps and not dataset.demonstrations:
    problem = f'no demonstrations{within}: set --sft_steps=0'
  elif config.run.rl_steps and not len(dataset.train):
    problem = f'no train prompts{within}'
  elif not dataset.evals or not all(len(x) for x in dataset.evals.values()):
    problem = f'an empty evaluation set{within}'
  if problem:
    raise ValueError(f'--dataset={config.data.dataset} has {problem}.')


def _fitting(
  config: config_lib.Config, dataset: types.Dataset, codec: codec_lib.Codec
) -> types.Dataset:
  """The data set, after --overlong has refused or dropped what is too long."""
  fits = functools.partial(
    demonstrations.fits,
    codec,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
    overlong=config.data.overlong,
  )
  if config.data.overlong != 'drop':
    _refuse_overlong(config, dataset, codec, fits)
    return dataset
  kept = _without_overlong(config, dataset, codec, fits)
  _check_sizes(config, kept, ' within the last of the buckets')
  return kept


def _refuse_overlong(
  config: config_lib.Config,
  dataset: types.Dataset,
  codec: codec_lib.Codec,
  fits: lengths.Fits,
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
  problems = []
  for what, (tasks, responses) in parts.items():
    wrong = np.flatnonzero(~fits(tasks, responses))
    if wrong.size:
      text = demonstrations.too_long(codec, tasks, responses, wrong)
      problems.append(f'{wrong.size} of {len(tasks)} {what} ({text})')
  if problems:
    data = config.data
    raise ValueError(
      f'Longer than the last of --prompt_buckets={_joined(data.prompt_buckets)}'
      f' or of --response_buckets={_joined(data.response_buckets)}: '
      f'{"; ".join(problems)}. Add a larger bucket, or leave them out with '
      '--overlong=drop; --overlong=truncate_left cuts prompts, never answers.'
    )


def _joined(numbers: Sequence[int]) -> str:
  return ','.join(map(str, numbers))


def _without_overlong(
  config: config_lib.Config,
  dataset: types.Dataset,
  codec: codec_lib.Codec,
  fits: lengths.Fits,
) -> types.Dataset:
  """The part of the data set that fits; prints how much does not.

  Nothing is learnt from a prompt whose reference is longer than any answer. Of
  an episode the reference is more than its first answer, and is not looked at.
  """
  _refuse_endless(config, dataset, '--overlong=drop')
  by_answer = ['train'] if codec.reader is None else []
  result = lengths.sift(dataset, fits, by_answer=by_answer)
  print(f'Left out as too long: {lengths.left_out(dataset, result)}.')
  return result


def _refuse_endless(config: config_lib.Config, dataset, flag: str) -> None:
  if len(dataset.train) > 10**6:
    raise ValueError(
      f'{flag} reads every prompt of --dataset={config.data.dataset} at the '
      'start, which has too many: leave it out, or for --overlong use error or '
      'truncate_left.'
    )


def _within_limits(
  config: config_lib.Config,
  dataset: types.Dataset,
  codec: codec_lib.Codec,
  benchmark_names: Collection[str],
) -> types.Dataset:
  """What `--max_prompt_tokens` and `--max_answer_tokens` keep.

  A benchmark among the evaluation sets stays as it is.
  """
  prompt, answer = config.data.max_prompt_tokens, config.data.max_answer_tokens
  if not (prompt or answer):
    return dataset
  _refuse_endless(config, dataset, '--max_prompt_tokens or --max_answer_tokens')
  fits = functools.partial(
    demonstrations.fits,
    codec,
    prompt_buckets=(prompt or sys.maxsize,),
    response_buckets=(answer or sys.maxsize,),
  )
  own = {x: y for x, y in dataset.evals.items() if x not in benchmark_names}
  others = {x: y for x, y in dataset.evals.items() if x in benchmark_names}
  by_answer = ['train', *own] if codec.reader is None else []
  sifted = lengths.sift(
    dataclasses.replace(dataset, evals=own), fits, by_answer=by_answer
  )
  result = dataclasses.replace(sifted, evals={**sifted.evals, **others})
  print(f'Left out by length: {lengths.left_out(dataset, result)}.')
  _check_sizes(
    config, result, ' within --max_prompt_tokens and --max_answer_tokens'
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
  import grain  # Other programs that import this module run without it.

  drawn = np.random.SeedSequence([seed, purpose]).generate_state(1)[0]
  return grain.MapDataset.range(length).shuffle(seed=int(drawn)).repeat()
