from collections.abc import Iterator
from typing import Any

from awpo_jax.checkpointing import policies
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import streaming
from awpo_jax.rollout.text import (
  chat_template,
  conversations,
  templates,
  tokenizers,
)


def answers(
  policy: policies.Policy,
  talk: conversations.Conversation,
  settings: streaming.Settings,
  enable_thinking: str = 'default',
  template_date: str = '',
) -> Iterator[tuple[int, str]]:
  """Answers to a conversation, as `streaming.stream` yields them.

  Args:
    policy: of `load`.
    talk: what to answer.
    settings: how to draw.
    enable_thinking: key of `chat_template.THINKING`; `default` is the policy's
      own.
    template_date: as 2024-07-26; '' is the policy's own.

  Raises:
    ValueError: at once, before anything is sampled, where the template or the
      model cannot take it.
  """
  style = policy.style
  if enable_thinking != 'default':
    style = style._replace(
      enable_thinking=chat_template.THINKING[enable_thinking]
    )
  if template_date:
    style = style._replace(date=template_date)
  talk = conversations.in_style(talk, style)
  # A prompt without tools asks nothing of the template.
  chat_template.check_style(
    policy.tokenizer,
    style._replace(prompt_style='template' if talk.tools else 'rlla'),
  )
  options: dict[str, Any] = {
    'tools': talk.tools,
    'enable_thinking': style.enable_thinking,
    'date': style.date,
  }
  prompt = chat_template.encode(policy.tokenizer, talk.messages, **options)
  opened = templates.opened(policy.tokenizer, talk.messages, **options)
  streaming.check_settings(settings, len(prompt), policy.config.max_positions)
  stop_ids = policy.stop_ids
  grown = streaming.snapshots(
    policy.params,
    prompt,
    settings,
    decoder=decoder_lib.Decoder(policy.config),
    stop_ids=stop_ids,
    pad_id=tokenizers.pad_token_id(policy.tokenizer, stop_ids),
  )
  return streaming.stream(policy.tokenizer, grown, stop_ids, opened)
