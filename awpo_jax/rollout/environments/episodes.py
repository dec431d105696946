"""Episodes: turns of the policy, and calls that run between them."""

import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from awpo_jax import types
from awpo_jax.reporting import json_text
from awpo_jax.rollout.environments import protocol
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.rollout.text import observations, tokenizers, tool_calls


@dataclasses.dataclass(frozen=True)
class Episode:
  """What happened, as plain data; `str` shows it in RLLA's layout.

  Attributes:
    turns: of the policy, in order.
    state: of the environment, after them.
    unavailable: why the machine could not finish it, which is not the policy's
      fault; '' where it is finished.
  """

  turns: tuple[protocol.Turn, ...]
  state: protocol.State
  unavailable: str = ''

  def __str__(self) -> str:
    return '\n'.join(
      '\n'.join((turn.text, *map(shown, turn.observations)))
      for turn in self.turns
    )


def shown(observation: protocol.Observation) -> str:
  """An observation in RLLA's layout."""
  role, text = observation
  return f'<{role}> {text} </{role}>'


def replay(
  environment: protocol.Environment, task: types.Task, texts: Sequence[str]
) -> Episode:
  """The episode in which a policy answers with these texts, while it lasts."""
  state, turns = environment.reset(task), []
  for text in texts:
    calls = calls_of(text)
    step = environment.step(state, calls)
    state = step.state
    turns.append(protocol.Turn(text, calls, step.observations))
    if step.done:
      break
  return Episode(tuple(turns), state)


def demonstrate(
  environment: protocol.Environment, task: types.Task, texts: Sequence[str]
) -> types.Demonstration:
  """The episode of these answers as something to imitate."""
  turns = replay(environment, task, texts).turns
  further = tuple(
    types.Exchange(tuple(map(_pair, turn.observations)), then.text)
    for turn, then in itertools.pairwise(turns)
  )
  return types.Demonstration(task, turns[0].text, further=further)


def _pair(observation: protocol.Observation) -> tuple[str, str]:
  return observation.role, observation.text


def calls_of(text: str) -> tuple[tool_calls.ToolCall, ...]:
  """Calls of an answer; none where it cannot be read."""
  answer = tool_calls.parse(text)
  return () if isinstance(answer, tool_calls.ParseFailure) else answer.calls


class Rows(NamedTuple):
  """Rows at the ends of turns, on the host.

  Attributes:
    tokens: i32[N, Sc].
    length: i32[N], tokens of each.
    finished: bool[N], False where the limit cut the turn.
  """

  tokens: np.ndarray
  length: np.ndarray
  finished: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The sampler of `multi_turn` with its parameters and placement bound.

  Attributes:
    begin: () -> its state, rows at the ends of their first turns.
    go_on: (state, tokens i32[N, So], lengths i32[N]) -> state, likewise.
    rows: state -> `Rows`.
  """

  begin: Callable[[], Any]
  go_on: Callable[[Any, np.ndarray, np.ndarray], Any]
  rows: Callable[[Any], Rows]


@dataclasses.dataclass(frozen=True)
class Rules:
  """What an episode needs beside its sampler.

  Attributes:
    environment: where calls run.
    reader: of observations.
    codec: of the policy.
    max_turns: of the policy.
    max_tokens: Sc, of all turns and observations.
    threads: calls of so many rows run at once.
  """

  environment: protocol.Environment
  reader: observations.Reader
  codec: codec_lib.Codec
  max_turns: int
  max_tokens: int
  threads: int


class _Row:
  """An episode under way."""

  def __init__(self, rules: Rules, task: types.Task):
    self._rules = rules
    self.turns: list[protocol.Turn] = []
    self.start = 0
    (self._opened,) = rules.codec.opened([task])
    self.cut = False
    self.unavailable = ''
    self.state: protocol.State = {}
    try:
      self.state = rules.environment.reset(task)
    except types.RewardUnavailable as error:
      self.unavailable = str(error)

  def run(self, tokens: np.ndarray, finished: bool) -> np.ndarray | None:
    """Runs the calls of the turn that ended; what is to be read after it.

    Args:
      tokens: i32[length], of the row so far.
      finished: whether the turn ended with a stop token.

    Returns:
      i32[n]; None where the episode is over.
    """
    rules = self._rules
    if self.unavailable:
      return None
    text = tokenizers.decode_answer(
      rules.codec.tokenizer,
      tokens[self.start :],
      rules.codec.stop_ids,
      self._opened,
    )
    # An answer that was cut made no call: its end might have changed it.
    calls = calls_of(text) if finished else ()
    try:
      step = rules.environment.step(self.state, calls)
    except types.RewardUnavailable as error:
      self.unavailable = str(error)
      return None
    self.state = step.state
    self.turns.append(protocol.Turn(text, calls, step.observations))
    if not finished or step.done:
      return None
    new = rules.reader.encode(step.observations)
    # Without room for them and an answer it ends as if it had been cut.
    full = not len(new) or len(tokens) + len(new) >= rules.max_tokens
    if full or len(self.turns) >= rules.max_turns:
      self.cut = True
      return None
    self.start = len(tokens) + len(new)
    self._opened = rules.reader.opened(step.observations)
    return new

  def episode(self) -> Episode:
    return Episode(tuple(self.turns), self.state, self.unavailable)


def play(
  sampler: Sampler, tasks: Sequence[types.Task], rules: Rules
) -> tuple[Any, list[Episode], np.ndarray]:
  """Plays an episode for every row of a batch.

  All rows advance together. Tools of different rows run at once; those that
  take longer than a turn of the others took are not waited for: their rows go
  on a turn later. No draw depends on who goes on with whom.

  Args:
    sampler: of N rows.
    tasks: N, of each row.
    rules: of the episodes.

  Returns:
    The sampler's last state, N episodes, and bool[N]: which were cut by the
    number of turns or of tokens although they would have gone on.
  """
  rows = [_Row(rules, task) for task in tasks]
  started = time.perf_counter()
  state = sampler.begin()
  advanced = list(range(len(rows)))
  pending: dict[concurrent.futures.Future, int] = {}
  with concurrent.futures.ThreadPoolExecutor(rules.threads) as pool:
    while True:
      seen = sampler.rows(state)
      took = time.perf_counter() - started
      for n in advanced:
        own = seen.tokens[n, : seen.length[n]]
        future = pool.submit(rows[n].run, own, bool(seen.finished[n]))
        pending[future] = n
      ready = _ready(pending, took)
      if not ready:
        break
      advanced = list(ready)
      started = time.perf_counter()
      state = sampler.go_on(state, *_padded(ready, rules, len(rows)))
  cut = np.array([row.cut for row in rows], bool)
  return state, [row.episode() for row in rows], cut


def _ready(
  pending: dict[concurrent.futures.Future, int], seconds: float
) -> dict[int, np.ndarray]:
  """Rows that have something to read, once there are any or all have ended.

  Takes what it returns, and rows that are over, out of `pending`.
  """
  ready: dict[int, np.ndarray] = {}
  concurrent.futures.wait(pending, timeout=seconds)
  while pending and not ready:
    done, _ = concurrent.futures.wait(
      pending, return_when=concurrent.futures.FIRST_COMPLETED
    )
    for future in done:
      row, new = pending.pop(future), future.result()
      if new is not None:
        ready[row] = new
  return ready


def _padded(
  ready: Mapping[int, np.ndarray], rules: Rules, count: int
) -> tuple[np.ndarray, np.ndarray]:
  tokens = np.zeros((count, rules.reader.limit), np.int32)
  lengths = np.zeros(count, np.int32)
  for row, new in ready.items():
    tokens[row, : len(new)], lengths[row] = new, len(new)
  return tokens, lengths


def transcript(task: types.Task, response: str | Episode) -> dict[str, Any]:
  """What the transcripts say of a task and an answer or an episode."""
  row: dict[str, Any] = {
    'task_id': task.task_id,
    'kind': task.kind,
    'user': task.user,
    'tools': [tool.to_json() for tool in task.tools],
    'ground_truth': task.ground_truth,
    'response': str(response),
  }
  if isinstance(response, Episode):
    row['episode'] = to_json(response)
  return row


def to_json(episode: Episode) -> dict[str, Any]:
  """An episode as JSON, from which it can be replayed."""
  return {
    'turns': [
      {
        'text': turn.text,
        'calls': [[name, parameters] for name, parameters in turn.calls],
        'observations': [list(each) for each in turn.observations],
      }
      for turn in episode.turns
    ],
    'state': json_text.plain(episode.state),
    'unavailable': episode.unavailable,
  }
