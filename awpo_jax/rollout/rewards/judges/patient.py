"""A judge that is asked ahead of time, and waited for if scores are missing.

While further answers are generated, those there are may be judged already
(`begin`). A batch of which too few could be judged is asked for again, only
what is missing, after growing pauses, until the patience is over.
"""

import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from awpo_jax import types
from awpo_jax.rollout.rewards import returned

_ROUNDING = 1e-6
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0

Requests = Sequence[types.JudgeRequest]
Working: TypeAlias = Callable[
  [Callable[[], str]], contextlib.AbstractContextManager[None]
]


def counts(judge: types.Judge) -> tuple[int, int] | None:
  """Answers that a judge has scored so far, and calls of it that failed.

  None where it does not tell.
  """
  told = getattr(judge, 'counts', None)
  return None if told is None else told()


def shown(
  judge: types.Judge, asked: int, before: tuple[int, int] | None
) -> str:
  """What a judge has done, in words.

  Args:
    judge: at work.
    asked: answers it was given.
    before: its `counts` then.
  """
  now = counts(judge)
  if now is None or before is None:
    return f'Judging {asked} answers'
  scored, failed = now[0] - before[0], now[1] - before[1]
  return (
    f'Judging: {scored} of {asked} answers have a score, {failed} calls failed'
  )


class Judging:
  """A `types.Judge` around another one, which may have five more methods.

  `problem() -> str` names it and what went wrong last; `give_up(requests)` is
  told which scores the run goes on without; `refused(requests)` says of each
  whether no further call can bring its score; `reasons(requests)` gives what it
  said of each, or None; `counts()` is that of the function of this name.
  """

  def __init__(
    self,
    judge: types.Judge,
    *,
    min_judged: float = 0.0,
    patience: float = 0.0,
    needed: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    working: Working = lambda _: contextlib.nullcontext(),
  ) -> None:
    """Asks nothing yet.

    Args:
      judge: called by several threads at once only where `begin` is used.
      min_judged: share of a batch that must have a score.
      patience: seconds without a further score until the batch is given up.
      needed: False: nothing hangs on the scores; none is waited for.
      tell: given a line where a batch waits or is without its scores.
      working: such as `progress.working`; given what is judged by now.
    """
    self._judge = self.__wrapped__ = judge
    self._min_judged = min_judged
    self._patience = patience
    self._needed = needed
    self._tell, self._working = tell, working
    self._counts = counts(judge)  # When the last batch was done.
    self._begun: list[concurrent.futures.Future[list[float | None]]] = []
    self._pool: concurrent.futures.ThreadPoolExecutor | None = None
    self._hurried = threading.Event()

  def begin(self, requests: Requests) -> None:
    """Starts to judge a part of the batch that is asked for next."""
    if self._pool is None:
      self._pool = concurrent.futures.ThreadPoolExecutor(64)
    self._begun.append(self._pool.submit(self._asked, requests))

  def hurry(self) -> None:
    """From now on no batch is waited for; may be called by a signal handler."""
    self._hurried.set()

  def close(self) -> None:
    """Ends what is under way; nothing is waited for any more."""
    self.hurry()
    close = getattr(self._judge, 'close', None)
    if close is not None:
      close()
    if self._pool is not None:
      self._pool.shutdown(wait=False, cancel_futures=True)

  def __call__(self, requests: Requests) -> list[float | None]:
    """Scores of a batch, or what `begin` has asked for of it, in its order.

    Raises:
      types.JudgeUnavailable: too few could be had for as long as the patience
        lasts, or `hurry` was called meanwhile; `types.JudgeRefused`, if no
        further call can bring those that are missing.
      types.BadReturn: the judge returned another number of scores.
    """
    say = functools.partial(shown, self._judge, len(requests), self._counts)
    try:
      with self._working(say):
        return self._scores(requests)
    finally:
      self._counts = counts(self._judge)

  def _scores(self, requests: Requests) -> list[float | None]:
    if not self._needed:
      return self._or_without(self._first, requests)
    scores = self._first(requests)
    self._complete(requests, scores)
    lost = _missing(scores)
    give_up = getattr(self._judge, 'give_up', None)
    if lost and give_up is not None:
      give_up([requests[i] for i in lost])
    return scores

  def reasons(self, requests: Requests) -> Sequence[str | None]:
    """What the judge said of each answer; None where it said nothing."""
    reasons = getattr(self._judge, 'reasons', None)
    return [None] * len(requests) if reasons is None else reasons(requests)

  def leniently(self, requests: Requests) -> list[float | None]:
    """The scores of a batch, or none instead of a `JudgeUnavailable`."""
    return self._or_without(self, requests)

  def _or_without(
    self, ask: Callable[[Requests], list[float | None]], requests: Requests
  ) -> list[float | None]:
    try:
      return ask(requests)
    except types.JudgeUnavailable as error:
      self._tell(f'Without scores of the reasoning: {error}')
      return [None] * len(requests)

  def _asked(self, requests: Requests) -> list[float | None]:
    return returned.scores(self._judge(requests), self._judge, len(requests))

  def _first(self, requests: Requests) -> list[float | None]:
    begun, self._begun = self._begun, []
    if not begun:
      return self._asked(requests)
    return [score for part in begun for score in part.result()]

  def _complete(self, requests: Requests, scores: list[float | None]) -> None:
    """Asks for what is missing until enough is there."""
    since, pause = time.monotonic(), _FIRST_PAUSE
    # A share of a whole number may miss it by a rounding.
    may_lack = (1.0 - self._min_judged) * len(scores) + _ROUNDING
    while len(missing := _missing(scores)) > may_lack:
      what = (
        f'{len(scores) - len(missing)} of {len(scores)} answers could be '
        f'judged by {self.name()}'
      )
      if all(self._refused([requests[i] for i in missing])):
        raise types.JudgeRefused(
          f'{what}, fewer than --min_judged={self._min_judged:g} of them, and '
          'it will not judge the others: mend what it says, or lower '
          '--min_judged.'
        )
      if time.monotonic() - since > self._patience or self._hurried.is_set():
        raise types.JudgeUnavailable(
          f'{what}, fewer than --min_judged={self._min_judged:g} of them for '
          f'--judge_patience={self._patience:g} seconds: mend it (--judge_url '
          'may name another endpoint of the same model), or lower --min_judged.'
        )
      self._tell(f'Waiting: {what}.')
      self._hurried.wait(min(pause, self._patience))
      pause = min(2 * pause, _LONGEST_PAUSE)
      again = self._asked([requests[i] for i in missing])
      for index, score in zip(missing, again, strict=True):
        scores[index] = score
      if len(_missing(scores)) < len(missing):
        since, pause = time.monotonic(), _FIRST_PAUSE

  def _refused(self, requests: Requests) -> Sequence[bool]:
    refused = getattr(self._judge, 'refused', None)
    return [False] if refused is None else refused(requests)

  def name(self) -> str:
    """The judge, with what went wrong last where it tells."""
    problem = getattr(self._judge, 'problem', None)
    name = returned.name_of(self._judge) if problem is None else problem()
    return f'the judge {name}'


def _missing(scores: Sequence[float | None]) -> list[int]:
  return [index for index, score in enumerate(scores) if score is None]
