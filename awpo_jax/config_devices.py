"""Flags of devices and processes: where a run is computed, not what."""

import dataclasses

from awpo_jax.config_objective import flag


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
  """Devices and processes."""

  cpu_devices: int = flag(
    1, 'Devices that the CPU is split into, one thread each or so.'
  )
  parallelism: str = flag(
    'pmap',
    'pmap: all of the state on every device; sharded: cut over --mesh.',
    ('pmap', 'sharded'),
  )
  mesh: str = flag(
    '',
    'Devices along each axis, for sharded: data:8,model:4 cuts prompts and '
    'parameters in 8, heads and features in 4; empty: all along data.',
  )
  rollout_devices: int = flag(
    0,
    'With --overlap, last devices that only sample, while the others train; '
    '0: all do both.',
  )
  distributed: str = flag(
    'no',
    'Several processes: auto finds them as JAX knows the cluster (TPU pod, '
    'SLURM, Open MPI), flags as the next three say.',
    ('no', 'auto', 'flags'),
  )
  coordinator: str = flag('', 'HOST:PORT of process 0.')
  processes: int = flag(1, 'How many there are.')
  process_id: int = flag(0, 'Number of this one, from 0.')


MAY_CHANGE = frozenset(
  field.name for field in dataclasses.fields(DevicesConfig)
)
