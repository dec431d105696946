"""Whole policies: read from a run or from Hugging Face, written as either."""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.checkpointing import checkpoints, initial_params, model_files
from awpo_jax.checkpointing import run_folder as run_folder_lib
from awpo_jax.models import config as model_config
from awpo_jax.models import lora
from awpo_jax.models.formats import gguf_files, hf_files, hf_weights
from awpo_jax.reporting import progress
from awpo_jax.rollout.text import chat_template, templates, tokenizers


class Adapters(NamedTuple):
  """Arguments of `lora.save_peft`."""

  config: model_config.DecoderConfig
  params: types.ArrayTree
  base_model_name: str


@dataclasses.dataclass(frozen=True)
class Policy:
  """A model with what turns text into its tokens and back.

  Attributes:
    config: of the decoder.
    params: its parameters.
    tokenizer: with a chat template.
    generation: its `generation_config.json`, perhaps empty.
    style: of the prompts it was trained on.
    adapters: what of a run with adapters was merged into `params`; None: none.
  """

  config: model_config.DecoderConfig
  params: types.ArrayTree
  tokenizer: tokenizers.Tokenizer
  generation: Mapping[str, Any]
  style: chat_template.Style
  adapters: Adapters | None = None

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Tokens that end an answer."""
    return tokenizers.stop_token_ids(
      self.tokenizer, tokenizers.eos_token_ids(self.generation)
    )


def load(
  path_or_name: str | os.PathLike[str],
  *,
  dtype: Any = None,
  param_dtype: Any = None,
) -> Policy:
  """Reads a policy.

  Args:
    path_or_name: a run or one of its checkpoints (`runs/x`,
      `runs/x/checkpoints/900`), a Hugging Face folder or name, a GGUF file, or
      a name in `gguf_files.PACKAGES`.
    dtype: of activations; None: that of the parameters.
    param_dtype: of the parameters; None: as they are stored.

  Raises:
    ValueError, FileNotFoundError: there is no policy, or its parts do not fit.
  """
  with progress.working(lambda: f'Loading {path_or_name}'):
    return _load(path_or_name, dtype, param_dtype)


def _load(path_or_name: str | os.PathLike[str], dtype, param_dtype) -> Policy:
  path = pathlib.Path(path_or_name)
  run = run_folder(path)
  if run is not None:
    policy = _load_run(path, run, dtype, param_dtype)
  elif (
    path.exists()
    and not (path / 'config.json').is_file()
    and gguf_files.find(path) is None
  ):
    raise FileNotFoundError(
      f'{path_or_name} is neither a run (with {checkpoints.RUN_SUBFOLDER}/, '
      f'{model_files.TOKENIZER_FOLDER}/ and {model_files.MODEL_FILE}) '
      'nor a Hugging Face folder (with config.json, *.safetensors and '
      'tokenizer.json), nor a file *.gguf.'
    )
  else:
    policy = _load_hf(str(path_or_name), dtype, param_dtype)
  if len(policy.tokenizer) > policy.config.vocab_size:
    raise ValueError(
      f'{path_or_name}: the tokenizer has {len(policy.tokenizer)} tokens, the '
      f'model an embedding of {policy.config.vocab_size}: they do not belong '
      'together.'
    )
  return policy


def run_folder(path: pathlib.Path) -> pathlib.Path | None:
  """The folder of the run that a path names or lies in, if there is one."""
  path = path.absolute()
  if path.name == checkpoints.RUN_SUBFOLDER:
    path = path.parent
  elif path.parent.name == checkpoints.RUN_SUBFOLDER:
    path = path.parents[1]
  return path if (path / model_files.MODEL_FILE).is_file() else None


def _load_run(path, run: pathlib.Path, dtype, param_dtype) -> Policy:
  file = run / model_files.MODEL_FILE
  kept = json.loads(file.read_text())['dtype']
  config = model_config.load_config(
    file, dtype=dtype or param_dtype or kept, param_dtype=kept
  )
  flags = _flags(run)
  config = model_files.with_adapters(config, flags)
  params = checkpoints.restore_params(path, initial_params.param_shapes(config))
  if param_dtype:
    config = dataclasses.replace(config, param_dtype=param_dtype)
  kind = config.param_dtype
  params = jax.tree_util.tree_map_with_path(
    # Adapters are merged as they are, and rounded with their kernel.
    lambda p, x: x if p[-1].key in lora.LEAVES else jnp.asarray(x, kind),
    params,
  )
  tokenizer = tokenizers.load_tokenizer(run / model_files.TOKENIZER_FOLDER)
  adapters = None
  if config.lora is not None:
    base = flags['init_from'] or flags['model']
    adapters = Adapters(config, lora.split(params)[0], base)
    config, params = lora.merge(config, params)
  return Policy(
    config=config,
    params=params,
    tokenizer=tokenizer,
    generation=tokenizers.read_generation_config(
      run / model_files.TOKENIZER_FOLDER
    ),
    style=_style(flags, tokenizer),
    adapters=adapters,
  )


def _flags(run: pathlib.Path) -> Mapping[str, Any]:
  """The flags of a run; a converted model has none."""
  file = run / run_folder_lib.FLAGS_FILE
  return json.loads(file.read_text()) if file.is_file() else {}


def text_side(
  path_or_name: str | os.PathLike[str], *, tools: bool
) -> tuple[tokenizers.Tokenizer, chat_template.Style]:
  """A policy's tokenizer and the style of its prompts; no weights are read.

  Args:
    path_or_name: as of `load`.
    tools: whether it will be given some: a line on stderr then says so where
      they do not go to the chat template, since that knows none.

  Raises:
    FileNotFoundError, ValueError: there is no model, or no tokenizer.
  """
  run = run_folder(pathlib.Path(path_or_name))
  if run is None and not initial_params.is_hub_name(str(path_or_name)):
    hf_files.find(path_or_name)
  flags = _flags(run) if run else {}
  tokenizer = tokenizers.load_tokenizer(
    run / model_files.TOKENIZER_FOLDER if run else str(path_or_name)
  )
  style = _style(flags, tokenizer)
  if tools and not flags and style.prompt_style != 'template':
    print(
      f'The chat template of {path_or_name} knows no tools: they are listed in '
      f'the system text, as with --prompt_style={style.prompt_style}.',
      file=sys.stderr,
    )
  return tokenizer, style


def _style(
  flags: Mapping[str, Any], tokenizer: tokenizers.Tokenizer
) -> chat_template.Style:
  if not flags:
    knows = chat_template.knows_tools(tokenizer)
    return chat_template.Style('template' if knows else 'rlla')
  return chat_template.Style(
    flags['prompt_style'],
    chat_template.THINKING[flags['enable_thinking']],
    flags.get('template_date', templates.DATE),  # Earlier runs have no flag.
  )


def _load_hf(path_or_name: str, dtype, param_dtype) -> Policy:
  param_dtype = param_dtype or initial_params.stored_dtype(path_or_name)
  config, params = hf_weights.load_pretrained(
    path_or_name, dtype=dtype or param_dtype, param_dtype=param_dtype
  )
  tokenizer = tokenizers.load_tokenizer(path_or_name)
  return Policy(
    config=config,
    params=params,
    tokenizer=tokenizer,
    generation=tokenizers.read_generation_config(path_or_name),
    style=_style({}, tokenizer),
  )


def save_orbax(policy: Policy, folder: str | os.PathLike[str]) -> None:
  """Writes a folder like a run's, which `--init_from` and `load` take.

  Raises:
    ValueError: the folder holds something.
  """
  check_new(folder)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizers.save_tokenizer(
    policy.tokenizer,
    folder / model_files.TOKENIZER_FOLDER,
    policy.generation,
  )
  hf = model_config.to_hf_dict(policy.config)
  hf['dtype'] = policy.config.param_dtype.name
  with contextlib.closing(
    checkpoints.make_manager(folder / checkpoints.RUN_SUBFOLDER, keep=1)
  ) as manager:
    checkpoints.save_checkpoint(
      manager, 0, {'params': policy.params}, position={}, flags={}
    )
  # Last: it is what makes the folder one of a run.
  file = folder / model_files.MODEL_FILE
  file.write_text(json.dumps(hf, indent=2) + '\n')


def save_hf(policy: Policy, folder: str | os.PathLike[str]) -> None:
  """Writes a Hugging Face folder: weights, tokenizer, stop tokens.

  Adapters are merged into the weights, and written to `adapters/` as well, in
  PEFT's format.

  Raises:
    ValueError: the folder holds something.
  """
  check_new(folder)
  folder = pathlib.Path(folder)
  stop_ids = policy.stop_ids
  hf_weights.save_pretrained(
    folder, policy.config, policy.params, policy.tokenizer, stop_ids=stop_ids
  )
  if policy.adapters is not None:
    lora.save_peft(pathlib.Path(folder) / 'adapters', *policy.adapters)
  # What else the model's own said: temperatures and the like.
  generation_config = {
    **policy.generation,
    **tokenizers.read_generation_config(folder),
  }
  tokenizers.save_generation_config(folder, generation_config)


def check_new(folder: str | os.PathLike[str]) -> None:
  """Raises `ValueError` where a folder holds something."""
  path = pathlib.Path(folder)
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise ValueError(f'{folder} exists already: name a new folder.')
