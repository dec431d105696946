"""Episodes on the host: who goes on when, how they end, what they earn."""

import threading

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.environments import episode_rewards, episodes, protocol
from awpo_jax.rollout.text import (
  chat_template,
  observations,
  tokenizers,
  tool_calls,
)
from tests.helpers import codecs, opened_thoughts

CALL = tool_calls.render_answer('x', [('look', {'n': 1})])
REPLY = tool_calls.render_answer('x', (), 'Done.')


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.train_tokenizer(
    [CALL, REPLY, 'user assistant'] * 9, vocab_size=360
  )


class Counting:
  """An environment that counts calls; some tasks wait, some break."""

  def __init__(self, wait=lambda: None):
    self._wait = wait

  def reset(self, task):
    if task.kind == 'absent':
      raise types.RewardUnavailable('no tools today')
    return {'kind': task.kind, 'count': 0}

  def step(self, state, calls):
    if state['kind'] == 'slow':
      self._wait()
    if state['kind'] == 'breaks' and state['count'] == 1:
      raise types.RewardUnavailable('the tools went away')
    after = {**state, 'count': state['count'] + len(calls)}
    said = tuple(
      protocol.Observation('obs', f'{after["count"]}') for _ in calls
    )
    return protocol.Step(after, said, not calls)

  def outcome(self, task, state, turns):
    return types.Score(state['count'], 0, 10, {}, solved=state['count'] == 2)


class Scripted:
  """A sampler that writes given answers; no model."""

  def __init__(self, tokenizer, answers, max_tokens):
    self._stop = tokenizer.convert_tokens_to_ids('<|im_end|>')
    self._answers = [
      [[*tokenizer.encode(text), self._stop] for text in texts]
      for texts in answers
    ]
    self._max = max_tokens
    self.rounds = []
    self.rest_is_done = threading.Event()

  def _write(self, rows, chosen):
    tokens, finished = rows
    for n in chosen:
      answer = self._answers[n].pop(0)
      finished[n] = len(tokens[n]) + len(answer) <= self._max
      tokens[n] = (tokens[n] + answer)[: self._max]
    self.rounds.append([int(n) for n in chosen])
    if not any(self._answers[1:]):
      self.rest_is_done.set()
    return tokens, finished

  def begin(self):
    count = len(self._answers)
    return self._write(
      ([[] for _ in range(count)], [False] * count), range(count)
    )

  def go_on(self, state, read, lengths):
    tokens, finished = state
    chosen = np.flatnonzero(lengths)
    for n in chosen:
      tokens[n] = tokens[n] + [int(t) for t in read[n, : lengths[n]]]
      assert len(tokens[n]) < self._max
    return self._write((tokens, finished), chosen)

  def rows(self, state):
    tokens, finished = state
    wide = np.zeros((len(tokens), self._max), np.int32)
    for n, row in enumerate(tokens):
      wide[n, : len(row)] = row
    lengths = np.array([len(row) for row in tokens])
    return episodes.Rows(wide, lengths, np.array(finished))

  def sampler(self):
    return episodes.Sampler(self.begin, self.go_on, self.rows)


def task(kind='plain', references=()):
  return types.Task('t', '', 'u', (), '', kind, {}, tuple(references))


def play(tokenizer, tasks, answers, *, max_turns=4, max_tokens=400, wait=None):
  stops = tokenizers.stop_token_ids(tokenizer)
  reader = observations.Reader(
    tokenizer, stops, chat_template.DEFAULT_STYLE, 40
  )
  scripted = Scripted(tokenizer, answers, max_tokens)
  environment = Counting(wait or (lambda: scripted.rest_is_done.wait(30)))
  rules = episodes.Rules(
    environment,
    reader,
    codecs.make(tokenizer),
    max_turns,
    max_tokens,
    threads=4,
  )
  _, played, cut = episodes.play(scripted.sampler(), tasks, rules)
  return played, cut, scripted.rounds


def test_by_hand(tokenizer):
  played, cut, rounds = play(
    tokenizer, [task(), task()], [[CALL, CALL, REPLY], [REPLY]]
  )
  first, second = played
  assert [turn.text for turn in first.turns] == [CALL, CALL, REPLY]
  observed = [[o.text for o in turn.observations] for turn in first.turns]
  assert observed == [['1'], ['2'], []]
  assert first.state == {'kind': 'plain', 'count': 2}
  assert second.state['count'] == 0 and len(second.turns) == 1
  assert not cut.any()
  assert rounds == [[0, 1], [0], [0]]
  assert str(first) == '\n'.join(
    [CALL, '<obs> 1 </obs>', CALL, '<obs> 2 </obs>', REPLY]
  )
  texts = [turn['text'] for turn in episodes.to_json(first)['turns']]
  assert episodes.replay(Counting(), task(), texts) == first


def test_turns_hold_what_their_prompts_opened():
  tokenizer = opened_thoughts.opening('<think>\n')
  rest = [x.removeprefix('<think> ') for x in (CALL, REPLY)]
  # The policy writes the tag again in the last turn.
  (episode,), _, _ = play(tokenizer, [task()], [[rest[0], rest[0], REPLY]])
  first = f'<think>\n{rest[0]}'
  assert [turn.text for turn in episode.turns] == [first, first, REPLY]
  assert episode.state['count'] == 2


def test_limits(tokenizer):
  turns, tokens = (
    play(tokenizer, [task()], [[CALL] * 9], **limit)
    for limit in ({'max_turns': 3}, {'max_tokens': 60, 'max_turns': 9})
  )
  (episode,), cut, rounds = turns
  # The calls of the last turn still ran.
  assert (len(episode.turns), episode.state['count']) == (3, 3)
  assert cut.all() and len(rounds) == 3
  (episode,), cut, rounds = tokens
  assert cut.all() or not rounds[-1] or len(episode.turns) < 9
  assert episode.state['count'] <= len(episode.turns) < 9


def test_a_turn_that_was_cut_makes_no_call(tokenizer):
  length = len(tokenizer.encode(CALL))
  # All of the call is there, but not the stop token.
  (episode,), _, _ = play(tokenizer, [task()], [[CALL]], max_tokens=length)
  assert episode.turns[0].text == CALL
  assert episode.turns[0].calls == () and episode.state['count'] == 0


def test_a_slow_tool_holds_up_nobody(tokenizer):
  # Its first result comes when the others have written their last answer.
  played, _, rounds = play(
    tokenizer,
    [task('slow'), task(), task()],
    [[CALL, REPLY], [CALL, CALL, CALL, REPLY], [CALL, CALL, REPLY]],
  )
  assert rounds[0] == [0, 1, 2] and rounds[-1] == [0]
  assert sorted(sum(rounds, [])) == [0] * 2 + [1] * 4 + [2] * 3
  assert [episode.state['count'] for episode in played] == [1, 3, 2]


def test_tools_of_different_rows_run_at_once(tokenizer):
  # Each waits for all four to have begun.
  together = threading.Barrier(4, timeout=30)
  played, _, _ = play(
    tokenizer, [task('slow')] * 4, [[REPLY]] * 4, wait=together.wait
  )
  assert [len(episode.turns) for episode in played] == [1] * 4


def test_what_the_machine_failed_to_do_is_invalid(tokenizer):
  played, _, _ = play(
    tokenizer,
    [task('breaks'), task('absent'), task()],
    [[CALL, CALL, REPLY], [CALL], [CALL, CALL, REPLY]],
  )
  reward = episode_rewards.make_reward(Counting(), 'outcome')
  for episode, why in zip(played, ('went away', 'today'), strict=False):
    with pytest.raises(types.RewardUnavailable, match=why):
      reward(episode, task())
  assert reward(played[2], task()).solved
