"""A chat endpoint on loopback that behaves as badly as it is told to.

It judges by a fixed rule (`verdict`), so that what a run should have got is
known whatever happened on the way.
"""

import collections
import contextlib
import http.server
import json
import multiprocessing
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_THOUGHT = re.compile(
  r'^\[([0-9a-f]{16}) thought\]\n(.*?)\n\[\1 end\]$', re.DOTALL | re.MULTILINE
)


def verdict(thought: str) -> float:
  """Its score of a thought, from 0 to 10."""
  return sum(map(ord, thought)) % 11


class Endpoint:
  """What the server was asked, and how it is to answer.

  Attributes:
    url: its base.
    bodies: of all calls, in order.
    headers: likewise.
    behave: (how manyth call with this body, from 0; body) -> name of an
      answer of `ANSWERS`, or an answer: of `completion`, say.
    delay: seconds before each answer.
    most: calls that were under way at once, at most.
  """

  def __init__(self) -> None:
    self.url = ''
    self.bodies: list[Any] = []
    self.headers: list[Any] = []
    self.behave: Callable[[int, Any], Any] = lambda number, body: 'good'
    self.delay = 0.0
    self.most = self.now = 0
    self.seen: collections.Counter[str] = collections.Counter()
    self.lock = threading.Lock()


def thought(body: Any) -> str:
  """The thought a call asks about, found by its fence."""
  found = _THOUGHT.findall(body['messages'][-1]['content'])
  assert len(found) == 1, found
  return found[0][1]


def _completion(text: Any, finish: str = 'stop') -> bytes:
  return json.dumps(
    {
      'id': 'x',
      'object': 'chat.completion',
      'created': 0,
      'model': 'm',
      'choices': [
        {
          'index': 0,
          'finish_reason': finish,
          'message': {'role': 'assistant', 'content': text},
        }
      ],
      'usage': {
        'prompt_tokens': 90,
        'completion_tokens': 10,
        'total_tokens': 100,
      },
    }
  ).encode()


def _good(body) -> bytes:
  score = verdict(thought(body))
  return _completion(json.dumps({'reason': 'a rule', 'score': score}))


def completion(text: Any, finish: str = 'stop') -> Any:
  """An answer whose message has this content."""
  return 200, _JSON, _completion(text, finish)


def refusal(status: int, said: Any) -> Any:
  """An answer of an error: JSON, or bytes as they are."""
  data = said if isinstance(said, bytes) else json.dumps(said).encode()
  return status, _JSON, data


_JSON = {'Content-Type': 'application/json'}
# Name -> body -> status, headers, body.
ANSWERS: dict[str, Callable[[Any], tuple[int, dict[str, str], bytes]]] = {
  'good': lambda body: (200, _JSON, _good(body)),
  'error': lambda body: (500, {}, b'oops'),
  'overloaded': lambda body: (503, {'Retry-After': 'soon'}, b''),
  'limited': lambda body: (
    429,
    {**_JSON, 'Retry-After': '0.3'},
    b'{"error": {"message": "slow down"}}',
  ),
  'prose': lambda body: (200, _JSON, _completion('I give it a 9 out of 10.')),
  'empty': lambda body: (200, _JSON, _completion(None)),
  'html': lambda body: (200, {'Content-Type': 'text/html'}, b'<html></html>'),
  'no_json': lambda body: (200, _JSON, b'{"choices": [{"mess'),
  'other_json': lambda body: (200, _JSON, b'[1, {"choices": 7}]'),
  'deep': lambda body: (200, _JSON, b'[' * 100_000),
  'null': lambda body: (200, _JSON, b'{"choices": null, "usage": {}}'),
  'bytes': lambda body: (200, _JSON, b'\xff\xfe\x00'),
  'out_of_range': lambda body: (
    200,
    _JSON,
    _completion('{"reason": "great", "score": 11}'),
  ),
  'no_key': lambda body: (401, _JSON, b'{"error": {"message": "bad key"}}'),
  'no_model': lambda body: (404, _JSON, b'{"error": {"message": "no model"}}'),
  'too_long': lambda body: (400, _JSON, b'{"error": {"message": "too long"}}'),
}
# What is no answer at all.
BROKEN = ('closed', 'reset', 'torn', 'hangs')
REPEATED = (*BROKEN, *list(ANSWERS)[1:-3])


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  endpoint: Endpoint

  def log_message(self, *arguments: Any) -> None:
    pass

  def do_POST(self) -> None:  # The name that http.server calls.
    endpoint = self.endpoint
    raw = self.rfile.read(int(self.headers['Content-Length']))
    body = json.loads(raw)
    with endpoint.lock:
      number = endpoint.seen[raw]
      endpoint.seen[raw] += 1
      endpoint.bodies.append(body)
      endpoint.headers.append(
        {name.lower(): value for name, value in self.headers.items()}
      )
      endpoint.now += 1
      endpoint.most = max(endpoint.most, endpoint.now)
    try:
      assert self.path == '/v1/chat/completions', self.path
      time.sleep(endpoint.delay)
      self._answer(endpoint.behave(number, body), body)
    except OSError:
      self.close_connection = True  # The client has hung up.
    finally:
      with endpoint.lock:
        endpoint.now -= 1

  def _answer(self, how: Any, body: Any) -> None:
    if isinstance(how, str) and how in BROKEN:
      self._break(how)
      return
    answer = ANSWERS[how](body) if isinstance(how, str) else how
    status, headers, data = answer
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def _break(self, how: str) -> None:
    self.close_connection = True
    if how == 'torn':
      self.send_response(200)
      self.send_header('Content-Length', '1000')
      self.end_headers()
      self.wfile.write(b'{"choices": [')
    elif how == 'hangs':
      time.sleep(1.5)
    elif how == 'reset':
      linger = struct.pack('ii', 1, 0)  # Close at once, dropping what is left.
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
      self.connection.shutdown(socket.SHUT_RD)


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 256

  def handle_error(self, *arguments: Any) -> None:
    pass


def _serve(delay: float, pipe: Any) -> None:
  with serving() as endpoint:
    endpoint.delay = delay
    pipe.send(endpoint.url)
    pipe.recv()
    pipe.send((len(endpoint.bodies), endpoint.most))


@contextlib.contextmanager
def serving_elsewhere(delay: float) -> Iterator[tuple[str, Callable[[], Any]]]:
  """A server in a process of its own, as a true one has it.

  Yields:
    Its base, and what ends it and tells: calls, and the most at once.
  """
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(target=_serve, args=(delay, theirs), daemon=True)
  process.start()

  def end() -> Any:
    ours.send('end')
    return ours.recv()

  try:
    yield ours.recv(), end
  finally:
    process.kill()
    process.join()


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Endpoint]:
  """A server on a port of its own, or on the one given."""
  endpoint = Endpoint()
  handler = type('Handler', (_Handler,), {'endpoint': endpoint})
  server = _Server(('127.0.0.1', port), handler)
  endpoint.url = f'http://127.0.0.1:{server.server_address[1]}/v1'
  threading.Thread(
    target=server.serve_forever, args=(0.02,), daemon=True
  ).start()
  try:
    yield endpoint
  finally:
    server.shutdown()
    server.server_close()
