"""Judges that are wrong on purpose: what does an algorithm make of them?"""

import hashlib
from collections.abc import Sequence

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.text import tool_calls

NOISE_SHARE = 0.5
LONG_WORDS = 60


def noisy(requests: Sequence[types.JudgeRequest]) -> list[float]:
  """The rubric for half of the answers, for the others a number in [0, 1).

  Both are drawn from a hash of request and answer: a judge without state, the
  same after a restart.
  """
  return [_noisy(request) for request in requests]


def _noisy(request: types.JudgeRequest) -> float:
  text = f'{request.user}\0{request.response}'.encode('utf-8', 'replace')
  digest = hashlib.sha256(text).digest()
  if _unit(digest[:8]) >= NOISE_SHARE:
    return rubric.score_thought(*request).total
  return _unit(digest[8:16])


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
