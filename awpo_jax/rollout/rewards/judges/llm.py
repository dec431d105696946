"""A judge of the reasoning that is a language model behind a chat endpoint.

The endpoint is slow and fails: calls run side by side on one event loop, are
repeated after growing pauses, and what they bring is stored at once
(`score_cache`). Equal requests that are under way together are asked once.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import openai

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import (
  endpoint,
  llm_prompt,
  refusals,
  replies,
)
from awpo_jax.rollout.rewards.judges import score_cache as score_cache_lib

KEY_VARIABLE = refusals.KEY_VARIABLE
Settings = endpoint.Settings
_LONGEST_PAUSE = 30.0
# What a server may ask for by `Retry-After`.
_LONGEST_WAIT = 300.0
_T = TypeVar('_T')


class LlmJudge:
  """A `types.Judge`; may be called by several threads at once.

  No score is given (None) where replies kept failing or could not be read.
  """

  def __init__(self, settings: Settings, key: str | None = None) -> None:
    """Opens the cache; calls nobody yet.

    Args:
      settings: checked.
      key: sent to the endpoint, kept nowhere else; None for none.

    Raises:
      ValueError: the cache cannot be opened, or the key is no text that a
        header can hold.
    """
    self._settings = settings
    self._key = (key or '').strip()
    if not (self._key.isascii() and (self._key or ' ').isprintable()):
      raise ValueError(
        f'{KEY_VARIABLE} holds letters that no HTTP header can: set it anew.'
      )
    self._refused: set[str] = set()
    self._lock = threading.Lock()
    self._loop: asyncio.AbstractEventLoop | None = None
    self._tasks: dict[str, asyncio.Task[float | None]] = {}
    self._failure: types.JudgeUnavailable | None = None
    self._failing_since: float | None = None
    self._not_before = 0.0
    self._problem = ''
    self._scored = self._failures = 0
    self._closed = False
    # Now, for a mistake in the path; then again by the thread that uses it.
    score_cache_lib.Cache(settings.cache, settings.run).close()

  def __call__(
    self, requests: Sequence[types.JudgeRequest]
  ) -> list[float | None]:
    """A score in [0, 1] of each thought, 0 where there is none to grade.

    Raises:
      types.JudgeRefused: the endpoint refuses what we send.
      types.JudgeUnavailable: every call failed for longer than the patience, or
        the budget is spent.
    """
    return self._run(self._judge(list(requests)))

  def refused(self, requests: Sequence[types.JudgeRequest]) -> list[bool]:
    """Whether no further call can bring the score of each request.

    The endpoint has refused it because of its text, or gives the same reply
    again that cannot be read.
    """
    return [self._request_key(x) in self._refused for x in requests]

  def reasons(self, requests: Sequence[types.JudgeRequest]) -> list[str | None]:
    """What was said with each score; of several replies all of it."""

    async def look() -> list[str | None]:
      return [self._reason(self._request_key(x)) for x in requests]

    return self._run(look())

  def give_up(self, requests: Sequence[types.JudgeRequest]) -> None:
    """This run goes on without these scores, also when it is resumed."""

    async def mark() -> None:
      self._cache.give_up(self._request_key(x) for x in requests)

    self._run(mark())

  def problem(self) -> str:
    """The endpoint and what went wrong with it last."""
    last = f' (last: {self._problem})' if self._problem else ''
    return f'{self._settings.url}, {self._settings.model}{last}'

  def counts(self) -> tuple[int, int]:
    """Answers scored so far, stored ones too, and calls without a score."""
    return self._scored, self._failures

  def close(self) -> None:
    """Ends the calls under way; the judge is not to be used any more."""
    with self._lock:
      loop, self._closed = self._loop, True
      self._loop = None
    if loop is not None:
      asyncio.run_coroutine_threadsafe(self._end(), loop).result()
      loop.call_soon_threadsafe(loop.stop)
      self._thread.join()
      loop.close()

  def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine on the judge's own thread."""
    with self._lock:
      if self._closed:
        work.close()
        raise RuntimeError('This judge is closed.')
      if self._loop is None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
          target=self._loop.run_forever, name='judge', daemon=True
        )
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()
      future = asyncio.run_coroutine_threadsafe(work, self._loop)
    return future.result()

  async def _begin(self) -> None:
    settings = self._settings
    # Its own messages hold what is sent.
    for name in ('openai', 'httpx', 'httpx2', 'httpcore', 'httpcore2'):
      logging.getLogger(name).setLevel(logging.WARNING)
    self._cache = score_cache_lib.Cache(settings.cache, settings.run)
    self._slots = asyncio.Semaphore(settings.concurrency)
    self._ended = asyncio.Event()
    self._client = openai.AsyncOpenAI(
      base_url=settings.url,
      api_key=self._key or 'none',
      timeout=settings.timeout,
      # Counted, bounded and told about here.
      max_retries=0,
    )

  async def _end(self) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await self._client.close()
    self._cache.close()

  async def _judge(
    self, requests: list[types.JudgeRequest]
  ) -> list[float | None]:
    if not self._tasks:  # What failed before says nothing about now.
      self._failure = self._failing_since = None
      self._ended.clear()
    scores = await asyncio.gather(*map(self._counted, requests))
    if self._failure is not None:
      raise type(self._failure)(str(self._failure))
    return scores

  async def _counted(self, request: types.JudgeRequest) -> float | None:
    score = await self._judgement(request)
    self._scored += score is not None
    return score

  async def _judgement(self, request: types.JudgeRequest) -> float | None:
    """The mean score of a request's replies; None if one of them is missing."""
    if llm_prompt.thought_of(request) is None:
      return 0.0
    key = self._request_key(request)
    if self._cache.gave_up(key):
      return None
    scores = await asyncio.gather(
      *(
        self._once(
          score_cache_lib.key(request=key, sample=sample), key, request
        )
        for sample in range(self._settings.samples)
      )
    )
    had = [score for score in scores if score is not None]
    return sum(had) / len(had) if len(had) == len(scores) else None

  def _reason(self, key: str) -> str | None:
    said = [
      self._cache.reason(score_cache_lib.key(request=key, sample=sample))
      for sample in range(self._settings.samples)
    ]
    return '\n'.join(x for x in said if x) or None

  def _request_key(self, request: types.JudgeRequest) -> str:
    return score_cache_lib.key(
      **self._settings.score_parts(),
      user=request.user,
      tools=[tool.to_json() for tool in request.tools],
      response=request.response,
    )

  async def _once(
    self, key: str, request_key: str, request: types.JudgeRequest
  ) -> float | None:
    """The score of a key, by one task for all who ask for it meanwhile."""
    task = self._tasks.get(key)
    if task is None:
      task = asyncio.create_task(self._score(key, request_key, request))
      self._tasks[key] = task
      task.add_done_callback(lambda _: self._tasks.pop(key, None))
    return await task

  async def _score(
    self, key: str, request_key: str, request: types.JudgeRequest
  ) -> float | None:
    """From the cache, or asked for until a reply can be read."""
    stored = self._cache.score(key)
    if stored is not None or request_key in self._refused:
      return stored
    settings = self._settings
    messages = llm_prompt.messages(
      settings.template, request, scale=settings.scale
    )
    greedy, said = settings.sampling().get('temperature') == 0, ''
    for attempt in range(settings.retries + 1):
      if attempt:
        pause = min(settings.backoff * 2 ** (attempt - 1), _LONGEST_PAUSE)
        await self._pause(pause * random.uniform(0.5, 1.0))
      async with self._slots:
        while (
          not self._ended.is_set()
          and (wait := self._not_before - time.monotonic()) > 0
        ):
          await self._pause(wait)
        if self._ends():
          return None
        answer = await self._call(messages)
      verdict = llm_prompt.parse_reply(answer.text, scale=settings.scale)
      if verdict is not None:
        return self._cache.add(key, *verdict, settings.model)
      self._failures += 1
      self._problem = refusals.shown(answer.problem, self._key)
      if answer.status:
        answer = self._told_off(answer)
      # Said again without a draw, it would be said a third time.
      if answer.final or (greedy and answer.text and answer.text == said):
        self._refused.add(request_key)
        return None
      said = answer.text
    return None

  async def _pause(self, seconds: float) -> None:
    """Waits, or returns at once when no further call makes sense."""
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._ended.wait(), seconds)

  def _ends(self) -> bool:
    """Whether no further call makes sense; `_failure` then says why."""
    settings = self._settings
    if self._failure is not None:
      return True
    since = self._failing_since
    calls, tokens = self._cache.spent()
    if since is not None and time.monotonic() - since > settings.patience:
      self._fail(
        f'no call has worked for --judge_patience={settings.patience:g} '
        'seconds: start the endpoint again, or name another one that serves '
        'this model with --judge_url'
      )
    elif 0 < settings.max_calls <= calls:
      self._fail(f'{calls} calls are made: raise --judge_max_calls')
    elif 0 < settings.max_tokens <= tokens:
      self._fail(f'{tokens} tokens are used: raise --judge_max_tokens')
    return self._failure is not None

  def _fail(
    self,
    reason: str,
    kind: type[types.JudgeUnavailable] = types.JudgeUnavailable,
  ) -> None:
    self._failure = kind(f'The judge {self.problem()}: {reason}.')
    self._ended.set()

  async def _call(self, messages: list[dict[str, str]]) -> replies.Answer:
    """One call, with what it says of the endpoint taken note of."""
    self._cache.spend(1, 0)
    answer = await endpoint.call(self._client, self._settings, messages)
    self._cache.spend(0, answer.tokens)
    if answer.retry_after is not None:
      until = time.monotonic() + min(answer.retry_after, _LONGEST_WAIT)
      self._not_before = max(self._not_before, until)
    if answer.broken:
      self._failed()
    elif not answer.status:
      self._failing_since = None
    return answer

  def _told_off(self, answer: replies.Answer) -> replies.Answer:
    """Takes note of an error status; final if it is of this request alone."""
    status = answer.status
    self._problem = f'HTTP status {status}: {self._problem}'
    if refusals.of_one_request(status, answer.problem):
      self._failing_since = None  # It answers.
      return answer._replace(final=True)
    self._failed()
    if self._settings.form() and refusals.of_form(answer.problem):
      remedy = refusals.remedy_of_form(self._settings.format)
      self._fail(remedy, types.JudgeRefused)
    elif not (status in refusals.RETRIED or status >= 500):
      self._fail(refusals.remedy(status), types.JudgeRefused)
    return answer

  def _failed(self) -> None:
    if self._failing_since is None:
      self._failing_since = time.monotonic()
