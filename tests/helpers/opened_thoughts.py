"""Chat templates that open the thought, and a data set of thoughts.

The openings are those of templates in use: QwQ and R1's distillations, Qwen3
with thinking turned off, and neighbors of them.
"""

from awpo_jax import types
from awpo_jax.rollout.text import tokenizers, tool_calls
from tests.helpers import tiny_dataset

OPEN = ('<think>\n', '<think>\n\n', '<think>', '<think> ')
CLOSED = ('<think>\n\n</think>\n\n', '<think></think>', '<think>\n</think>\n')
_HEAD = "{{- '<|im_start|>assistant\\n' }}\n{%- endif %}"

# Of R1's distillations: history loses its thoughts, results of tools are not
# followed by the head of a turn.
R1_TEMPLATE = """\
{%- set ns = namespace(is_tool=false) %}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {%- set ns.is_tool = false %}
    {{- '<|User|>' + message.content }}
  {%- elif message.role == 'assistant' %}
    {{- '<|Assistant|>' + message.content.split('</think>')[-1] }}
    {{- '<|im_end|>' }}
  {%- elif message.role == 'tool' %}
    {%- set ns.is_tool = true %}
    {{- '<|output|>' + message.content + '<|outputs_end|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not ns.is_tool %}
  {{- '<|Assistant|><think>\\n' }}
{%- endif %}
"""


def opening(text: str, *, history: bool = False):
  """Our own tokenizer, whose template goes on with `text` in its head.

  Args:
    text: what the generation prompt ends with.
    history: whether the template writes it before every earlier answer, too.
  """
  tokenizer = tokenizers.train_tokenizer(
    ['<think> a </think>\n<response> b </response> user assistant'] * 2,
    vocab_size=300,
  )
  literal = text.replace('\n', '\\n')
  template = tokenizer.chat_template
  assert _HEAD in template
  tokenizer.chat_template = template.replace(
    _HEAD, f"{{{{- '<|im_start|>assistant\\n{literal}' }}}}\n{{%- endif %}}"
  )
  if history:
    said = "message.role + '\\n' + message.content }}"
    assert said in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(
      said,
      "message.role + '\\n' }}{%- if message.role == 'assistant' %}"
      f"{{{{- '{literal}' }}}}{{%- endif %}}{{{{- message.content }}}}",
    )
  return tokenizer


def r1():
  """Our own tokenizer with R1's kind of template."""
  tokenizer = opening('')
  tokenizer.chat_template = R1_TEMPLATE
  return tokenizer


def load(*, seed, data=None) -> types.Dataset:
  """The tiny data set, its answers with a thought."""
  tiny = tiny_dataset.load(seed=seed, data=data)
  return types.Dataset(
    demonstrations=[
      types.Demonstration(shown.task, '<think> b </think>\nd')
      for shown in tiny.demonstrations
    ],
    train=tiny.train,
    evals=tiny.evals,
  )


def reward(response: str, task: types.Task) -> types.Score:
  """Tags at the start of the answer; the odd code points of the rest."""
  del task
  odd = sum(ord(letter) % 2 for letter in response) / max(len(response), 1)
  tags = response.count('<think>')
  first = float(response.startswith('<think>'))
  return types.Score(odd, 0, 1, {'tags': float(tags), 'first': first})


def judge(requests) -> list[float | None]:
  """Whether there is a thought from its beginning to its end."""
  found = [tool_calls.section(x.response, 'think') for x in requests]
  return [float(thought is not None) for thought in found]
