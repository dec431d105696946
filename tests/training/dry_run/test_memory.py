"""What a run needs of a device's memory: counted by hand, and by XLA."""

import dataclasses
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.training.dry_run import memory, targets
from tests.helpers import tiny_run, tiny_training, whole_runs
from tests.training.dry_run import test_xla_buffers

ROOT = whole_runs.ROOT
# What Hugging Face reports for the checkpoints.
NUMBERS = {
  'qwen2.5_1.5b': 1_543_714_304,
  'qwen2.5_3b': 3_085_938_688,
  'qwen3_0.6b': 596_049_920,
  'qwen3_1.7b': 1_720_574_976,
  'qwen3_4b': 4_022_468_096,
  'qwen3_8b': 8_190_735_360,
  'qwen3_32b': 32_762_123_264,
}


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def _mesh(data, model=None):
  axes = ('data',) if model is None else ('data', 'model')
  return jax.sharding.AbstractMesh((data, model)[: len(axes)], axes)


def _plan(name, *flags):
  return memory.make_plan(
    config_lib.parse(
      [
        f'--flagfile=experiments/rlla/{name}.flags',
        f'--model=experiments/models/{name}.json',
        *flags,
      ]
    )
  )


@pytest.mark.parametrize('name', NUMBERS)
def test_parameters_of_the_real_models(name):
  hf = json.loads((ROOT / f'experiments/models/{name}.json').read_text())
  v, d, f = (hf[x] for x in ('vocab_size', 'hidden_size', 'intermediate_size'))
  h, k = hf['num_attention_heads'], hf['num_key_value_heads']
  c = hf.get('head_dim', d // h)
  qwen3 = hf['model_type'] == 'qwen3'
  attention = 2 * d * h * c + 2 * d * k * c
  attention += 2 * c if qwen3 else (h + 2 * k) * c
  layer = attention + 3 * d * f + 2 * d
  heads = 1 if hf['tie_word_embeddings'] else 2
  wanted = heads * v * d + hf['num_hidden_layers'] * layer + d
  assert wanted == NUMBERS[name]
  recipe = name.replace('32b', '8b')  # The largest that has one.
  plan = _plan(
    recipe,
    f'--model=experiments/models/{name}.json',
    '--lora_rank=0',
    '--param_dtype=float32',
  )
  assert memory.parts(plan, _mesh(1))['parameters'] == 4 * wanted


def test_parts_of_a_model_with_adapters():
  d, f, q, kv = 2560, 9728, 32 * 128, 8 * 128
  # In and out of q, k, v, o, gate, up and down.
  ends = 2 * (d + q) + 2 * (d + kv) + 3 * (d + f)
  adapters = 36 * 32 * ends
  # Keys and values of 16 prompts and four answers to each, 2,048 tokens long.
  cache = (16 + 64) * 2048 * 36 * 2 * kv * 2
  assert memory.parts(_plan('qwen3_4b'), _mesh(1)) == {
    'parameters': 2 * NUMBERS['qwen3_4b'] + 4 * adapters,
    'gradients': 4 * adapters,
    # Two moments, and two counts: of Adam and of the schedule.
    'optimizer': 2 * 4 * adapters + 2 * 4,
    'reference': 0,
    'cache': cache,
    'logits': 4 * 128 * 151_936 * 4,
  }


def test_parts_of_a_model_all_of_which_is_trained():
  number = NUMBERS['qwen3_0.6b']
  found = memory.parts(
    _plan('qwen3_0.6b', '--kl_coef=0.1', '--first_moment_dtype=bfloat16'),
    _mesh(1),
  )
  assert found['parameters'] == found['gradients'] == 4 * number
  assert found['optimizer'] == (4 + 2) * number + 2 * 4
  assert found['reference'] == 4 * number
  adapted = _plan('qwen3_0.6b', '--lora_rank=8', '--kl_coef=0.1')
  found = memory.parts(adapted, _mesh(1))
  assert found['reference'] == found['gradients'] < 4 * number / 50


def _replaced(plan, **fields):
  rl = dataclasses.replace(plan.config.rl, **fields)
  return dataclasses.replace(
    plan, config=dataclasses.replace(plan.config, rl=rl)
  )


def test_more_devices_take_rows_off_each_other_and_nothing_else(tiny_plan):
  plan = _replaced(tiny_plan, rollout_micro=0)
  one, eight = (memory.parts(plan, _mesh(n)) for n in (1, 8))
  assert one.pop('cache') == 8 * eight.pop('cache')
  assert one == eight
  plan = _replaced(tiny_plan, rollout_micro=1)
  assert memory.parts(plan, _mesh(1)) == memory.parts(plan, _mesh(8))


def test_slots_hold_the_prompts_they_are_at_once_more(tiny_plan):
  config, model = tiny_plan.config, tiny_plan.decoder.config
  column = 2 * model.layers * model.kv_heads * model.head_width
  column *= model.dtype.itemsize
  prompts = config.rl.prompts_per_step
  read, written = (
    config.data.prompt_buckets[-1],
    config.data.response_buckets[-1],
  )
  for slots, shared, lanes in ((0, 1, 0), (6, 1, 6), (6, 2, 3)):
    plan = _replaced(
      tiny_plan, slots=slots, slots_shared=shared, rollout_micro=0
    )
    rows = slots or prompts * config.rl.samples
    want = column * ((prompts + lanes) * read + rows * written)
    assert memory.parts(plan, _mesh(1))['cache'] == want


def test_a_mesh_cuts_the_state_and_what_heads_and_words_make():
  plan = _plan('qwen3_8b', '--lora_rank=0', '--kl_coef=0.1')
  whole, cut = (memory.parts(plan, _mesh(*x)) for x in ((1,), (8, 4)))
  d, layers, c = 4096, 36, 128
  vectors = 2 * d * layers + d + 2 * c * layers
  for name, size in (('parameters', 2), ('gradients', 4), ('reference', 2)):
    matrices = whole[name] - size * vectors
    assert cut[name] == matrices // 32 + size * vectors
  for name in ('cache', 'logits'):
    assert cut[name] == whole[name] // 4


def test_needed_adds_up_what_a_program_holds():
  size = 4 * 1000
  x = jax.ShapeDtypeStruct((1000,), jnp.float32)

  def compile_(fn, **options):
    return jax.jit(fn, **options).lower(x).compile()

  assert memory.needed(compile_(lambda x: x + 1)) == 2 * size
  # In place.
  assert memory.needed(compile_(lambda x: x + 1, donate_argnums=0)) == size
  # Both sorted at once: two that are neither argument nor result.
  held = compile_(lambda x: jnp.sum(jnp.sort(x) * jnp.sort(-x)))
  assert memory.needed(held) >= 2 * size


@pytest.fixture(scope='module')
def tiny_plan(tmp_path_factory):
  model = tmp_path_factory.mktemp('model') / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  flags = [
    *tiny_run.FLAGS,
    f'--model={model}',
    '--output_dir=run',
    '--dry_run=here',
    '--prompt_buckets=20',
    '--response_buckets=8',
    '--kl_coef=0.1',
    '--eval_batch=8',
    '--prompts_per_step=8',
    '--sft_batch=8',
  ]
  return memory.make_plan(config_lib.parse(flags))


@pytest.fixture(scope='module')
def dried(tiny_plan, tmp_path_factory):
  """The text of a dry run, its numbers, and the folder it ran in."""
  peaks, sizes = memory.peaks, {}

  def recorded(plan, target):
    # As quickly as possible.
    target = dataclasses.replace(target, options=tiny_training.quick())
    sizes.update(peaks(plan, target))
    return iter(sizes.items())

  folder = tmp_path_factory.mktemp('dry')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(memory, 'peaks', recorded)
    patch.chdir(folder)
    return '\n'.join(memory.dry_run(tiny_plan.config)), sizes, folder


def test_peaks_hold_the_state_and_what_lies_besides(tiny_plan, dried):
  _, peaks, _ = dried
  assert {name.split()[0] for name in peaks} == {
    'evaluate',
    'init',
    'prepare',
    'reference',
    'sample',
    'update',
  }
  named = memory.parts(tiny_plan, _mesh(len(jax.devices())))
  state = named['parameters'] + named['optimizer']
  for name, size in peaks.items():
    assert size >= state, name
  assert peaks['sample 20'] > state + named['reference'] + named['cache']
  assert (
    peaks['update rl 20 8'] > state + named['reference'] + named['gradients']
  )
  # The state is all that there is after the start, the parameters donated.
  assert peaks['init rl'] < state + named['parameters']


def test_a_dry_run_says_what_is_needed_and_writes_nothing(dried):
  text, _, folder = dried
  for row in ('parameters', 'optimizer', 'cache', 'update sft 20 8'):
    assert re.search(rf'^  {row} +\d+\.\d$', text, re.MULTILINE), text
  assert 'does not say what it has' in text.splitlines()[-1]
  assert not list(folder.iterdir())


def test_a_verdict():
  gib = 2**30
  peaks = {'sample': 3 * gib, 'update': 9 * gib}
  assert memory.verdict(peaks, 10 * gib) == (
    'Fits into the 9.5 GiB that XLA can be given; the largest is `update` '
    'with 9.0 GiB.'
  )
  assert memory.verdict(peaks, 9 * gib).startswith('Does not fit into the 8.5')


@pytest.mark.parametrize(
  'name', ['h200', 'h100:0', 'here:2', 'h100:', '', 'v4']
)
def test_what_is_no_target(name):
  with pytest.raises(flags_lib.ConfigError, match='--dry_run'):
    targets.find(name)


def test_a_gpu_that_is_not_here():
  if test_xla_buffers.GPU:
    found = targets.find('h100:2')
    assert len(found.devices) == 2 and found.memory == 84_978_434_048
    assert 'H100' in found.devices[0].device_kind
  else:
    with pytest.raises(flags_lib.ConfigError, match='cuda12'):
      targets.find('h100')


def test_tpus_come_in_slices():
  with pytest.raises(flags_lib.ConfigError, match='v5e:3: .* 1, 4, 8, 16'):
    targets.find('v5e:3')


def test_tpus_that_are_not_here():
  if importlib.util.find_spec('libtpu'):
    found = targets.find('v5e:8')
    assert len(found.devices) == 8 and found.platform == 'tpu'
    assert 'v5' in found.devices[0].device_kind
    assert len(targets.find('v5e').devices) == 1
    assert found.memory == 16 * 2**30  # https://cloud.google.com/tpu/docs/v5e
  else:
    with pytest.raises(flags_lib.ConfigError, match=r"\.\[tpu\]'"):
      targets.find('v5e')


def test_what_the_compiler_refuses_is_told(tiny_plan, monkeypatch):
  class Lowered:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 80.00G of 15.75G')

  monkeypatch.setattr(memory, 'lowerings', lambda *_: {('init', 'rl'): Lowered})
  with pytest.raises(
    flags_lib.ConfigError, match='init rl was not compiled.*80.00G of 15.75G'
  ):
    list(memory.peaks(tiny_plan, targets.find('here')))


def test_a_dry_run_refuses_what_a_run_refuses(tiny_plan):
  flags = config_lib.to_flagfile(tiny_plan.config).split('\n')
  for wrong, named in (
    ('--model=nowhere/config.json', 'nowhere'),
    ('--prompts_per_step=6', '--prompts_per_step=6'),
  ):
    config = config_lib.parse([x for x in (*flags, wrong) if x])
    with pytest.raises(flags_lib.ConfigError, match=named):
      next(memory.dry_run(config))


@pytest.mark.parametrize(
  'platform, kernel', [('gpu', 'cudnn'), ('tpu', 'parts'), (None, 'parts')]
)
def test_auto_is_the_kernel_of_the_platform_that_is_compiled_for(
  tiny_plan, platform, kernel
):
  plan = memory.make_plan(_auto(tiny_plan), platform=platform)
  # This process has CPUs; heads of 8 and 16 bits suit cuDNN.
  assert plan.decoder.config.attention == kernel


def _auto(plan, *flags):
  lines = config_lib.to_flagfile(plan.config).split('\n')
  wanted = ('--attention=auto', '--dtype=bfloat16', *flags)
  return config_lib.parse([x for x in (*lines, *wanted) if x])


def test_a_dry_run_chooses_for_its_target(tiny_plan, monkeypatch):
  monkeypatch.setattr(targets.Target, 'platform', 'gpu')
  # The devices that it then looks at are the CPUs of this process.
  with pytest.raises(flags_lib.ConfigError, match='attention=cudnn.*is cpu'):
    next(memory.dry_run(_auto(tiny_plan)))


def test_episodes_have_the_programs_of_turns(tiny_plan):
  flags = config_lib.to_flagfile(tiny_plan.config).split('\n')
  turns = ['--environment=quickstart', '--reward=toolrl', '--slots=0']
  flags = [*flags, *turns, '--observation_tokens=4']
  plan = memory.make_plan(config_lib.parse([x for x in flags if x]))
  made = memory.lowerings(plan, tiny_run.mesh())
  assert {key for key in made if key[0] == 'sample'} == {
    ('sample', 20, 'begin'),
    ('sample', 20, 'go_on'),
  }
