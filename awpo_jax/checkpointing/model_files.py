"""The tokenizer and the model of a run, which its folder keeps."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from awpo_jax import types
from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.models import attention_kernels, lora_layers
from awpo_jax.models import config as model_config
from awpo_jax.reporting import files
from awpo_jax.rollout.text import tokenizers

TOKENIZER_FOLDER = 'tokenizer'
UNFINISHED_TOKENIZER = 'tokenizer.tmp'
MODEL_FILE = 'model.json'
_TOKENIZER_PROMPTS = 500


def make_tokenizer(
  config: config_lib.Config, dataset: types.Dataset
) -> tuple[tokenizers.Tokenizer, Mapping[str, Any]]:
  """The tokenizer of a run and its model's generation config.

  It is the one in the run's folder, of a run that goes on; else that of
  `--tokenizer`, of `--init_from`, or of a `--model` whose weights are loaded;
  else one trained on the data. Where `--tokenizer` takes the place of the one
  that the weights came with, the stop tokens of that one stay. The folder keeps
  both.

  Raises:
    FileNotFoundError, ValueError: what a flag names is not there or not usable.
  """
  folder = pathlib.Path(config.run.output_dir) / TOKENIZER_FOLDER
  if folder.is_dir():
    return _load(folder)
  source: str | pathlib.Path = config.data.tokenizer
  if not source and config.run.init_from:
    source = _tokenizer_of(config.run.init_from)
  elif not source and initial_params.source(config) == 'pretrained':
    source = config.model.model
  if source:
    tokenizer, generation = _load(source)
    if config.data.tokenizer:
      generation = _with_stops_of_weights(config, tokenizer, generation)
  else:
    generation = {}
    tokenizer = tokenizers.train_tokenizer(
      _texts(dataset), vocab_size=config.data.vocab_size
    )
  # Moved into place whole, so that a killed run leaves none or all of it.
  unfinished = folder.with_name(UNFINISHED_TOKENIZER)
  tokenizers.save_tokenizer(tokenizer, unfinished, generation)
  unfinished.rename(folder)
  return tokenizer, generation


def _load(
  source: str | pathlib.Path,
) -> tuple[tokenizers.Tokenizer, Mapping[str, Any]]:
  return (
    tokenizers.load_tokenizer(source),
    tokenizers.read_generation_config(source),
  )


def _with_stops_of_weights(
  config: config_lib.Config,
  tokenizer: tokenizers.Tokenizer,
  generation: Mapping[str, Any],
) -> Mapping[str, Any]:
  """The stop tokens of the model, where the run has another tokenizer.

  A folder of `--tokenizer` may hold the tokenizer and nothing else.
  """
  own: Mapping[str, Any] = {}
  if config.run.init_from:
    with contextlib.suppress(FileNotFoundError):
      own = tokenizers.read_generation_config(
        _tokenizer_of(config.run.init_from)
      )
  elif initial_params.source(config) == 'pretrained':
    own = tokenizers.read_generation_config(config.model.model)
  merged = tokenizers.with_stops({**own, **generation}, own)
  # Another tokenizer may have fewer tokens.
  ids = [x for x in tokenizers.eos_token_ids(merged) if x < len(tokenizer)]
  return {**merged, 'eos_token_id': ids} if ids else generation


def _tokenizer_of(init_from: str) -> pathlib.Path:
  path = pathlib.Path(init_from).absolute()
  for folder in (path, *path.parents[:2]):
    if (folder / TOKENIZER_FOLDER).is_dir():
      return folder / TOKENIZER_FOLDER
  raise FileNotFoundError(
    f'--init_from={init_from}: no run that holds `{TOKENIZER_FOLDER}/`; name '
    'its tokenizer with --tokenizer.'
  )


def decoder_config(
  config: config_lib.Config, tokenizer: tokenizers.Tokenizer
) -> model_config.DecoderConfig:
  """The model of a run, which its folder keeps as a `config.json`.

  The adapters are not in it, but in the flags.

  Raises:
    FileNotFoundError, ValueError: `--model` is not there or not implemented.
  """
  file = pathlib.Path(config.run.output_dir) / MODEL_FILE
  if not file.is_file():
    hf = _hf_config(config, tokenizer)
    files.write_whole(file, json.dumps(hf, indent=2) + '\n')
  model = model_config.load_config(
    file, dtype=config.model.dtype, param_dtype=config.model.param_dtype
  )
  return of_flags(model, config)


def of_flags(
  model: model_config.DecoderConfig,
  config: config_lib.Config,
  *,
  platform: str | None = None,
) -> model_config.DecoderConfig:
  """The model of a `config.json` as the flags train it.

  Args:
    model: of the file.
    config: of the run.
    platform: of the devices that `--attention=auto` chooses for, as
      `jax.Device.platform` has it; None: those of this process.
  """
  kernel = config.model.attention
  if kernel == 'auto':
    platform = platform or jax.default_backend()
    kernel = attention_kernels.best(model, platform)
  model = dataclasses.replace(
    model,
    remat=config.model.remat,
    attention=kernel,
    decode_attention=config.model.decode_attention,
  )
  return with_adapters(model, config_lib.to_dict(config))


def with_adapters(
  model: model_config.DecoderConfig, flags: Mapping[str, Any]
) -> model_config.DecoderConfig:
  """The model with the adapters of resolved flags, perhaps none."""
  if not flags.get('lora_rank'):
    return model
  settings = lora_layers.LoraConfig(
    rank=flags['lora_rank'],
    alpha=flags['lora_alpha'],
    targets=tuple(flags['lora_targets']),
  )
  return dataclasses.replace(model, lora=settings)


def _hf_config(
  config: config_lib.Config, tokenizer: tokenizers.Tokenizer
) -> dict[str, Any]:
  """The `config.json` of `--model`, with as many tokens as the run has.

  A tokenizer trained here or for the run of `--init_from` decides that; one of
  Hugging Face may have fewer tokens than its model's embedding has rows.
  """
  hf = initial_params.read_hf_config(config.model.model)
  hf.pop('torch_dtype', None)  # What transformers 4 calls it.
  hf['dtype'] = config.model.param_dtype
  if config.data.tokenizer:
    return hf
  if config.run.init_from:
    old = _tokenizer_of(config.run.init_from).with_name(MODEL_FILE)
    if old.is_file():
      return hf | {'vocab_size': json.loads(old.read_text())['vocab_size']}
  elif initial_params.source(config) == 'pretrained':
    return hf
  return hf | {'vocab_size': len(tokenizer)}


def _texts(dataset: types.Dataset) -> Iterator[str]:
  """Turns as the chat template writes them, the role's name in front."""
  for item in dataset.demonstrations:
    yield from _prompt_texts(item.task)
    yield f'assistant\n{item.response}'
    for exchange in item.further:
      yield from (f'user\n{text}' for _, text in exchange.observations)
      yield f'assistant\n{exchange.response}'
  for task in itertools.islice(dataset.train, _TOKENIZER_PROMPTS):
    yield from _prompt_texts(task)


def _prompt_texts(task: types.Task) -> tuple[str, str]:
  return f'system\n{task.system}', f'user\n{task.user}'
