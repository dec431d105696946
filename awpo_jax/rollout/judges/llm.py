"""A judge of the reasoning that is a language model behind a chat endpoint.

The endpoint is slow and fails: calls run side by side on one event loop, are
repeated after growing pauses, and what they bring is stored at once (`cache`).
Equal requests that are under way together are asked once.
"""

import asyncio
import dataclasses
import email.utils
import logging
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import openai

from awpo_jax import types
from awpo_jax.rollout.judges import cache as cache_lib
from awpo_jax.rollout.judges import llm_prompt

KEY_VARIABLE = 'AWPO_JUDGE_API_KEY'
_LONGEST_PAUSE = 30.0
# What a server may ask for by `Retry-After`.
_LONGEST_WAIT = 300.0
_REFUSED = {
  401: f'set {KEY_VARIABLE} to a key that it accepts',
  403: f'set {KEY_VARIABLE} to a key that may use --judge_model',
  404: 'correct --judge_url (it ends in /v1, mostly) or --judge_model',
}
# The client's own, and what it lets through from a body that is no JSON or
# JSON of another shape.
_FAILURES = (
  openai.APIError,
  TimeoutError,
  ValueError,
  TypeError,
  AttributeError,
  RecursionError,
)
_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is asked of whom, how often, how patiently.

  Attributes:
    url: base of the endpoint, `http://localhost:8000/v1`, say.
    model: its name there.
    template: of `llm_prompt.read_template`.
    scale: the best score; it becomes 1.
    samples: replies a judgement is the mean of.
    temperature: of the judge.
    reply_tokens: of a reply, at most.
    concurrency: calls under way at once.
    timeout: seconds of a call.
    retries: further calls for a reply that failed or could not be read.
    backoff: seconds before the first of these; doubled each time.
    patience: seconds for which every call may fail.
    max_calls: of the run; 0 for no bound.
    max_tokens: of the run, prompts and replies; 0 for no bound.
    cache: SQLite file; empty for one in memory.
    run: whose budget it is, and whose lost scores are remembered.
  """

  url: str
  model: str
  template: str
  scale: float = 10.0
  samples: int = 1
  temperature: float = 0.0
  reply_tokens: int = 512
  concurrency: int = 16
  timeout: float = 120.0
  retries: int = 4
  backoff: float = 1.0
  patience: float = 600.0
  max_calls: int = 0
  max_tokens: int = 0
  cache: str = ''
  run: str = ''


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
      ValueError: the cache cannot be opened.
    """
    self._settings = settings
    self._key = key or 'none'
    self._lock = threading.Lock()
    self._loop: asyncio.AbstractEventLoop | None = None
    self._tasks: dict[str, asyncio.Task[float | None]] = {}
    self._failure: types.JudgeUnavailable | None = None
    self._failing_since: float | None = None
    self._not_before = 0.0
    self._problem = ''
    self._closed = False
    # Now, for a mistake in the path; then again by the thread that uses it.
    cache_lib.Cache(settings.cache, settings.run).close()

  def __call__(
    self, requests: Sequence[types.JudgeRequest]
  ) -> list[float | None]:
    """A score in [0, 1] of each thought, 0 where there is none to grade.

    Raises:
      types.JudgeUnavailable: the endpoint refuses us, every call failed for
        longer than the patience, or the budget is spent.
    """
    return self._run(self._judge(list(requests)))

  def give_up(self, requests: Sequence[types.JudgeRequest]) -> None:
    """This run goes on without these scores, also when it is resumed."""

    async def mark() -> None:
      self._cache.give_up(self._request_key(x) for x in requests)

    self._run(mark())

  def problem(self) -> str:
    """The endpoint and what went wrong with it last."""
    last = f' (last: {self._problem})' if self._problem else ''
    return f'{self._settings.url}, {self._settings.model}{last}'

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
    """Has the judge's own thread do it."""
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
    self._cache = cache_lib.Cache(settings.cache, settings.run)
    self._slots = asyncio.Semaphore(settings.concurrency)
    self._client = openai.AsyncOpenAI(
      base_url=settings.url,
      api_key=self._key,
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
    scores = await asyncio.gather(*map(self._judgement, requests))
    if self._failure is not None:
      raise types.JudgeUnavailable(str(self._failure))
    return scores

  async def _judgement(self, request: types.JudgeRequest) -> float | None:
    """The mean of a request's replies; None unless all of them were had."""
    if llm_prompt.thought_of(request) is None:
      return 0.0
    key = self._request_key(request)
    if self._cache.gave_up(key):
      return None
    scores = await asyncio.gather(
      *(
        self._once(cache_lib.key(request=key, sample=sample), request)
        for sample in range(self._settings.samples)
      )
    )
    had = [score for score in scores if score is not None]
    return sum(had) / len(had) if len(had) == len(scores) else None

  def _request_key(self, request: types.JudgeRequest) -> str:
    settings = self._settings
    return cache_lib.key(
      model=settings.model,
      template=settings.template,
      scale=settings.scale,
      temperature=settings.temperature,
      reply_tokens=settings.reply_tokens,
      user=request.user,
      tools=[tool.to_json() for tool in request.tools],
      response=request.response,
    )

  async def _once(self, key: str, request: types.JudgeRequest) -> float | None:
    """The score of a key, by one task for all who ask for it meanwhile."""
    task = self._tasks.get(key)
    if task is None:
      task = asyncio.create_task(self._score(key, request))
      self._tasks[key] = task
      task.add_done_callback(lambda _: self._tasks.pop(key, None))
    return await task

  async def _score(self, key: str, request: types.JudgeRequest) -> float | None:
    """From the cache, or asked for until a reply can be read."""
    stored = self._cache.score(key)
    if stored is not None:
      return stored
    settings = self._settings
    messages = llm_prompt.messages(
      settings.template, request, scale=settings.scale
    )
    for attempt in range(settings.retries + 1):
      if attempt:
        pause = min(settings.backoff * 2 ** (attempt - 1), _LONGEST_PAUSE)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
      async with self._slots:
        while (wait := self._not_before - time.monotonic()) > 0:
          await asyncio.sleep(wait)
        if self._ends():
          return None
        text, repeat = await self._call(messages)
      verdict = llm_prompt.parse_reply(text, scale=settings.scale)
      if verdict is not None:
        return self._cache.add(key, *verdict, settings.model)
      if text is not None:
        self._problem = f'a reply that is no verdict: {text[:80]!r}'
      if not repeat:
        return None
    return None

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

  def _fail(self, reason: str) -> None:
    self._failure = types.JudgeUnavailable(
      f'The judge {self.problem()}: {reason}.'
    )

  async def _call(
    self, messages: list[dict[str, str]]
  ) -> tuple[str | None, bool]:
    """One call: the text of the reply, if any; whether to try again."""
    settings = self._settings
    self._cache.spend(1, 0)
    try:
      # The client's own timeout is one of each read and write.
      reply = await asyncio.wait_for(
        self._client.chat.completions.create(
          model=settings.model,
          messages=messages,  # type: ignore[arg-type]
          temperature=settings.temperature,
          max_tokens=settings.reply_tokens,
        ),
        settings.timeout,
      )
    except openai.APIStatusError as error:
      return None, self._refused(error)
    except _FAILURES as error:
      # Without its text, which may say what was sent.
      self._failed(type(error).__name__)
      return None, True
    self._failing_since = None
    tokens = getattr(getattr(reply, 'usage', None), 'total_tokens', None)
    self._cache.spend(0, tokens if isinstance(tokens, int) else 0)
    try:
      return reply.choices[0].message.content or '', True
    except (AttributeError, IndexError, TypeError):
      return '', True  # JSON, perhaps, but no chat completion.

  def _refused(self, error: openai.APIStatusError) -> bool:
    """Takes note of an error status; whether to try again."""
    status = error.status_code
    self._failed(f'HTTP status {status}')
    if status in _REFUSED:
      self._fail(_REFUSED[status])
    retried = status in (408, 409, 425, 429) or status >= 500
    wait = retry_after(error.response.headers.get('retry-after'))
    if retried and wait is not None:
      until = time.monotonic() + min(wait, _LONGEST_WAIT)
      self._not_before = max(self._not_before, until)
    return retried and self._failure is None

  def _failed(self, problem: str) -> None:
    self._problem = problem
    if self._failing_since is None:
      self._failing_since = time.monotonic()


def retry_after(header: str | None) -> float | None:
  """Seconds that a `Retry-After` asks for, in seconds or as a date.

  Args:
    header: the value, anything.

  Returns:
    At least 0; None where there is none or it cannot be read.
  """
  try:
    seconds = float(header or '')
  except ValueError:
    date = email.utils.parsedate_tz(header or '')
    if date is None:
      return None
    try:
      seconds = email.utils.mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
      return None
  return max(seconds, 0.0) if seconds == seconds else None
