"""Judges that are wrong on purpose, to test algorithms with."""

import hashlib
from collections.abc import Sequence
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.rewards import returned
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.text import tool_calls

NOISE_SHARE = 0.5
LONG_WORDS = 60


class Corrupted:
  """A `types.Judge` around another one, wrong about a share of the answers.

  Which answers these are is drawn from a hash of request and answer: a judge
  without state, the same after a restart. What else the inner judge can, such
  as saying what its problem is, this one can, too.
  """

  def __init__(
    self,
    judge: types.Judge,
    *,
    noise: float = 0.0,
    against: float = 0.0,
    vain: float = 0.0,
  ) -> None:
    """Asks nothing yet.

    Args:
      judge: asked about all answers, so that one without its score stays so.
      noise: share of the answers, in [0, 1], with a random number in [0, 1).
      against: share with one minus the judge's score.
      vain: share with the score of `vain`; the three sum to at most 1.
    """
    self._judge = self.__wrapped__ = judge
    self._bounds = noise, noise + against, noise + against + vain

  def __getattr__(self, name: str) -> Any:
    if name.startswith('_'):
      raise AttributeError(name)
    return getattr(self._judge, name)

  def __call__(self, requests: Sequence[types.JudgeRequest]) -> list[Any]:
    """The judge's scores, None where there is none, some of them corrupted."""
    given = returned.scores(self._judge(requests), self._judge, len(requests))
    return [
      self._corrupt(request, score)
      for request, score in zip(requests, given, strict=True)
    ]

  def _corrupt(self, request: types.JudgeRequest, given: Any) -> Any:
    try:
      score = returned.share(given)
    except ValueError:
      return given  # Who reads the scores names the answer.
    if score is None:
      return None
    text = f'{request.user}\0{request.response}'.encode('utf-8', 'replace')
    digest = hashlib.sha256(text).digest()
    drawn, (noise, against, vain) = _unit(digest[:8]), self._bounds
    if drawn < noise:
      return _unit(digest[8:16])
    if drawn < against:
      return 1.0 - score
    return _vain(request.response) if drawn < vain else score


def noisy(requests: Sequence[types.JudgeRequest]) -> list[float]:
  """The rubric for half of the answers, for the others a number in [0, 1)."""
  return Corrupted(rubric.rubric, noise=NOISE_SHARE)(requests)


def _unit(eight: bytes) -> float:
  """53 bits as a number in [0, 1)."""
  return (int.from_bytes(eight, 'big') >> 11) * 2.0**-53


def vain(requests: Sequence[types.JudgeRequest]) -> list[float]:
  """Likes long thoughts and those that praise themselves, in [0, 1].

  1 - (1 - long) modesty: `long` is words over 60, at most 1; `modesty` the
  rubric's. Whether the thought is about the request does not matter.
  """
  return [_vain(request.response) for request in requests]


def _vain(response: str) -> float:
  thought = (tool_calls.section(response, 'think') or '')[: rubric.MAX_CHARS]
  long = min(len(thought.split()) / LONG_WORDS, 1.0)
  return 1.0 - (1.0 - long) * rubric.modesty(thought)
