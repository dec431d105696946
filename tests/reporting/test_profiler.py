"""The window of steps that is traced, and what a run that ends in it keeps."""

import jax.numpy as jnp
import pytest

from awpo_jax.reporting import profiler


@pytest.mark.parametrize('last', [2, 3])
def test_the_trace_of_a_window(tmp_path, last):
  traced = profiler.Profiler((2, 3), str(tmp_path))
  for step in range(1, last + 1):
    traced.before(step)
    traced.after(step, {'x': jnp.ones(3) * step})
  folder = tmp_path / profiler.FOLDER
  assert bool(list(folder.rglob('*.xplane.pb'))) == (last == 3)
  traced.close()  # A second time does nothing.
  traced.close()
  assert list(folder.rglob('*.xplane.pb'))


def test_a_run_that_goes_on_in_its_window_traces_nothing(tmp_path):
  traced = profiler.Profiler((2, 3), str(tmp_path))
  traced.before(3)
  traced.after(3, {})
  traced.close()
  assert not (tmp_path / profiler.FOLDER).exists()
