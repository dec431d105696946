"""Which tokens of an answer are its chain of thought."""

import bisect
from collections.abc import Sequence

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import templates, tokenizers


def thinking_mask(
  tokenizer: tokenizers.Tokenizer,
  completions: types.Completions,
  opened: Sequence[str] | None = None,
  later: str | None = None,
) -> np.ndarray:
  """Which tokens the policy chose between `<think>` and `</think>`.

  Tags may be several tokens, or share one with their neighbors: the span holds
  the tokens that begin after the first tag is whole and end before the second
  begins. A thought that the prompt has opened begins with the first token. An
  open thought lasts to the end of the answer. In an episode every turn is an
  answer and has a thought of its own.

  Args:
    tokenizer: decodes them.
    completions: [P, G, Sc].
    opened: P texts, what each prompt holds of its answers, of
      `templates.opened`; None: what the chat template opens by itself.
    later: what stands before each further turn of an episode; None: likewise.

  Returns:
    bool[P, G, Sc]; False throughout without a `<think>`.
  """
  tokens, chosen, turns = jax.device_get(
    (completions.tokens, completions.policy_mask, completions.turn)
  )
  found = np.zeros(chosen.shape, bool)
  if opened is None:
    opened = [templates.opened(tokenizer)] * len(tokens)
  if later is None:
    later = templates.opened(tokenizer)
  for p, g in np.ndindex(chosen.shape[:2]):
    for turn in np.unique(turns[p, g][chosen[p, g]]):
      columns = np.flatnonzero(chosen[p, g] & (turns[p, g] == turn))
      before = later if turn else opened[p]
      first, last = _thought(tokenizer, tokens[p, g][columns], before)
      found[p, g, columns[first:last]] = True
  return found


def _thought(
  tokenizer, tokens: np.ndarray, opened: str = ''
) -> tuple[int, int]:
  """First token of the chain of thought, and the one after its last."""

  def text(count: int) -> str:
    return tokenizer.decode(tokens[:count], skip_special_tokens=False)

  begin, end = templates.OPEN, templates.CLOSE
  whole, counts = text(len(tokens)), range(len(tokens) + 1)
  if templates.is_thinking(opened) and not templates.writes_own(whole):
    first, stop = 0, whole.find(end)
  elif begin in whole:
    # The text of more tokens is longer, so halving finds the place.
    first = bisect.bisect_left(counts, True, key=lambda n: begin in text(n))
    stop = whole.find(end, whole.find(begin))
  else:
    return 0, 0
  if stop < 0:
    return first, len(tokens)
  after = bisect.bisect_right(counts, stop, key=lambda n: len(text(n)))
  return first, max(after - 1, first)
