"""A model of Hugging Face through the whole path, and out again."""

import json
import pathlib

import numpy as np
import pytest

from awpo_jax.checkpointing import policies
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.text import tool_calls
from tests.helpers import hf_models, whole_runs

pytestmark = pytest.mark.slow
SFT_STEPS, RL_STEPS = 3, 2
# RLLA's layout, short: its fixed texts in our tokens would take 2,000.
_SYSTEM = """\
Answer as <think> .. </think>, then <tool_call> or <response>.

**Available Tools**
1. Name: get_weather
Description: Weather of a city.
Parameters: {{"city": {{"description": "where", "type": "string"}}}}
2. Name: {other}
Description: Another tool.
Parameters: {{}}

Use them where they help."""


def rlla_rows():
  """Rows as RLLA has them: calls, and replies where no tool serves."""
  for number, city in enumerate(
    ('Oslo', 'Rome', 'Lima', 'Bonn', 'Kyiv', 'Bern', 'Cork', 'Nice')
  ):
    call = tool_calls.ToolCall('get_weather', {'city': city})
    yield (
      f'What is the weather in {city}?',
      tool_calls.render_answer('Ask the tool.', [call]),
      f'tool_{number}',
    )
    yield (
      f'Say hello to {city}.',
      tool_calls.render_answer('No tool.', response=f'Hello {city}.'),
      f'tool_{number}',
    )


def write_rows(file: pathlib.Path) -> None:
  file.write_text(
    ''.join(
      json.dumps(
        {
          'id': f'row_{number}',
          'instruction': _SYSTEM.format(other=other),
          'input': f'**Dialogue Records History**\n<user> {asked} </user>',
          'output': answer,
        }
      )
      + '\n'
      for number, (asked, answer, other) in enumerate(rlla_rows())
    )
  )


@pytest.fixture(scope='module')
def path(tmp_path_factory, cache):
  """Loaded, trained and saved; the folder of all of it."""
  root = tmp_path_factory.mktemp('path')
  hf_models.save_qwen3(root / 'qwen3')
  write_rows(root / 'rows.jsonl')
  result = whole_runs.forked(
    [
      f'--model={root / "qwen3"}',
      '--dataset=rlla',
      f'--data={root / "rows.jsonl"}',
      f'--output_dir={root / "run"}',
      '--prompt_style=template',
      '--enable_thinking=false',
      '--prompt_buckets=640',
      '--response_buckets=128',
      f'--sft_steps={SFT_STEPS}',
      '--sft_batch=4',
      '--sft_micro=2',
      '--sft_warmup=0',
      '--sft_learning_rate=3e-3',
      f'--rl_steps={RL_STEPS}',
      '--prompts_per_step=2',
      '--samples=4',
      '--minibatches=1',
      '--learning_rate=1e-3',
      '--eval_batch=2',
      '--checkpoint_every=1',
      '--keep_checkpoints=9',
      cache,
    ],
    root,
  )
  assert result.returncode == 0, result.stderr
  policies.save_hf(policies.load(root / 'run'), root / 'export')
  return root


def test_it_starts_from_the_weights_and_learns(path):
  start, *rows = whole_runs.rows(path / 'run')
  assert (start['step'], start['phase']) == (0, 'start')
  assert 0 <= start['eval/held_out/accuracy'] <= 1
  assert [row['phase'] for row in rows] == (
    ['sft'] * SFT_STEPS + ['rl'] * RL_STEPS
  )
  # A uniform guess among 336 tokens; the random weights are near it.
  assert abs(rows[0]['loss'] - np.log(336)) < 1
  assert rows[SFT_STEPS - 1]['loss'] < rows[0]['loss']
  start = hf_models.read_tensors(path / 'qwen3')
  first = whole_runs.stored(path / 'run', 1)
  name = 'model.layers.1.mlp.gate_proj.weight'
  kernel = first["['params']['layers_1']['mlp']['gate_proj']['kernel']"].T
  # Adam's first step is as long as the learning rate, give or take.
  moved = np.abs(kernel - start[name]).max()
  assert 1e-3 < moved < 4e-3


def test_a_run_without_steps_only_evaluates(path, cache):
  flags = (
    f'--model={path / "qwen3"}',
    '--dataset=rlla',
    f'--data={path / "rows.jsonl"}',
    f'--output_dir={path / "measured"}',
    '--prompt_style=template',
    '--enable_thinking=false',
    '--prompt_buckets=640',
    '--response_buckets=128',
    '--eval_batch=2',
    cache,
  )
  for _ in range(2):  # The same command measures again.
    result = whole_runs.forked(flags, path)
    assert result.returncode == 0, result.stderr
  (row,) = whole_runs.rows(path / 'measured')
  trained = whole_runs.rows(path / 'run')[0]
  same = [key for key in trained if key.startswith('eval/')]
  assert same and {k: row[k] for k in same} == {k: trained[k] for k in same}
  assert not list((path / 'measured' / 'checkpoints').glob('[0-9]*'))
  assert 'accuracy' in result.stdout


def test_what_comes_out_is_what_was_trained(path):
  stored = whole_runs.stored(path / 'run', SFT_STEPS + RL_STEPS)
  exported = hf_models.read_tensors(path / 'export')
  start = hf_models.read_tensors(path / 'qwen3')
  assert exported.keys() == start.keys()
  for i in (0, 1):
    kernel = stored[
      f"['params']['layers_{i}']['self_attn']['q_proj']['kernel']"
    ]
    tensor = exported[f'model.layers.{i}.self_attn.q_proj.weight']
    np.testing.assert_array_equal(tensor, kernel.T)
  assert not any((exported[name] == start[name]).all() for name in exported)


def test_it_stops_where_the_model_did(path):
  old, new = (
    json.loads((path / folder / 'generation_config.json').read_text())
    for folder in ('qwen3', 'export')
  )
  assert new['eos_token_id'] == old['eos_token_id']


def test_transformers_gives_the_same_logits(path):
  torch = pytest.importorskip('torch')
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(path / 'export')
  tokenizer = transformers.AutoTokenizer.from_pretrained(path / 'export')
  text = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': 'Weather in Oslo?'}],
    tokenize=False,
    add_generation_prompt=True,
  )
  tokens = np.int32([tokenizer.encode(text)])
  with torch.no_grad():
    want = model.eval()(torch.tensor(tokens).long()).logits.numpy()
  policy = policies.load(path / 'export')
  decoder = decoder_lib.Decoder(policy.config)
  got = decoder.apply({'params': policy.params}, tokens)
  assert want.std() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4 * want.std())
