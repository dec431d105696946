"""A bundled task: pick tools and copy typed arguments out of a request.

Every prompt offers four to six tools of twelve and asks for one call, for two,
or for something that none of the offered tools serves. All is drawn from seeds:
nothing is downloaded and there is no end to the training prompts. Layout of
prompts and answers as in RLLA (github.com/qiancheng0/ToolRL).
"""

import dataclasses
import itertools
import json
import random
from collections.abc import Mapping, Sequence

from awpo_jax import types
from awpo_jax.rollout.datasets import drawn
from awpo_jax.rollout.datasets.quickstart import flaws
from awpo_jax.rollout.environments import quickstart_tools as tables
from awpo_jax.rollout.environments import quickstart_values
from awpo_jax.rollout.text import prompts, tool_calls

KINDS: Mapping[str, float] = {'single': 0.55, 'parallel': 0.25, 'none': 0.2}
"""Kind of task -> its share: one call, two calls, no tool for it."""
DEMONSTRATED_KINDS = {'single': 0.45, 'parallel': 0.35, 'none': 0.2}
"""The same for demonstrations: two calls are harder to learn than one."""
HARD_KINDS = {'single': 0.3, 'parallel': 0.5, 'none': 0.2}
"""The same where algorithms are compared; see `load_hard`."""

_EVAL_TASKS = 256
_SAME_TOOL_SHARE = 0.15  # of the parallel tasks
_UNSERVED_SHARE = 0.3  # of the `none` tasks; the others miss their tool
_OFFER_WEIGHTS = (6, 3, 1)  # of 4, 5 and 6 offered tools
_LAZY_SHARE = 0.1  # of the demonstrations

# At most 150 tokens besides the offered tools, which each prompt lists.
_SYSTEM = """\
**Available Tools**
{tools}

**Output Format**
<think> reasoning </think>
<tool_call> one JSON a line </tool_call> or <response> reply </response>"""

JOINER = 'Also'
"""What the second sentence of a request begins with."""
# A thought repeats each sentence before it says what that needs.
_OFFERED = '{} This needs {}: {}.'
_NOT_OFFERED = '{} This needs {}, but no tool offers it.'
_LAZY_THOUGHTS = ('I will use a tool.', 'Okay.', 'This is easy.')
_LAZY_REFUSALS = ('I will reply.', 'Okay.', 'This is easy.')
_REPLIES = ('Sorry, no tool can do that.', 'No offered tool fits this.')


@dataclasses.dataclass(frozen=True)
class LabeledDemonstration(types.Demonstration):
  """A demonstration that knows its flaw.

  Attributes:
    error: one of `flaws.KINDS`, or '' where the answer is right.
  """

  error: str


@dataclasses.dataclass(frozen=True)
class _Draw:
  """A task before it is written down, as errors need it."""

  task: types.Task
  offered: tuple[tables.Request, ...]
  sentences: tuple[str, ...]
  calls: tuple[tool_calls.ToolCall, ...]
  wanted: tuple[tool_calls.ToolCall, ...]


@dataclasses.dataclass(frozen=True)
class Tasks(drawn.DrawnTasks):
  """Tasks of one turn.

  Attributes:
    held_out_values: whether arguments come from the held-out values.
    held_out_phrasings: whether requests come in the held-out phrasings.
    kinds: kind of task -> its share; the shares sum to one.
  """

  held_out_values: bool = False
  held_out_phrasings: bool = False
  kinds: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: dict(KINDS)
  )

  def draw(self, index: int) -> types.Task:
    return _draw(self, index).task


def load(*, seed: int, data: str | None = None) -> types.Dataset:
  """The quickstart's data set.

  Args:
    seed: of everything drawn.
    data: refused; the task needs no files.

  Returns:
    1,000 demonstrations, practically endless training prompts, and the held-out
    sets `values` and `phrasings` of 256 tasks each.

  Raises:
    ValueError: if `data` is given.
  """
  if data is not None:
    raise ValueError(
      f'--data={data}: the quickstart generates its tasks and reads no files; '
      'drop --data or choose another --dataset'
    )
  values = Tasks('values', seed, _EVAL_TASKS, held_out_values=True)
  phrasings = Tasks('phrasings', seed, _EVAL_TASKS, held_out_phrasings=True)
  return types.Dataset(
    demonstrations=demonstrations(seed),
    train=Tasks('train', seed),
    evals={'values': values[:], 'phrasings': phrasings[:]},
  )


def load_hard(
  *, seed: int, data: str | None = None, spec: str | None = None
) -> types.Dataset:
  """The quickstart with two calls in half of its tasks, or in all of them.

  A warm start solves fewer of them and reinforcement learning does not come
  near all of them, so algorithms that differ have room to. Demonstrations are
  those of `load`; one held-out set, `values`, of 512 tasks.

  Args:
    seed: of everything drawn.
    data: refused; the task needs no files.
    spec: `two` for two calls in every task; None for half of them.

  Raises:
    ValueError: as in `load`, or for another spec.
  """
  if spec not in (None, 'two'):
    raise ValueError(
      f'--dataset=quickstart_hard:{spec}: expected quickstart_hard, or '
      'quickstart_hard:two for two calls in every task'
    )
  kinds = {'parallel': 1.0} if spec else HARD_KINDS
  easy = load(seed=seed, data=data)
  values = Tasks(
    'values', seed, 2 * _EVAL_TASKS, held_out_values=True, kinds=kinds
  )
  return types.Dataset(
    demonstrations=easy.demonstrations,
    train=Tasks('train', seed, kinds=kinds),
    evals={'values': values[:]},
  )


def demonstrations(
  seed: int,
  count: int = 1000,
  error_rate: float = 0.4,
  kinds: Mapping[str, float] = DEMONSTRATED_KINDS,
) -> list[LabeledDemonstration]:
  """A fixed set of answers, some of them wrong in exactly one way.

  The thought is written for the calls that are made, right or wrong; a tenth of
  the thoughts is lazy and says nothing of the request.

  Args:
    seed: of the set.
    count: number of demonstrations.
    error_rate: in [0, 1]; the share of wrong answers, to the nearest one.
    kinds: kind of task -> its share.

  Returns:
    The demonstrations, wrong as `flaws.spread` says.
  """
  tasks = Tasks('demonstration', seed, count, kinds=kinds)
  draws = [_draw(tasks, i) for i in range(count)]
  errors = flaws.spread(
    random.Random(f'errors/{seed}'),
    [draw.calls for draw in draws],
    round(error_rate * count),
  )
  return [
    _demonstrate(random.Random(f'answer/{seed}/{i}'), draw, error)
    for i, (draw, error) in enumerate(zip(draws, errors, strict=True))
  ]


def _demonstrate(
  rng: random.Random, draw: _Draw, error: str
) -> LabeledDemonstration:
  lazy = rng.random() < _LAZY_SHARE
  calls = flaws.spoil_calls(rng, draw.calls, draw.wanted, draw.offered, error)
  response = _answer(rng, draw.sentences, calls, draw.wanted[0].name, lazy)
  if error == 'format':
    response = flaws.spoil_format(rng, response)
  return LabeledDemonstration(draw.task, response, error)


def _draw(tasks: Tasks, index: int) -> _Draw:
  """Draws a task: its requests, the tools on offer, and the answer."""
  rng = random.Random(f'{tasks.name}/{tasks.seed}/{index}')
  kind = rng.choices(list(tasks.kinds), list(tasks.kinds.values()))[0]
  requests = _draw_requests(rng, kind)
  offered = draw_offer(rng, requests, kind)
  calls: list[tool_calls.ToolCall] = []
  while len(calls) < len(requests):
    call = tables.draw_call(
      rng, requests[len(calls)], held_out=tasks.held_out_values
    )
    if call not in calls:
      calls.append(call)
  sentences: list[str] = []
  for request, call in zip(requests, calls, strict=True):
    sentences.append(
      _phrase(rng, request, call, tasks.held_out_phrasings, sentences)
    )
  joined = _join(sentences)
  made = () if kind == 'none' else tuple(calls)
  tools = tuple(request.tool() for request in offered)
  task = types.Task(
    task_id=f'quickstart_{tasks.name}_{tasks.seed}_{index}',
    system=system_text(tools),
    user=prompts.rlla_user(' '.join(joined)),
    tools=tools,
    ground_truth=_answer(rng, joined, made, calls[0].name),
    kind=kind,
  )
  return _Draw(task, offered, joined, made, tuple(calls))


def _draw_requests(rng: random.Random, kind: str) -> list[tables.Request]:
  if kind == 'none' and rng.random() < _UNSERVED_SHARE:
    return [rng.choice(tables.UNSERVED)]
  if kind != 'parallel':
    return [rng.choice(tables.TOOLS)]
  if rng.random() < _SAME_TOOL_SHARE:
    return [rng.choice(tables.TOOLS)] * 2
  return rng.sample(tables.TOOLS, 2)


def draw_offer(
  rng: random.Random, requests: Sequence[tables.Request], kind: str
) -> tuple[tables.Request, ...]:
  """Four to six tools: all that are asked for, or, for `none`, none of them."""
  names = {request.name for request in requests}
  others = [tool for tool in tables.TOOLS if tool.name not in names]
  needed = (
    [] if kind == 'none' else [tables.BY_NAME[name] for name in sorted(names)]
  )
  count = rng.choices((4, 5, 6), _OFFER_WEIGHTS)[0]
  offered = needed + rng.sample(others, count - len(needed))
  rng.shuffle(offered)
  return tuple(offered)


def _phrase(
  rng: random.Random,
  request: tables.Request,
  call: tool_calls.ToolCall,
  held_out: bool,
  said: Sequence[str],
) -> str:
  """The call as a sentence that repeats as little as may be of those `said`."""
  cut = tables.TRAIN_PHRASINGS
  phrasings = request.phrasings[cut:] if held_out else request.phrasings[:cut]
  spoken = {name: speak(value) for name, value in call.parameters.items()}
  sentences = [phrasing.format(**spoken) for phrasing in phrasings]
  rng.shuffle(sentences)
  old = set().union(*map(_word_pairs, said))
  return min(sentences, key=lambda sentence: len(_word_pairs(sentence) & old))


def _word_pairs(sentence: str) -> set[tuple[str, str]]:
  return set(itertools.pairwise(sentence.lower().split()))


def _join(sentences: Sequence[str]) -> tuple[str, ...]:
  first, *rest = sentences
  joined = (f'{JOINER} {sentence}' for sentence in rest)
  return first[0].upper() + first[1:], *joined


def speak(value: quickstart_values.Value) -> str:
  """A value as requests say it."""
  if not isinstance(value, list):
    return str(value)
  *first, last = map(str, value)
  return f'{", ".join(first)} and {last}' if first else last


def system_text(tools: Sequence[types.Tool]) -> str:
  """Tools and layout, shorter than RLLA's own text."""
  return _SYSTEM.format(tools=prompts.render_tools(tools))


def _answer(
  rng: random.Random,
  sentences: Sequence[str],
  calls: Sequence[tool_calls.ToolCall],
  wanted: str,
  lazy: bool = False,
) -> str:
  """An answer that makes the calls, or says that no tool fits."""
  reply = None if calls else rng.choice(_REPLIES)
  thought = _thought(rng, sentences, calls, wanted, lazy)
  return tool_calls.render_answer(thought, calls, reply)


def _thought(
  rng: random.Random,
  sentences: Sequence[str],
  calls: Sequence[tool_calls.ToolCall],
  wanted: str,
  lazy: bool,
) -> str:
  """Sentence by sentence, what it needs; too little of it where `lazy`."""
  if lazy:
    return rng.choice(_LAZY_THOUGHTS if calls else _LAZY_REFUSALS)
  if not calls:
    return _NOT_OFFERED.format(' '.join(sentences), wanted)
  # A dropped call leaves its sentence out.
  return ' '.join(
    _OFFERED.format(sentence, call.name, ground(call))
    for sentence, call in zip(sentences, calls, strict=False)
  )


def ground(call: tool_calls.ToolCall) -> str:
  """The values of a call as thoughts name them."""
  pairs = call.parameters.items()
  text = ', '.join(f'{name} is {json.dumps(value)}' for name, value in pairs)
  return text or 'no values'
