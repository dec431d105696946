"""What a configuration names is loaded, or refused with the flag named."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.rollout.rewards import exact, toolrl
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.text import prompts
from awpo_jax.training import setup as setup_lib
from tests.helpers import benchmark_rows, tiny_dataset


def _make(folder, *flags):
  return setup_lib.make_experiment(
    config_lib.parse(tiny_dataset.flags(folder, *flags))
  )


def test_parts_of_the_tiny_experiment(tmp_path):
  made = _make(tmp_path / 'run')
  assert (
    made.scorer.reward is tiny_dataset.reward
    and made.scorer.judge is tiny_dataset.judge
  )
  # The vocabulary is the tokenizer's, whatever the model's file says.
  assert made.decoder.config.vocab_size == len(made.codec.tokenizer) <= 320
  assert made.codec.tokenizer.decode([made.codec.stop_ids[0]]) == '<|im_end|>'
  assert made.codec.tokenizer.decode([made.codec.pad_id]) == '<|endoftext|>'


def test_names_of_what_is_built_in(tmp_path):
  made = _make(tmp_path / 'run', '--reward=toolrl', '--judge=rubric')
  assert made.scorer.reward is toolrl.toolrl
  assert made.scorer.judge is rubric.rubric
  made = _make(tmp_path / 'other', '--judge=none', '--gate=none')
  assert made.scorer.judge is None
  made = _make(tmp_path / 'exact', '--reward=exact')
  assert made.scorer.reward is exact.exact


def test_a_judge_of_steps_needs_tasks_with_steps(tmp_path):
  with pytest.raises(ValueError, match='--judge=process knows'):
    _make(tmp_path / 'run', '--judge=process')


def two_kinds(*, seed, data=None):
  """A data set whose second kind of held-out task has no steps."""
  made = tiny_dataset.load(seed=seed, data=data)
  (name, (task, *_)) = next(iter(made.evals.items()))
  question = 'the following arithmetic problem: 1 + 2 ='
  first = dataclasses.replace(
    task, user=f'State the final answer to {question}', kind='sum'
  )
  return dataclasses.replace(made, evals={name: [first, first, task]})


def test_each_kind_of_task_needs_steps(tmp_path):
  flags = '--judge=process', f'--dataset={__name__}:two_kinds'
  with pytest.raises(ValueError, match='--judge=process knows'):
    _make(tmp_path / 'run', *flags)


def test_each_demonstration_once_a_round_and_the_order_is_the_seeds(tmp_path):
  first = _make(tmp_path / 'a')
  order = [first.data.demonstration_order[i] for i in range(60)]
  for start in (0, 20, 40):
    assert sorted(order[start : start + 20]) == list(range(20))
  assert order[:20] != order[20:40]
  again = _make(tmp_path / 'b')
  assert [again.data.demonstration_order[i] for i in range(60)] == order
  other = _make(tmp_path / 'c', '--seed=1')
  assert [other.data.demonstration_order[i] for i in range(60)] != order
  drawn = [first.data.prompt_order[i] for i in range(40)]
  assert len(set(drawn)) == 40 and max(drawn) < len(first.data.dataset.train)
  assert [x % 20 for x in drawn] != order[:40]


def test_the_tokenizer_stays_with_the_run(tmp_path):
  folder = tmp_path / 'run'
  first = _make(folder, '--vocab_size=300')
  assert not folder.with_name('tokenizer.tmp').exists()
  # Read back, not trained anew, which would give another.
  again = _make(folder, '--vocab_size=292')
  assert again.codec.tokenizer.get_vocab() == first.codec.tokenizer.get_vocab()
  assert len(_make(tmp_path / 'new', '--vocab_size=292').codec.tokenizer) < len(
    first.codec.tokenizer
  )


@pytest.mark.parametrize('place', ['', 'checkpoints', 'checkpoints/4'])
def test_a_new_run_has_the_old_ones_tokenizer(tmp_path, place):
  old = tmp_path / 'old'
  first = _make(old, '--vocab_size=292')
  (old / place).mkdir(parents=True, exist_ok=True)
  made = _make(tmp_path / 'new', f'--init_from={old / place}')
  assert made.codec.tokenizer.get_vocab() == first.codec.tokenizer.get_vocab()


REFUSED = {
  '--reward=no_such': 'known name',
  '--reward=tests.helpers.tiny_dataset:no_such': 'cannot be imported',
  '--judge=no_such': 'known name',
  '--dataset=no_such': 'known name',
  '--dataset=no.such:module': 'cannot be imported',
  '--init_from=nowhere': '--init_from=nowhere: no run',
  '--tokenizer=/nowhere': 'no tokenizer at /nowhere',
  '--model=/nowhere': 'No model config at /nowhere',
  '--vocab_size=100': 'vocab_size 100',
}


@pytest.mark.parametrize('flag', REFUSED)
def test_what_is_not_there(tmp_path, flag):
  with pytest.raises((ValueError, FileNotFoundError), match=REFUSED[flag]):
    _make(tmp_path / 'run', flag)


def test_a_tokenizer_of_another_model(tmp_path):
  first = _make(tmp_path / 'old')
  model = tmp_path / 'small.json'
  model.write_text(json.dumps(tiny_dataset.MODEL | {'vocab_size': 8}))
  flags = (f'--model={model}', f'--tokenizer={tmp_path}/old/tokenizer')
  with pytest.raises(
    ValueError, match=f'{len(first.codec.tokenizer)} tokens.*of 8'
  ):
    _make(tmp_path / 'new', *flags)


def _task(name, words=1):
  return types.Task(name, 'system', 'a ' * words, (), 'b', 'kind')


def load_uneven(*, seed, data=None):
  """Of each part one that fits and some that do not."""
  del seed, data
  short, long = _task('short'), _task('long', 40)
  return types.Dataset(
    demonstrations=[
      types.Demonstration(short, 'b'),
      types.Demonstration(short, 'c ' * 30),
      types.Demonstration(long, 'b'),
    ],
    train=[long, short, long, long, long],
    evals={'held_out': [short, long]},
  )


def load_no_evals(*, seed, data=None):
  """Nothing to measure on."""
  del seed, data
  return types.Dataset(
    demonstrations=[], train=[_task('a')], evals={'held_out': []}
  )


def load_only_evals(*, seed, data=None):
  """Nothing to train on."""
  del seed, data
  return types.Dataset(
    demonstrations=[], train=[], evals={'held_out': [_task('a')]}
  )


def test_what_is_too_long_is_dropped_and_counted(tmp_path, capsys):
  flags = (f'--dataset={__name__}:load_uneven', '--overlong=drop')
  made = _make(tmp_path / 'run', *flags)
  assert [x.response for x in made.data.dataset.demonstrations] == ['b']
  assert [x.task_id for x in made.data.dataset.train] == ['short']
  assert [x.task_id for x in made.data.dataset.evals['held_out']] == ['short']
  said = capsys.readouterr().out
  assert '2 demonstrations, 4 prompts, 1 held-out tasks' in said
  longest = config_lib.parse(
    tiny_dataset.flags(tmp_path, *flags)
  ).data.prompt_buckets[-1]
  for task in made.data.dataset.train:
    assert len(prompts.encode_prompt(made.codec.tokenizer, task)) <= longest


def load_long_references(*, seed, data=None):
  """Every second reference is long."""
  del seed, data
  long = dataclasses.replace(_task('long answer'), ground_truth='c ' * 30)
  return types.Dataset(
    demonstrations=[types.Demonstration(_task('a'), 'b')],
    train=[_task('a'), long],
    evals={'held_out': [_task('a'), long, _task('long prompt', 20)]},
  )


@pytest.mark.parametrize(
  ('flag', 'train', 'held_out'),
  [
    ('--overlong=drop', ['a'], ['a', 'long answer', 'long prompt']),
    ('--max_answer_tokens=7', ['a'], ['a', 'long prompt']),
    # 20 times `a ` are 20 tokens at least; the rest of a prompt is short.
    ('--max_prompt_tokens=24', ['a', 'long answer'], ['a', 'long answer']),
  ],
)
def test_what_lengths_leave_out(tmp_path, capsys, flag, train, held_out):
  data = f'--dataset={__name__}:load_long_references'
  made = _make(tmp_path / 'run', data, '--prompt_buckets=64', flag)
  kept = made.data.dataset
  assert [x.task_id for x in kept.train] == train
  assert [x.task_id for x in kept.evals['held_out']] == held_out
  assert made.data.left_out['held_out'] == 3 - len(held_out)
  said = f'{2 - len(train)} prompts, {3 - len(held_out)} held-out tasks'
  assert said in capsys.readouterr().out


def test_lengths_leave_benchmarks_alone(tmp_path):
  rows = benchmark_rows.write(tmp_path / 'rows')
  made = _make(
    tmp_path / 'run',
    f'--dataset={__name__}:load_long_references',
    '--prompt_buckets=4096',
    '--max_prompt_tokens=24',
    '--eval_benchmarks=mmlu_pro',
    f'--eval_data={rows}',
    '--eval_tasks=3',
  )
  evals = {x: len(tasks) for x, tasks in made.data.dataset.evals.items()}
  assert evals == {'held_out': 2, 'mmlu_pro': 3}


def load_long_episodes(*, seed, data=None):
  """Episodes whose first answer alone would be too long."""
  made = load_long_references(seed=seed, data=data)
  tasks = [
    dataclasses.replace(x, scenario={'word': 'w'}) for x in made.train[1:]
  ]
  return types.Dataset(made.demonstrations, tasks, {'held_out': tasks})


@pytest.mark.parametrize('flag', ['--overlong=drop', '--max_answer_tokens=7'])
def test_references_of_episodes_are_not_measured(tmp_path, flag):
  made = _make(
    tmp_path / 'run',
    f'--dataset={__name__}:load_long_episodes',
    '--environment=tests.helpers.tiny_turns:environment',
    '--prompt_buckets=64',
    '--response_buckets=28',
    '--observation_tokens=20',
    flag,
  )
  assert [x.task_id for x in made.data.dataset.train] == ['long answer']


def test_lengths_that_leave_nothing(tmp_path):
  with pytest.raises(ValueError, match='demonstrations within --max_prompt'):
    _make(
      tmp_path / 'run',
      f'--dataset={__name__}:load_long_references',
      '--prompt_buckets=64',
      '--max_prompt_tokens=1',
    )


UNEVEN = f'--dataset={__name__}:load_uneven'
# 40 times `a ` are 40 tokens at least, 30 times `c ` are 30.
DEMONSTRATIONS = (
  r'2 of 3 demonstrations \(short, long: prompts up to \d\d tokens, '
  r'answers up to [36]\d with the stop token\)'
)
TRAIN = r'4 of 5 train prompts \(long, long, long, \.\.\.: prompts up to'
HELD_OUT = r'1 of 2 held-out tasks of held_out \(long: prompts'


@pytest.mark.parametrize(
  ('flags', 'said', 'unsaid'),
  [
    ([], [DEMONSTRATIONS, TRAIN, HELD_OUT], []),
    (['--sft_steps=0'], [TRAIN, HELD_OUT], ['demonstrations']),
    (['--rl_steps=0'], [DEMONSTRATIONS, HELD_OUT], ['train']),
    # The first held-out task fits, and no other is looked at.
    (['--eval_tasks=1'], [DEMONSTRATIONS, TRAIN], ['held-out']),
    # A response is never cut.
    (
      ['--overlong=truncate_left'],
      [r'1 of 3 demonstrations \(short: prompts'],
      ['train', 'held-out'],
    ),
  ],
)
def test_what_is_too_long_is_an_error_at_the_start(
  tmp_path, flags, said, unsaid
):
  with pytest.raises(ValueError, match='--overlong=drop') as error:
    _make(tmp_path / 'run', UNEVEN, *flags)
  message = str(error.value)
  for pattern in [*said, '--prompt_buckets=32 or of --response_buckets=8']:
    assert re.search(pattern, message), (pattern, message)
  for word in unsaid:
    assert word not in message.partition('. Add')[0]


def test_what_no_phase_reads_may_be_too_long(tmp_path):
  flags = ('--sft_steps=0', '--rl_steps=1', '--overlong=truncate_left')
  made = _make(tmp_path / 'run', UNEVEN, *flags)
  assert (
    len(made.data.dataset.train) == 5
    and len(made.data.dataset.demonstrations) == 3
  )


def test_endless_prompts_are_not_read_at_the_start(tmp_path, monkeypatch):
  # There are 10**6 of them. Reading them all would take minutes.
  original = prompts.encode_prompt

  def encode(tokenizer, task, *style):
    assert not task.task_id.startswith('train'), f'{task.task_id} was read'
    return original(tokenizer, task, *style)

  monkeypatch.setattr(prompts, 'encode_prompt', encode)
  assert len(_make(tmp_path / 'run').data.dataset.train) == 10**6


def test_each_text_is_encoded_once(tmp_path, monkeypatch):
  # Loading must not take longer than it has to: encoding is most of it.
  calls = collections.Counter()

  def counted(function):
    def call(tokenizer, item, *style):
      calls[function.__name__, getattr(item, 'task_id', item)] += 1
      return function(tokenizer, item, *style)

    return call

  for function in (prompts.encode_prompt, prompts.encode_response):
    monkeypatch.setattr(prompts, function.__name__, counted(function))
  _make(tmp_path / 'run')
  encoded = [f'shown_{i}' for i in range(20)]
  encoded += [f'held_out_{i}' for i in range(4)]
  want = {('encode_prompt', name): 1 for name in encoded}
  # Of the answers there are two, to ten demonstrations each.
  want |= {('encode_response', 'bd' * n): 10 for n in (1, 2)}
  assert calls == want


def test_a_sequence_longer_than_the_model_knows(tmp_path):
  model = tmp_path / 'short.json'
  model.write_text(
    json.dumps(tiny_dataset.MODEL | {'max_position_embeddings': 40})
  )
  flags = (f'--model={model}', '--prompt_buckets=16,32')
  # 32 + 8 positions are as many as there are.
  assert _make(tmp_path / 'run', *flags).decoder.config.max_positions == 40
  with pytest.raises(
    ValueError,
    match='--prompt_buckets=32 .*--response_buckets=9 .*'
    'max_position_embeddings=40 of --model=.*short.json',
  ):
    _make(tmp_path / 'long', *flags, '--response_buckets=4,9')


def test_endless_prompts_cannot_be_sifted(tmp_path, monkeypatch):
  dataset = tiny_dataset.load(seed=0)
  monkeypatch.setattr(type(dataset.train), '__len__', lambda self: 10**6 + 1)
  with pytest.raises(ValueError, match='--overlong=drop'):
    _make(tmp_path / 'run', '--overlong=drop')


@pytest.mark.parametrize(
  ('function', 'flags', 'message'),
  [
    ('load_no_evals', ['--sft_steps=0'], 'empty evaluation set'),
    ('load_no_evals', [], 'no demonstrations: set --sft_steps=0'),
    ('load_only_evals', ['--sft_steps=0'], 'no train prompts'),
  ],
)
def test_data_that_a_phase_lacks(tmp_path, function, flags, message):
  with pytest.raises(ValueError, match=message):
    _make(tmp_path / 'run', f'--dataset={__name__}:{function}', *flags)


def test_order_of_nothing():
  assert setup_lib._order(0, 0, 0) == ()
  order = setup_lib._order(3, 0, 0)
  assert sorted(order[i] for i in range(3)) == [0, 1, 2]
  np.testing.assert_array_equal(order[10**9], order[10**9])
