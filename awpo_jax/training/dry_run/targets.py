"""Devices that programs are compiled for without having them."""

import dataclasses
import re
from typing import Any

import jax
from jax.experimental import topologies

from awpo_jax.config import flags as flags_lib

# CUDA's properties of the device: XLA asks for them where there is no device.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Memory of a chip, and the slices that both kinds come in.
# https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v6e
_TPU_BYTES = {'v5e': 16 * 2**30, 'v6e': 32 * 2**30}
_TPU_SLICES = {
  1: '1x1',
  4: '2x2',
  8: '2x4',
  16: '4x4',
  32: '4x8',
  64: '8x8',
  128: '8x16',
  256: '16x16',
}


@dataclasses.dataclass(frozen=True)
class Target:
  """What is compiled for.

  Attributes:
    devices: of one process.
    memory: bytes of each; None where it does not say.
    options: of the compiler.
    absent: no such device is here.
  """

  devices: list[jax.Device]
  memory: int | None
  options: dict[str, Any]
  absent: bool = False

  @property
  def platform(self) -> str:
    """As `jax.Device.platform` has it; of the devices, not of this process."""
    return self.devices[0].platform


def find(name: str) -> Target:
  """The devices that `--dry_run` names.

  Args:
    name: `here`, those of this process; `h100`, or `h100:8` for eight; `v5e` or
      `v6e`, TPUs, in numbers of which there are slices.

  Raises:
    ConfigError: it is no such name, or JAX's plugin for it is not installed.
  """
  match = re.fullmatch(r'(here|h100|v5e|v6e)(?::([1-9]\d{0,3}))?', name)
  if not match or (match[1] == 'here' and match[2]):
    raise flags_lib.ConfigError(
      f'--dry_run={name}: here, h100, v5e or v6e; h100:8 for eight of them.'
    )
  kind, count = match[1], int(match[2] or 1)
  if kind == 'here':
    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get('bytes_limit')
    return Target(devices=devices, memory=memory, options={})
  return _h100s(count) if kind == 'h100' else _tpus(kind, count)


def _h100s(count: int) -> Target:
  try:
    described = topologies.get_topology_desc(
      platform='cuda',
      topology_name='h100',
      topology=f'1x1x{count}',
      target_config=_H100,
    )
  except (RuntimeError, NotImplementedError) as error:
    raise flags_lib.ConfigError(
      "--dry_run=h100 compiles by JAX's plugin for CUDA, which is not here: "
      "install the extra, `pip install -e '.[cuda12]'` (no GPU is needed). "
      f'{error}'
    ) from error
  size = re.search(r'device_memory_size: (\d+)', _H100)
  assert size is not None
  return Target(
    devices=list(described.devices),
    memory=int(size[1]),
    # Autotuning would run kernels.
    options={'xla_gpu_autotune_level': 0},
    absent=True,
  )


def _tpus(kind: str, count: int) -> Target:
  """Compiled for by libtpu, which says of a whole program what it needs."""
  if count not in _TPU_SLICES:
    counts = ', '.join(map(str, _TPU_SLICES))
    raise flags_lib.ConfigError(
      f'--dry_run={kind}:{count}: there are slices of {counts} chips.'
    )
  try:
    described = topologies.get_topology_desc(
      platform='tpu',
      topology_name=f'{kind}:{_TPU_SLICES[count]}',
      # Hosts have four chips unless it is said; libtpu 0.0.42 insists.
      **({'chips_per_host_bounds': (1, 1, 1)} if count == 1 else {}),
    )
  except (RuntimeError, NotImplementedError) as error:
    raise flags_lib.ConfigError(
      f"--dry_run={kind} compiles by JAX's plugin for TPUs, which is not here: "
      "install the extra, `pip install -e '.[tpu]'` (no TPU is needed). "
      f'{error}'
    ) from error
  return Target(
    devices=list(described.devices), memory=_TPU_BYTES[kind], options={}
  )
