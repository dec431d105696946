"""AWPO in plain Python floats, one group at a time: what the tests expect.

Written from the formulas alone and kept apart from the library: no arrays, no
masks, no shared helper. Invalid samples are dropped from lists.
"""

import math


def _mean(values):
  return sum(values) / len(values)


def _std(values, ddof):
  if max(values) == min(values):
    return 0.0
  center = _mean(values)
  squares = [(value - center) ** 2 for value in values]
  return math.sqrt(sum(squares) / (len(values) - ddof))


def _standardized(values, ddof, floor=0.0):
  center, spread = _mean(values), _std(values, ddof)
  if spread == 0.0:
    return [0.0] * len(values)
  return [(value - center) / (max(spread, floor) + 1e-6) for value in values]


def _gate(kind, s_out, s_mix, s_rea, tau):
  if kind == 'ratio':
    return s_mix / (s_out + s_mix + 1e-6)
  if kind == 'share':
    return s_rea / (s_out + s_rea + 1e-6)
  if kind == 'binary':
    return 1.0 if s_out**2 <= tau + 1e-6 and s_mix > 0 else 0.0
  return {'always': 1.0, 'none': 0.0}[kind]


def _difficulty(kind, p, band, base, priority, floor):
  if kind == 'banded':
    inside = band[0] - 1e-6 <= p <= band[1] + 1e-6
    return priority if inside else base
  return {'parabola': max(floor, 4 * p * (1 - p)), 'none': 1.0}[kind]


def group(
  outcome,
  reasoning,
  valid,
  outcome_min,
  outcome_max,
  wants_call,
  *,
  reward_scale='raw',
  mix='sum',
  mix_weight=1.0,
  mix_advantage='mixed',
  ddof=1,
  gate='ratio',
  tau=0.5,
  tau_of='raw',
  saturation='solved_calls',
  difficulty='banded',
  band=(0.2, 0.8),
  base=1.0,
  priority=1.5,
  floor=0.0,
  difficulty_scope='whole',
  combine='convex',
  gate_level='advantage',
  mix_std_floor=0.02,
):
  """(advantages, gate, difficulty) of one group."""
  kept = [i for i, is_valid in enumerate(valid) if is_valid]
  result = [0.0] * len(valid)
  if len(kept) < 2:
    return result, 0.0, 0.0
  r_out = [float(outcome[i]) for i in kept]
  r_rea = [float(reasoning[i]) for i in kept]
  span = outcome_max - outcome_min
  p = min(max((_mean(r_out) - outcome_min) / span, 0.0), 1.0)
  if reward_scale == 'unit':
    r_out = [r / span for r in r_out]
  if mix == 'sum':
    r_mix = [o + mix_weight * r for o, r in zip(r_out, r_rea, strict=True)]
  else:
    r_mix = [
      (1 - mix_weight) * o + mix_weight * r
      for o, r in zip(r_out, r_rea, strict=True)
    ]
  if tau_of == 'share':
    # Half of the outcomes at either bound: variance (span / 2) ** 2.
    tau *= ((1.0 if reward_scale == 'unit' else span) / 2) ** 2
  stds = [_std(r, ddof) for r in (r_out, r_mix, r_rea)]
  w = _gate(gate, *stds, tau)
  is_solved = p >= 1 - 1e-6
  if saturation == 'solved' and is_solved:
    w = 0.0
  if saturation == 'solved_calls' and is_solved and wants_call:
    w = 0.0
  d = _difficulty(difficulty, p, band, base, priority, floor)
  gated = r_rea if mix_advantage == 'reasoning' else r_mix
  if gate_level == 'reward' and gate != 'none':
    stays = 1 if combine == 'additive' else 1 - w
    joint = [stays * o + w * m for o, m in zip(r_out, gated, strict=True)]
    for i, a in zip(
      kept, _standardized(joint, ddof, mix_std_floor), strict=True
    ):
      result[i] = d * a
    return result, w, d
  a_out = _standardized(r_out, ddof)
  a_mix = _standardized(gated, ddof, mix_std_floor)
  for i, out, mixed in zip(kept, a_out, a_mix, strict=True):
    first = out if combine == 'additive' else (1 - w) * out
    second = w * mixed
    if difficulty_scope == 'whole':
      result[i] = d * (first + second)
    else:
      result[i] = first + d * second
  return result, w, d
