"""What a configuration names, made real: data, tokenizer, model, rewards."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import grain
import numpy as np

from awpo_jax import config as config_lib
from awpo_jax import types
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout import datasets, plugins, prompts, rewards, tokenizers
from awpo_jax.rollout.judges import rubric

JUDGES = {'rubric': rubric.rubric}
TOKENIZER_FOLDER = 'tokenizer'
UNFINISHED_TOKENIZER = 'tokenizer.tmp'
_TOKENIZER_PROMPTS = 500


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
    demonstration_order: step-independent index -> demonstration.
    prompt_order: index of a prompt in the run -> prompt of the data set.
  """

  config: config_lib.Config
  dataset: types.Dataset
  tokenizer: tokenizers.Tokenizer
  decoder: decoder_lib.Decoder
  stop_ids: tuple[int, ...]
  reward: types.Reward
  judge: types.Judge | None
  demonstration_order: Sequence[int]
  prompt_order: Sequence[int]

  @property
  def pad_id(self) -> int:
    """What fills the columns without a token."""
    pad = self.tokenizer.pad_token_id
    return self.stop_ids[0] if pad is None else pad


def make_experiment(config: config_lib.Config) -> Experiment:
  """Loads and checks everything a run needs; compiles nothing.

  The tokenizer is stored in the run's folder, and read from there when the run
  goes on.

  Raises:
    ValueError, FileNotFoundError: what a flag names is not there or does not
      fit; the message names the flag.
  """
  data = config.data
  reward = plugins.load(data.reward, rewards.REWARDS, flag='reward')
  judge = None
  if data.judge != 'none':
    judge = plugins.load(data.judge, JUDGES, flag='judge')
  dataset = datasets.load(
    data.dataset, seed=config.run.seed, data=data.data or None
  )
  _check_sizes(config, dataset)
  tokenizer = _tokenizer(config, dataset)
  dataset = _fitting(config, dataset, tokenizer)
  model = model_config.load_config(
    config.model.model,
    dtype=config.model.dtype,
    param_dtype=config.model.param_dtype,
  )
  if not data.tokenizer:
    model = dataclasses.replace(model, vocab_size=len(tokenizer))
  if len(tokenizer) > model.vocab_size:
    raise ValueError(
      f'The tokenizer has {len(tokenizer)} tokens, the model an embedding of '
      f'{model.vocab_size}: --tokenizer and --model do not belong together.'
    )
  return Experiment(
    config=config,
    dataset=dataset,
    tokenizer=tokenizer,
    decoder=decoder_lib.Decoder(model),
    stop_ids=tuple(tokenizers.stop_token_ids(tokenizer)),
    reward=reward,
    judge=judge,
    demonstration_order=_order(len(dataset.demonstrations), config.run.seed, 0),
    prompt_order=_order(len(dataset.train), config.run.seed, 1),
  )


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


def _tokenizer(
  config: config_lib.Config, dataset: types.Dataset
) -> tokenizers.Tokenizer:
  folder = pathlib.Path(config.run.output_dir) / TOKENIZER_FOLDER
  if folder.is_dir():
    return tokenizers.load_tokenizer(folder)
  if config.data.tokenizer:
    tokenizer = tokenizers.load_tokenizer(config.data.tokenizer)
  elif config.run.init_from:
    tokenizer = tokenizers.load_tokenizer(_tokenizer_of(config.run.init_from))
  else:
    tokenizer = tokenizers.train_tokenizer(
      _texts(dataset), vocab_size=config.data.vocab_size
    )
  # Moved into place whole, so that a killed run leaves none or all of it.
  unfinished = folder.with_name(UNFINISHED_TOKENIZER)
  tokenizers.save_tokenizer(tokenizer, unfinished)
  unfinished.rename(folder)
  return tokenizer


def _tokenizer_of(init_from: str) -> pathlib.Path:
  path = pathlib.Path(init_from).absolute()
  for folder in (path, *path.parents[:2]):
    if (folder / TOKENIZER_FOLDER).is_dir():
      return folder / TOKENIZER_FOLDER
  raise FileNotFoundError(
    f'--init_from={init_from}: no run that holds `{TOKENIZER_FOLDER}/`; name '
    'its tokenizer with --tokenizer.'
  )


def _texts(dataset: types.Dataset):
  """Turns as the chat template writes them, the role's name in front."""
  for item in dataset.demonstrations:
    yield from _prompt_texts(item.task)
    yield f'assistant\n{item.response}'
  for task in itertools.islice(dataset.train, _TOKENIZER_PROMPTS):
    yield from _prompt_texts(task)


def _prompt_texts(task: types.Task):
  return f'system\n{task.system}', f'user\n{task.user}'


def _fitting(
  config: config_lib.Config,
  dataset: types.Dataset,
  tokenizer: tokenizers.Tokenizer,
) -> types.Dataset:
  """The data set without what exceeds the buckets, where that is asked for."""
  if config.data.overlong != 'drop':
    return dataset
  longest = config.data.prompt_buckets[-1]

  def short(task: types.Task) -> bool:
    return len(prompts.encode_prompt(tokenizer, task)) <= longest

  if len(dataset.train) > 10**6:
    raise ValueError(
      f'--overlong=drop reads every prompt of --dataset={config.data.dataset} '
      'at the start, which has too many: use error or truncate_left.'
    )
  demonstrations = [
    item
    for item in dataset.demonstrations
    if short(item.task)
    and len(prompts.encode_response(tokenizer, item.response))
    < config.data.response_buckets[-1]
  ]
  train = [task for task in dataset.train if short(task)]
  evals = {
    name: [task for task in tasks if short(task)]
    for name, tasks in dataset.evals.items()
  }
  print(
    f'Left out as too long: '
    f'{len(dataset.demonstrations) - len(demonstrations)} demonstrations, '
    f'{len(dataset.train) - len(train)} prompts, '
    f'{sum(map(len, dataset.evals.values())) - sum(map(len, evals.values()))} '
    'held-out tasks.'
  )
  kept = types.Dataset(demonstrations=demonstrations, train=train, evals=evals)
  _check_sizes(config, kept)
  return kept


def _order(length: int, seed: int, purpose: int) -> Sequence[int]:
  """An endless shuffle, drawn anew each time around; any index at once."""
  if not length:
    return ()
  drawn = np.random.SeedSequence([seed, purpose]).generate_state(1)[0]
  return grain.MapDataset.range(length).shuffle(seed=int(drawn)).repeat()
