"""Facts of the task of links: drawn, written and read again."""

import itertools
import random

import pytest

from awpo_jax.rollout.datasets.links import facts

# By hand: from ba_gi by blue to da_hu, then to fo_ji; all else leads to decoys.
BY_HAND = (
  'da_hu red ka_pi / ba_gi blue da_hu / fo_ji blue ka_pi / ba_gi red ma_su / '
  'da_hu blue fo_ji / ka_pi blue ma_su / From ba_gi follow blue 2 times.'
)


def _names(riddle):
  return {name for name, _ in riddle.links}


def _ends(riddle, name, kinds):
  for kind in kinds:
    name = riddle.links[name, kind]
  return name


def test_read_by_hand():
  riddle = facts.read(f'**Dialogue**\n<user> {BY_HAND} </user>')
  assert (riddle.start, riddle.kind, riddle.length) == ('ba_gi', 'blue', 2)
  assert riddle.links['da_hu', 'red'] == 'ka_pi'
  assert len(riddle.links) == 6
  assert riddle.path() == ('da_hu', 'fo_ji')


@pytest.mark.parametrize(
  'text',
  [
    '',
    BY_HAND.replace('From', 'Of'),
    BY_HAND.replace('da_hu blue fo_ji / ', ''),
    BY_HAND + ' ' + BY_HAND,
    BY_HAND.replace('2 times', '0 times'),
    BY_HAND.replace('2 times', '200 times'),
    BY_HAND.replace('fo_ji blue ka_pi', 'da_hu blue ka_pi'),
    BY_HAND + ' ' * (1 << 14),
  ],
)
def test_what_is_no_riddle(text):
  assert facts.read(text) is None


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('seed', range(5))
def test_a_walk_with_a_wrong_link_never_ends_right(count, seed):
  riddle = facts.draw(
    random.Random(seed), count=count, largest=4, held_out=False
  )
  path = riddle.path()
  asked = (riddle.kind,) * count
  walks = list(itertools.product(facts.KINDS, repeat=count))
  assert len(walks) == 3**count
  right = [x for x in walks if _ends(riddle, riddle.start, x) == path[-1]]
  assert right == [asked]
  # Nor does it come back to the path at all, however far it goes.
  on_path = {riddle.start, *path}
  decoys = _names(riddle) - on_path
  for (name, kind), there in riddle.links.items():
    if name in decoys or name == path[-1] or kind != riddle.kind:
      assert there in decoys and there != name


@pytest.mark.parametrize('count', [2, 5])
def test_facts_do_not_tell_how_many_links_are_asked_for(count):
  riddle = facts.draw(random.Random(0), count=count, largest=6, held_out=False)
  # 6 + 1 names of the longest path and 4 decoys, a fact of each kind.
  assert len(_names(riddle)) == 11
  assert len(riddle.links) == 33
  for name in _names(riddle):
    assert len({riddle.links[name, kind] for kind in facts.KINDS}) == 3


def test_held_out_names_are_syllables_never_seen_together():
  def pairs(held_out):
    rng = random.Random(3)
    drawn = [facts.draw_names(rng, 12, held_out=held_out) for _ in range(500)]
    for names in drawn:
      assert len({x[:2] for x in names}) == len({x[3:] for x in names}) == 12
    return set(itertools.chain(*drawn))

  seen, held_out = pairs(False), pairs(True)
  # 20 x 20 names, of which each first syllable has 4 held out.
  assert (len(seen), len(held_out)) == (320, 80)
  assert not seen & held_out
  for syllables in (slice(0, 2), slice(3, 5)):
    assert {x[syllables] for x in seen} == {x[syllables] for x in held_out}
