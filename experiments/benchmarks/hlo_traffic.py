"""Kernels of a compiled program, and the bytes that each reads and writes.

XLA's text of an optimized, scheduled program names every kernel with its
operands. An array is counted whole where a kernel reads all of it, and by the
columns that are taken where it slices or gathers; what is updated in place is
counted by the update. Caches of the device are not.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

# No kernel: a name for something that is there.
_FREE = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'after-all',
  'optimization-barrier',
  'partition-id',
  'replica-id',
  'copy-done',
  'async-done',
}
_PICK = {'slice', 'dynamic-slice', 'gather'}
_IN_PLACE = {'dynamic-update-slice', 'scatter'}
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_HEAD = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
  r'(calls|to_apply|body|branch_computations|called_computations)='
  r'(?:\{([^}]*)\}|%?([\w.\-]+))'
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: within the program.
    shape: e.g. `bf16[16,1024]{1,0}`, or a tuple's.
    opcode: e.g. `fusion`.
    operands: names.
    calls: attribute -> names of the computations that it calls.
    line: all of it.
    root: what its computation returns.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  calls: Mapping[str, tuple[str, ...]]
  line: str
  root: bool


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What is launched once: its instruction, bytes read and bytes written."""

  instruction: Instruction
  read: int
  written: int


def size(shape: str) -> int:
  """Bytes of an array, or of all arrays of a tuple."""
  total = 0
  for dtype, dimensions in _ARRAY.findall(shape):
    bits = _BITS.get(dtype)
    if bits is None:
      digits = re.search(r'\d+', dtype)
      assert digits is not None, shape
      bits = int(digits[0])
    total += _product(dimensions) * bits // 8
  return total


def _product(dimensions: str) -> int:
  return math.prod(int(x) for x in dimensions.split(',') if x)


def _elements(shape: str) -> int:
  return sum(_product(dimensions) for _, dimensions in _ARRAY.findall(shape))


def parse(text: str) -> dict[str, Computation]:
  """The computations of a program by name, its instructions in order."""
  found: dict[str, Computation] = {}
  current: Computation | None = None
  for line in text.split('\n'):
    if head := _HEAD.match(line):
      current = found.setdefault(head[1], {})
    elif line.startswith('}'):
      current = None
    elif current is not None and (match := _LINE.match(line)):
      made = _instruction(match[2], match[3], root=bool(match[1]))
      current[made.name] = made
  return found


def _instruction(name: str, rest: str, *, root: bool) -> Instruction:
  shape, rest = _until_balanced(rest)
  opcode, _, rest = rest.strip().partition('(')
  operands, attributes = _until_balanced('(' + rest)
  calls = {
    key: tuple(_NAME.findall(many) or [one])
    for key, many, one in _CALLED.findall(attributes)
  }
  names = tuple(_NAME.findall(operands))
  line = f'{shape} {opcode}{operands}{attributes}'
  return Instruction(name, shape, opcode, names, calls, line, root)


def _until_balanced(text: str) -> tuple[str, str]:
  """A first word, or all within a first pair of brackets, and the rest."""
  if not text.startswith('('):
    word, _, rest = text.partition(' ')
    return word, rest
  depth = 0
  for index, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[: index + 1], text[index + 1 :]
  raise ValueError(f'No end of the brackets: {text[:80]}')


def kernels(
  program: dict[str, Computation], computation: str, *, loops: bool = True
) -> Iterator[Kernel]:
  """What a computation launches; of branches the one that moves most.

  Args:
    program: of `parse`.
    computation: its name.
    loops: False leaves out what lies in a loop; else its body counts once.
  """
  inside = program[computation]
  for each in inside.values():
    if each.opcode in _FREE:
      continue
    if each.opcode == 'while':
      if loops:
        yield from kernels(program, each.calls['body'][0])
    elif each.opcode == 'conditional':
      options = [
        list(kernels(program, name, loops=loops)) for name in _branches(each)
      ]
      yield from max(options, key=lambda made: sum(map(moved, made)))
    elif each.opcode == 'call':
      yield from kernels(program, each.calls['to_apply'][0], loops=loops)
    else:
      yield _kernel(program, inside, each)


def _branches(conditional: Instruction) -> tuple[str, ...]:
  if named := conditional.calls.get('branch_computations'):
    return named
  return tuple(
    re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', conditional.line)
  )


def moved(kernel: Kernel) -> int:
  """Bytes read and written."""
  return kernel.read + kernel.written


def _kernel(
  program: dict[str, Computation], inside: Computation, each: Instruction
) -> Kernel:
  sizes = [size(inside[name].shape) for name in each.operands]
  called = each.calls.get('calls', ())
  if each.opcode == 'fusion' and called:
    body = program[called[0]]
    return Kernel(each, _fusion_reads(program, body), _writes(body))
  return Kernel(
    each, _reads_of(each, sizes), _written(inside, each, workspace=False)
  )


def _reads_of(each: Instruction, sizes: list[int]) -> int:
  """Bytes of its operands that an instruction of known operands reads."""
  if each.opcode in _PICK:
    return size(each.shape) + sum(sizes[1:])
  if each.opcode in _IN_PLACE:
    return sum(sizes[1:])
  return sum(sizes)


def _fusion_reads(program: dict[str, Computation], body: Computation) -> int:
  used = _used(program, body)
  return sum(used[x.name] for x in body.values() if x.opcode == 'parameter')


def _used(program: dict[str, Computation], body: Computation) -> dict[str, int]:
  """Bytes of each value of a fusion that its instructions read."""
  used = dict.fromkeys(body, 0)
  # Users come after what they use.
  for user in reversed(body.values()):
    if user.root:
      used[user.name] = size(user.shape)
    for name in set(user.operands):
      whole = size(body[name].shape)
      share = _share(program, user, name, body[name], used[user.name])
      used[name] = min(used[name] + share, whole)
  return used


def _share(
  program: dict[str, Computation],
  user: Instruction,
  name: str,
  value: Instruction,
  used: int,
) -> int:
  """Bytes of a value that one instruction reads, `used` of whose are read."""
  if user.opcode in _PICK and user.operands[0] == name:
    return size(user.shape)
  if user.opcode in _IN_PLACE and user.operands[0] == name:
    return 0
  if user.opcode == 'fusion':
    inner = program[user.calls['calls'][0]]
    within = _used(program, inner)
    return sum(
      within[made]
      for at, made in _parameters(inner)
      if user.operands[at] == name
    )
  if _elements(user.shape) == _elements(value.shape):
    # Element by element: what is taken of the result is taken of this.
    return used * size(value.shape) // max(size(user.shape), 1)
  return size(value.shape)


def _parameters(body: Computation) -> Iterator[tuple[int, str]]:
  for each in body.values():
    if each.opcode == 'parameter':
      number = re.search(r'parameter\((\d+)\)', each.line)
      assert number is not None
      yield int(number[1]), each.name


def _writes(body: Computation) -> int:
  root = next(each for each in body.values() if each.root)
  return _written(body, root)


def _written(
  body: Computation, each: Instruction, *, workspace: bool = True
) -> int:
  if each.opcode == 'tuple':
    return sum(_written(body, body[name]) for name in each.operands)
  if each.opcode == 'bitcast' and each.operands[0] in body:
    return _written(body, body[each.operands[0]])
  if each.opcode == 'dynamic-update-slice':
    return size(body[each.operands[1]].shape)
  if each.opcode == 'scatter':
    return size(body[each.operands[-1]].shape)
  if not workspace and each.opcode == 'custom-call':
    # What a library is lent is no result.
    return size(re.sub(r's8\[[0-9,]*\]', '', each.shape))
  return size(each.shape)


def loops(program: dict[str, Computation]) -> list[str]:
  """Names of the bodies of all loops that have no loop within."""
  bodies = {
    each.calls['body'][0]
    for inside in program.values()
    for each in inside.values()
    if each.opcode == 'while'
  }
  return [body for body in sorted(bodies) if not _has_loop(program, body)]


def _has_loop(program: dict[str, Computation], computation: str) -> bool:
  for each in program[computation].values():
    if each.opcode == 'while':
      return True
    called = [
      *each.calls.get('to_apply', ()),
      *(_branches(each) if each.opcode == 'conditional' else ()),
    ]
    if any(_has_loop(program, name) for name in called):
      return True
  return False
