"""A wrong flag value is answered with the right ones."""

import pytest

from awpo_jax.ops import choices


def test_picks_the_named_entry():
  assert choices.pick('letter', {'a': 1, 'none': 2}, 'none') == 2


def test_names_the_flag_and_its_choices():
  with pytest.raises(ValueError, match=r"letter='c'.*a, none"):
    choices.pick('letter', {'a': 1, 'none': 2}, 'c')
