"""Answers survive what ends a process."""

import pytest

from awpo_jax.evaluation import answer_store

ROW = {'id': 'r', 'sample': 0, 'answers': ['a', 'b'], 'seconds': 2, 'tokens': 3}


def _store(path, rows):
  answers = answer_store.Answers(path)
  answers.append(rows)
  answers.close()


def test_what_was_written_is_read(tmp_path):
  path = tmp_path / 'new' / 'answers.jsonl'
  _store(path, [ROW, ROW | {'sample': 1, 'answers': ['\n"ä']}])
  answers = answer_store.Answers(path)
  assert answers.texts == {('r', 0): ('a', 'b'), ('r', 1): ('\n"ä',)}
  assert (answers.seconds, answers.tokens) == (4, 6)


def test_half_a_line_is_cut_and_written_again(tmp_path):
  path = tmp_path / 'answers.jsonl'
  _store(path, [ROW, ROW | {'id': 's'}])
  whole = path.read_bytes()
  path.write_bytes(whole[:-5])
  answers = answer_store.Answers(path)
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
    answer_store.Answers(path)


def test_one_writer_at_a_time(tmp_path):
  path = tmp_path / 'answers.jsonl'
  answers = answer_store.Answers(path)
  with pytest.raises(ValueError, match='another evaluation is writing'):
    answer_store.Answers(path)
  answers.close()
  answer_store.Answers(path).close()
