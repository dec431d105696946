"""Options of XLA under which compiling takes a fifth of the time.

Most of the suite's time is compiling programs that run once, so nothing is
optimized, and XLA's newer code generators, which take twice as long, are off
where that can be chosen. What is also tested as it is compiled for a run:
tests/invariants/test_optimized.py. Nothing here imports JAX, which reads its
flags once.
"""

import importlib.metadata

OPTIONS: dict[str, int | bool] = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
# From 0.11 on the newer code generators are the only ones. A process ends at a
# flag that its XLA does not know, with a line that names it.
_MAJOR, _MINOR = importlib.metadata.version('jaxlib').split('.')[:2]
if (int(_MAJOR), int(_MINOR)) < (0, 11):
  OPTIONS['xla_cpu_use_fusion_emitters'] = False

FLAGS = ' '.join(f'--{name}={value}'.lower() for name, value in OPTIONS.items())
