"""The upper radius of each sample, by hand."""

import numpy as np
import pytest

from awpo_jax.ops import clipping, collectives
from tests.ops.test_estimators import make_samples

# Advantages -1, 0, 1 and one that is not valid: A~ = A.
SAMPLES = make_samples([[1, 1, 1, 0]], np.ones((1, 4), int))
A = np.float32([[-1, 0, 1, 0]])


def _high(name, delta=None):
  return clipping.upper_radius(
    A,
    np.float32(0.2),
    SAMPLES,
    clip_high=name,
    clip_high_factor=1.5,
    clip_high_delta=delta,
    all_sum=collectives.identity,
  )


def test_by_hand():
  np.testing.assert_allclose(_high('factor'), [[0.3] * 4], rtol=1e-6)
  # Phi(-1) = .158655, Phi(0) = .5, Phi(1) = .841345
  np.testing.assert_allclose(
    _high('adaptive', 0.1), [[0.3158655, 0.35, 0.3841345, 0.35]], rtol=1e-5
  )


def test_unknown_rule_is_refused():
  with pytest.raises(ValueError, match='factor, adaptive'):
    _high('higher')
