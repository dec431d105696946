"""The judge model against a server that is slow, fails and talks nonsense."""

import concurrent.futures
import contextlib
import functools
import io
import re
import threading
import time

import pytest

from awpo_jax import types
from awpo_jax.reporting import progress
from awpo_jax.rollout.rewards.judges import llm, llm_prompt, patient
from tests.helpers import judge_server

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
  # Drawn: without a draw, the same reply twice would be the last word.
  assert make(temperature=1.0)(requests) == WANTED[: len(requests)]
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
  judge = make(retries=2, temperature=1.0)
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


@pytest.mark.parametrize('name', ['max_tokens', 'max_completion_tokens'])
def test_the_name_of_the_token_limit(endpoint, make, name):
  make(reply_tokens=77, token_limit_name=name)([REQUESTS[3]])
  (body,) = endpoint.bodies
  assert {x: body[x] for x in body if 'tokens' in x} == {name: 77}


def test_what_an_endpoint_does_not_know_is_left_out(endpoint, make, tmp_path):
  file = str(tmp_path / 'cache.sqlite')
  make(cache=file, omit=('temperature', 'max_tokens'))([REQUESTS[3]])
  assert endpoint.bodies[0].keys() == {'model', 'messages'}
  # Scores at a temperature that nobody has chosen are others.
  make(cache=file)([REQUESTS[3]])
  assert len(endpoint.bodies) == 2
  # Whatever its name, the limit is the same.
  make(cache=file, token_limit_name='max_completion_tokens')([REQUESTS[3]])
  assert len(endpoint.bodies) == 2


PARTS = [
  [
    {'type': 'thinking', 'thinking': [{'type': 'text', 'text': 'hm'}]},
    {'type': 'text', 'text': '{"reason": "ok", "score": 7}'},
  ],
  [
    {'type': 'text', 'text': '{"reason": "ok", '},
    {'type': 'output_text', 'text': '"score": 7}'},
  ],
  ['{"reason": "ok", "score": 7}'],
  {'type': 'text', 'text': '{"reason": "ok", "score": 7}'},
  [{'text': {'value': '{"reason": "ok", "score": 7}'}}],
  [None, 7, {'type': 'image_url'}, {'text': '{"reason": "ok", "score": 7}'}],
]


@pytest.mark.parametrize('content', PARTS)
def test_content_in_parts(endpoint, make, content):
  endpoint.behave = lambda number, body: judge_server.completion(content)
  assert make()([REQUESTS[0]]) == [0.7]
  assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
  'content', [7, [], [[]], [{'type': 'text'}], [{'type': 'refusal'}], {}]
)
def test_content_without_a_text(endpoint, make, content):
  endpoint.behave = lambda number, body: judge_server.completion(content)
  assert make(retries=1)([REQUESTS[0]]) == [None]
  assert len(endpoint.bodies) == 2


def test_a_byte_order_mark_before_the_answer(endpoint, make):
  status, headers, data = judge_server.ANSWERS['good'](_body())
  endpoint.behave = lambda number, body: (
    status,
    headers,
    b'\xef\xbb\xbf' + data,
  )
  assert make()([REQUESTS[0]]) == [WANTED[0]]


def _body():
  template = llm_prompt.read_template('')
  return {'messages': llm_prompt.messages(template, REQUESTS[0], scale=10.0)}


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({}, ['cut before its verdict', '--judge_reply_tokens=512: raise it']),
    ({'omit': ('max_tokens',)}, ['cut before its verdict', '--judge_omit']),
  ],
)
def test_a_reply_that_was_cut_is_told_apart(endpoint, make, settings, words):
  half = judge_server.completion('{"reason": "it goes on and', 'length')
  endpoint.behave = lambda number, body: half
  judge = make(retries=1, **settings)
  assert judge([REQUESTS[0]]) == [None]
  for word in words:
    assert word in judge.problem()
  # But not one that has said it all.
  endpoint.behave = lambda number, body: judge_server.completion(
    '{"reason": "x", "score": 7}\n``', 'length'
  )
  assert judge([REQUESTS[1]]) == [0.7]
  endpoint.behave = lambda number, body: 'prose'
  assert judge([REQUESTS[2]]) == [None]
  assert 'no verdict' in judge.problem() and 'cut' not in judge.problem()


WORDS = "Unsupported parameter: 'max_tokens' is not known here"


@pytest.mark.parametrize('status', [400, 401, 402, 403, 404, 405, 410, 422])
def test_a_refusal_ends_it_at_once_in_the_words_of_the_endpoint(
  endpoint, make, tmp_path, status
):
  refused = judge_server.refusal(status, {'error': {'message': WORDS}})
  endpoint.behave = lambda number, body: (
    'good' if len(endpoint.bodies) <= 5 else refused
  )
  cache = str(tmp_path / 'cache.sqlite')
  asked = patient.Judging(
    make(concurrency=1, backoff=30.0, cache=cache),
    min_judged=0.9,
    patience=600.0,
  )
  started = time.monotonic()
  with pytest.raises(types.JudgeRefused) as raised:
    asked(REQUESTS)
  assert time.monotonic() - started < 5 and len(endpoint.bodies) == 6
  for word in (endpoint.url, f'HTTP status {status}', WORDS):
    assert word in str(raised.value)
  # What was judged is kept.
  endpoint.behave = lambda number, body: 'good'
  assert make(cache=cache)(REQUESTS) == WANTED
  assert len(endpoint.bodies) == 6 + 15


def test_a_refusal_wakes_those_that_wait_for_another_try(endpoint, make):
  def behave(number, body):
    last = judge_server.thought(body).split()[-1] == '19'
    return judge_server.refusal(401, {}) if last else 'limited'

  endpoint.behave = behave
  started = time.monotonic()
  with pytest.raises(types.JudgeRefused, match=llm.KEY_VARIABLE):
    make(concurrency=20, backoff=30.0)(REQUESTS)
  assert time.monotonic() - started < 5


@pytest.mark.parametrize(
  'said',
  [
    {'error': {'message': WORDS, 'code': 400}},
    {'error': {'message': WORDS, 'code': '400'}},
  ],
)
def test_an_error_with_the_status_of_success(endpoint, make, said):
  endpoint.behave = lambda number, body: judge_server.refusal(200, said)
  with pytest.raises(types.JudgeRefused, match=WORDS):
    make(concurrency=1)(REQUESTS)
  assert len(endpoint.bodies) == 1
  # One without a code may pass.
  busy = judge_server.refusal(200, {'error': 'busy'})
  endpoint.behave = lambda number, body: busy if number < 2 else 'good'
  assert make()(REQUESTS[1:3]) == WANTED[1:3]


TOO_LONG = judge_server.refusal(
  400,
  {'message': "This model's maximum context length is 4096 tokens.", 'code': 1},
)


def test_a_request_refused_for_its_own_text_is_without_a_score(endpoint, make):
  endpoint.behave = lambda number, body: (
    TOO_LONG if judge_server.thought(body).endswith('3') else 'good'
  )
  judge = make()
  asked = patient.Judging(judge, min_judged=0.9, patience=600.0)
  lost = [3, 13]
  wanted = [None if i in lost else WANTED[i] for i in range(20)]
  assert asked(REQUESTS) == wanted
  assert judge.refused(REQUESTS) == [i in lost for i in range(20)]
  assert len(endpoint.bodies) == 20
  # Too many of them: waiting brings none.
  with pytest.raises(types.JudgeRefused, match='8 of 9 .*context length'):
    asked(REQUESTS[:9])
  assert len(endpoint.bodies) == 20


def test_a_filtered_reply_is_not_asked_for_again(endpoint, make):
  filtered = judge_server.completion('', 'content_filter')
  endpoint.behave = lambda number, body: filtered
  judge = make()
  assert judge(REQUESTS[:1]) == judge(REQUESTS[:1]) == [None]
  assert len(endpoint.bodies) == 1 and 'filter' in judge.problem()


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
  ends = time.monotonic() + 2.5

  def behave(number, body):
    lives = judge_server.thought(body).endswith('0') or time.monotonic() > ends
    return 'good' if lives and number % 2 == 0 else 'error'

  endpoint.behave = behave
  endpoint.delay = 0.1
  many = [request(f'another {i}') for i in range(100)]
  got = make(patience=1.5, retries=0, concurrency=4)(many)
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


@pytest.mark.parametrize('status', [200, 401, 429, 500])
def test_the_key_is_taken_out_of_what_an_endpoint_says(endpoint, make, status):
  key = 'tok-Zq81mXw4RvKd'
  said = f'no {key}, Bearer {key[:9]}, {key[:8]}...{key[-4:]} and {key[4:]}'
  endpoint.behave = lambda number, body: (
    judge_server.completion(said)
    if status == 200
    else judge_server.refusal(status, {'error': {'message': said}})
  )
  judge = make(key=key, retries=0)
  told = ''
  try:
    assert judge([REQUESTS[0]]) == [None]
  except types.JudgeRefused as error:
    told = str(error)
  told += judge.problem()
  assert 'no [key], [key]' in told
  for part in ('tok-', 'Zq81', '1mXw', '4Rv', 'vKd'):
    assert part not in told


def test_a_key_that_is_no_header(make):
  for key in ('sk-\u00e9t\u00e9', 'sk-a\nb'):
    with pytest.raises(ValueError, match=f'{llm.KEY_VARIABLE} holds'):
      make(key=key)


def test_white_space_around_a_key_is_none_of_it(endpoint, make):
  make(key=' secret\n')([REQUESTS[0]])
  assert endpoint.headers[0]['authorization'] == 'Bearer secret'


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


def test_what_was_said_is_there_after_the_score_and_asks_nobody(endpoint, make):
  judge = patient.Judging(make(samples=2))
  asked = [REQUESTS[0], request('')]
  judge(asked)
  # Two replies with the server's reason; nobody was asked about no thought.
  assert judge.reasons(asked) == ['a rule\na rule', None]
  assert len(endpoint.bodies) == 2
  judge.close()


def test_a_judge_that_is_killed_is_seen_and_leaves_no_thread(make):
  threads = set(threading.enumerate())
  said = io.StringIO()
  with judge_server.serving() as endpoint:
    # Five are judged; then whatever is asked is cut off.
    endpoint.behave = lambda number, body: (
      'good' if sum(endpoint.seen.values()) <= 5 else 'reset'
    )
    judge = make(url=endpoint.url, patience=0.3, concurrency=1)
    asked = patient.Judging(
      judge,
      min_judged=0.9,
      working=functools.partial(progress.working, stream=said, interval=0.02),
    )
    with pytest.raises(types.JudgeUnavailable):
      asked(REQUESTS)
  scored, failed = judge.counts()
  assert scored == 5 and 0 < failed <= len(endpoint.bodies) - 5
  *_, last = said.getvalue().splitlines()
  found = re.fullmatch(
    r'Judging: 5 of 20 answers have a score, (\d+) calls failed, \d+ s', last
  )
  assert found and 0 < int(found[1]) <= failed, last
  asked.close()
  left = {x.name for x in threading.enumerate() if x not in threads}
  assert not left & {'progress', 'judge'}


def test_counts_are_those_of_a_batch_also_where_it_was_begun(endpoint, make):
  said = []

  @contextlib.contextmanager
  def working(say):
    yield
    said.append(say())

  asked = patient.Judging(make(), working=working)
  endpoint.behave = lambda number, body: 'prose' if number == 0 else 'good'
  asked.begin(REQUESTS[:2])
  asked(REQUESTS[:2])
  asked.begin(REQUESTS[2:5])
  asked(REQUESTS[2:5])
  asked(REQUESTS[:5])  # All are stored.
  assert said == [
    'Judging: 2 of 2 answers have a score, 2 calls failed',
    'Judging: 3 of 3 answers have a score, 3 calls failed',
    'Judging: 5 of 5 answers have a score, 0 calls failed',
  ]
