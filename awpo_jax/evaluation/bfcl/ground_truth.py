"""Answers to BFCL's rows made from the ground truth.

A check of everything between a row and its score: they pass, but for rows that
no answer passes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from awpo_jax.evaluation.bfcl import checker
from awpo_jax.rollout.datasets.bfcl import rows
from awpo_jax.rollout.text import tool_calls

UNPASSABLE = (
  'live_simple_106-63-0',
  'live_simple_112-68-0',
  'live_multiple_862-181-3',
  'live_multiple_964-207-0',
  # Java lists of `any`, whose elements are all converted to strings.
  'simple_java_36',
  'simple_java_65',
)
"""Rows of upstream's whose ground truth nothing can meet."""


def answer(row: rows.Row) -> str:
  """An answer to a single-turn row, in RLLA's layout."""
  if 'irrelevance' in row.category:
    return tool_calls.render_answer('No tool fits.', response='No tool fits.')
  calls = [
    tool_calls.ToolCall(name, values)
    for call in gold_calls(row)
    for name, values in call.items()
  ]
  return tool_calls.render_answer('The ground truth.', calls)


def gold_calls(row: rows.Row) -> list[dict[str, dict[str, Any]]]:
  """Calls with the first accepted values, optional ones left out.

  For relevance, where any call is right, the first function without values.
  """
  if 'relevance' in row.category:
    return [{row.functions[0]['name']: {}}]
  calls = []
  for expected in row.ground_truth:
    ((name, accepted),) = expected.items()
    function = next(f for f in row.functions if f['name'] == name)
    calls.append({name: _values(accepted, function, row.category)})
  return calls


def _values(accepted, function, category: str) -> dict[str, Any]:
  parameters, values = function['parameters'], {}
  for name, known in accepted.items():
    if '' in known and name not in parameters['required']:
      continue
    described = parameters['properties'].get(name)
    if described is None or not known:
      continue
    value = _value(_first(known), described)
    if checker.language(category) != 'python':
      value = literal(value, described, checker.language(category))
    values[name] = value
  return values


def _first(accepted: Sequence[Any]) -> Any:
  return next((x for x in accepted if x != ''), '')


def _value(value: Any, described: Mapping[str, Any]) -> Any:
  """A value, its dicts with one of the values accepted for each key."""
  kind = described['type']
  if isinstance(value, dict) and kind in ('dict', 'HashMap'):
    return _entries(value)
  element = described.get('items', {}).get('type')
  if isinstance(value, list) and element == 'dict':
    return [_entries(x) for x in value]
  return value


def _entries(known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
  return {key: _first(x) for key, x in known.items() if '' not in x}


def literal(value: Any, described: Mapping[str, Any], language: str) -> str:
  """A value as Java or JavaScript writes it, for its documented type."""
  kind = described['type']
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, int | float):
    return f'{value}{_SUFFIXES.get((language, kind), "")}'
  if isinstance(value, list):
    return _sequence(value, described, language)
  if isinstance(value, dict):
    return _mapping(value, language)
  return str(value)


_SUFFIXES = {
  ('java', 'long'): 'L',
  ('java', 'float'): 'f',
  ('javascript', 'Bigint'): 'n',
}


def _sequence(values, described, language: str) -> str:
  kind, element = described['type'], described.get('items', {'type': 'any'})
  # What is converted keeps the quotes of an array's elements, not a list's.
  quoted = kind == 'ArrayList' or language == 'javascript'
  parts = [
    f'"{value}"'
    if quoted and isinstance(value, str)
    else literal(value, element, language)
    for value in values
  ]
  inside = ', '.join(parts)
  if language == 'javascript':
    return f'[{inside}]'
  if kind == 'ArrayList':
    listed = f'(Arrays.asList({inside}))' if parts else '()'
    return f'new ArrayList<>{listed}'
  return f'new Object[]{{{inside}}}'


def _mapping(values: Mapping[str, Any], language: str) -> str:
  if language == 'javascript':
    return json.dumps(values, ensure_ascii=False)
  puts = ' '.join(
    f'put("{key}", {json.dumps(value, ensure_ascii=False)});'
    for key, value in values.items()
  )
  return f'new HashMap<>() {{{{ {puts} }}}}'
