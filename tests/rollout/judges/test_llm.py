"""The judge model against a server that is slow, fails and talks nonsense."""

import concurrent.futures
import email.utils
import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.judges import llm, llm_prompt
from tests import judge_server

TOOL = types.Tool(
  'clock', 'Tells the time.', {'city': {'type': 'string', 'description': 'of'}}
)


def request(thought, user='What time is it in Oslo?'):
  return types.JudgeRequest(
    user, (TOOL,), f'<think> {thought} </think>\n<response> Noon. </response>'
  )


REQUESTS = [request(f'thought number {i}') for i in range(20)]
WANTED = [judge_server.verdict(f'thought number {i}') / 10 for i in range(20)]


@pytest.fixture
def endpoint():
  with judge_server.serving() as endpoint:
    yield endpoint


@pytest.fixture
def make(endpoint):
  """Makes judges of the endpoint, which are closed in the end."""
  made = []

  def judge(key=None, **changed):
    settings = {
      'url': endpoint.url,
      'model': 'm',
      'template': llm_prompt.read_template(''),
      'concurrency': 8,
      'timeout': 1.0,
      'retries': 4,
      'backoff': 0.02,
      **changed,
    }
    made.append(llm.LlmJudge(llm.Settings(**settings), key))
    return made[-1]

  yield judge
  for each in made:
    each.close()


def test_scores_come_in_order_and_calls_side_by_side(endpoint, make):
  assert len(set(WANTED)) > 5
  endpoint.delay = 0.1
  started = time.monotonic()
  assert make()(REQUESTS) == WANTED
  # Three waves of eight.
  assert endpoint.most == 8 and time.monotonic() - started > 0.3
  assert len(endpoint.bodies) == 20


def test_what_is_asked(endpoint, make):
  make(key='secret', temperature=0.5, reply_tokens=77)([REQUESTS[3]])
  (body,), (headers,) = endpoint.bodies, endpoint.headers
  assert body.pop('messages')[0]['role'] == 'system'
  assert body == {'model': 'm', 'temperature': 0.5, 'max_tokens': 77}
  assert headers['authorization'] == 'Bearer secret'


@pytest.mark.parametrize('how', judge_server.REPEATED)
def test_nothing_is_lost_where_calls_fail_at_first(endpoint, make, how):
  endpoint.behave = lambda number, body: how if number < 2 else 'good'
  requests = REQUESTS[: 4 if how == 'hangs' else 20]
  assert make()(requests) == WANTED[: len(requests)]
  assert len(endpoint.bodies) == 3 * len(requests)


def test_all_of_it_together(endpoint, make):
  ways = list(judge_server.REPEATED)

  def behave(number, body):
    # Each thought meets another two failures before it is judged.
    start = 2 * int(judge_server.thought(body).split()[-1])
    return ways[(start + number) % len(ways)] if number < 2 else 'good'

  endpoint.behave = behave
  assert make(concurrency=20)(REQUESTS) == WANTED


@pytest.mark.parametrize('how', ['prose', 'error', 'closed'])
def test_what_keeps_failing_is_without_a_score(endpoint, make, how):
  def behave(number, body):
    last = judge_server.thought(body).split()[-1]
    return how if last in ('3', '11') else 'good'

  endpoint.behave = behave
  judge = make(retries=2)
  got = judge(REQUESTS)
  assert [i for i, score in enumerate(got) if score is None] == [3, 11]
  assert len(endpoint.bodies) == 18 + 2 * 3
  endpoint.behave = lambda number, body: 'good'
  assert judge(REQUESTS) == WANTED
  # The others are known.
  assert len(endpoint.bodies) == 18 + 2 * 3 + 2


def test_a_request_that_is_refused_is_not_repeated(endpoint, make):
  endpoint.behave = lambda number, body: 'too_long'
  assert make()(REQUESTS[:2]) == [None, None]
  assert len(endpoint.bodies) == 2


@pytest.mark.parametrize(
  ('how', 'remedy'), [('no_key', llm.KEY_VARIABLE), ('no_model', '--judge_url')]
)
def test_a_mistake_in_key_or_model_is_told_at_once(endpoint, make, how, remedy):
  endpoint.behave = lambda number, body: how
  with pytest.raises(types.JudgeUnavailable, match=remedy) as raised:
    make(key='secret', concurrency=1)(REQUESTS)
  assert endpoint.url in str(raised.value)
  assert 'secret' not in str(raised.value)
  assert len(endpoint.bodies) == 1


def test_the_server_says_when_to_come_back(endpoint, make):
  times = []

  def behave(number, body):
    times.append(time.monotonic())
    return 'limited' if len(times) == 1 else 'good'

  endpoint.behave = behave
  # Those that wait for their turn meanwhile do not come before it either.
  assert make(concurrency=1)(REQUESTS[:3]) == WANTED[:3]
  assert min(times[1:]) - times[0] >= 0.3


@pytest.mark.parametrize(
  ('header', 'seconds'),
  [
    ('2', 2),
    ('0.5', 0.5),
    ('-3', 0),
    (None, None),
    ('', None),
    ('soon', None),
    ('nan', None),
    ('Mon, 01 Jan 2001 00:00:00 GMT', 0),
  ],
)
def test_retry_after(header, seconds):
  assert llm.retry_after(header) == seconds


def test_retry_after_a_date():
  date = email.utils.formatdate(time.time() + 60, usegmt=True)
  assert 58 <= llm.retry_after(date) <= 60


@pytest.mark.parametrize('how', ['error', 'closed', 'no_json'])
def test_an_endpoint_that_is_down_is_not_called_without_end(
  endpoint, make, how
):
  endpoint.behave = lambda number, body: how
  judge = make(patience=0.3, retries=10**6, backoff=0.05)
  with pytest.raises(types.JudgeUnavailable) as raised:
    judge(REQUESTS)
  message = str(raised.value)
  assert endpoint.url in message and '--judge_patience=0.3' in message
  # It comes back, and nothing of that is held against it.
  endpoint.behave = lambda number, body: 'good'
  assert judge(REQUESTS) == WANTED


def test_an_endpoint_that_is_not_there(make):
  judge = make(url='http://127.0.0.1:9/v1', retries=1)
  assert judge(REQUESTS[:2]) == [None, None]
  assert 'http://127.0.0.1:9/v1, m (last: APIConnectionError)' in (
    judge.problem()
  )


def test_one_call_that_works_is_a_sign_of_life(endpoint, make):
  # Failing for longer than the patience, but never all of them.
  ends = time.monotonic() + 1.0

  def behave(number, body):
    lives = judge_server.thought(body).endswith('0') or time.monotonic() > ends
    return 'good' if lives and number % 2 == 0 else 'error'

  endpoint.behave = behave
  endpoint.delay = 0.04
  many = [request(f'another {i}') for i in range(100)]
  got = make(patience=0.4, retries=0, concurrency=4)(many)
  assert all(got[i] is not None for i in range(0, 100, 10))


def test_a_budget_of_calls_ends_it_before_the_call_too_many(
  endpoint, make, tmp_path
):
  file = str(tmp_path / 'cache.sqlite')
  with pytest.raises(types.JudgeUnavailable, match='raise --judge_max_calls'):
    make(max_calls=7, cache=file, run='a')(REQUESTS)
  assert len(endpoint.bodies) == 7
  # The run has spent it, whatever process goes on; another run has not.
  with pytest.raises(types.JudgeUnavailable, match='7 calls are made'):
    make(max_calls=7, cache=file, run='a')(REQUESTS)
  assert len(endpoint.bodies) == 7
  assert make(max_calls=13, cache=file, run='b')(REQUESTS) == WANTED


def test_a_budget_of_tokens(endpoint, make):
  # A hundred tokens a call.
  with pytest.raises(types.JudgeUnavailable, match='raise --judge_max_tokens'):
    make(max_tokens=450, concurrency=1)(REQUESTS)
  assert len(endpoint.bodies) == 5


def test_reruns_are_free(endpoint, make, tmp_path):
  file = str(tmp_path / 'deep' / 'cache.sqlite')
  assert make(cache=file)(REQUESTS) == WANTED
  endpoint.behave = lambda number, body: 'error'
  assert make(cache=file, url='http://127.0.0.1:9/v1')(REQUESTS) == WANTED
  assert len(endpoint.bodies) == 20


OTHERS = {
  'model': 'n',
  'template': 'Another. ' + llm_prompt.read_template(''),
  'scale': 20.0,
  'temperature': 0.5,
  'reply_tokens': 5,
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_matters_is_asked_anew(endpoint, make, tmp_path, name):
  file = str(tmp_path / 'cache.sqlite')
  make(cache=file)(REQUESTS[:2])
  make(cache=file, **{name: OTHERS[name]})(REQUESTS[:2])
  assert len(endpoint.bodies) == 4


@pytest.mark.parametrize(
  'other',
  [
    request('thought number 0', user='Another?'),
    REQUESTS[0]._replace(tools=()),
    REQUESTS[0]._replace(response=REQUESTS[0].response.replace('Noon', 'Ten')),
  ],
)
def test_every_part_of_a_request_matters(endpoint, make, other):
  judge = make()
  judge([REQUESTS[0]])
  judge([other, REQUESTS[0]])
  assert len(endpoint.bodies) == 2


def test_equal_requests_are_asked_once(endpoint, make):
  endpoint.delay = 0.05
  assert make()([REQUESTS[4]] * 5 + [REQUESTS[2]]) == [WANTED[4]] * 5 + [
    WANTED[2]
  ]
  assert len(endpoint.bodies) == 2


def test_the_mean_of_several_replies(endpoint, make, monkeypatch):
  scores = iter([2, 7, 6])
  monkeypatch.setattr(judge_server, 'verdict', lambda _: next(scores))
  judge = make(samples=3, temperature=1.0, concurrency=1)
  assert judge([REQUESTS[0]]) == [pytest.approx(0.5)]  # (2 + 7 + 6) / 3 / 10
  assert len(endpoint.bodies) == 3
  assert judge([REQUESTS[0]]) == [pytest.approx(0.5)]


def test_a_mean_is_never_one_of_fewer(endpoint, make):
  calls = []

  def behave(number, body):
    calls.append(body)
    return 'prose' if len(calls) == 2 else 'good'

  endpoint.behave = behave
  judge = make(samples=3, retries=0, concurrency=1)
  assert judge([REQUESTS[1]]) == [None]
  # Only the missing one is asked for again.
  assert judge([REQUESTS[1]]) == [pytest.approx(WANTED[1])]
  assert len(calls) == 4


def test_what_a_run_gave_up_it_does_without_when_resumed(
  endpoint, make, tmp_path
):
  file = str(tmp_path / 'cache.sqlite')
  judge = make(cache=file, run='a')
  judge.give_up([REQUESTS[1]])
  for each in judge, make(cache=file, run='a'):
    assert each(REQUESTS[:3]) == [WANTED[0], None, WANTED[2]]
  assert make(cache=file, run='b')(REQUESTS[:3]) == WANTED[:3]


def test_without_a_thought_nothing_is_asked(endpoint, make):
  empty = [
    '<response> hello </response>',
    '<think> never closed',
    '<think>  </think>',
    f'<think> {"long " * llm_prompt.MAX_CHARS} </think>',
  ]
  requests = [types.JudgeRequest('hi', (), text) for text in empty]
  assert make()(requests) == [0.0] * 4
  assert not endpoint.bodies


def test_the_key_is_kept_nowhere(endpoint, make, tmp_path, capfd, caplog):
  key = 'sk-very-secret'
  file = tmp_path / 'cache.sqlite'
  endpoint.behave = lambda number, body: 'error' if number == 0 else 'good'
  judge = make(key=key, cache=str(file))
  with caplog.at_level('DEBUG'):
    judge(REQUESTS)
    judge.close()
  stored = b''.join(path.read_bytes() for path in tmp_path.iterdir())
  assert b'thought' not in stored and key.encode() not in stored
  said = capfd.readouterr()
  assert key not in said.out + said.err + caplog.text
  assert key not in repr(judge._settings) + judge.problem()


def test_closing_ends_what_is_under_way(endpoint, make):
  endpoint.delay = 1.0
  judge = make(timeout=30.0)
  started = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    future = pool.submit(judge, REQUESTS)
    while not endpoint.bodies:
      time.sleep(0.01)
    judge.close()
    with pytest.raises(concurrent.futures.CancelledError):
      future.result()
  assert time.monotonic() - started < 1.0
  with pytest.raises(RuntimeError, match='closed'):
    judge(REQUESTS)


def test_a_cache_that_cannot_be_used(make, tmp_path):
  file = tmp_path / 'cache.sqlite'
  file.write_text('this is no database, but a text that is long enough' * 9)
  with pytest.raises(ValueError, match='--judge_cache=.*cannot be used'):
    make(cache=str(file))
