"""What a call of the judge's endpoint sends, and refusals of it."""

import hashlib
import json
import time

import jsonschema
import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import (
  endpoint,
  llm,
  llm_prompt,
  patient,
)
from tests.helpers import judge_server

REQUESTS = [
  types.JudgeRequest('hi', (), f'<think> thought number {i} </think>\n')
  for i in range(6)
]
WANTED = [judge_server.verdict(f'thought number {i}') / 10 for i in range(6)]
SCHEMA = {
  'type': 'object',
  'properties': {
    'reason': {'type': 'string'},
    'score': {'type': 'integer', 'minimum': 0, 'maximum': 10},
  },
  'required': ['reason', 'score'],
  'additionalProperties': False,
}
# As OpenAI, vLLM, SGLang and llama.cpp's server take it, and llama-cpp-python.
SENT = {
  'none': None,
  'json': {'type': 'json_object'},
  'schema': {
    'type': 'json_schema',
    'json_schema': {'name': 'verdict', 'strict': True, 'schema': SCHEMA},
  },
  'json_with_schema': {'type': 'json_object', 'schema': SCHEMA},
}


@pytest.fixture
def server():
  with judge_server.serving() as served:
    yield served


@pytest.fixture
def make(server):
  """Makes judges of the endpoint, which are closed in the end."""
  made = []

  def judge(**changed):
    settings = {
      'url': server.url,
      'model': 'm',
      'template': llm_prompt.read_template(''),
      'timeout': 5.0,
      'backoff': 0.02,
      **changed,
    }
    made.append(llm.LlmJudge(llm.Settings(**settings)))
    return made[-1]

  yield judge
  for each in made:
    each.close()


@pytest.mark.parametrize('form', SENT)
def test_the_form_that_is_asked_for(server, make, form):
  assert make(format=form)(REQUESTS[:1]) == WANTED[:1]
  (body,) = server.bodies
  assert body.get('response_format') == SENT[form]
  assert set(body) - {'response_format'} == {
    *('model', 'messages', 'temperature', 'max_tokens')
  }


@pytest.mark.parametrize(
  ('scale', 'score', 'others'),
  [
    (10.0, 10, [11, -1, 7.5, '7', None, True]),
    (5.0, 0, [6, 4.5]),
    # Too few whole numbers to tell thoughts apart.
    (1.0, 0.25, [1.5, -0.25]),
    (7.5, 7.25, [8]),
  ],
)
def test_the_schema_takes_what_is_read_and_nothing_else(scale, score, others):
  schema = endpoint.verdict_schema(scale)
  jsonschema.Draft202012Validator.check_schema(schema)
  valid = jsonschema.Draft202012Validator(schema).is_valid
  good = {'reason': 'x', 'score': score}
  assert valid(good)
  verdict = llm_prompt.parse_reply(json.dumps(good), scale=scale)
  assert verdict is not None and verdict.score == score / scale
  for bad in others:
    assert not valid({'reason': 'x', 'score': bad})
  for bad in ({'score': 1}, {'reason': 'x'}, {**good, 'more': 1}, [], 'x'):
    assert not valid(bad)
  # Servers write the properties in this order.
  assert list(schema['properties']) == ['reason', 'score']


# How servers refuse a form that they do not know, word for word:
# llama-cpp-python 0.3.36; llama.cpp before 2024-09; a hosted one; none of it.
REFUSALS = [
  (
    500,
    "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), "
    "'msg': \"Input should be 'text' or 'json_object'\"}]",
  ),
  (
    500,
    'response_format type must be one of "text" or "json_object", but got: '
    'json_schema',
  ),
  (400, "Invalid parameter: 'response_format' of type 'json_schema' is not"),
]


@pytest.mark.parametrize(('status', 'said'), REFUSALS)
def test_a_form_that_an_endpoint_refuses_is_named_at_once(
  server, make, status, said
):
  refused = judge_server.refusal(status, {'error': {'message': said}})
  server.behave = lambda number, body: refused
  with pytest.raises(types.JudgeRefused) as raised:
    make(format='schema', concurrency=1, backoff=30.0)(REQUESTS)
  assert len(server.bodies) == 1
  for word in (f'HTTP status {status}', said[:40], '--judge_format=schema'):
    assert word in str(raised.value)


def test_other_errors_of_a_server_are_still_tried_again(server, make):
  # Without a form such words are not about what was sent.
  said = judge_server.refusal(500, {'error': {'message': 'response_format'}})
  server.behave = lambda number, body: said if number == 0 else 'good'
  assert make()(REQUESTS) == WANTED
  server.behave = lambda number, body: 'error' if number == 0 else 'good'
  assert make(format='schema')(REQUESTS) == WANTED


def test_a_form_that_an_endpoint_ignores_is_none(server, make):
  server.behave = lambda number, body: 'prose' if number == 0 else 'good'
  assert make(format='schema')(REQUESTS) == WANTED
  assert len(server.bodies) == 2 * len(REQUESTS)


def _says(*texts):
  """Answers the calls of a body with these texts, then with the last."""
  return lambda number, body: judge_server.completion(
    texts[min(number, len(texts) - 1)]
  )


@pytest.mark.parametrize(
  ('settings', 'texts', 'calls'),
  [
    ({}, ['no', 'no', 'no'], 2),
    ({}, ['no', 'well', 'well'], 3),
    ({}, ['no', 'well', 'no', 'well', 'hm'], 5),
    # Nothing said is no word that could be the last.
    ({}, [''], 5),
    ({'temperature': 0.5}, ['no'], 5),
    ({'omit': ('temperature',)}, ['no'], 5),
    ({'retries': 0}, ['no'], 1),
  ],
)
def test_the_same_reply_twice_is_the_last_word_without_a_draw(
  server, make, settings, texts, calls
):
  server.behave = _says(*texts)
  judge = make(**settings)
  assert judge(REQUESTS[:1]) == [None]
  assert len(server.bodies) == calls
  said_twice = calls in (2, 3)
  assert judge.refused(REQUESTS[:1]) == [said_twice]


def test_a_run_does_not_wait_for_what_is_said_again_and_again(server, make):
  server.behave = _says('I would give it a nine.')
  asked = patient.Judging(make(), min_judged=0.9, patience=600.0)
  started = time.monotonic()
  with pytest.raises(types.JudgeRefused) as raised:
    asked(REQUESTS)
  assert time.monotonic() - started < 5
  for word in ('0 of 6', 'no verdict', '--judge_format', 'a nine'):
    assert word in str(raised.value)
  # With a form there is nothing to say of one.
  judge = make(format='json')
  assert judge(REQUESTS[:1]) == [None] and '--judge' not in judge.problem()


def test_scores_of_another_form_are_others(server, make, tmp_path):
  file = str(tmp_path / 'cache.sqlite')
  for form in ('none', 'json', 'schema'):
    make(cache=file, format=form)(REQUESTS[:1])
  assert len(server.bodies) == 3
  # The same schema, whichever way it is sent; and all are stored.
  for form in SENT:
    make(cache=file, format=form)(REQUESTS[:1])
  assert len(server.bodies) == 3


def test_keys_without_a_form_are_those_of_caches_from_before_there_were_any(
  make,
):
  template = llm_prompt.read_template('')
  parts = {
    'model': 'm',
    'template': template,
    'scale': 10.0,
    'temperature': 0.0,
    'reply_tokens': 512,
    'user': 'hi',
    'tools': [],
    'response': '<think> thought number 0 </think>\n',
  }
  text = json.dumps(parts, sort_keys=True)
  wanted = hashlib.sha256(text.encode()).hexdigest()
  assert make()._request_key(REQUESTS[0]) == wanted
  assert make(format='json')._request_key(REQUESTS[0]) != wanted


def test_a_time_out_says_what_to_change(server, make):
  server.delay = 1.0
  judge = make(timeout=0.1, retries=0, concurrency=7)
  assert judge(REQUESTS[:1]) == [None]
  for word in ('--judge_timeout=0.1', '--judge_concurrency=7'):
    assert word in judge.problem()
