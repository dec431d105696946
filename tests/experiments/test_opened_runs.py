"""Whole runs whose template opens the thought and asks for the day.

Trained on `<think> b </think>` and `d`, the policy soon says nothing else.
"""

import json
import re

import pytest

from awpo_jax.checkpointing import policies
from awpo_jax.reporting import rollout_archive
from awpo_jax.rollout.text import tokenizers
from tests.helpers import (
  benchmark_rows,
  opened_thoughts,
  tiny_dataset,
  tiny_turns,
  whole_runs,
)

OPENED, LEARNT = '<think>\n', '<think>\nb </think>\nd'
DAY = '2025-02-05'
SFT_STEPS = 40
FLAGS = (
  '--dataset=tests.helpers.opened_thoughts:load',
  '--reward=tests.helpers.opened_thoughts:reward',
  '--judge=tests.helpers.opened_thoughts:judge',
  '--shaper=egpo',
  '--gate=none',
  '--prompt_buckets=48',
  '--response_buckets=16',
  f'--sft_steps={SFT_STEPS}',
  '--checkpoint_every=50',
  '--archive',
)


def _tokenizer(folder):
  """Opens a thought where it is told to think, and asks for the day."""
  tokenizer = opened_thoughts.opening(OPENED)
  head = "{{- '<|im_start|>assistant\\n<think>\\n' }}"
  assert head in tokenizer.chat_template
  tokenizer.chat_template = (
    "{{- 'It is ' + strftime_now('%Y-%m-%d') + '.' }}"
    + tokenizer.chat_template.replace(
      head,
      "{{- '<|im_start|>assistant\\n' }}"
      '{%- if enable_thinking is defined and enable_thinking %}'
      "{{- '<think>\\n' }}{%- endif %}",
    )
  )
  tokenizers.save_tokenizer(tokenizer, folder)
  return f'--tokenizer={folder}', '--enable_thinking=true'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, cache):
  base = tmp_path_factory.mktemp('opened')
  flags = tiny_dataset.flags(
    base / 'run',
    cache,
    *FLAGS,
    *_tokenizer(base / 'tokenizer'),
    f'--template_date={DAY}',
  )
  result = whole_runs.forked(flags, base)
  assert result.returncode == 0, result.stderr
  return base / 'run'


def _answers(folder, step):
  """Greedy answers of the run's evaluation."""
  rows = whole_runs.rows(folder, 'transcripts.jsonl')
  return {
    row['user']: row['response']
    for row in rows
    if 'set' in row and row['step'] == step
  }


def test_demonstrations_are_learnt_behind_what_is_opened(folder):
  assert set(_answers(folder, SFT_STEPS).values()) == {LEARNT}


def test_rewards_and_transcripts_see_the_whole_answer(folder):
  for row in whole_runs.rows(folder):
    if row['phase'] == 'rl':
      assert row['reward/first'] == 1
  rows = whole_runs.rows(folder, 'transcripts.jsonl')
  assert len(rows) > 40
  for row in rows:
    assert row['response'].startswith(OPENED)
    assert not row['response'].startswith(f'{OPENED}<think>')
  sampled = [row for row in rows if 'set' not in row]
  assert any(row['reasoning'] for row in sampled)
  for row in sampled:
    assert row['reasoning'] == ('</think>' in row['response'])


def test_what_is_trained_on_are_the_sampled_tokens(folder):
  tokenizer = tokenizers.load_tokenizer(folder / 'tokenizer')
  kept = rollout_archive.open_archive(folder)
  shown = whole_runs.rows(folder, 'transcripts.jsonl')
  for step in kept.steps:
    rollout = kept.rollout(step)
    for tokens, mask in zip(
      rollout.prompts.tokens, rollout.prompts.mask, strict=True
    ):
      prompt = tokenizer.decode(tokens[mask])
      assert prompt.startswith(f'It is {DAY}.<|im_start|>system')
      assert prompt.endswith(f'<|im_start|>assistant\n{OPENED}')
    completions = rollout.completions
    rows = [x for x in shown if x['step'] == step and 'set' not in x]
    samples = completions.tokens.reshape(len(rows), -1)
    masks = completions.policy_mask.reshape(samples.shape)
    thoughts = rollout.thinking.reshape(samples.shape)
    for row, tokens, mask, thought in zip(
      rows, samples, masks, thoughts, strict=True
    ):
      text = tokenizer.decode(tokens[mask]).removesuffix('<|im_end|>')
      assert row['response'] == OPENED + text
      # Tags are tokens of their own, or share one with the space beside them.
      inside = re.split(r'\s?</think>', text)[0]
      got = tokenizer.decode(tokens[thought]).removesuffix('<|im_end|>')
      assert got == inside
      assert not (thought & ~mask).any()


def test_the_policy_keeps_its_day(folder):
  assert policies.load(folder).style.date == DAY
  assert f'--template_date={DAY}' in (
    (folder / 'run.flags').read_text().splitlines()
  )


def test_generate_says_what_the_evaluation_said(folder, tmp_path):
  (user, answer), *_ = _answers(folder, SFT_STEPS + 3).items()
  result = whole_runs.forked(
    [
      f'--model={folder}',
      '--system=system',
      f'--prompt={user}',
      '--temperature=0',
      '--max_tokens=16',
    ],
    tmp_path,
    program='experiments/generate.py',
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == f'{answer}\n'
  assert answer.startswith(OPENED)


def test_benchmarks_see_the_whole_answer(folder, tmp_path, cache):
  data = benchmark_rows.write(tmp_path / 'data')

  def evaluate(place, *flags):
    return whole_runs.forked(
      [
        '--flagfile=experiments/eval_all.flags',
        f'--data={data}',
        f'--output_dir={tmp_path / place}',
        '--benchmarks=mmlu_pro,apibank',
        '--prompt_buckets=384',
        '--max_tokens=16',
        cache,
        *flags,
      ],
      tmp_path,
      program='experiments/evaluate.py',
    )

  result = evaluate('model', f'--model={folder}')
  assert result.returncode == 0, result.stderr
  for name in ('mmlu_pro', 'apibank'):
    rows = whole_runs.rows(tmp_path / 'model' / name, 'answers.jsonl')
    assert rows and all(
      answer.startswith(OPENED) for row in rows for answer in row['answers']
    )
  settings = json.loads((tmp_path / 'model' / 'evaluation.json').read_text())
  assert settings['style'] == ['rlla', True, DAY]
  # What is no prompt's continuation stays as it is.
  assert evaluate('oracle', '--policy=oracle').returncode == 0
  rows = whole_runs.rows(tmp_path / 'oracle' / 'mmlu_pro', 'answers.jsonl')
  assert all(row['answers'][0].startswith('The answer is') for row in rows)
  # Another day is another evaluation.
  result = evaluate('model', f'--model={folder}', '--template_date=2025-02-06')
  assert result.returncode == 2 and '--template_date' in result.stderr


def test_every_turn_of_an_episode_is_whole(tmp_path, cache):
  flags = tiny_dataset.flags(
    tmp_path / 'run',
    *tiny_turns.FLAGS,
    *_tokenizer(tmp_path / 'tokenizer'),
    '--prompt_buckets=48',
    '--response_buckets=128',
    '--observation_tokens=40',
    '--rl_steps=1',
    cache,
  )
  result = whole_runs.forked(flags, tmp_path)
  assert result.returncode == 0, result.stderr
  rows = whole_runs.rows(tmp_path / 'run', 'transcripts.jsonl')
  episodes = [row['episode']['turns'] for row in rows]
  assert max(map(len, episodes)) == tiny_turns.TURNS
  for turns in episodes:
    for turn in turns:
      assert turn['text'].startswith(OPENED)
      assert not turn['text'].startswith(f'{OPENED}<think>')
