"""Broken model outputs for the tests of the functions that read them."""

import random
from collections.abc import Iterator

PIECES = (
  '<think>',
  '</think>',
  '<tool_call>',
  '</tool_call>',
  '<response>',
  '</response>',
  '\n',
  ' ',
  '{',
  '}',
  '[',
  ']',
  '"',
  '\\',
  ',',
  ':',
  '{"name": "a", "parameters": {}}',
  '{"name": "a", "parameters": []}',
  '{"name": ["a"], "parameters": {}}',
  '{"name": null}',
  '"name"',
  '"parameters"',
  'NaN',
  '-Infinity',
  '1e999',
  '9' * 5000,
  '[' * 2000,
  '{"a":' * 2000,
  '\\ud800',
  '\ud800',
  '\x00',
  '\u2028',
  '²',
  '٣',
  'İ',
  "'",
  '.',
  'the',
  'Oslo',
)
GOOD = (
  '<think> The user wants the weather in Oslo. </think>\n<tool_call>\n'
  '{"name": "get_weather", "parameters": {"city": "Oslo", "days": [1, 2]}}\n'
  '{"name": "a", "parameters": {}}\n</tool_call>\n<response> Soon. </response>'
)


def broken_answers(count: int, seed: int = 0) -> Iterator[str]:
  """A good answer with a few cuts, swaps and insertions, or pieces alone."""
  rng = random.Random(seed)
  for index in range(count):
    text = '' if index % 4 == 0 else GOOD
    for _ in range(rng.randint(1, 6)):
      start = rng.randint(0, len(text))
      stop = min(len(text), start + rng.choice((0, 0, 1, 5, 40)))
      text = text[:start] + rng.choice(PIECES) + text[stop:]
    yield text
