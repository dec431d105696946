"""Rotary frequencies: the plain ones and the scalings Llama and Qwen use.

Steps and their order are those of `ROPE_INIT_FUNCTIONS` of transformers, in
float32 where it is: at position 100,000 the last bit of a frequency turns a
head by 0.01.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from awpo_jax.models.formats import hf_families

DEFAULT_THETA = 10_000.0

# Keys each kind must and may have, beside `rope_type` and `rope_theta`.
_KEYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'default': ((), ()),
  'linear': (('factor',), ()),
  'llama3': (
    (
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    ),
    (),
  ),
  'yarn': (
    ('factor', 'original_max_position_embeddings'),
    (
      'beta_fast',
      'beta_slow',
      'attention_factor',
      'mscale',
      'mscale_all_dim',
      'truncate',
    ),
  ),
}


@dataclasses.dataclass(frozen=True)
class Scaling:
  """How rotary frequencies are stretched; names as in `rope_parameters`.

  Attributes:
    rope_type: 'default', 'linear', 'llama3' or 'yarn'.
    factor: how much longer than in pre-training a sequence may be.
    original_max_position_embeddings: longest sequence of pre-training (llama3,
      yarn).
    low_freq_factor: pairs that turn fewer times in the original length are
      slowed by `factor` (llama3).
    high_freq_factor: pairs that turn more often are left alone (llama3).
    beta_fast: likewise, of yarn.
    beta_slow: likewise, of yarn.
    attention_factor: multiplies cosines and sines; None: what yarn derives
      from `factor`, `mscale` and `mscale_all_dim`.
    mscale: of the numerator of that derived factor (yarn).
    mscale_all_dim: of its denominator; without both, neither is used.
    truncate: yarn's range ends at whole pairs.
  """

  rope_type: str = 'default'
  factor: float = 1.0
  original_max_position_embeddings: int | None = None
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool = True


def frequencies(
  head_width: int, *, theta: float, scaling: Scaling
) -> np.ndarray:
  """Radians that each pair of a head turns per position.

  Args:
    head_width: C, even.
    theta: base of the frequencies, theta^(-2i / C) before scaling.
    scaling: see `Scaling`.

  Returns:
    f32[C / 2], from the fastest pair to the slowest.
  """
  exponents = np.arange(0, head_width, 2, dtype=np.float32) / head_width
  # Theta in float32 as in PyTorch, and its power rounded once: PyTorch's own
  # is an ulp off for one pair in a hundred.
  base = np.float64(np.float32(theta))
  wavelengths = np.power(base, exponents.astype(np.float64))
  wavelengths = wavelengths.astype(np.float32)
  if scaling.rope_type == 'linear':
    return 1.0 / wavelengths / scaling.factor
  if scaling.rope_type == 'llama3':
    return _llama3(1.0 / wavelengths, scaling)
  if scaling.rope_type == 'yarn':
    return _yarn(wavelengths, theta, scaling)
  return 1.0 / wavelengths


def attention_factor(scaling: Scaling) -> float:
  """What cosines and sines are multiplied by; other than 1 for yarn alone."""
  if scaling.rope_type != 'yarn':
    return 1.0
  if scaling.attention_factor is not None:
    return scaling.attention_factor
  if scaling.mscale is not None and scaling.mscale_all_dim is not None:
    return _mscale(scaling, scaling.mscale) / _mscale(
      scaling, scaling.mscale_all_dim
    )
  return _mscale(scaling, 1.0)


def _mscale(scaling: Scaling, weight: float) -> float:
  """0.1 weight ln(factor) + 1 (arXiv:2309.00071, Eq. 22)."""
  if scaling.factor <= 1:
    return 1.0
  return 0.1 * weight * math.log(scaling.factor) + 1.0


def _llama3(plain: np.ndarray, scaling: Scaling) -> np.ndarray:
  """Llama 3.1: slow pairs are divided by `factor`, with a smooth passage."""
  length = scaling.original_max_position_embeddings
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  assert length and low and high
  wavelengths = 2 * math.pi / plain
  slow = wavelengths > length / low
  result = np.where(slow, plain / scaling.factor, plain)
  smooth = (length / wavelengths - low) / (high - low)
  smoothed = (1 - smooth) * result / scaling.factor + smooth * result
  between = ~(wavelengths < length / high) & ~slow
  return np.where(between, smoothed, result)


def _yarn(
  wavelengths: np.ndarray, theta: float, scaling: Scaling
) -> np.ndarray:
  """YaRN, "NTK-by-parts" (arXiv:2309.00071, section 3.2)."""
  length = scaling.original_max_position_embeddings
  assert length
  pairs = len(wavelengths)
  width = 2 * pairs

  def pair_that_turns(times):
    turns = math.log(length / (times * 2 * math.pi))
    return width * turns / (2 * math.log(theta))

  first = pair_that_turns(scaling.beta_fast)
  last = pair_that_turns(scaling.beta_slow)
  if scaling.truncate:
    first, last = math.floor(first), math.ceil(last)
  # `width - 1` and not `pairs - 1`: as transformers has it.
  first, last = max(first, 0), min(last, width - 1)
  if first == last:
    last += 0.001
  ramp = (np.arange(pairs, dtype=np.float32) - first) / (last - first)
  kept = 1 - np.clip(ramp, 0, 1)
  slowed = 1.0 / (scaling.factor * wavelengths)
  return slowed * (1 - kept) + 1.0 / wavelengths * kept


def from_hf(
  hf: Mapping[str, Any], *, max_positions: int
) -> tuple[float, Scaling]:
  """Theta and scaling of a parsed `config.json`.

  Args:
    hf: with `rope_parameters` of transformers 5, the older `rope_theta` and
      `rope_scaling`, or both if they agree.
    max_positions: the original length where the config does not tell it.

  Raises:
    ValueError: for kinds, keys or values that are not implemented; it names
      all, one in a line.
  """
  thetas, scalings = {}, {}
  problems: list[str] = []
  if hf.get('rope_theta') is not None:
    thetas['rope_theta'] = hf['rope_theta']
  for source in ('rope_parameters', 'rope_scaling'):
    given = hf.get(source)
    if not given:
      continue
    if not isinstance(given, Mapping):
      problems.append(f'config.json {source}={given!r} is not an object.')
      continue
    given = dict(given)
    theta = given.pop('rope_theta', None)
    if theta is not None:
      thetas[f'{source}.rope_theta'] = theta
    with hf_families.collected(problems):
      scalings[source] = _scaling(source, given, max_positions)
  for source, theta in thetas.items():
    with hf_families.collected(problems):
      _check_number(source, theta)
  if problems:
    raise ValueError('\n'.join(problems))
  for found in (thetas, scalings):
    if len(set(found.values())) > 1:
      raise ValueError(
        f'config.json contradicts itself: {" and ".join(found)} differ. '
        'Remove the one that is wrong.'
      )
  theta = next(iter(thetas.values()), DEFAULT_THETA)
  return float(theta), next(iter(scalings.values()), Scaling())


def to_hf(theta: float, scaling: Scaling) -> dict[str, Any]:
  """The keys of `config.json`, those of transformers 5 and the older ones.

  Tools that know the older keys only would read a theta of 10,000 and no
  scaling from `rope_parameters` alone.
  """
  required, optional = _KEYS[scaling.rope_type]
  given = {key: getattr(scaling, key) for key in (*required, *optional)}
  given = {key: value for key, value in given.items() if value is not None}
  given = {'rope_type': scaling.rope_type, **given}
  return {
    'rope_parameters': {**given, 'rope_theta': theta},
    'rope_theta': theta,
    'rope_scaling': None if scaling.rope_type == 'default' else given,
  }


def _scaling(source: str, given: dict[str, Any], length: int) -> Scaling:
  """Reads one of the two objects, without its theta."""
  kinds = [given.pop(key, None) for key in ('rope_type', 'type')]
  kinds = [kind for kind in kinds if kind is not None]
  if kinds[1:] and kinds[0] != kinds[1]:
    raise ValueError(
      f'config.json {source} contradicts itself: rope_type={kinds[0]!r} and '
      f'type={kinds[1]!r}.'
    )
  kind = kinds[0] if kinds else 'default'
  if not isinstance(kind, str) or kind not in _KEYS:
    raise ValueError(
      f'config.json {source}: rope_type={kind!r} is not implemented; known: '
      f'{", ".join(_KEYS)}.'
    )
  if given.get('partial_rotary_factor') in (None, 1.0):
    given.pop('partial_rotary_factor', None)
  if 'original_max_position_embeddings' in _KEYS[kind][0]:
    given.setdefault('original_max_position_embeddings', length)
  given = _without_notes(source, kind, given)
  _check_keys(source, kind, given)
  given = {key: value for key, value in given.items() if value is not None}
  return Scaling(rope_type=kind, **given)


def _without_notes(
  source: str, kind: str, given: Mapping[str, Any]
) -> dict[str, Any]:
  """What is left without the keys that change nothing, which are named."""
  known = (*_KEYS[kind][0], *_KEYS[kind][1])
  notes = [
    key
    for key, value in given.items()
    if key not in known
    and ((key, value) == ('factor', 1) or hf_families.is_harmless(key, value))
  ]
  if notes:
    hf_families.tell_ignored(tuple(f'{source}.{key}' for key in notes))
  return {key: value for key, value in given.items() if key not in notes}


def _check_keys(source: str, kind: str, given: Mapping[str, Any]) -> None:
  required, optional = _KEYS[kind]
  problems: list[str] = []
  unknown = {
    key: value
    for key, value in given.items()
    if key not in (*required, *optional)
  }
  if unknown:
    keys = ', '.join(f'{key}={value!r}' for key, value in unknown.items())
    problems.append(
      f'config.json {source} key {keys} is not implemented for '
      f'rope_type={kind!r}.'
    )
  for key, value in given.items():
    if key == 'truncate':
      if not isinstance(value, bool):
        problems.append(f'config.json {source}.truncate={value!r}.')
    elif key not in unknown and value is not None:
      with hf_families.collected(problems):
        _check_number(f'{source}.{key}', value)
  missing = [key for key in required if given.get(key) is None]
  if missing:
    problems.append(
      f'config.json {source}: rope_type={kind!r} needs {", ".join(missing)}.'
    )
  if problems:
    raise ValueError('\n'.join(problems))
  if kind == 'llama3' and given['low_freq_factor'] >= given['high_freq_factor']:
    raise ValueError(
      f'config.json {source}: low_freq_factor must be below high_freq_factor.'
    )


def _check_number(source: str, value: Any) -> None:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 < value < math.inf:
    raise ValueError(
      f'config.json {source}={value!r} is not a positive number.'
    )
