"""What the package `reasoning-gym` generates, and what it takes as right.

Some of its scorers evaluate an answer as Python or SymPy, compute without end
on a few characters (`Fraction('1e999999999')`), or take anything as right. An
answer is a model's, so only generators are taken whose scorer has been read, in
version 0.1.25; a test asks some of this of the version that is there.
"""

import difflib
import functools
import types as python_types
from collections.abc import Mapping, Sequence
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.text import tool_calls

_READ = """
ab aiw arc_1d base_conversion binary_alternation caesar_cipher
calendar_arithmetic chain_sum circuit_logic color_cube_rotation count_bits
count_primes course_schedule cryptarithm decimal_arithmetic decimal_chain_sum
dice family_relationships fraction_simplification gcd gsm_symbolic
isomorphic_strings largest_island lcm leg_counting letter_counting
manipulate_matrix maze mini_sudoku number_filtering number_format
number_sequence palindrome_generation path_star power_function
prime_factorization products ransom_note rotate_matrix self_reference
sentence_reordering shortest_path simple_equations simple_geometry
spell_backward string_manipulation string_splitting string_synthesis syllogism
time_intervals word_sequence_reversal word_sorting
"""
GENERATORS = frozenset(_READ.split())
"""Generators whose scorer is bounded, evaluates nothing and has a reference."""
MAX_ANSWER = 1024
"""Characters of an answer that is scored; a longer one is wrong."""
SIZE = 1 << 21
"""Rows of a generator; row i of seed s is drawn from the number s + i."""
KEY = 'reasoning_gym'
"""Of a task's scenario: generator, seed and index of its row."""
TOOL = types.Tool(
  'submit', 'Submits the final answer.', {'answer': {'type': 'string'}}
)
"""What an answer has to call."""


def load() -> python_types.ModuleType:
  """The module `reasoning_gym`; a `ValueError` says how to get it."""
  try:
    import reasoning_gym
  except ImportError as error:
    raise ValueError(
      '--dataset=reasoning_gym needs the package reasoning-gym: '
      "`pip install -e '.[reasoning]'`, or `pip install reasoning-gym`."
    ) from error
  return reasoning_gym


def check(names: Sequence[str]) -> None:
  """Raises `ValueError` where a name is no generator, twice there, or missing.

  Args:
    names: of generators; of an unknown one near matches are told.
  """
  for name in names:
    if name in GENERATORS:
      continue
    near = difflib.get_close_matches(name, sorted(GENERATORS), 4, 0.5)
    told = f'Near it are {", ".join(near)}.' if near else 'Nothing is near it.'
    raise ValueError(
      f'--dataset=reasoning_gym: {name!r} is not among the generators whose '
      f'scorers are known to be safe for the output of a model. {told} All are '
      f'{", ".join(sorted(GENERATORS))}.'
    )
  if len(set(names)) != len(names):
    raise ValueError(
      f'--dataset=reasoning_gym:{",".join(names)}: a generator is named twice.'
    )
  load()


@functools.lru_cache(maxsize=4096)
def row(name: str, seed: int, index: int) -> Mapping[str, Any]:
  """Row `index` of a generator: `question`, `answer` and `metadata`."""
  return _generator(name, seed)[index]


def accepts(name: str, seed: int, index: int, submitted: str) -> bool:
  """Whether the package's `score_answer` gives an answer to a row all it can.

  Args:
    name: of the generator.
    seed: of its rows.
    index: of the row.
    submitted: of a model, anything; what the scorer fails on is wrong.
  """
  if not 0 < len(submitted) <= MAX_ANSWER:
    return False
  entry = row(name, seed, index)
  try:
    return float(_generator(name, seed).score_answer(submitted, entry)) >= 1.0
  except Exception:  # It may raise anything at what it does not expect.
    return False


@functools.lru_cache(maxsize=256)
def _generator(name: str, seed: int) -> Any:
  return load().create_dataset(name, seed=seed, size=SIZE)


def reference(response: str, task: types.Task) -> str:
  """The reference answer that an answer is to be compared with.

  Of a generator's task it says what the answer submits, where the package takes
  that as right, so that `007` or another order of factors is not wrong.

  Args:
    response: model output, anything.
    task: any; only a generator's has more than one right answer.
  """
  if KEY not in task.scenario:
    return task.ground_truth
  parsed = tool_calls.parse(response)
  if isinstance(parsed, tool_calls.ParseFailure) or len(parsed.calls) != 1:
    return task.ground_truth
  submitted = parsed.calls[0].parameters.get('answer')
  if not isinstance(submitted, str):
    return task.ground_truth
  name, seed, index = task.scenario[KEY]
  if accepts(name, seed, index, submitted):
    return answer('', submitted)
  return task.ground_truth


def answer(thought: str, submitted: str) -> str:
  """An answer that submits a text, in RLLA's layout."""
  call = tool_calls.ToolCall(TOOL.name, {'answer': submitted})
  return tool_calls.render_answer(thought, [call])
