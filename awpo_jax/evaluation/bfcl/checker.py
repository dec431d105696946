"""Decides whether calls are right, as the Berkeley leaderboard does.

Facts of upstream's checker (github.com/ShishirPatil/gorilla), its error types
included; `shared/scoring.md`, section 1.3. Its vectors agree in verdict and
error type (`tests/evaluation/bfcl/test_checker_vectors.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax.evaluation.bfcl import literals, values

# A call as BFCL writes it: the function's name -> parameter -> value.
Call = Mapping[str, Mapping[str, Any]]


class Verdict(NamedTuple):
  """What the checker says.

  Attributes:
    valid: whether the calls are right.
    error_type: upstream's name of what is wrong; None where nothing is.
  """

  valid: bool
  error_type: str | None


RIGHT = Verdict(True, None)


class _Language(NamedTuple):
  """How the values of a row are read.

  Attributes:
    types: documented type -> type of the value.
    lists: documented types whose elements are checked.
    convert: from the text that a model must write; None: values as they are.
    error: error type of a value that is no text.
  """

  types: Mapping[str, type]
  lists: tuple[str, ...]
  convert: Callable[[str, str, str | None], Any] | None = None
  error: str = ''


_PYTHON = _Language(values.PYTHON_TYPES, ('array', 'tuple'))
_JAVA = _Language(
  literals.JAVA_TYPES,
  ('Array', 'ArrayList'),
  literals.convert_java,
  'type_error:java',
)
_JAVASCRIPT = _Language(
  literals.JAVASCRIPT_TYPES,
  ('array',),
  literals.convert_javascript,
  'type_error:js',
)


def language(category: str) -> str:
  """`python`, `java` or `javascript`, by a category's name."""
  for name in ('javascript', 'java'):
    if name in category:
      return name
  return 'python'


_LANGUAGES = {'python': _PYTHON, 'java': _JAVA, 'javascript': _JAVASCRIPT}


def check_calls(
  calls: Sequence[Any] | None,
  functions: Sequence[Mapping[str, Any]],
  ground_truth: Sequence[Call] | None,
  category: str,
) -> Verdict:
  """Checks the calls of a single-turn row.

  Args:
    calls: decoded model output, `{name: {parameter: value}}` each; anything
      else in them fails. None: the output could not be decoded.
    functions: documentation of the row's functions.
    ground_truth: the expected calls, `{name: {parameter: [accepted values]}}`
      each; not looked at where the category is (ir)relevance.
    category: e.g. `live_parallel_multiple`, `irrelevance`, `simple_java`.

  Returns:
    The verdict. Nothing in `calls` makes it raise.

  Raises:
    ValueError: the ground truth is missing or names a function that is not
      among the documented ones.
  """
  if 'relevance' in category:
    return _check_relevance(calls, category)
  if not ground_truth:
    raise ValueError(f'{category}: the row has no ground truth.')
  if calls is None:
    return Verdict(False, 'ast_decoder:decoder_failed')
  if not is_call_format(calls):
    return Verdict(False, 'ast_decoder:decoder_wrong_output_format')
  reading = _LANGUAGES[language(category)]
  if 'parallel' in category:
    return _check_parallel(calls, functions, ground_truth, reading)
  several = 'multiple' in category
  if len(calls) != (len(ground_truth) if several else 1):
    checker = 'multiple' if several else 'simple'
    return Verdict(False, f'{checker}_function_checker:wrong_count')
  expected = ground_truth[0]
  function = _find(functions, expected) if several else functions[0]
  return _verdict(_call_error(function, calls[0], expected, reading))


def check_types(functions: Sequence[Mapping[str, Any]], category: str) -> None:
  """Refuses documented types that values cannot be compared by.

  Args:
    functions, category: as of `check_calls`.

  Raises:
    ValueError: names the function, the parameter and the type.
  """
  if 'relevance' in category:
    return
  reading = _LANGUAGES[language(category)]
  for function in functions:
    for name, described in function['parameters']['properties'].items():
      kinds = [described['type']]
      if kinds[0] in reading.lists:
        kinds.append(described['items']['type'])
      for kind in kinds:
        if kind not in reading.types:
          raise ValueError(
            f'{function["name"]!r}, parameter {name!r}: {kind!r} is none of '
            f'the types {", ".join(reading.types)}.'
          )


def is_call_format(calls: Any) -> bool:
  """Whether it is a list, perhaps empty, of `{name: {parameter: value}}`."""
  return isinstance(calls, list | tuple) and all(
    type(call) is dict
    and len(call) == 1
    and type(next(iter(call.values()))) is dict
    for call in calls
  )


def has_call(calls: Any) -> bool:
  """Whether decoded model output calls anything."""
  return is_call_format(calls) and bool(calls)


def _verdict(error: str | None) -> Verdict:
  return Verdict(False, error) if error else RIGHT


def _check_relevance(calls: Any, category: str) -> Verdict:
  if 'irrelevance' in category:
    wrong = has_call(calls)
    return _verdict('irrelevance_error:decoder_success' if wrong else None)
  return _verdict(None if has_call(calls) else 'relevance_error:decoder_failed')


def _check_parallel(calls, functions, ground_truth, reading) -> Verdict:
  """Each expected call takes the first call that fits and is not taken yet."""
  checker = 'parallel_function_checker_no_order'
  if len(calls) != len(ground_truth):
    return Verdict(False, f'{checker}:wrong_count')
  left = list(calls)
  for expected in ground_truth:
    function = _find(functions, expected)
    for index, call in enumerate(left):
      if _call_error(function, call, expected, reading) is None:
        del left[index]
        break
    else:
      return Verdict(False, f'{checker}:cannot_find_match')
  return RIGHT


def _find(functions, expected: Call) -> Mapping[str, Any]:
  name = next(iter(expected))
  for function in functions:
    if function['name'] == name:
      return function
  raise ValueError(
    f'The ground truth calls {name!r}, which is not among the functions '
    f'{[function["name"] for function in functions]}.'
  )


def _call_error(function, call, expected: Call, reading) -> str | None:
  """What is wrong with one call."""
  accepted = next(iter(expected.values()))
  described = function['parameters']['properties']
  if function['name'] not in call:
    return 'simple_function_checker:wrong_func_name'
  given = call[function['name']]
  if any(name not in given for name in function['parameters']['required']):
    return 'simple_function_checker:missing_required'
  for name, value in given.items():
    if name not in described or name not in accepted:
      return 'simple_function_checker:unexpected_param'
    error = _value_error(value, accepted[name], described[name], reading)
    if error:
      return error
  if any(n not in given and '' not in x for n, x in accepted.items()):
    return 'simple_function_checker:missing_optional'
  return None


def _value_error(value, accepted, described, reading) -> str | None:
  kind = described['type']
  nested = described['items']['type'] if kind in reading.lists else None
  if reading.convert is not None:
    if type(value) is not str:
      return reading.error
    value = reading.convert(value, kind, nested)
  elif kind == 'tuple' and type(value) is tuple:
    value = list(value)
  elif kind == 'float' and type(value) is int:
    value = _as_float(value)
  element = None if nested is None else reading.types[nested]
  return values.check(value, accepted, reading.types[kind], element)


def _as_float(value: int) -> float | int:
  try:
    return float(value)
  except OverflowError:
    return value  # Too large for any accepted value: fails on its type.
