"""JSON schemas of tools' parameters, from whatever words data have for them.

Data say what may be left out in several ways. The first of these that a
parameter has counts:

  a list `required` beside the parameters, as JSON schemas have it
  `"required": false` (or true) within the parameter, as Seal-Tools has it
  `"optional": true` (or false) within it
  a type with `, optional` at its end, as Python's docstrings have it
  a `default`, null among them; but RLLA writes `"default": ""` where there is
  none, so that an empty text says nothing

A parameter that says nothing is required.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from awpo_jax.reporting import json_text

Schema: TypeAlias = dict[str, Any]

_STRINGS = ('string', 'str', 'text', 'char', 'character')
_INTEGERS = ('integer', 'int', 'long', 'short', 'byte', 'bigint')
_NUMBERS = ('number', 'float', 'double', 'decimal')
_ARRAYS = ('array', 'list', 'tuple', 'set', 'sequence', 'iterable', 'arraylist')
_OBJECTS = ('object', 'dict', 'map', 'mapping', 'hashmap')
# A type in the words of Python and others -> in those of JSON schemas.
_TYPES: Mapping[str, str] = {
  **dict.fromkeys(_STRINGS, 'string'),
  **dict.fromkeys(_INTEGERS, 'integer'),
  **dict.fromkeys(_NUMBERS, 'number'),
  **dict.fromkeys(('boolean', 'bool'), 'boolean'),
  **dict.fromkeys(_ARRAYS, 'array'),
  **dict.fromkeys(_OBJECTS, 'object'),
  **dict.fromkeys(('null', 'none', 'nonetype'), 'null'),
}
# Texts of a form that JSON schemas have a name for.
_FORMATS: Mapping[str, str] = {
  'date': 'date',
  'datetime': 'date-time',
  'time': 'time',
  'email': 'email',
  'url': 'uri',
  'uri': 'uri',
  'uuid': 'uuid',
}
_OPTIONAL = re.compile(
  r'^\s*optional\s+(?=\w)|[\s,]*\(?\boptional\)?\s*$', re.IGNORECASE
)
_MAX_TYPE = 200  # Characters; what is longer is no name of a type.


def of_parameters(
  parameters: Mapping[str, Any], required: Sequence[str] | None = None
) -> Schema:
  """The schema of an object that holds a tool's arguments.

  Args:
    parameters: name -> description, as a data set has it.
    required: names of those that may not be left out; None: the parameters
      themselves say it, see the module.
  """
  return {
    'type': 'object',
    'properties': {name: of(spec) for name, spec in parameters.items()},
    'required': [
      name
      for name, spec in parameters.items()
      if (is_required(spec) if required is None else name in required)
    ],
  }


def is_required(spec: Any) -> bool:
  """Whether a parameter, by what it says itself, may not be left out."""
  if not isinstance(spec, Mapping):
    return True
  said = _own_word(spec)
  if said is not None:
    return said
  return spec.get('default', '') == ''


def _own_word(spec: Mapping[str, Any]) -> bool | None:
  """Whether the parameter is called required; None where it is not said."""
  required, optional = (
    _truth(spec.get(key)) for key in ('required', 'optional')
  )
  if required is not None:
    return required
  if optional is not None:
    return not optional
  kind = spec.get('type')
  return False if isinstance(kind, str) and _OPTIONAL.search(kind) else None


def _truth(value: Any) -> bool | None:
  """True and false, also where they are written as texts."""
  if isinstance(value, str):
    return {'true': True, 'false': False}.get(value.strip().lower())
  return value if isinstance(value, bool) else None


def marked(
  parameters: Mapping[str, Any], required: Sequence[str]
) -> dict[str, Any]:
  """Parameters that say of themselves what a list says of them.

  `"required"` is added to those only that would say something else without it.
  """
  return {
    name: {**spec, 'required': name in required}
    if isinstance(spec, Mapping) and is_required(spec) != (name in required)
    else spec
    for name, spec in parameters.items()
  }


def of(spec: Any) -> Any:
  """The JSON schema of one value.

  Types become those of JSON schemas, with that of their elements; one that no
  JSON schema has is told in the description instead. Keywords whose value is
  none that they may have are left out.

  Args:
    spec: a description as a data set has it; a type alone; or a schema, of
      which only what is no JSON schema is changed.
  """
  if isinstance(spec, bool):
    return spec
  if isinstance(spec, str):
    spec = {'type': spec}
  if not isinstance(spec, Mapping):
    return {}
  schema: Schema = {}
  for key, value in json_text.plain(spec).items():
    if key == 'type':
      schema |= {
        k: v for k, v in _typed(value).items() if k == 'type' or k not in spec
      }
    elif key in _KEYWORDS:
      schema |= _KEYWORDS[key](key, value)
    elif key not in ('required', 'optional', 'nullable'):
      schema[key] = value
  if _truth(spec.get('nullable')):
    schema = _with_null(schema)
  told = _untold_type(spec)
  if told:
    text = spec.get('description')
    text = f'{text} ' if isinstance(text, str) and text else ''
    schema['description'] = f'{text}(type: {told})'
  return {**schema, **_required_within(spec)}


def _with_null(schema: Schema) -> Schema:
  """The schema of a value that may be null as well."""
  own = schema.get('type')
  if own is not None:
    kinds = own if isinstance(own, list) else [own]
    schema = {**schema, 'type': list(dict.fromkeys([*kinds, 'null']))}
  if 'enum' in schema and None not in schema['enum']:
    schema = {**schema, 'enum': [*schema['enum'], None]}
  return schema


def _required_within(spec: Mapping[str, Any]) -> Schema:
  """`required` of an object within a schema, where anything says it."""
  inner, listed = spec.get('properties'), spec.get('required')
  if isinstance(listed, list):
    return {'required': list(dict.fromkeys(map(str, listed)))}
  if not isinstance(inner, Mapping):
    return {}
  says = [
    isinstance(x, Mapping) and _own_word(x) is not None for x in inner.values()
  ]
  if not any(says):
    return {}
  return {'required': [name for name, x in inner.items() if is_required(x)]}


def _typed(kind: Any) -> Schema:
  """What a type says, in the words of JSON schemas; nothing if unknown."""
  if isinstance(kind, Mapping):
    return of(kind)
  if isinstance(kind, list):
    return _union([_typed(each) for each in kind])
  return (_named(kind) if isinstance(kind, str) else None) or {}


def _untold_type(spec: Mapping[str, Any]) -> str:
  """A type in words that no schema has; '' where there is none."""
  kind = spec.get('type')
  unknown = isinstance(kind, str) and kind.strip() and _named(kind) is None
  return str(kind)[:_MAX_TYPE] if unknown else ''


def _named(text: str) -> Schema | None:
  """The schema of a type's name or annotation; None if it is not known."""
  text = _OPTIONAL.sub('', text[: _MAX_TYPE + 1]).strip().replace(' or ', ' | ')
  if len(text) > _MAX_TYPE:
    return None
  try:
    return _annotated(ast.parse(text, mode='eval').body)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


def _annotated(node: ast.expr) -> Schema | None:
  """The schema of an annotation; parsed only, nothing is looked up."""
  if isinstance(node, ast.Constant):
    return {'type': 'null'} if node.value is None else None
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    return _union([_annotated(node.left), _annotated(node.right)])
  if isinstance(node, ast.Subscript):
    inner = (
      node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    )
    return _generic(_word(node.value), inner)
  name = _word(node)
  if name == 'any':
    return {}
  if name in _FORMATS:
    return {'type': 'string', 'format': _FORMATS[name]}
  return {'type': _TYPES[name]} if name in _TYPES else None


def _word(node: ast.expr) -> str:
  """`list` of `typing.List` and of `List`; '' of anything else."""
  if isinstance(node, ast.Attribute):
    return node.attr.lower()
  return node.id.lower() if isinstance(node, ast.Name) else ''


def _generic(name: str, inner: Sequence[ast.expr]) -> Schema | None:
  """The schema of `name[inner]`."""
  if name == 'literal':
    values = [getattr(x, 'value', ...) for x in inner]
    plain = all(isinstance(x, str | int | None) for x in values)
    return {'enum': values} if plain else None
  if name in ('optional', 'union'):
    null: list[Schema | None] = [{'type': 'null'}] if name == 'optional' else []
    return _union([*map(_annotated, inner), *null])
  if name not in _TYPES:
    return None
  parts = [
    _annotated(x)
    for x in inner
    if not (isinstance(x, ast.Constant) and x.value is ...)
  ]
  schema: Schema = {'type': _TYPES[name]}
  # Those of a tuple may differ, for which there is no keyword that all know.
  alike = parts and parts[0] and all(part == parts[0] for part in parts)
  if schema['type'] == 'array' and alike:
    schema['items'] = parts[0]
  if schema['type'] == 'object' and len(parts) == 2 and parts[1]:
    schema['additionalProperties'] = parts[1]
  return schema


def _union(parts: Sequence[Schema | None]) -> Schema:
  """What is one of several; anything, where one of them is not known."""
  known = [part for part in parts if part]
  if len(known) < len(parts) or not known:
    return {}
  if any(set(part) != {'type'} for part in known):
    return known[0] if len(known) == 1 else {'anyOf': known}
  flat: list[str] = []
  for part in known:
    own = part['type']
    flat += own if isinstance(own, list) else [own]
  flat = list(dict.fromkeys(flat))
  return {'type': flat[0] if len(flat) == 1 else flat}


def _kept(fits: Callable[[Any], bool]) -> Callable[[str, Any], Schema]:
  return lambda key, value: {key: value} if fits(value) else {}


def _is(*kinds: type) -> Callable[[Any], bool]:
  return lambda value: (
    isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
  )


def _one(key: str, value: Any) -> Schema:
  if isinstance(value, list):  # One schema for each element.
    return _several('prefixItems', value) if key == 'items' else {}
  return {key: of(value)} if isinstance(value, dict | str | bool) else {}


def _several(key: str, value: Any) -> Schema:
  fits = isinstance(value, list) and value
  return {key: [of(each) for each in value]} if fits else {}


def _by_name(key: str, value: Any) -> Schema:
  if not isinstance(value, dict):
    return {}
  return {key: {name: of(each) for name, each in value.items()}}


def _is_count(value: Any) -> bool:
  return _is(int)(value) and value >= 0


def _words(text: str, what: Callable[[str, Any], Schema]) -> dict[str, Any]:
  return dict.fromkeys(text.split(), what)


# Keyword of JSON schemas -> what becomes of its value.
_KEYWORDS: Mapping[str, Callable[[str, Any], Schema]] = {
  **_words(
    'title description pattern format $ref $id $schema $comment '
    'contentEncoding contentMediaType',
    _kept(_is(str)),
  ),
  **_words(
    'minimum maximum exclusiveMinimum exclusiveMaximum', _kept(_is(int, float))
  ),
  **_words('multipleOf', _kept(lambda x: _is(int, float)(x) and x > 0)),
  **_words(
    'minLength maxLength minItems maxItems minProperties maxProperties '
    'minContains maxContains',
    _kept(_is_count),
  ),
  **_words('uniqueItems deprecated readOnly writeOnly', _kept(_is(bool))),
  **_words('examples', _kept(_is(list))),
  **_words('enum', _kept(lambda x: isinstance(x, list) and bool(x))),
  **_words(
    'items additionalProperties not if then else contains propertyNames '
    'unevaluatedItems unevaluatedProperties',
    _one,
  ),
  **_words('allOf anyOf oneOf prefixItems', _several),
  **_words(
    'properties patternProperties $defs definitions dependentSchemas', _by_name
  ),
}
