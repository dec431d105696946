"""Tasks and demonstrations of links, and what is refused."""

import random

import pytest

from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.links import facts, tasks
from awpo_jax.rollout.rewards import exact
from awpo_jax.rollout.text import tokenizers, tool_calls


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


def test_names_of_the_set_of_names_are_never_seen_in_training():
  dataset = datasets.load('links', seed=1)

  def names(drawn):
    riddles = [facts.read(task.user) for task in drawn]
    return {name for riddle in riddles for name, _ in riddle.links}

  held_out = names(dataset.evals['names'])
  seen = names(dataset.train[:1000]) | names(dataset.evals['longer'])
  seen |= names(x.task for x in dataset.demonstrations)
  assert held_out and not held_out & seen


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
