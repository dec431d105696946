"""MMLU-Pro: the prompt, and the letter that a reply settles on."""

import hashlib
import re
from collections.abc import Sequence

from awpo_jax.rollout.datasets import mmlu_pro as rows
from awpo_jax.rollout.text import tool_calls

STOP = 'Question:'
"""Where a reply ends that goes on with a question of its own."""

_ANSWER_IS = re.compile(r'answer is \(?([A-J])\)?')
_ANSWER = re.compile(r'[aA]nswer:\s*([A-J])')
_LETTER = re.compile(r'\b[A-J]\b')


def extract(text: str) -> str | None:
  """The letter of the option that a reply chooses, None for no choice.

  The first of these that is there: the first `answer is (X)`; of the first
  line that has one, the last `answer: X`; the last capital A to J that stands
  alone.

  Args:
    text: model output, anything; read from its thought to `STOP`. Takes linear
      time.
  """
  text = tool_calls.strip_thought(text).partition(STOP)[0]
  if found := _ANSWER_IS.search(text):
    return found.group(1)
  matches = list(_ANSWER.finditer(text))
  if matches:
    end = text.find('\n', matches[0].start())
    line = [m for m in matches if end < 0 or m.start() < end]
    return line[-1].group(1)
  letters = _LETTER.findall(text)
  return letters[-1] if letters else None


def drawn_option(row: rows.Row, sample: int = 0) -> str:
  """A random option for a reply without a choice, the same every time.

  By a hash of question and sample, so that scoring again changes nothing.
  """
  digest = hashlib.sha256(f'{row.row_id}/{sample}'.encode()).digest()
  number = int.from_bytes(digest[:8], 'big') % len(row.options)
  return rows.LETTERS[number]


def instruction(category: str) -> str:
  """What a prompt opens with."""
  return (
    'The following are multiple choice questions (with answers) about '
    f'{category}. Think step by step and then finish your answer with "the '
    'answer is (X)" where X is the correct letter choice.'
  )


def prompt(row: rows.Row, examples: Sequence[rows.Row] = ()) -> str:
  """The whole prompt.

  Args:
    row: the question.
    examples: worked ones; those of the row's category are shown, five at most.
  """
  shown = [x for x in examples if x.category == row.category][:5]
  parts = [instruction(row.category)]
  parts += [f'{_question(x)}{_worked(x)}' for x in shown]
  return '\n\n'.join([*parts, _question(row)])


def _question(row: rows.Row) -> str:
  options = '\n'.join(
    f'{letter}. {option}'
    for letter, option in zip(rows.LETTERS, row.options, strict=False)
  )
  return (
    f'Question:\n{row.question}\nOptions:\n{options}\n'
    "Answer: Let's think step by step."
  )


def _worked(row: rows.Row) -> str:
  """The worked answer, without the opening that the question ends with."""
  text = row.worked.removeprefix('A: ')
  return ' ' + text.removeprefix("Let's think step by step.").strip()
