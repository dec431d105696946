"""Whether a parameter's value is one of BFCL's accepted values.

First the type, then the value; an accepted value `""` says that the parameter
may be left out. Each function returns an error type of upstream's, or None
where all is well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PYTHON_TYPES: Mapping[str, type] = {
  'string': str,
  'integer': int,
  'float': float,
  'boolean': bool,
  'array': list,
  'tuple': list,
  'dict': dict,
  'any': str,
}
"""Documented type -> type of the value."""

_IGNORED = str.maketrans("'", '"', ' ,./-_*^')


def normalize(text: str) -> str:
  """Without blanks and `, . / - _ * ^`, in lower case, with double quotes."""
  return text.translate(_IGNORED).lower()


def check(
  value: Any, accepted: Sequence[Any], kind: type, element: type | None
) -> str | None:
  """Checks one value.

  Args:
    value: predicted, converted to a Python value.
    accepted: values of the ground truth.
    kind: type that the function's documentation asks for.
    element: of a documented list, the type of its elements.

  Returns:
    The error type, None where the value is accepted.
  """
  error, is_variable = _check_type(value, accepted, kind, element)
  if error:
    return error
  if not is_variable:
    if kind is dict:
      return _check_dict(value, accepted)
    if kind is list and element is dict:
      return _check_dicts(value, accepted)
    if kind is str:
      return _check_string(value, accepted)
    if kind is list:
      return _check_list(value, accepted)
  return None if value in accepted else 'value_error:others'


def _check_type(value, accepted, kind, element) -> tuple[str | None, bool]:
  """The error, and whether the value stands for a variable.

  A ground truth of another type than documented is taken for the name of a
  variable; it is compared as it is.
  """
  known = next((type(x) for x in accepted if x != ''), None)
  nested = False
  if type(value) is kind:
    if element is None or any(
      _elements_fit(value, item, element) for item in accepted
    ):
      return None, known is not None and known is not kind
    nested = True
  if known is not None and type(value) is known:
    return ('type_error:nested' if nested else None), True
  return 'type_error:simple', False


def _elements_fit(values, accepted, element: type) -> bool:
  """One level deep, each against all elements of an accepted list."""
  if type(accepted) is not list:
    return True
  return all(
    _check_type(item, accepted, element, None)[0] is None for item in values
  )


def _check_string(value: str, accepted: Sequence[Any]) -> str | None:
  known = [normalize(x) for x in accepted if type(x) is str]
  return None if normalize(value) in known else 'value_error:string'


def _check_list(value: list, accepted: Sequence[Any]) -> str | None:
  known = [_normalized(x) for x in accepted if type(x) in (list, str)]
  return None if _normalized(value) in known else 'value_error:list/tuple'


def _normalized(values: Sequence[Any]) -> list[Any]:
  """Elements with their strings normalized; of `""` there are none."""
  return [normalize(x) if type(x) is str else x for x in values]


def _check_dict(value: Any, accepted: Sequence[Any]) -> str | None:
  error = 'dict_checker:unclear'
  if type(value) is not dict:
    return error
  for known in accepted:
    if type(known) is not dict:
      continue
    found = _dict_error(value, known)
    if found is None:
      return None
    error = found
  return error


def _dict_error(value: Mapping, known: Mapping) -> str | None:
  missing = any(
    key not in value and '' not in accepted for key, accepted in known.items()
  )
  for key, item in value.items():
    if key not in known:
      return 'value_error:dict_key'
    if _normalized([item])[0] not in _normalized(known[key]):
      # A missing key is named before a wrong value.
      return 'value_error:dict_key' if missing else 'value_error:dict_value'
  return 'value_error:dict_key' if missing else None


def _check_dicts(value: list, accepted: Sequence[Any]) -> str | None:
  """A list of dicts, each against the one in its place."""
  error = 'list_dict_checker:unclear'
  for known in accepted:
    if len(value) != len(known):
      error = 'value_error:list_dict_count'
      continue
    errors = (
      _check_dict(item, [each]) for item, each in zip(value, known, strict=True)
    )
    found = next((x for x in errors if x), None)
    if found is None:
      return None
    error = found
  return error
