"""A flag names a part of ours, or a function of one's own."""

import functools
import os

import pytest

from awpo_jax.rollout import plugins

BUILTIN = {'one': len, 'other': repr}


def _load(spec):
  return plugins.load(spec, BUILTIN, flag='reward')


def test_by_name_or_by_import_path():
  assert _load('one') is len
  assert _load('other') is repr
  assert _load('os.path:join') is os.path.join
  assert _load('os:path.join') is os.path.join


@pytest.mark.parametrize(
  ('spec', 'words'),
  [
    ('ones', r'--reward=ones: neither a known name \(one, other\)'),
    ('os.path', 'import path of the form package.module:function'),
    ('os.path:', 'import path of the form'),
    (':join', 'import path of the form'),
    ('no.such.module:f', 'cannot be imported .ModuleNotFoundError'),
    ('os.path:nothing', 'cannot be imported .AttributeError'),
    ('os.path:sep', '--reward=os.path:sep: a str, not callable'),
  ],
)
def test_errors_name_the_flag_and_what_is_wrong(spec, words):
  with pytest.raises(ValueError, match=words):
    _load(spec)


async def slow(response, task):
  del response, task


async def slow_items(requests):
  yield requests


class Slow:
  async def __call__(self, requests):
    return requests


class Made:
  """Called, it makes an object: nothing is to be awaited."""

  async def __call__(self):
    pass


slow_object = Slow()
slow_partial = functools.partial(slow, task=None)


@pytest.mark.parametrize(
  'name', ['slow', 'slow_items', 'slow_object', 'slow_partial']
)
def test_what_would_have_to_be_awaited_is_refused_by_name(name):
  with pytest.raises(ValueError, match=f'reward={__name__}:{name}: .*:[sS]low'):
    _load(f'{__name__}:{name}')
  assert _load(f'{__name__}:Made') is Made
