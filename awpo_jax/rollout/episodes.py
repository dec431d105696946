"""Episodes: turns of the policy, calls that run, and what is made of them."""

import concurrent.futures
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from awpo_jax import types
from awpo_jax.rollout import (
  observations,
  plugins,
  rewards,
  tokenizers,
  tool_calls,
)
from awpo_jax.rollout.environments import protocol


@dataclasses.dataclass(frozen=True)
class Episode:
  """What happened, as plain data; `str` shows it in RLLA's layout.

  Attributes:
    turns: of the policy, in order.
    state: of the environment, after them.
    unavailable: why it could not be had to its end, '' where it could: what the
      machine failed to do is not the policy's fault.
  """

  turns: tuple[protocol.Turn, ...]
  state: protocol.State
  unavailable: str = ''

  def __str__(self) -> str:
    return '\n'.join(
      '\n'.join((turn.text, *map(_shown, turn.observations)))
      for turn in self.turns
    )


def _shown(observation: protocol.Observation) -> str:
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
  """The sampler of `turns`, its parameters and placement bound.

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
    tokenizer: of the policy.
    stop_ids: tokens that end a turn.
    max_turns: of the policy.
    max_tokens: Sc, of all turns and observations.
    threads: calls of so many rows run at once.
  """

  environment: protocol.Environment
  reader: observations.Reader
  tokenizer: tokenizers.Tokenizer
  stop_ids: Sequence[int]
  max_turns: int
  max_tokens: int
  threads: int


class _Row:
  """An episode under way."""

  def __init__(self, rules: Rules, task: types.Task):
    self._rules = rules
    self.turns: list[protocol.Turn] = []
    self.start = 0
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
      rules.tokenizer, tokens[self.start :], rules.stop_ids
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
  """Rows with something to read, as soon as there are any or nobody is left.

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


# What is made of an episode: its outcome, and the judge's word on it.


def outcome(
  environment: protocol.Environment, episode: Episode, task: types.Task
) -> types.Score:
  """What the environment says of the episode's end."""
  return environment.outcome(task, episode.state, episode.turns)


def turnwise(
  environment: protocol.Environment, episode: Episode, task: types.Task
) -> types.Score:
  """ToolRL's reward of each turn against the reference's, as a mean.

  A turn that is missing, and one too many, has the worst reward. The parts, and
  whether the task is solved, are those of `outcome`.

  Raises:
    ValueError: the task has no references.
  """
  if not task.references:
    raise ValueError(
      f'task {task.task_id} has no reference for its turns: '
      '--episode_reward=outcome'
    )
  bounds = [rewards.outcome_bounds(text) for text in task.references]
  worst, best = (float(np.mean(side)) for side in zip(*bounds, strict=True))
  texts = [turn.text for turn in episode.turns]
  values = [
    rewards.outcome_reward(text, reference).total
    for text, reference in zip(texts, task.references, strict=False)
  ]
  values += [low for low, _ in bounds[len(texts) :]]
  values += [worst] * (len(texts) - len(bounds))
  ended = outcome(environment, episode, task)
  # A mean may leave its bounds by a rounding.
  value = min(max(float(np.mean(values)), worst), best)
  return ended._replace(
    value=value, minimum=worst, maximum=best, solved=ended.solved
  )


EPISODE_REWARDS = {'outcome': outcome, 'turns': turnwise}
"""Choices of `--episode_reward`: (environment, episode, task) -> score."""


def make_reward(
  environment: protocol.Environment, name: str
) -> Callable[..., types.Score]:
  """A reward of whole episodes, in the form of `types.Reward`.

  Args:
    environment: where they were played.
    name: value of `--episode_reward`.
  """
  score = plugins.load(name, EPISODE_REWARDS, flag='episode_reward')
  return functools.partial(_reward, environment, score)


def _reward(environment, score, episode: Episode, task: types.Task):
  if episode.unavailable:
    raise types.RewardUnavailable(episode.unavailable)
  return score(environment, episode, task)


class EpisodeJudge:
  """A judge of whole episodes: the mean over their turns.

  Each turn is judged by itself, with the dialogue up to it in RLLA's layout as
  the user's text. An episode of which a turn could not be judged has no score.
  """

  def __init__(self, judge: types.Judge):
    self._judge = judge
    # What `judging.Judging` may ask of a judge, where this one has it.
    for name in ('problem', 'close'):
      if hasattr(judge, name):
        setattr(self, name, getattr(judge, name))
    if hasattr(judge, 'give_up'):
      self.give_up = lambda requests: judge.give_up(
        [one for request in requests for one in _requests(request)]
      )

  def __call__(
    self, requests: Sequence[types.JudgeRequest]
  ) -> list[float | None]:
    parts = [_requests(request) for request in requests]
    scores = iter(self._judge([one for part in parts for one in part]))
    return [_mean([next(scores) for _ in part]) for part in parts]


def _mean(scores: Sequence[float | None]) -> float | None:
  had = [score for score in scores if score is not None]
  return float(np.mean(had)) if had and len(had) == len(scores) else None


def _requests(request: types.JudgeRequest) -> list[types.JudgeRequest]:
  """One for each turn of the episode that stands for a response."""
  episode: Any = request.response
  said, parts = request.user, []
  for turn in episode.turns:
    parts.append(request._replace(user=said, response=turn.text))
    said = '\n'.join((said, turn.text, *map(_shown, turn.observations)))
  return parts


def to_json(episode: Episode) -> dict[str, Any]:
  """An episode for the transcripts: JSON, from which it can be replayed."""
  return {
    'turns': [
      {
        'text': turn.text,
        'calls': [[name, parameters] for name, parameters in turn.calls],
        'observations': [list(each) for each in turn.observations],
      }
      for turn in episode.turns
    ],
    'state': json.loads(json.dumps(episode.state)),
    'unavailable': episode.unavailable,
  }
