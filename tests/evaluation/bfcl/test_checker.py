"""The checker by hand; upstream's own verdicts: test_bfcl_vectors.py."""

import pytest

from awpo_jax.evaluation.bfcl import checker
from tests.helpers import bfcl_cases as cases

RIGHT = (True, None)


def check(given, accepted, function=cases.WEATHER, category='simple_python'):
  name = function['name']
  return checker.check_calls(
    [{name: given}], [function], [{name: accepted}], category
  )


@pytest.mark.parametrize(
  ('given', 'accepted', 'error'),
  [
    ({'city': 'Oslo'}, {'city': ['Oslo']}, None),
    # Blanks, case and , . / - _ * ^ do not count, quotes are all the same.
    ({'city': "o's-l.O"}, {'city': ['O"SLO']}, None),
    ({'city': 'Oslo\t'}, {'city': ['Oslo']}, 'value_error:string'),
    ({'city': 'Rome'}, {'city': ['Oslo']}, 'value_error:string'),
    ({'city': 5}, {'city': ['Oslo']}, 'type_error:simple'),
    ({}, {'city': ['Oslo']}, 'simple_function_checker:missing_required'),
    (
      {'city': 'Oslo', 'zone': 1},
      {'city': ['Oslo']},
      'simple_function_checker:unexpected_param',
    ),
    # Documented, but not in the ground truth.
    (
      {'city': 'Oslo', 'days': 1},
      {'city': ['Oslo']},
      'simple_function_checker:unexpected_param',
    ),
    (
      {'city': 'Oslo'},
      {'city': ['Oslo'], 'days': [1]},
      'simple_function_checker:missing_optional',
    ),
    ({'city': 'Oslo'}, {'city': ['Oslo'], 'days': [1, '']}, None),
  ],
)
def test_names_and_strings(given, accepted, error):
  assert check(given, accepted) == (error is None, error)


@pytest.mark.parametrize(
  ('name', 'value', 'accepted', 'error'),
  [
    ('days', 3, [3], None),
    ('days', 3.0, [3], 'type_error:simple'),
    ('days', True, [1], 'type_error:simple'),
    ('days', 4, [3], 'value_error:others'),
    # A variable: compared as it is, letter by letter.
    ('days', 'n', ['n'], None),
    ('days', 'N', ['n'], 'value_error:others'),
    ('days', None, [None], None),
    ('days', None, [3], 'type_error:simple'),
    ('wind', 3, [3.0], None),
    ('wind', 10**400, [3.0], 'type_error:simple'),
    ('near', True, [True], None),
    ('near', 1, [True], 'type_error:simple'),
    ('hours', [1, 2], [[1, 2]], None),
    ('hours', [2, 1], [[1, 2]], 'value_error:list/tuple'),
    ('hours', [1, 'a'], [[1, 2]], 'type_error:nested'),
    ('hours', [], [''], None),
    ('area', {'k': 'A b', 'x': 1}, [{'k': ['ab'], 'x': [1, '']}], None),
    ('area', {'k': 'ab'}, [{'k': ['ab'], 'x': [1, '']}], None),
    ('area', {'k': 'ab'}, [{'k': ['ab'], 'x': [1]}], 'value_error:dict_key'),
    ('area', {'k': 'no'}, [{'k': ['ab']}], 'value_error:dict_value'),
    ('area', {'k': 'no'}, [{'k': ['ab'], 'x': [1]}], 'value_error:dict_key'),
    ('area', {'z': 1}, [{'k': ['ab']}], 'value_error:dict_key'),
    ('area', {}, [''], 'dict_checker:unclear'),
    ('stops', [{'k': 1}], [[{'k': [1]}]], None),
    ('stops', [{'k': 1}, {}], [[{'k': [1]}]], 'value_error:list_dict_count'),
    ('stops', [{'k': 2}], [[{'k': [1]}]], 'value_error:dict_value'),
  ],
)
def test_values(name, value, accepted, error):
  given = {'city': 'Oslo', name: value}
  got = check(given, {'city': ['Oslo'], name: accepted})
  assert got == (error is None, error)


def test_a_tuple_is_a_list_where_one_is_asked_for():
  function = {
    'name': 'f',
    'parameters': {
      'properties': {'p': {'type': 'tuple', 'items': {'type': 'integer'}}},
      'required': [],
    },
  }
  assert check({'p': (1, 2)}, {'p': [[1, 2]]}, function) == RIGHT


@pytest.mark.parametrize(
  ('category', 'calls', 'error'),
  [
    ('simple_python', [], 'simple_function_checker:wrong_count'),
    ('simple_python', None, 'ast_decoder:decoder_failed'),
    ('simple_python', [5], 'ast_decoder:decoder_wrong_output_format'),
    (
      'simple_python',
      [{'weather.get': []}],
      'ast_decoder:decoder_wrong_output_format',
    ),
    (
      'simple_python',
      [{'clock': {}}],
      'simple_function_checker:wrong_func_name',
    ),
    ('multiple', [{'clock': {'zone': 'cet'}}], None),
    ('multiple', [], 'multiple_function_checker:wrong_count'),
    (
      'parallel',
      [{'clock': {'zone': 'UTC'}}, {'clock': {'zone': 'CET'}}],
      None,
    ),
    (
      'parallel',
      [{'clock': {'zone': 'UTC'}}, {'clock': {'zone': 'UTC'}}],
      'parallel_function_checker_no_order:cannot_find_match',
    ),
    (
      'parallel_multiple',
      [{'clock': {'zone': 'CET'}}],
      'parallel_function_checker_no_order:wrong_count',
    ),
    (
      'parallel_multiple',
      [{'weather.get': {'city': 'Rome'}}, {'clock': {'zone': 'CET'}}],
      None,
    ),
    ('irrelevance', [], None),
    ('irrelevance', None, None),
    ('irrelevance', [{}], None),
    ('irrelevance', [{'x': {}}], 'irrelevance_error:decoder_success'),
    ('live_relevance', [{'x': {}}], None),
    ('live_relevance', None, 'relevance_error:decoder_failed'),
  ],
)
def test_categories(category, calls, error):
  _, functions, truth = cases.ROWS[category][0]
  got = checker.check_calls(calls, functions, truth, category)
  assert got == (error is None, error)


def test_parallel_is_greedy():
  # The first expected call takes the only answer that fits the second one.
  function = cases.TIME
  truth = [{'clock': {'zone': ['a', 'b']}}, {'clock': {'zone': ['a']}}]
  calls = [{'clock': {'zone': 'a'}}, {'clock': {'zone': 'b'}}]
  check_calls = checker.check_calls
  assert not check_calls(calls, [function], truth, 'parallel').valid
  assert check_calls(calls[::-1], [function], truth, 'parallel').valid


@pytest.mark.parametrize(
  ('changed', 'error'),
  [
    ({}, None),
    ({'size': '12'}, 'type_error:simple'),
    ({'size': 12}, 'type_error:java'),
    ({'tags': 'new ArrayList<String>()'}, 'value_error:list/tuple'),
    ({'options': 'new HashMap<>()'}, 'value_error:dict_key'),
  ],
)
def test_java(changed, error):
  _, functions, truth = cases.ROWS['simple_java'][0]
  given = {
    'path': '/a',
    'size': '12L',
    'tags': 'new ArrayList<>(Arrays.asList("x", "y"))',
    'options': 'new HashMap<>() {{ put("k", 1); put("v", "w"); }}',
  } | changed
  calls = [{'Store.open': given}]
  got = checker.check_calls(calls, functions, truth, 'simple_java')
  assert got == (error is None, error)


@pytest.mark.parametrize(
  ('changed', 'error'),
  [
    ({}, None),
    ({'points': 'new Array([1, 2], [3, 4])'}, None),
    ({'points': [[1, 2], [3, 4]]}, 'type_error:js'),
    ({'seen': 'True'}, 'type_error:simple'),
    ({'meta': '{a: 2}'}, 'value_error:dict_value'),
  ],
)
def test_javascript(changed, error):
  _, functions, truth = cases.ROWS['simple_javascript'][0]
  given = {'points': '[[1, 2], [3, 4]]', 'seen': 'true', 'meta': '{"a": 1}'}
  calls = [{'store': given | changed}]
  got = checker.check_calls(calls, functions, truth, 'simple_javascript')
  assert got == (error is None, error)


@pytest.mark.parametrize(
  ('category', 'described', 'wrong'),
  [
    ('live_simple', {'type': 'number'}, 'number'),
    ('simple_java', {'type': 'object'}, 'object'),
    ('simple_javascript', {'type': 'tuple'}, 'tuple'),
    ('simple_python', {'type': 'array', 'items': {'type': 'date'}}, 'date'),
  ],
)
def test_a_type_that_no_value_has_is_refused(category, described, wrong):
  function = {'name': 'f', 'parameters': {'properties': {'x': described}}}
  with pytest.raises(ValueError, match=f"'f', parameter 'x': '{wrong}'"):
    checker.check_types([function], category)
  checker.check_types([function], 'irrelevance')  # Compares no values.


def test_a_row_without_its_truth_is_refused():
  with pytest.raises(ValueError, match='no ground truth'):
    checker.check_calls([], [cases.TIME], None, 'simple_python')
  with pytest.raises(ValueError, match="'clock'"):
    truth = [{'clock': {'zone': ['CET']}}]
    checker.check_calls([{'clock': {}}], [cases.WEATHER], truth, 'multiple')
