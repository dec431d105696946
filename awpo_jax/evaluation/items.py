"""What a benchmark asks, made ready: how to ask it, how to score the answer."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import conversations, prompts

# Yields what is to be answered next and is sent the answer. A single-turn row
# yields once; environments go on until the row is over.
Episode: TypeAlias = Generator[conversations.Conversation, str, None]


class Result(NamedTuple):
  """What an answer is worth.

  Attributes:
    correct: whether it counts as right.
    error: what is wrong, in the benchmark's own words; None where right.
    decoded: what was read in it, as JSON.
    reason: more of what is wrong, in our words.
    replies: of an episode, role and text of what came back after each answer.
  """

  correct: bool
  error: str | None
  decoded: Any = None
  reason: str = ''
  replies: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Item:
  """A row of a benchmark.

  Attributes:
    row_id: unique within the benchmark.
    category: the row of the table it counts in.
    task: the row as RLLA would have it; of a multi-turn row its first turn.
    talk: the first conversation, in the style of the prompts.
    score: of all answers of an episode, and the number of the sample.
    gold: answers that ought to be right, in the order in which it asks.
    expected: the ground truth, as JSON, for reports.
    start: starts the row, where it may ask more than once.
    has_layout: whether an answer has the layout that is asked for.
  """

  row_id: str
  category: str
  task: types.Task
  talk: conversations.Conversation
  score: Callable[[Sequence[str], int], Result]
  gold: tuple[str, ...]
  expected: Any
  start: Callable[[], Episode] | None = None
  has_layout: Callable[[str], bool] = toolrl.has_layout

  @property
  def multi_turn(self) -> bool:
    """Whether it may ask more than once."""
    return self.start is not None

  def episode(self) -> Episode:
    """Starts the row."""
    return _once(self.talk) if self.start is None else self.start()


def _once(talk: conversations.Conversation) -> Episode:
  yield talk


def task_talk(
  task: types.Task, prompt_style: str = 'rlla'
) -> conversations.Conversation:
  """A task's conversation, as `prompts.encode_prompt` writes it.

  Args:
    task: what is asked.
    prompt_style: as of `benchmarks.Source.style`; `rlla_template` gives the
      tools to the chat template.
  """
  where = 'template' if prompt_style == 'rlla_template' else prompt_style
  messages, tools = prompts.conversation(task, where)
  return conversations.Conversation(tuple(messages), tuple(tools))


def pick(items: Sequence[Item], limit: int) -> list[Item]:
  """At most `limit` rows of each category (0: all), in their order.

  Always the same ones: those whose hashed ids are smallest.
  """
  if not limit:
    return list(items)
  by_category = collections.defaultdict(list)
  for item in items:
    by_category[item.category].append(item.row_id)
  kept = {
    row_id
    for ids in by_category.values()
    for row_id in sorted(ids, key=hashed)[:limit]
  }
  return [item for item in items if item.row_id in kept]


def hashed(row_id: str) -> str:
  """A hash of a row's id, to order rows independently of the file."""
  return hashlib.sha256(row_id.encode()).hexdigest()
