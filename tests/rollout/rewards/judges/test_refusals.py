"""What an endpoint says when it refuses: read, cut, and without the key."""

import email.utils
import time

import pytest

from awpo_jax.rollout.rewards.judges import refusals

KEY = 'gw_Zq81mXw4RvKd'


@pytest.mark.parametrize(
  ('body', 'text', 'wanted'),
  [
    ({'message': 'no\nsuch  model'}, '', 'no such model'),
    ({'message': 'no', 'param': 'seed'}, '', 'no (param: seed)'),
    ({'message': 'no seed', 'param': 'seed', 'code': 7}, '', 'no seed'),
    ('plain', '{"error": "plain"}', 'plain'),
    (None, '<html> Not\tfound </html>', '<html> Not found </html>'),
    ('', '', ''),
    (
      [{'loc': ['body', 'n'], 'msg': 'x'}],
      '',
      '[{"loc": ["body", "n"], "msg": "x"}]',
    ),
    ({'message': {'detail': 'x'}}, '', '{"message": {"detail": "x"}}'),
    ({'message': 'a\x1b[31mb\u2028c'}, '', 'a [31mb c'),
  ],
)
def test_words(body, text, wanted):
  assert refusals.words(body, text) == wanted


@pytest.mark.parametrize(
  ('said', 'wanted'),
  [
    (f'the key {KEY} is wrong', 'the key [key] is wrong'),
    (f'{KEY}{KEY}', '[key][key]'),
    (f'"{KEY.upper()}"', '"[key]"'),
    ('gw_Zq81mXw4 and w4RvKd', '[key] and [key]'),
    ('Authorization: Bearer abc.def, sorry', 'Authorization: [key], sorry'),
    ('bearer=abc', '[key]'),
    ('another one: sk-proj-ab*****yz.', 'another one: [key]'),
    ('it ends in ****vKd', 'it ends in [key]'),
    ('it is gw_...RvKd', 'it is [key]'),
    ('wait ... and see...', 'wait ... and see...'),
    ("'max_tokens' is not supported", "'max_tokens' is not supported"),
    ('\u0130 ' + KEY, 'i\u0307 [key]'),
  ],
)
def test_no_key_is_shown(said, wanted):
  assert refusals.shown(said, KEY) == wanted


def test_a_short_key_and_none():
  assert refusals.shown('the key is abc', 'abc') == 'the key is [key]'
  assert refusals.shown('the key is abc', '') == 'the key is abc'


def test_it_is_cut_where_no_part_of_a_key_is_left():
  got = refusals.shown('x ' * 196 + KEY + ' y' * 10**6, KEY)
  assert len(got) <= 410 and got.endswith('...')
  assert 'gw_' not in got and '[key]' in got


def test_reading_takes_linear_time():
  started = time.monotonic()
  for said in ('a' * 10**6, '*' * 10**6, 'sk-' * 10**6, 'bearer ' * 10**5):
    refusals.shown(said, KEY)
    refusals.words(said)
  assert time.monotonic() - started < 2


@pytest.mark.parametrize(
  ('status', 'said', 'wanted'),
  [
    (400, "This model's maximum context length is 4096 tokens", True),
    (400, 'prompt is too long: 9 tokens > 8 maximum', True),
    (400, 'filtered (code: content_filter)', True),
    (400, '(type: exceed_context_size_error)', True),
    (413, '', True),
    (422, 'input is too long', True),
    (400, "Unsupported parameter: 'max_tokens'", False),
    (400, 'max_tokens is too large: 512', False),
    (401, 'content filter', False),
    (404, 'context length', False),
  ],
)
def test_whether_it_is_about_one_request(status, said, wanted):
  assert refusals.of_one_request(status, said) == wanted


@pytest.mark.parametrize(
  ('header', 'seconds'),
  [
    ('2', 2),
    ('0.5', 0.5),
    ('-3', 0),
    (None, None),
    ('', None),
    ('soon', None),
    ('nan', None),
    ('Mon, 01 Jan 2001 00:00:00 GMT', 0),
  ],
)
def test_retry_after(header, seconds):
  assert refusals.retry_after(header) == seconds


def test_retry_after_a_date():
  date = email.utils.formatdate(time.time() + 60, usegmt=True)
  assert 58 <= refusals.retry_after(date) <= 60
