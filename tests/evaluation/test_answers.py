"""Rows are asked once, in batches; answers survive what ends a process."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import items as items_lib
from awpo_jax.rollout.text import conversations


def talk(text):
  return conversations.Conversation(({'role': 'user', 'content': text},))


def make_item(row_id, text, category='c', start=None):
  task = types.Task(row_id, '', text, (), '', category)
  return items_lib.Item(
    row_id,
    category,
    task,
    talk(text),
    lambda texts, sample: items_lib.Result(True, None),
    ('gold',),
    None,
    start,
  )


def two_turns(name, seen):
  def start():
    first = yield talk(f'{name}1')
    seen.append(first)
    second = yield talk(f'{name}12')
    seen.append(second)

  return start


class Policy:
  """Answers with what it was asked and by which samples."""

  def __init__(self):
    self.batches = []

  def encode(self, talk):
    text = talk.messages[0]['content']
    return (
      None if text == 'too long' else np.frombuffer(text.encode(), np.uint8)
    )

  def generate(self, prompts, ids):
    assert ids.shape[0] == len(prompts)
    texts = [bytes(prompt).decode() for prompt in prompts]
    self.batches.append(texts)
    return [
      [answers_lib.Reply(f'{text}/{number}', 3) for number in row]
      for text, row in zip(texts, ids, strict=True)
    ]


def run(items, path, samples=1, policy=None, batch=2):
  policy = policy or Policy()
  answers = answers_lib.Answers(path / 'answers.jsonl')
  done = []
  answers_lib.ask(
    items,
    answers,
    samples=samples,
    encode=policy.encode,
    generate=policy.generate,
    bucket=lambda n: 4 if n <= 4 else 8,
    batch=batch,
    advance=done.append,
  )
  answers.close()
  return policy, answers.texts, sum(done)


def test_batches_hold_prompts_of_one_bucket(tmp_path):
  items = [
    make_item(f'r{i}', text, category)
    for i, (text, category) in enumerate(
      [('a', 'x'), ('long b', 'x'), ('c', 'y'), ('long d', 'y'), ('e', 'x')]
    )
  ]
  policy, texts, done = run(items, tmp_path)
  assert policy.batches == [['a', 'c'], ['e'], ['long b', 'long d']]
  assert done == len(texts) == 5
  assert texts['r2', 0] == (f'c/{answers_lib.sample_id("r2", 0, 0)}',)


def test_all_samples_of_a_row_share_its_prompt(tmp_path):
  policy, texts, done = run([make_item('r', 'a')], tmp_path, samples=3)
  assert policy.batches == [['a']] and done == 3
  assert len({texts['r', g] for g in range(3)}) == 3
  # One of them lost: it alone is drawn again, and comes out the same.
  path = tmp_path / 'answers.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(lines[0] + lines[2])
  policy, again, done = run([make_item('r', 'a')], tmp_path, samples=3)
  assert policy.batches == [['a']] and done == 1
  assert again == texts


def test_nothing_is_asked_twice(tmp_path):
  items = [make_item('r', 'a'), make_item('s', 'b')]
  run(items[:1], tmp_path)
  policy, _, _ = run(items, tmp_path)
  assert policy.batches == [['b']]
  policy, _, _ = run(items, tmp_path)
  assert policy.batches == []


@pytest.mark.parametrize('samples', [1, 2])
def test_multi_turn_rows_of_a_category_advance_together(tmp_path, samples):
  seen = []
  items = [
    make_item(name, name, start=two_turns(name, seen)) for name in ('p', 'q')
  ]
  policy, texts, done = run(items, tmp_path, samples=samples, batch=8)
  assert policy.batches == [
    ['p1'] * samples + ['q1'] * samples,
    ['p12'] * samples + ['q12'] * samples,
  ]
  assert done == len(texts) == 2 * samples
  first, second = texts['p', 0]
  assert first == f'p1/{answers_lib.sample_id("p", 0, 0)}'
  assert second == f'p12/{answers_lib.sample_id("p", 0, 1)}'
  assert {first, second} <= set(seen)


def test_what_does_not_fit_has_no_answer(tmp_path):
  items = [make_item('r', 'too long'), make_item('s', 'b')]
  policy, texts, done = run(items, tmp_path)
  assert policy.batches == [['b']] and done == 2
  assert texts['r', 0] == ()


def test_what_outgrows_the_prompt_ends_there(tmp_path):
  def start():
    yield talk('p1')
    yield talk('too long')
    raise AssertionError('asked again')

  policy, texts, done = run([make_item('p', 'p', start=start)], tmp_path)
  assert policy.batches == [['p1']] and done == 1
  assert texts['p', 0] == (f'p1/{answers_lib.sample_id("p", 0, 0)}',)


def test_sample_ids_are_facts():
  ids = {
    answers_lib.sample_id(r, g, t) for r in 'ab' for g in (0, 1) for t in (0, 1)
  }
  assert len(ids) == 8 and all(0 <= x < 2**31 for x in ids)
  assert answers_lib.sample_id('a', 1, 0) == answers_lib.sample_id('a', 1, 0)


ROW = {'id': 'r', 'sample': 0, 'answers': ['a', 'b'], 'seconds': 2, 'tokens': 3}


def _store(path, rows):
  answers = answers_lib.Answers(path)
  answers.append(rows)
  answers.close()


def test_what_was_written_is_read(tmp_path):
  path = tmp_path / 'new' / 'answers.jsonl'
  _store(path, [ROW, ROW | {'sample': 1, 'answers': ['\n"ä']}])
  answers = answers_lib.Answers(path)
  assert answers.texts == {('r', 0): ('a', 'b'), ('r', 1): ('\n"ä',)}
  assert (answers.seconds, answers.tokens) == (4, 6)


def test_half_a_line_is_cut_and_written_again(tmp_path):
  path = tmp_path / 'answers.jsonl'
  _store(path, [ROW, ROW | {'id': 's'}])
  whole = path.read_bytes()
  path.write_bytes(whole[:-5])
  answers = answers_lib.Answers(path)
  assert set(answers.texts) == {('r', 0)}
  answers.append([ROW | {'id': 's'}])
  answers.close()
  assert path.read_bytes() == whole


@pytest.mark.parametrize(
  'line', ['{}', 'words', '[]', '{"id": 1, "sample": []}']
)
def test_what_is_no_answer_is_named(tmp_path, line):
  path = tmp_path / 'answers.jsonl'
  _store(path, [ROW])
  with path.open('a') as file:
    file.write(line + '\n')
  with pytest.raises(ValueError, match='answers.jsonl:2: not an answer'):
    answers_lib.Answers(path)


def test_reading_changes_nothing_and_waits_for_none(tmp_path):
  path = tmp_path / 'answers.jsonl'
  answers = answers_lib.Answers(path)
  answers.append([ROW, ROW | {'sample': 1, 'answers': []}])
  with path.open('ab') as file:
    file.write(b'{"id": "half')
  before = path.read_bytes()
  path.chmod(0o444)
  # While it is open for writing, and with half a line at its end.
  assert answers_lib.read(path) == {('r', 0): ('a', 'b'), ('r', 1): ()}
  assert path.read_bytes() == before
  answers.close()
  path.chmod(0o644)
  path.write_text('[]\n')
  with pytest.raises(ValueError, match='answers.jsonl:1: not an answer'):
    answers_lib.read(path)


def test_one_writer_at_a_time(tmp_path):
  path = tmp_path / 'answers.jsonl'
  answers = answers_lib.Answers(path)
  with pytest.raises(ValueError, match='another evaluation is writing'):
    answers_lib.Answers(path)
  answers.close()
  answers_lib.Answers(path).close()
