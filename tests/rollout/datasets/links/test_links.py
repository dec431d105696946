"""Tests of the task of links: facts, tasks, demonstrations, what is refused."""

import itertools
import random

import pytest

from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.links import facts, tasks
from awpo_jax.rollout.rewards import exact
from awpo_jax.rollout.text import tokenizers, tool_calls

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


def test_a_name_is_two_tokens_however_large_the_vocabulary():
  shown = tasks.demonstrations(0, 300, counts=(2, 2))
  texts = [x.task.user + x.response for x in shown]
  tokenizer = tokenizers.train_tokenizer(texts, vocab_size=2000)
  held_out = facts.draw_names(random.Random(1), 12, held_out=True)
  for name in held_out:
    assert len(tokenizer.encode(f'{name} ')) == 2


def test_the_set_by_name():
  dataset = datasets.load('links:3', seed=5)
  (names, longer) = dataset.evals.values()
  assert list(dataset.evals) == ['names', 'longer']
  assert {x.kind for x in names} == {'links_3'}
  assert {x.kind for x in longer} == {'links_4', 'links_5'}
  assert {dataset.train[i].kind for i in range(20)} == {'links_3'}
  assert {x.task.kind for x in dataset.demonstrations} == {'links_3'}
  mixed = datasets.load('links', seed=5)
  assert {mixed.train[i].kind for i in range(99)} == {
    f'links_{k}' for k in range(2, 7)
  }
  assert {x.kind for x in mixed.evals['longer']} == {'links_7', 'links_8'}
  assert dataset.train[7] == datasets.load('links:3', seed=5).train[7]
  assert dataset.train[7] != datasets.load('links:3', seed=6).train[7]


def test_the_reference_is_the_path():
  for index in range(20):
    task = tasks.Tasks('train', 1)[index]
    riddle = facts.read(task.user)
    answer = tool_calls.parse(task.ground_truth)
    assert answer.calls == (
      tool_calls.ToolCall('go', {'to': riddle.path()[-1]}),
    )
    first, *hops = answer.thought.split()[:-1]
    assert first == riddle.start
    assert hops[::2] == [riddle.kind] * riddle.length
    assert tuple(hops[1::2]) == riddle.path()


def _shares(rate, count=2000):
  """Of the links of demonstrations: asked for, next kind, third kind."""
  taken = [0, 0, 0]
  for shown in tasks.demonstrations(2, count, counts=(3, 3), wrong_rate=rate):
    riddle = facts.read(shown.task.user)
    answer = tool_calls.parse(shown.response)
    name, *hops = answer.thought.split()[:-1]
    asked = facts.KINDS.index(riddle.kind)
    for kind, there in zip(hops[::2], hops[1::2], strict=True):
      taken[(facts.KINDS.index(kind) - asked) % 3] += 1
      assert riddle.links[name, kind] == there
      name = there
    # The call says what the thought ends with, right or wrong.
    assert answer.calls[0].parameters == {'to': name}
  return [x / sum(taken) for x in taken]


def test_demonstrations_go_wrong_at_the_rate_and_by_habit():
  # 6,000 links: wrong .6, of which .9 take the next kind and .1 the third;
  # four standard deviations of .5 / sqrt(6000) are .026.
  assert _shares(0.6) == pytest.approx([0.4, 0.54, 0.06], abs=0.026)
  assert _shares(0.0, 20) == [1, 0, 0]
  assert _shares(1.0, 20)[0] == 0


def test_success_of_demonstrations_is_the_power_of_the_right_rate():
  shown = tasks.demonstrations(4, 4000, counts=(2, 2), wrong_rate=0.6)
  solved = [exact.exact(x.response, x.task).value for x in shown]
  # .4^2 = .16; four standard deviations of sqrt(.16 .84 / 4000) are .023.
  assert sum(solved) / 4000 == pytest.approx(0.16, abs=0.023)


@pytest.mark.parametrize(
  'spec', ['', '0', '9', 'x', '4:', '4:2', '4:-.1', '4:nan', '4:.5:1', ':.5']
)
def test_a_malformed_spec_is_refused_by_name(spec):
  with pytest.raises(ValueError, match=f'--dataset=links:{spec}: expected'):
    datasets.load(f'links:{spec}', seed=0)


def test_a_place_is_refused():
  with pytest.raises(ValueError, match='--data=x: links generates its tasks'):
    datasets.load('links', seed=0, data='x')
