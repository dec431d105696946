"""Refuses to go on after numbers that are not finite or differ by device."""

from collections.abc import Callable, Sequence

from awpo_jax.training.update import train_step


class NonFiniteError(RuntimeError):
  """A loss or gradient was not finite; the state before it is intact."""


class ReplicaError(RuntimeError):
  """Devices that must hold the same parameters do not."""


def check(
  step: int,
  phase: str,
  ids: Sequence[str],
  updates: Sequence[train_step.StepMetrics],
  good: Callable[[], str],
) -> None:
  """Looks at what the updates of a step report.

  Args:
    step: of the run.
    phase: of the step.
    ids: of its prompts.
    updates: on the host.
    good: the last good checkpoint, as text.

  Raises:
    NonFiniteError, ReplicaError: naming the first update that is wrong.
  """
  for number, update in enumerate(updates):
    if not update.finite:
      raise NonFiniteError(
        f'Step {step} ({phase}), update {number + 1}: loss '
        f'{update.sums["loss"]}, gradient norm {update.grad_norm}. The update '
        f'was not applied. Prompts: {", ".join(ids)}. Last good checkpoint: '
        f'{good()}. Lower the learning rate or --max_grad_norm, or look at '
        'these prompts, then start again.'
      )
    if update.replica_spread != 0:
      raise ReplicaError(
        f'Step {step}: parameters differ between devices by '
        f'{update.replica_spread}. Last good checkpoint: {good()}.'
      )
