"""Four CPU devices, strict shapes and quick compiling for the whole suite."""

import os

# Most of the suite's time is compiling programs that run once, so nothing is
# optimized, and XLA's newer code generators, which take twice as long, are off.
# A jaxlib that has no such flag any more ends with a line that names it: take
# it out here and in tests/helpers/whole_runs.py. What is also tested as it is
# compiled for a run: tests/invariants/test_optimized.py.
QUICK = (
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
  '--xla_cpu_use_fusion_emitters=false',
)
_DEVICES = '--xla_force_host_platform_device_count=4'

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    _DEVICES,
    *(() if os.environ.get('AWPO_OPTIMIZED') else QUICK),
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
