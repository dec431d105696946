"""Where a run's first parameters come from, and what is contradictory."""

import json
import shutil

import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.rollout.text import tokenizers
from awpo_jax.training import setup as setup_lib
from tests.helpers import hf_models, tiny_dataset

# A task of the tiny data set in Qwen's kind of tokens.
_ROOM = ('--prompt_buckets=64', '--response_buckets=16')


@pytest.fixture(scope='module')
def qwen3(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / 'qwen3'
  hf_models.save_qwen3(folder, seed=3)
  return folder


def parse(folder, *flags):
  return config_lib.parse(tiny_dataset.flags(folder, *_ROOM, *flags))


def initial(config):
  model = setup_lib.make_experiment(config).decoder.config
  mesh = sharding.data_mesh(jax.devices()[:2])
  return initial_params.initial_params(config, model, mesh)


def test_a_folder_with_weights_is_started_from(tmp_path, qwen3):
  params = initial(parse(tmp_path / 'run', f'--model={qwen3}'))
  want = hf_models.qwen3_tensors(hf_models.CONFIG | {'vocab_size': 336}, 3)
  np.testing.assert_array_equal(
    params['layers_1']['mlp']['down_proj']['kernel'],
    want['model.layers.1.mlp.down_proj.weight'].T,
  )
  embedding = params['embed_tokens']['embedding']
  np.testing.assert_array_equal(embedding, want['model.embed_tokens.weight'])
  # Whole on every device of the run.
  assert embedding.sharding.is_fully_replicated
  assert len(embedding.sharding.device_set) == 2


def test_what_belongs_to_the_model_comes_with_its_weights(tmp_path, qwen3):
  made = setup_lib.make_experiment(parse(tmp_path / 'run', f'--model={qwen3}'))
  names = ['<|im_end|>', '<|endoftext|>']
  # The second is named by the generation config alone.
  assert (
    made.codec.tokenizer.convert_ids_to_tokens(made.codec.stop_ids) == names
  )
  assert made.codec.tokenizer.eos_token == '<|im_end|>'
  # Rows without a token stay.
  assert len(made.codec.tokenizer) < made.decoder.config.vocab_size == 336
  kept = json.loads((tmp_path / 'run' / 'model.json').read_text())
  assert (kept['vocab_size'], kept['dtype']) == (336, 'float32')
  assert 'torch_dtype' not in kept
  # The run goes on without the model's folder.
  gone = parse(tmp_path / 'run', '--model=/nowhere', '--init_weights=normal')
  again = setup_lib.make_experiment(gone)
  assert again.codec.stop_ids == made.codec.stop_ids
  assert again.decoder.config == made.decoder.config


def test_another_tokenizer_still_stops_where_the_weights_do(tmp_path, qwen3):
  model, tokenizer = tmp_path / 'model', tmp_path / 'tokenizer'
  shutil.copytree(qwen3, model)
  tokenizer.mkdir()
  hf_models.save_qwen_tokenizer(tokenizer)
  end, started, text = tokenizers.load_tokenizer(
    tokenizer
  ).convert_tokens_to_ids(['<|im_end|>', '<|im_start|>', '<|endoftext|>'])
  hf = json.loads((model / 'config.json').read_text())
  # A row without a token of the tokenizer cannot end anything.
  hf |= {'eos_token_id': [started, 335]}
  (model / 'config.json').write_text(json.dumps(hf))
  made = setup_lib.make_experiment(
    parse(tmp_path / 'run', f'--model={model}', f'--tokenizer={tokenizer}')
  )
  assert made.codec.stop_ids[0] == end and set(made.codec.stop_ids) == {
    end,
    started,
    text,
  }
  policy = tokenizers.read_generation_config(tmp_path / 'run' / 'tokenizer')
  assert policy['temperature'] == 0.6


def test_random_weights_for_a_config(tmp_path, qwen3):
  # Not those of the folder, with `normal` or with its config.json alone.
  for number, flags in enumerate(
    (
      [f'--model={qwen3}', '--init_weights=normal'],
      [f'--model={qwen3}/config.json'],
    )
  ):
    config = parse(tmp_path / str(number), *flags)
    assert initial_params.source(config) == 'normal'
    params = initial(config)
    # As many tokens as the tokenizer that was trained on the data.
    embedding = params['embed_tokens']['embedding']
    assert embedding.shape[0] <= 320
    np.testing.assert_array_equal(params['norm']['weight'], np.ones(32))
    # Unlike a trained one's, what writes to the residual stream starts at 0.
    assert not np.any(params['layers_0']['mlp']['down_proj']['kernel'])


@pytest.mark.parametrize(
  ('model', 'flags', 'wanted'),
  [
    ('Qwen/Qwen3-0.6B', [], 'pretrained'),
    ('Qwen/Qwen3-0.6B', ['--init_weights=normal'], 'normal'),
    ('FOLDER/x.gguf', [], 'pretrained'),
    ('FOLDER/x.gguf', ['--init_weights=pretrained'], 'pretrained'),
    ('FOLDER/x.gguf', ['--init_weights=normal'], 'normal'),
    ('experiments/models/quickstart.json', [], 'normal'),
    ('nowhere/x.json', [], 'normal'),  # Refused where it is read.
    ('/nowhere', [], 'normal'),
  ],
)
def test_names_and_files(tmp_path, model, flags, wanted):
  (tmp_path / 'x.gguf').touch()
  model = model.replace('FOLDER', str(tmp_path))
  config = parse(tmp_path / 'run', f'--model={model}', *flags)
  assert initial_params.source(config) == wanted


def test_a_config_without_weights_is_no_start(tmp_path, qwen3):
  bare = tmp_path / 'bare'
  bare.mkdir()
  (bare / 'config.json').write_text((qwen3 / 'config.json').read_text())
  (bare / 'pytorch_model.bin').touch()
  with pytest.raises(flags_lib.ConfigError, match='without .*safetensors'):
    initial_params.source(parse(tmp_path / 'run', f'--model={bare}'))
  explicit = '--init_weights=pretrained'
  for model in (bare, bare / 'config.json'):
    config = parse(tmp_path / 'run', f'--model={model}', explicit)
    with pytest.raises(flags_lib.ConfigError, match='holds no .*safetensors'):
      initial_params.source(config)
  # The architecture is enough where something else says how to start.
  for flag in ('--init_from=old', '--init_weights=normal'):
    config = parse(tmp_path / 'run', f'--model={bare}', flag)
    assert initial_params.source(config) == 'normal'


def test_weights_that_do_not_fit_are_a_mistake_in_the_flags(tmp_path, qwen3):
  config = parse(tmp_path / 'run', f'--model={qwen3}')
  experiment = setup_lib.make_experiment(config)
  file = qwen3 / 'model.safetensors'
  broken = tmp_path / 'broken'
  broken.mkdir()
  (broken / 'config.json').write_text((qwen3 / 'config.json').read_text())
  (broken / 'model.safetensors').write_bytes(file.read_bytes()[:-100])
  config = parse(tmp_path / 'run', f'--model={broken}')
  with pytest.raises(flags_lib.ConfigError, match='truncated or corrupt'):
    initial_params.initial_params(
      config, experiment.decoder.config, sharding.data_mesh()
    )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_dtype_of_stored_tensors(tmp_path, dtype):
  hf_models.save_qwen3(tmp_path, dtype=dtype)
  config = json.loads((tmp_path / 'config.json').read_text())
  # What the config says is not looked at.
  config['torch_dtype'] = 'float16'
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert initial_params.stored_dtype(str(tmp_path)) == dtype


def test_flags_for_a_template(tmp_path, qwen3):
  flags = ['--prompt_buckets=160', '--prompt_style=template']
  made = setup_lib.make_experiment(
    parse(tmp_path / 'a', f'--model={qwen3}', *flags, '--enable_thinking=false')
  )
  task = made.data.dataset.train[0]
  text = made.codec.tokenizer.decode(made.codec.encode(task))
  assert text.endswith('assistant\n<think>\n\n</think>\n\n')
  # A tokenizer of our own does not know it.
  with pytest.raises(ValueError, match='--enable_thinking=true: .* not know'):
    setup_lib.make_experiment(parse(tmp_path / 'b', '--enable_thinking=true'))
