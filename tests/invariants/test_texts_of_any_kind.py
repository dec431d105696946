"""What models write, separators and half characters among it, ends nothing."""

import json
import math

import pytest

from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import (
  call_parsing,
  judge_agreement,
  results,
)
from awpo_jax.evaluation import items as items_lib
from awpo_jax.reporting import metrics
from tests.evaluation import test_answers

TEXT = 'one\u2028two\x85three\x0cfour\x1cfive\u2029six\rseven'
HALF = TEXT + '\ud800'
# Calls in Python's syntax may hold all of these.
DECODED = [{'f': {'a': math.inf, 'b': {1, 2}, 'c': b'\xff', 'd': HALF}}]


def scored():
  item = test_answers.make_item('r', HALF)
  result = items_lib.Result(False, 'bad', DECODED)
  return results.Scored(item, ((HALF,),), (result,))


@pytest.mark.parametrize('mark', ['', '\ufeff'])
def test_transcripts_of_a_run_are_read_by_the_judge(tmp_path, mark):
  rows = [
    {'user': TEXT, 'tools': [], 'response': f'<think> {i} {TEXT} </think>'}
    for i in range(3)
  ]
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write_transcripts(1, rows)
  path = tmp_path / 'transcripts.jsonl'
  # As another program writes them: separators as they are, CRLF, a mark.
  raw = tmp_path / 'raw.jsonl'
  lines = (json.dumps(row, ensure_ascii=False) for row in rows)
  raw.write_bytes((mark + '\r\n\r\n'.join(lines) + '\r\n').encode())
  for file in (path, raw):
    found = judge_agreement.read_transcripts(file)
    assert [x.request.user for x in found] == [TEXT] * 3
    assert [x.request.response for x in found] == [x['response'] for x in rows]


def test_only_what_the_judge_reads_counts(tmp_path):
  path = tmp_path / 'a.jsonl'
  row = {'user': 'u', 'response': 'r', 'tools': [], 'note': math.nan}
  path.write_text(json.dumps(row))
  (found,) = judge_agreement.read_transcripts(path)
  assert found.label is None
  tool = {'name': 'f', 'description': 'd', 'parameters': {'a': math.nan}}
  path.write_text(json.dumps({**row, 'tools': [tool]}))
  with pytest.raises(ValueError, match='line 1 is no transcript.*"tools"'):
    judge_agreement.read_transcripts(path)


def test_answers_are_read_as_they_were_written(tmp_path):
  path = tmp_path / 'answers.jsonl'
  row = {'id': 'r', 'sample': 0, 'answers': [HALF], 'seconds': 1, 'tokens': 2}
  answers = answers_lib.Answers(path)
  answers.append([row, {**row, 'id': TEXT}])
  answers.close()
  again = answers_lib.Answers(path)
  again.close()
  assert again.texts == {('r', 0): (HALF,), (TEXT, 0): (HALF,)}
  assert len(path.read_text(encoding='utf-8').splitlines()) == 2


def test_results_hold_whatever_was_read(tmp_path):
  results.write_leaderboard(tmp_path, 'm', [scored()])
  result, score = (
    next((tmp_path / kind).rglob('*.json')) for kind in ('result', 'score')
  )
  (row,) = result.read_bytes().split(b'\n')[:-1]
  call = json.loads(row)['result'].split('\n')[1]
  assert json.loads(call)['arguments']['d'] == HALF
  _, failure = score.read_bytes().split(b'\n')[:-1]
  decoded = json.loads(failure, parse_constant=pytest.fail)[
    'model_result_decoded'
  ]
  expected = {'a': 'Infinity', 'b': [1, 2], 'c': "b'\\xff'", 'd': HALF}
  assert decoded == [{'f': expected}]


def test_the_page_of_failures_holds_whatever_was_read(tmp_path):
  page = results.failures_page('t', [scored()])
  results.write_text(tmp_path / 'failures.html', page)
  assert 'Infinity' in (tmp_path / 'failures.html').read_text(encoding='utf-8')


def test_calls_over_several_lines_keep_their_separators():
  value = TEXT.replace('\x0c', '').replace('\x1c', '').replace('\r', '')
  call = {'name': 'f', 'arguments': {'a': value}}
  for end in ('\n', '\r\n'):
    text = json.dumps(call, indent=1, ensure_ascii=False).replace('\n', end)
    assert call_parsing.decode_template(text) == [{'f': {'a': value}}]
    inner = json.dumps(call['arguments'], indent=1, ensure_ascii=False)
    text = json.dumps({'name': 'f', 'arguments': inner.replace('\n', end)})
    assert call_parsing.decode_template(text) == [{'f': {'a': value}}]
