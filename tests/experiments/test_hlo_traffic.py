"""Kernels and bytes of a program's text, counted by hand."""

import pytest

from experiments.benchmarks import hlo_traffic

# Lines as XLA writes them for a GPU, shortened.
STATE = '(f32[8,16]{1,0}, bf16[8,16]{1,0}, s32[], pred[8]{0})'
TEXT = """HloModule jit_run, is_scheduled=true

%taken (p.0: f32[8,16], p.1: s32[]) -> bf16[1,16] {
  %p.0 = f32[8,16]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %cast = bf16[8,16]{1,0} convert(%p.0)
  ROOT %row = bf16[1,16]{1,0} dynamic-slice(%cast, %p.1, %zero)
}

%put (p.0: bf16[8,16], p.1: bf16[1,16], p.2: s32[]) -> bf16[8,16] {
  %p.0 = bf16[8,16]{1,0} parameter(0)
  %p.1 = bf16[1,16]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = bf16[8,16]{1,0} dynamic-update-slice(%p.0, %p.1, %p.2, %zero)
}

%inner (p.0: bf16[8,16]) -> f32[8] {
  %p.0 = bf16[8,16]{1,0} parameter(0)
  %head = bf16[4,16]{1,0} slice(%p.0), slice={[0:4], [0:16]}
  ROOT %sum = f32[8]{0} custom-call(%head)
}

%outer (q.0: bf16[8,16], q.1: pred[8]) -> (f32[8], pred[8]) {
  %q.1 = pred[8]{0} parameter(1)
  %q.0 = bf16[8,16]{1,0} parameter(0)
  %nested = f32[8]{0} fusion(%q.0), kind=kCustom, calls=%inner
  ROOT %both = (f32[8]{0}, pred[8]{0}) tuple(%nested, %q.1)
}

%step (state: STATE) -> STATE {
  %state = STATE parameter(0)
  %a = f32[8,16]{1,0} get-tuple-element(%state), index=0
  %b = bf16[8,16]{1,0} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=2
  %m = pred[8]{0} get-tuple-element(%state), index=3
  %x = bf16[1,16]{1,0} fusion(%a, %i), kind=kLoop, calls=%taken
  %y = bf16[8,16]{1,0} fusion(%b, %x, %i), kind=kLoop, calls=%put
  %z = (f32[8]{0}, pred[8]{0}) fusion(%y, %m), kind=kCustom, calls=%outer
  %f = f32[8]{0} get-tuple-element(%z), index=0
  %g = (bf16[8,8]{1,0}, s8[999]{0}) custom-call(%y, %f)
  ROOT %out = STATE tuple(%a, %y, %i, %m)
}

%going (state.1: STATE) -> pred[] {
  %state.1 = STATE parameter(0)
  ROOT %yes = pred[] constant(true)
}

%c0 (w: f32[8,16]) -> f32[8,16] {
  %w = f32[8,16]{1,0} parameter(0)
  ROOT %copy.1 = f32[8,16]{1,0} copy(%w)
}

%c1 (w.1: f32[8,16]) -> f32[8,16] {
  ROOT %w.1 = f32[8,16]{1,0} parameter(0)
}

%called (state.3: STATE) -> STATE {
  %state.3 = STATE parameter(0)
  ROOT %loop = STATE while(%state.3), condition=%going, body=%step
}

%again (state.2: STATE) -> STATE {
  %state.2 = STATE parameter(0)
  %n = s32[] get-tuple-element(%state.2), index=2
  %c = f32[8,16]{1,0} get-tuple-element(%state.2), index=0
  %d = f32[8,16]{1,0} conditional(%n, %c, %c), branch_computations={%c0, %c1}
  ROOT %whole = STATE call(%state.2), to_apply=%called
}

ENTRY %main (in: STATE) -> STATE {
  %in = STATE parameter(0)
  ROOT %end = STATE while(%in), condition=%going, body=%again
}
""".replace('STATE', STATE)


def counted(name):
  program = hlo_traffic.parse(TEXT)
  return {
    x.instruction.name: (x.read, x.written)
    for x in hlo_traffic.kernels(program, name)
  }


@pytest.mark.parametrize(
  ('shape', 'want'),
  [
    ('bf16[8,16]{1,0}', 256),
    ('f32[]', 4),
    ('pred[3]{0}', 3),
    ('(f32[8]{0}, pred[8]{0})', 40),
    ('f8e4m3fn[2,3]{1,0}', 6),
    ('s4[8]{0}', 4),
  ],
)
def test_size(shape, want):
  assert hlo_traffic.size(shape) == want


def test_a_step_by_hand():
  assert counted('step') == {
    # A row of 16 float32 and an index; the row in bfloat16.
    'x': (64 + 4, 32),
    # In place: what is put is read and written.
    'y': (32 + 4, 32),
    # Four of eight rows, and a mask that is handed on.
    'z': (128 + 8, 32 + 8),
    # What cuBLAS is lent is no result.
    'g': (256 + 32, 128),
  }


def test_the_innermost_loop_is_the_step():
  assert hlo_traffic.loops(hlo_traffic.parse(TEXT)) == ['step']
  # Of a conditional's branches the one that moves more counts.
  assert counted('again') == {'copy.1': (512, 512)} | counted('step')
  assert counted('main') == counted('again')
