"""JSON of data is strict; JSON of logs holds whatever there is."""

import datetime
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.reporting import json_text


class Unprintable:
  def __repr__(self):
    raise RuntimeError('no')


def strictly(text):
  """What a parser other than ours, that knows no NaN, reads."""

  def refuse(name):
    raise ValueError(name)

  return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    (math.nan, 'NaN'),
    (-math.inf, '-Infinity'),
    ({'a': [{'b': (1, math.inf)}]}, {'a': [{'b': [1, 'Infinity']}]}),
    ({'a': np.float32('nan'), 'b': np.int64(3)}, {'a': 'NaN', 'b': 3}),
    ([np.array([1.0, math.nan]), jnp.arange(2)], [[1.0, 'NaN'], [0, 1]]),
    ([np.bool_(True), jnp.bfloat16(0.5)], [True, 0.5]),
    ({1: 'a', '1': 'b'}, {'1': 'a', '1 (str)': 'b'}),
    ({None: 1, True: 2, (3, 4): 5}, {'null': 1, 'true': 2, '[3, 4]': 5}),
    ({math.nan: 1}, {'NaN': 1}),
    ({'b', 'a'}, ['a', 'b']),
    (datetime.date(2025, 1, 2), 'datetime.date(2025, 1, 2)'),
    ([b'\xff'], ["b'\\xff'"]),
    ([Unprintable()], ['<Unprintable>']),
    ('one\u2028two\x85three\x0cfour', 'one\u2028two\x85three\x0cfour'),
    ('half \ud800 a pair', 'half \ud800 a pair'),
    ('é', 'é'),
  ],
)
def test_anything_is_written_and_read_back(value, expected):
  text = json_text.dumps(value)
  assert strictly(text) == expected
  assert len(text.splitlines()) == 1
  text.encode()


def test_what_is_huge_deep_or_contains_itself_is_cut():
  big = strictly(json_text.dumps([10**5000]))
  assert big[0].startswith('0x') and len(big[0]) < 300
  assert len(json_text.dumps([object, 'x' * 10_000, b'x' * 10_000])) < 10_500
  deep = []
  for _ in range(100_000):
    deep = [deep]
  assert len(json_text.dumps(deep)) < 1000
  own: list = [1]
  own += [own, own]  # Twice, so that no depth alone would end it in time.
  assert strictly(json_text.dumps(own))[0] == 1


def test_plain_json_is_written_as_json_writes_it():
  value = {'a': [1, 2.5, None, True, 'é'], 'b': {}}
  assert json_text.dumps(value) == json.dumps(value, ensure_ascii=False)
  assert json_text.dumps(value, indent=2) == json.dumps(
    value, ensure_ascii=False, indent=2
  )


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    ('{"a": NaN}', 'NaN is not JSON'),
    ('[-Infinity]', '-Infinity is not JSON'),
    ('[1, [1e999]]', '1e999 is larger than any number'),
    ('["\\ud800"]', 'surrogates not allowed'),
    ('[' * 100_000, 'nested too deep'),
    ('{"a": 1} x', 'Extra data'),
  ],
)
def test_data_is_read_strictly(text, problem):
  with pytest.raises(ValueError, match=problem):
    json_text.loads(text)


def test_a_mark_and_large_numbers_are_read():
  assert json_text.loads('\ufeff{"a": 1e308}') == {'a': 1e308}
  assert json_text.loads(str(2**70)) == 2**70
