"""One call of a chat endpoint: what is sent, and each way in which it fails."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import openai

from awpo_jax.rollout.rewards.judges import refusals, replies

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
# From this best score on, grades are whole numbers where a schema is sent.
_WHOLE_FROM = 5


def verdict_schema(scale: float) -> dict[str, Any]:
  """JSON schema of what a judge is to reply, the reason first.

  Some servers hold whole numbers alone to their bounds, so a scale with enough
  of them has no others.

  Args:
    scale: the best score, above 0.
  """
  whole = scale >= _WHOLE_FROM and float(scale).is_integer()
  score = {
    'type': 'integer' if whole else 'number',
    'minimum': 0,
    'maximum': int(scale) if whole else scale,
  }
  return {
    'type': 'object',
    'properties': {'reason': {'type': 'string'}, 'score': score},
    'required': ['reason', 'score'],
    'additionalProperties': False,
  }


# Value of --judge_format -> best score -> the parameter `response_format`.
FORMATS: Mapping[str, Callable[[float], dict[str, Any]]] = {
  'json': lambda scale: {'type': 'json_object'},
  'schema': lambda scale: {
    'type': 'json_schema',
    'json_schema': {
      'name': 'verdict',
      'strict': True,
      'schema': verdict_schema(scale),
    },
  },
  'json_with_schema': lambda scale: {
    'type': 'json_object',
    'schema': verdict_schema(scale),
  },
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of a judge: endpoint, model, number of calls, patience.

  The fields are the flags `--judge_<name>`, but for these.

  Attributes:
    template: of `llm_prompt.read_template`.
    run: whose budget it is, and whose lost scores are remembered.
  """

  url: str
  model: str
  template: str
  scale: float = 10.0
  samples: int = 1
  temperature: float = 0.0
  reply_tokens: int = 512
  token_limit_name: str = 'max_tokens'
  format: str = 'none'
  omit: tuple[str, ...] = ()
  concurrency: int = 16
  timeout: float = 120.0
  retries: int = 4
  backoff: float = 1.0
  patience: float = 600.0
  max_calls: int = 0
  max_tokens: int = 0
  cache: str = ''
  run: str = ''

  def sampling(self) -> dict[str, Any]:
    """What a call says of how to sample, by the names that are sent."""
    every: dict[str, Any] = {
      'temperature': self.temperature,
      self.token_limit_name: self.reply_tokens,
    }
    sent = {name: x for name, x in every.items() if name not in self.omit}
    form = self.form()
    return sent | {'response_format': form} if form else sent

  def form(self) -> dict[str, Any] | None:
    """The form of a reply that is asked for; None where it is left open."""
    make = FORMATS.get(self.format)
    return None if make is None else make(self.scale)

  def score_parts(self) -> dict[str, Any]:
    """What a score hangs on beside the request, for the key of a cache.

    The two ways of sending a schema ask for the same; without a form the parts
    are those from before there were any.
    """
    sent = self.sampling()
    parts = {
      'model': self.model,
      'template': self.template,
      'scale': self.scale,
      'temperature': sent.get('temperature'),
      'reply_tokens': sent.get(self.token_limit_name),
    }
    if self.form():
      parts['format'] = self.format.removeprefix('json_with_')
    return parts

  def limit(self) -> str:
    """What cuts a reply, and what to do about it."""
    if self.token_limit_name in self.omit:
      return "the endpoint's own limit: have --judge_omit let one be sent"
    return f'--judge_reply_tokens={self.reply_tokens}: raise it'

  def misread(self) -> str:
    """What a reply is that can't be read, and what to do about it."""
    remedy = '' if self.form() else ', which --judge_format may mend'
    return f'a reply that is no verdict{remedy}'

  def wait(self) -> str:
    """What a call has not kept to, and what to do about it."""
    return (
      f'no reply within --judge_timeout={self.timeout:g} seconds: raise it, or '
      f'lower --judge_concurrency={self.concurrency} to what the endpoint '
      'answers at once'
    )


async def call(
  client: openai.AsyncOpenAI,
  settings: Settings,
  messages: list[dict[str, str]],
) -> replies.Answer:
  """Asks once; every failure is an answer that says what went wrong.

  Args:
    client: of the endpoint, without retries of its own.
    settings: what is sent, and how long the reply may take.
    messages: of `llm_prompt.messages`.
  """
  try:
    # The client's own timeout is one of each read and write.
    reply: Any = await asyncio.wait_for(
      client.chat.completions.create(
        model=settings.model,
        messages=messages,  # type: ignore[arg-type]
        **settings.sampling(),
      ),
      settings.timeout,
    )
  except openai.APIStatusError as error:
    said = refusals.words(error.body, error.response.text)
    wait = refusals.retry_after(error.response.headers.get('retry-after'))
    return replies.Answer(
      problem=said, status=error.status_code, retry_after=wait
    )
  except (TimeoutError, openai.APITimeoutError):
    return replies.Answer(problem=settings.wait(), broken=True)
  except _FAILURES as error:
    # Without its text, which may say what was sent.
    return replies.Answer(problem=type(error).__name__, broken=True)
  tokens = getattr(getattr(reply, 'usage', None), 'total_tokens', None)
  answer = replies.read(
    reply, limit=settings.limit(), misread=settings.misread()
  )
  return answer._replace(tokens=tokens if isinstance(tokens, int) else 0)
