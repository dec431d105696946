"""Four CPU devices and strict shapes for the whole suite."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
)

import jax  # noqa: E402  (reads the environment when imported)

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most of the suite's time is compiling programs that run once. What is also
# tested as it is compiled for a run: tests/invariants/test_optimized.py.
if not os.environ.get('AWPO_OPTIMIZED'):
  jax.config.update('jax_disable_most_optimizations', True)
