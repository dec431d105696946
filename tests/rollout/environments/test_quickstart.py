"""The quickstart's tools that run: results, failures, outcomes by hand."""

import copy

import pytest

from awpo_jax.rollout.datasets.quickstart import episodes
from awpo_jax.rollout.environments import protocol, quickstart
from awpo_jax.rollout.text import tool_calls

ENVIRONMENT = quickstart.QuickstartEnvironment()


def call(_name, **parameters):
  return tool_calls.ToolCall(_name, parameters)


def make_task(kind, name='train'):
  tasks = episodes.Tasks(name, 5)
  return next(task for task in tasks[:50] if task.kind == kind)


def play(task, answers):
  state, turns, steps = ENVIRONMENT.reset(task), [], []
  for text in answers:
    calls = tool_calls.parse(text).calls
    before = copy.deepcopy(state)
    steps.append(ENVIRONMENT.step(state, calls))
    assert state == before  # A step changes nothing of the state before it.
    state = steps[-1].state
    turns.append(protocol.Turn(text, calls, steps[-1].observations))
  return ENVIRONMENT.outcome(task, state, turns), steps


def replies(text):
  return tool_calls.render_answer('All is done.', (), text)


@pytest.mark.parametrize(
  ('kind', 'turns'), [('chain', 3), ('retry', 3), ('report', 2)]
)
def test_references_solve_their_tasks(kind, turns):
  task = make_task(kind)
  score, steps = play(task, task.references)
  assert (score.value, score.minimum, score.maximum) == (4, -3, 4)
  assert score.solved
  assert [step.done for step in steps] == [False] * (turns - 1) + [True]
  # The same calls from the same state: the same episode.
  assert play(task, task.references) == (score, steps)


def test_the_second_call_needs_the_result_of_the_first():
  task = make_task('chain')
  _, steps = play(task, task.references)
  result = steps[0].observations[0].text
  value = tool_calls.parse(task.references[1]).calls[0].parameters
  link = next(
    link
    for link in episodes.LINKS
    if link.second == tool_calls.parse(task.references[1]).calls[0].name
    and link.first == tool_calls.parse(task.references[0]).calls[0].name
  )
  assert quickstart.json.dumps({'result': value[link.argument]}) == result
  assert str(value[link.argument]) not in task.user


def test_a_busy_tool_works_the_second_time_a_closed_one_never():
  task = make_task('retry')
  asked = tool_calls.parse(task.references[0]).calls[0]
  state = ENVIRONMENT.reset(task)
  texts = []
  for _ in range(2):
    step = ENVIRONMENT.step(state, [asked])
    state = step.state
    texts.append(step.observations[0].text)
  assert texts[0] == '{"error": "busy"}' and '"result"' in texts[1]
  task = make_task('report')
  asked = tool_calls.parse(task.references[0]).calls[0]
  step = ENVIRONMENT.step(ENVIRONMENT.reset(task), [asked, asked])
  assert [o.text for o in step.observations] == ['{"error": "closed"}'] * 2


@pytest.mark.parametrize(
  'wrong',
  [
    call('no_such_tool'),
    call('__class__'),
    call('set_timer'),
    call('set_timer', minutes='5'),
    call('set_timer', minutes=True),
    call('set_timer', minutes=[5]),
    call('set_timer', minutes=5, seconds=1),
  ],
)
def test_what_is_no_call_of_an_offered_tool_has_no_effect(wrong):
  task = make_task('chain')
  state = {**ENVIRONMENT.reset(task), 'offered': ['set_timer']}
  step = ENVIRONMENT.step(state, [wrong, call('set_timer', minutes=5)])
  assert step.observations[0].text.startswith('{"error": ')
  assert step.state['effects'] == [['set_timer', {'minutes': 5}]]


class TestOutcomeByHand:
  """format + 6 (effects + reply) / 2 - 3."""

  def test_stopped_after_the_first_call(self):
    # One of two effects, a reply that does not say the result: 1 + 1.5 - 3.
    task = make_task('chain')
    score, _ = play(task, [task.references[0], replies('Done.')])
    assert (score.value, score.solved) == (-0.5, False)

  def test_one_call_too_many(self):
    # One effect of two made: 1/2, the reply is right: 1 + 6 * 3/4 - 3.
    task = make_task('retry')
    first, again, last = task.references
    score, _ = play(task, [first, again, again, last])
    assert (score.value, score.solved) == (2.5, False)

  def test_gave_up_where_the_tool_was_busy(self):
    # Neither effect nor reply: 1 + 0 - 3.
    task = make_task('retry')
    score, _ = play(task, [task.references[0], replies('Sorry, it failed.')])
    assert (score.value, score.solved) == (-2, False)

  def test_told_of_a_failure_without_having_tried(self):
    # The reply alone is right: 1 + 3 - 3.
    score, _ = play(make_task('report'), [replies('Sorry, it failed.')])
    assert (score.value, score.solved) == (1, False)

  def test_tried_a_closed_tool_twice(self):
    first, last = make_task('report').references
    score, _ = play(make_task('report'), [first, first, last])
    assert (score.value, score.solved) == (4, True)

  def test_claimed_success_where_the_tool_was_closed(self):
    # What could be done is right, the reply is not: 1 + 3 - 3.
    task = make_task('report')
    score, _ = play(task, [task.references[0], replies('Done: 12.')])
    assert (score.value, score.solved) == (1, False)

  def test_success_that_is_called_a_failure_as_well(self):
    task = make_task('retry')
    first, again, last = task.references
    both = last.replace('Done', 'It failed')
    score, _ = play(task, [first, again, both])
    assert (score.value, score.solved) == (1, False)

  def test_layout(self):
    # All is right but the layout of one turn: 0 + 6 - 3.
    task = make_task('retry')
    first, again, last = task.references
    score, _ = play(task, [first, again.replace('<think>', ''), last])
    assert (score.value, score.solved) == (3, False)

  def test_no_reply(self):
    # The effect alone: 1 + 3 - 3.
    task = make_task('retry')
    score, _ = play(task, task.references[:2])
    assert (score.value, score.solved) == (1, False)

  @pytest.mark.parametrize('reply', ['Done: 127.5', 'Done: 2.75', 'Done: 2a'])
  def test_a_part_of_a_longer_number_is_not_the_result(self, reply):
    assert not quickstart._says(reply, '2')
    assert not quickstart._says(reply, '7.5')
    assert quickstart._says('Done: 2.', '2')
    assert quickstart._says('7.5 dollars', '7.5')
