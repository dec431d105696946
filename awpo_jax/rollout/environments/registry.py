"""Environments by name."""

from awpo_jax import types
from awpo_jax.rollout import plugins
from awpo_jax.rollout.environments import bfcl, protocol, quickstart, sandbox

ENVIRONMENTS = {
  'bfcl': bfcl.BfclEnvironment,
  'quickstart': quickstart.QuickstartEnvironment,
}
"""Choices of `--environment`: `sandbox.Limits` -> `protocol.Environment`."""
NONE = 'none'


def load(
  spec: str, limits: sandbox.Limits, dataset: types.Dataset
) -> protocol.Environment | None:
  """The environment that `--environment` names; None for `none`.

  Args:
    spec: a key of `ENVIRONMENTS`, `none` or `package.module:function`.
    limits: of what its calls may take.
    dataset: whose tasks it will be given.

  Raises:
    ValueError: there is no such environment, what it needs is not installed,
      or the tasks are not made for it.
  """
  if spec == NONE:
    _refuse_turns(dataset)
    return None
  known = {**ENVIRONMENTS, NONE: None}
  environment = plugins.load(spec, known, flag='environment')(limits)
  first = [dataset.train[:1], *(tasks[:1] for tasks in dataset.evals.values())]
  for task in [task for tasks in first for task in tasks]:
    try:
      environment.reset(task)
    except (KeyError, TypeError) as error:
      raise ValueError(
        f'--environment={spec}: task {task.task_id} has no scenario for it '
        f'(reset: {type(error).__name__}: {error}); choose the --dataset that '
        'belongs to it.'
      ) from error
  return environment


def _refuse_turns(dataset: types.Dataset) -> None:
  for shown in dataset.demonstrations:
    if shown.further:
      raise ValueError(
        f'The demonstration of task {shown.task.task_id} has several turns: '
        'name the --environment whose tools return what stands between them.'
      )
