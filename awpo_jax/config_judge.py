"""Flags of the judge of the reasoning where it is a language model."""

import dataclasses

from awpo_jax.config_objective import flag


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
  """A language model as the judge (`--judge=llm`), and waiting for any judge.

  Its key is read from the environment, `AWPO_JUDGE_API_KEY`, and kept nowhere.
  """

  judge_url: str = flag(
    '', 'Base of an OpenAI-compatible endpoint: http://localhost:8000/v1, say.'
  )
  judge_model: str = flag('', 'Name of the model there.')
  judge_prompt: str = flag(
    '', 'File of the prompt template; empty for the built-in one.'
  )
  judge_scale: float = flag(10.0, 'The best score the prompt asks for.')
  judge_samples: int = flag(1, 'Replies that a judgement is the mean of.')
  judge_temperature: float = flag(0.0, 'Of the judge; 0 is greedy.')
  judge_reply_tokens: int = flag(512, 'Tokens of a reply at most.')
  judge_token_limit_name: str = flag(
    'max_tokens',
    'Name under which the endpoint is told --judge_reply_tokens.',
    ('max_tokens', 'max_completion_tokens'),
  )
  judge_omit: tuple[str, ...] = flag(
    (),
    'Parameters that are not sent, joined by commas, for an endpoint that '
    'refuses them: temperature, or that of --judge_token_limit_name.',
  )
  judge_concurrency: int = flag(16, 'Calls under way at once.')
  judge_timeout: float = flag(120.0, 'Seconds of a call.')
  judge_retries: int = flag(
    4, 'Further calls where a reply fails or cannot be read.'
  )
  judge_backoff: float = flag(
    1.0, 'Seconds before the first of these; doubled each time, up to 30.'
  )
  judge_max_calls: int = flag(0, 'Calls that the run may make; 0: no bound.')
  judge_max_tokens: int = flag(
    0, 'Tokens that prompts and replies of the run may have; 0: no bound.'
  )
  judge_cache: str = flag(
    '~/.cache/awpo_jax/judge.sqlite',
    'SQLite file of what was judged, which runs may share; empty for none.',
  )
  min_judged: float | None = flag(
    None,
    'Share of the answers that must be judged for a step to go on; none: 0.9 '
    'with --judge=llm, 0 with another.',
  )
  judge_patience: float = flag(
    600.0, 'Seconds without a score after which the run saves and ends.'
  )


# None of the numbers of a run hangs on these: with the cache they are those of
# the model, the prompt and the scale. Another temperature gives others, but an
# endpoint that refuses it has judged nothing with it.
MAY_CHANGE = frozenset(
  {
    'judge_url',
    'judge_reply_tokens',
    'judge_token_limit_name',
    'judge_omit',
    'judge_concurrency',
    'judge_timeout',
    'judge_retries',
    'judge_backoff',
    'judge_max_calls',
    'judge_max_tokens',
    'min_judged',
    'judge_patience',
  }
)
