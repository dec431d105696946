"""Policies from runs and from Hugging Face, and into either, bit for bit."""

import contextlib
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from awpo_jax import types
from awpo_jax.checkpointing import (
  checkpoints,
  initial_params,
  policies,
  run_folder,
)
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.evaluation import config as evaluation
from awpo_jax.evaluation import policy_answers
from awpo_jax.evaluation import run as run_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.rollout.sampling import streaming
from awpo_jax.rollout.text import (
  chat_template,
  conversations,
  prompts,
  tokenizers,
)
from awpo_jax.training import setup as setup_lib
from tests.helpers import hf_models, tiny_dataset

TALK = conversations.read('Hi')


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def dtype(request):
  return request.param


@pytest.fixture(scope='module')
def qwen3(tmp_path_factory, dtype):
  folder = tmp_path_factory.mktemp('models') / 'qwen3'
  hf_models.save_qwen3(folder, dtype=dtype)
  return folder


@pytest.fixture(scope='module')
def converted(tmp_path_factory, qwen3):
  folder = tmp_path_factory.mktemp('converted') / 'orbax'
  policies.save_orbax(policies.load(qwen3), folder)
  return folder


def test_there_and_back_keeps_every_tensor(tmp_path, qwen3, converted, dtype):
  policies.save_hf(policies.load(converted), tmp_path / 'back')
  old, new = (
    hf_models.read_tensors(folder) for folder in (qwen3, tmp_path / 'back')
  )
  assert old.keys() == new.keys()
  for name, tensor in old.items():
    assert new[name].dtype == tensor.dtype == np.dtype(dtype)
    assert new[name].tobytes() == tensor.tobytes(), name


def test_there_and_back_keeps_what_is_around_the_tensors(
  tmp_path, qwen3, converted
):
  policies.save_hf(policies.load(converted), tmp_path / 'back')
  old, new = (
    json.loads((folder / 'generation_config.json').read_text())
    for folder in (qwen3, tmp_path / 'back')
  )
  assert new['temperature'] == old['temperature'] == 0.6
  assert new['eos_token_id'] == old['eos_token_id']
  before, after = (
    tokenizers.load_tokenizer(folder) for folder in (qwen3, tmp_path / 'back')
  )
  assert before.get_vocab() == after.get_vocab()
  assert before.chat_template == after.chat_template
  config = policies.load(qwen3).config
  assert policies.load(tmp_path / 'back').config == config
  assert policies.load(converted).config == config


def test_stop_tokens_of_all_files_are_kept(tmp_path):
  folder = tmp_path / 'qwen3'
  hf_models.save_qwen3(folder)
  names = ['<|im_end|>', '<|endoftext|>', '<|im_start|>', '</tool_call>']
  tokenizer = tokenizers.load_tokenizer(folder)
  ids = tokenizer.convert_tokens_to_ids(names)
  file = folder / 'config.json'
  hf = json.loads(file.read_text()) | {'eos_token_id': ids[1:3]}
  file.write_text(json.dumps(hf))
  hf_models.save_generation_config(folder, eos_token_id=ids[3], top_k=7)
  policies.save_orbax(policies.load(folder), tmp_path / 'orbax')
  policies.save_hf(policies.load(tmp_path / 'orbax'), tmp_path / 'hf')
  for place in (folder, tmp_path / 'orbax', tmp_path / 'hf'):
    policy = policies.load(place)
    # The template's first: it is the one that is trained on.
    assert policy.stop_ids[0] == ids[0] and set(policy.stop_ids) == set(ids)
    assert policy.generation['top_k'] == 7
  for name in ('config.json', 'generation_config.json'):
    written = json.loads((tmp_path / 'hf' / name).read_text())
    assert set(written['eos_token_id']) == set(ids)
  theirs = transformers.GenerationConfig.from_pretrained(tmp_path / 'hf')
  assert set(theirs.eos_token_id) == set(ids)


def test_a_run_starts_from_what_was_converted(tmp_path, converted, dtype):
  config = config_lib.parse(
    tiny_dataset.flags(
      tmp_path / 'run',
      f'--init_from={converted}',
      f'--param_dtype={dtype}',
      '--prompt_buckets=64',
    )
    # Of the same architecture, whatever its vocabulary.
    + [f'--model={converted}/model.json']
  )
  experiment = setup_lib.make_experiment(config)
  params = initial_params.initial_params(
    config, experiment.decoder.config, sharding.data_mesh()
  )
  want = policies.load(converted).params
  assert jax.tree.structure(params) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, params, want)
  assert len(experiment.codec.stop_ids) == 2


def test_dtypes_on_request(qwen3, converted, dtype):
  for source in (qwen3, converted):
    policy = policies.load(source)
    assert (policy.config.dtype, policy.config.param_dtype) == (dtype, dtype)
    policy = policies.load(source, dtype='float32')
    assert policy.config.dtype == 'float32'
    assert policy.config.param_dtype == dtype
    policy = policies.load(source, param_dtype='float16')
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(policy.params)}
    assert kinds == {'float16'}
    assert policy.config.param_dtype == policy.config.dtype == 'float16'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run with a tokenizer of its own, and its parameters."""
  folder = tmp_path_factory.mktemp('runs') / 'run'
  config = config_lib.parse(tiny_dataset.flags(folder))
  run_folder.claim_folder(folder, config)
  model = setup_lib.make_experiment(config).decoder.config
  params = {
    step: decoder_lib.init_params(model, jax.random.key(step))
    for step in (2, 4)
  }
  with contextlib.closing(
    checkpoints.make_manager(folder / 'checkpoints', keep=2)
  ) as manager:
    for step, tree in params.items():
      checkpoints.save_checkpoint(
        manager,
        step,
        # As the train step's state, the optimizer's share is not read.
        {'params': tree, 'opt_state': {'x': np.zeros(3)}},
        position={},
        flags={},
      )
  return folder, params


@pytest.mark.parametrize('param_dtype', [None, 'bfloat16'])
def test_adapters_of_a_run_are_merged_and_written_beside(tmp_path, param_dtype):
  config = config_lib.parse(
    tiny_dataset.flags(tmp_path / 'run', '--lora_rank=2', '--lora_alpha=6')
  )
  run_folder.claim_folder(tmp_path / 'run', config)
  model = setup_lib.make_experiment(config).decoder.config
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(x.dtype),
    jax.eval_shape(lambda: decoder_lib.init_params(model, jax.random.key(0))),
  )
  with contextlib.closing(
    checkpoints.make_manager(tmp_path / 'run' / 'checkpoints', keep=1)
  ) as manager:
    checkpoints.save_checkpoint(
      manager, 1, {'params': params}, position={}, flags={}
    )
  policy = policies.load(tmp_path / 'run', param_dtype=param_dtype)
  assert policy.config.lora is None
  layer = params['layers_0']['mlp']['down_proj']
  base = layer['kernel'].astype(param_dtype or np.float32)
  want = np.float64(base) + 3 * np.float64(layer['lora_a']) @ layer['lora_b']
  got = policy.params['layers_0']['mlp']['down_proj']
  assert got.keys() == {'kernel'}
  rtol = 1.001 * 2**-8 if param_dtype else 1e-5
  np.testing.assert_allclose(
    np.float64(got['kernel']), want, rtol=rtol, atol=1e-5
  )
  policies.save_hf(policy, tmp_path / 'hf')
  adapters = safetensors.numpy.load_file(
    tmp_path / 'hf' / 'adapters' / lora.WEIGHTS_FILE
  )
  name = 'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight'
  np.testing.assert_array_equal(adapters[name], layer['lora_a'].T)
  assert len(adapters) == len(jax.tree.leaves(lora.split(params)[0]))
  # Others may read all of it.
  files = [x for x in (tmp_path / 'hf').rglob('*') if x.is_file()]
  assert {oct(x.stat().st_mode & 0o777) for x in files} == {'0o644'}


@pytest.mark.parametrize(
  ('place', 'step'), [('', 4), ('checkpoints', 4), ('checkpoints/2', 2)]
)
def test_a_run_or_one_of_its_checkpoints(run, place, step):
  folder, params = run
  policy = policies.load(folder / place)
  jax.tree.map(np.testing.assert_array_equal, policy.params, params[step])
  assert policy.style == chat_template.Style('rlla', None)
  assert policy.config.vocab_size == len(policy.tokenizer)
  assert policy.tokenizer.convert_ids_to_tokens(policy.stop_ids) == [
    '<|im_end|>'
  ]


def test_a_run_becomes_a_model_of_hugging_face(run, tmp_path):
  folder, params = run
  policies.save_hf(policies.load(folder), tmp_path / 'export')
  np.testing.assert_array_equal(
    hf_models.read_tensors(tmp_path / 'export')[
      'model.layers.0.mlp.up_proj.weight'
    ],
    np.asarray(params[4]['layers_0']['mlp']['up_proj']['kernel']).T,
  )
  again = policies.load(tmp_path / 'export')
  assert again.stop_ids == policies.load(folder).stop_ids
  ids = json.loads((tmp_path / 'export' / 'config.json').read_text())
  assert ids['eos_token_id'] == again.stop_ids[0]


def test_what_is_no_policy(tmp_path, run):
  with pytest.raises(FileNotFoundError, match='neither a run .* nor a Hugging'):
    policies.load(tmp_path)
  with pytest.raises(OSError, match='/nowhere'):
    policies.load('/nowhere')
  with pytest.raises(FileNotFoundError, match='No checkpoint at'):
    policies.load(run[0] / 'checkpoints' / '3')
  # A folder beside a file of that name is no run for it.
  (tmp_path / 'model.json').write_text('{}')
  assert policies.run_folder(tmp_path / 'x') is None


def test_nothing_is_overwritten(tmp_path, run):
  policy = policies.load(run[0])
  (tmp_path / 'there').mkdir()
  (tmp_path / 'there' / 'x').touch()
  for save in (policies.save_hf, policies.save_orbax):
    with pytest.raises(ValueError, match='there exists already'):
      save(policy, tmp_path / 'there')


def test_a_tokenizer_of_another_model(tmp_path, qwen3):
  for file in qwen3.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  longer = tokenizers.load_tokenizer(qwen3)
  longer.add_tokens([f'<extra_{i}>' for i in range(40)])
  longer.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match='35. tokens, the model .* of 336'):
    policies.load(tmp_path)


def answer(policy, talk=TALK, **options):
  settings = streaming.Settings(
    **{'max_tokens': 6, 'temperature': 0.0, 'samples': 2} | options
  )
  return list(policy_answers.answers(policy, talk, settings))


def test_answers_of_a_run(run):
  policy = policies.load(run[0])
  got = answer(policy)
  assert {sample for sample, _ in got} == {0, 1}
  texts = [''.join(t for i, t in got if i == sample) for sample in (0, 1)]
  assert texts[0] == texts[1]  # Greedy.


def test_answers_are_refused_before_anything_is_sampled(run, qwen3):
  settings = streaming.Settings(max_tokens=6)
  policy = policies.load(run[0])
  with pytest.raises(ValueError, match='--enable_thinking=true: .*not know'):
    policy_answers.answers(policy, TALK, settings, 'true')
  long = conversations.Conversation(({'role': 'user', 'content': '1' * 5000},))
  with pytest.raises(ValueError, match='max_position_embeddings=2048'):
    policy_answers.answers(policies.load(qwen3), long, settings)
  late = conversations.read('Hi').messages
  late = conversations.Conversation(
    (*late, {'role': 'system', 'content': 'S'}, *late)
  )
  with pytest.raises(ValueError, match='template refuses'):
    policy_answers.answers(policies.load(qwen3), late, settings)


_TALK = conversations.Conversation(
  ({'role': 'user', 'content': 'Hi'},),
  ({'type': 'function', 'function': {'name': 'f', 'parameters': {}}},),
)


@pytest.mark.parametrize('knows', [True, False])
def test_tools_where_the_template_knows_none(tmp_path, capsys, knows):
  # No weights are here: none are read.
  tokenizer = tokenizers.train_tokenizer(['system user Hi'], vocab_size=300)
  shown = '{{ tools }}' if knows else ''
  tokenizer.chat_template = (
    shown + '{% for m in messages %}{{ m.content }}{% endfor %}'
  )
  tokenizers.save_tokenizer(tokenizer, tmp_path / 'model', {})
  style = 'template' if knows else 'rlla'
  found, own = policies.text_side(tmp_path / 'model', tools=True)
  assert own.prompt_style == style
  said = 'knows no tools: they are listed in the system text'
  assert (said in capsys.readouterr().err) == (not knows)
  talk, _ = policy_answers.asked(found, own, _TALK)
  assert bool(talk.tools) == knows
  talk, _ = policy_answers.asked(found, own, _TALK, prompt_style='short')
  tool = types.Tool('f', '', {})
  assert talk.messages[0]['content'] == prompts.short_system([tool])
  policies.text_side(tmp_path / 'model', tools=False)
  assert not capsys.readouterr().err
  flags = [
    f'--model={tmp_path / "model"}',
    '--data=x',
    f'--output_dir={tmp_path / "out"}',
  ]
  assert run_lib._style(evaluation.parse(flags)) == own
  assert (said in capsys.readouterr().err) == (not knows)
  explicit = evaluation.parse([*flags, '--prompt_style=template'])
  with contextlib.ExitStack() as stack:
    if not knows:
      stack.enter_context(pytest.raises(ValueError, match='not know tools'))
    assert run_lib._style(explicit).prompt_style == 'template'
