"""Flags by their names, for functions that have no defaults of their own."""

import dataclasses

from awpo_jax.config import experiment as config_lib


def section(name: str, **changed) -> dict[str, object]:
  """All flags of a section of `Config`: defaults, but for what is changed."""
  flags = dataclasses.asdict(getattr(config_lib.Config(), name))
  assert changed.keys() <= flags.keys(), changed
  return {**flags, **changed}
