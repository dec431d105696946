"""Evaluations of a run: what is said while they take place."""

from awpo_jax.training import held_out


def test_what_fills_up_the_last_batch_is_not_counted_as_answered():
  # A batch of four answers for three tasks, after one of none.
  said = [held_out._shown('names', 3, texts) for texts in ([], ['a'] * 4)]
  assert said == [
    'Evaluating names: 0 of 3 answered',
    'Evaluating names: 3 of 3 answered',
  ]
