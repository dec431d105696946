"""BFCL's eight simulated APIs as tools of a worker; imports `bfcl_eval` alone.

The simulators are those of the package; nothing of it that evaluates text is
used. A scenario is `classes`, `config` (class -> state) and `long_context`.
"""

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

PACKAGE = 'bfcl_eval'
_BACKEND = f'{PACKAGE}.eval_checker.multi_turn_eval.func_source_code'
MODULES: Mapping[str, str] = {
  'GorillaFileSystem': 'gorilla_file_system',
  'MathAPI': 'math_api',
  'MessageAPI': 'message_api',
  'TwitterAPI': 'posting_api',
  'TicketAPI': 'ticket_api',
  'TradingBot': 'trading_bot',
  'TravelAPI': 'travel_booking',
  'VehicleControlAPI': 'vehicle_control',
}
"""Class -> the module it stands in, and the file of its documentation."""
_STATELESS = ('MathAPI',)
_MAX_DEPTH = 40


def make(
  scenario: Mapping[str, Any],
) -> tuple[dict[str, Callable[..., Any]], Callable[[], Any]]:
  """The public methods of a scenario's classes, and their state as JSON."""
  instances = {name: _instance(name, scenario) for name in scenario['classes']}
  functions: dict[str, Callable[..., Any]] = {}
  for instance in instances.values():
    for name, method in inspect.getmembers(instance, inspect.ismethod):
      if not name.startswith('_'):
        functions[name] = method
  return functions, lambda: {
    name: public_state(instance) for name, instance in instances.items()
  }


def _instance(name: str, scenario: Mapping[str, Any]) -> Any:
  module = importlib.import_module(f'{_BACKEND}.{MODULES[name]}')
  instance = getattr(module, name)()
  if name not in _STATELESS:
    instance._load_scenario(
      copy.deepcopy(scenario['config'].get(name, {})),
      long_context=scenario['long_context'],
    )
  return instance


def public_state(instance: Any) -> dict[str, Any]:
  """Attributes whose names have no leading underscore, as JSON."""
  return {
    name: _plain(value, _MAX_DEPTH)
    for name, value in vars(instance).items()
    if not name.startswith('_')
  }


def _plain(value: Any, depth: int) -> Any:
  """A value as JSON; what differs there differs here, too."""
  if value is None or isinstance(value, str | bool | int | float):
    return value
  if not depth:
    return repr(type(value))
  if isinstance(value, dict):
    # 1 and '1' are two keys.
    return {
      key if isinstance(key, str) else f'{type(key).__name__} {key}': _plain(
        item, depth - 1
      )
      for key, item in value.items()
    }
  if isinstance(value, list):
    return [_plain(item, depth - 1) for item in value]
  if isinstance(value, tuple):
    return {'tuple': [_plain(item, depth - 1) for item in value]}
  if isinstance(value, set):
    return {'set': sorted(map(repr, value))}
  if hasattr(value, 'contents'):
    contents = {k: _plain(v, depth - 1) for k, v in value.contents.items()}
    return {'name': value.name, 'type': 'directory', 'contents': contents}
  if hasattr(value, 'content'):
    return {'name': value.name, 'type': 'file', 'content': value.content}
  return repr(value)
