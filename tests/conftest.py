"""Four CPU devices, strict shapes and quick compiling for the whole suite."""

import os

from tests.helpers import quick_compiling

_DEVICES = '--xla_force_host_platform_device_count=4'

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    _DEVICES,
    '' if os.environ.get('AWPO_OPTIMIZED') else quick_compiling.FLAGS,
  ]
)

import jax  # noqa: E402  (reads the environment when imported)

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
  """Workers take files in the order below, not by their number of tests."""
  config.option.loadscopereorder = False  # An option of pytest-xdist.


def pytest_collection_modifyitems(items):
  """Files of whole runs first: at the end one worker would wait for another."""
  items.sort(key=lambda item: not hasattr(item.module, 'whole_runs'))
