"""Flags of data and rewards: prompts, tools that run, and the judge."""

import dataclasses

from awpo_jax.config.flags import flag
from awpo_jax.rollout.environments import episode_rewards
from awpo_jax.rollout.text import prompts, templates


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Prompts, tokenizer and rewards."""

  dataset: str = flag(
    'quickstart',
    'Data sets, separated by commas: quickstart, quickstart_hard, '
    'quickstart_turns, links, reasoning_gym:NAME,..., rlla, seal_tools, '
    'seal_tools_compact, bfcl, or a function of your own as '
    'package.module:function. quickstart_hard:two asks for two calls in every '
    'task. links:K asks for K links, and links:K:RATE also '
    'says how many of them demonstrations take wrongly. reasoning_gym:NAME '
    'names generators of the package reasoning-gym, separated by commas.',
  )
  data: str = flag(
    '',
    'Folder or file of each data set, separated by commas in the order of '
    '--dataset; empty for one that reads no files.',
  )
  bad_rows: str = flag(
    'error',
    'What happens to a row that cannot be read: error refuses it, skip leaves '
    'it out and reports it.',
    ('error', 'skip'),
  )
  tokenizer: str = flag(
    '',
    'Path or name of a Hugging Face tokenizer. Empty takes that of --model if '
    'its weights are loaded, and otherwise trains one on the data.',
  )
  vocab_size: int = flag(
    1024,
    'Number of tokens of a tokenizer that is trained on the data.',
    minimum=1,
  )
  prompt_buckets: tuple[int, ...] = flag(
    (512,),
    'Prompt lengths in tokens, in rising order, for which programs are '
    'compiled. A batch takes the smallest that fits; more lengths waste less '
    'padding but take longer to compile.',
    minimum=2,
  )
  response_buckets: tuple[int, ...] = flag(
    (128,),
    'Answer lengths in tokens, in rising order, for which programs are '
    'compiled. The last is the longest possible answer.',
    minimum=2,
  )
  overlong: str = flag(
    'error',
    'What happens to a prompt longer than the last of --prompt_buckets: error '
    'refuses it, drop leaves it out and reports it, truncate_left cuts off its '
    'beginning. drop also leaves out training prompts whose reference answer '
    'is longer than the last of --response_buckets.',
    prompts.OVERLONG,
  )
  max_prompt_tokens: int = flag(
    0,
    'Tokens of the longest prompt that is kept, in training and held-out data '
    'alike. 0 is no limit.',
    minimum=0,
  )
  max_answer_tokens: int = flag(
    0,
    'Tokens of the longest reference answer, its stop token included, whose '
    'row is kept, in training and held-out data alike. With --environment only '
    'demonstrations are measured. 0 is no limit.',
    minimum=0,
  )
  prompt_style: str = flag(
    'rlla',
    "How the tools are given: in RLLA's system text (rlla), in a system text "
    'of few words that takes its place (short), or to the chat template as '
    'JSON schemas (template).',
    ('rlla', 'short', 'template'),
  )
  enable_thinking: str = flag(
    'default',
    'Value of enable_thinking for a chat template that reads it. default '
    'leaves the choice to the template.',
    ('default', 'true', 'false'),
  )
  template_date: str = flag(
    templates.DATE,
    'Date, as YYYY-MM-DD, that is given to a chat template which writes the '
    'current day into the prompt. It is fixed so that prompts are the same on '
    'every day.',
  )
  reward: str = flag(
    'toolrl',
    'Outcome reward: toolrl, exact (1 where the calls are exactly those of the '
    'reference, else 0), or a function of your own as package.module:function. '
    'With --environment your own is given whole episodes.',
  )
  judge: str = flag(
    'rubric',
    'Judge of the reasoning: rubric (counts words and checks calls, needs no '
    'model, and cannot tell whether a thought is sound), llm (a model at '
    '--judge_url), process (the share of the steps of a thought that are '
    'right, of tasks that imply them), none, or a function of your own as '
    'package.module:function. noisy and vain are bad judges, to test an '
    'algorithm with; see also --judge_noise.',
  )


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
  """Episodes of several turns, whose tool calls run (`--environment`)."""

  environment: str = flag(
    'none',
    'Where tool calls run: quickstart, bfcl, or a function of your own as '
    'package.module:function, which is given sandbox.Limits. With none no call '
    'runs, and an answer is a single turn.',
  )
  max_turns: int = flag(
    8,
    'Largest number of answers in an episode. Raise it for tasks that need '
    'more calls in a row.',
    minimum=1,
  )
  observation_tokens: int = flag(
    128,
    'Largest number of tokens that an episode reads from its tools between two '
    'answers. Raise it if results are cut off that the next answer needs.',
    minimum=1,
  )
  episode_reward: str = flag(
    'outcome',
    'Reward of an episode with --reward=toolrl: its final state and reply as '
    "the environment checks them (outcome), or ToolRL's reward of each turn "
    'against its reference (turns).',
    episode_rewards.EPISODE_REWARDS,
  )
  tool_seconds: float = flag(
    5.0, 'Seconds that a tool call may take. Raise it for slow tools.', above=0
  )
  tool_megabytes: int = flag(
    512,
    'Megabytes of memory that a process may use which runs tool calls. Raise '
    'it for tools that load large libraries.',
    minimum=1,
  )
  tool_chars: int = flag(
    4096,
    'Largest number of characters of the result of a tool call; the rest is '
    'cut off.',
    minimum=1,
  )
  tool_workers: int = flag(
    2,
    'Processes that run tool calls. Raise it if sampling waits for tools.',
    minimum=1,
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
  """The language model of `--judge=llm`, and how a run waits for a judge.

  Its key is read from the environment, `AWPO_JUDGE_API_KEY`, and kept nowhere.
  What may change leaves the model, the prompt and the scale alone. How long a
  reply may be and its format are part of the key under which the cache keeps a
  score, so steps that are made again after such a change are judged again.
  `judge_omit` may change, too, since an endpoint that refuses a temperature has
  judged nothing with it.
  """

  judge_url: str = flag(
    '',
    'Base address of an OpenAI-compatible endpoint, for example '
    'http://localhost:8000/v1.',
    may_change=True,
  )
  judge_model: str = flag('', 'Name of the judge model at that endpoint.')
  judge_prompt: str = flag(
    '', "File of the judge's prompt template. Empty takes the built-in one."
  )
  judge_scale: float = flag(
    10.0,
    'Best score that the prompt asks for; scores are divided by it. Change it '
    'together with --judge_prompt.',
    above=0,
  )
  judge_samples: int = flag(
    1,
    'Replies of the judge whose mean is the score of an answer. More than one '
    'needs a --judge_temperature above 0.',
    minimum=1,
  )
  judge_temperature: float = flag(
    0.0, 'Sampling temperature of the judge; 0 is greedy.', minimum=0
  )
  judge_reply_tokens: int = flag(
    512,
    "Largest number of tokens in a judge's reply. Raise it for a judge that "
    'thinks before it scores.',
    minimum=1,
    may_change=True,
  )
  judge_token_limit_name: str = flag(
    'max_tokens',
    'Name of the parameter that carries --judge_reply_tokens. Change it for '
    'endpoints that refuse max_tokens.',
    ('max_tokens', 'max_completion_tokens'),
    may_change=True,
  )
  judge_format: str = flag(
    'none',
    'Form to which the endpoint is asked to hold each reply: JSON (json), or '
    'JSON of a reason and a score by a schema, sent as most servers take it '
    '(schema) or as llama-cpp-python does (json_with_schema). Set it for a '
    'judge whose replies often cannot be read; none sends nothing of it.',
    ('none', 'json', 'schema', 'json_with_schema'),
    may_change=True,
  )
  judge_omit: tuple[str, ...] = flag(
    (),
    'Parameters that are not sent, separated by commas, for an endpoint that '
    'refuses them: temperature, or the one of --judge_token_limit_name.',
    may_change=True,
  )
  judge_concurrency: int = flag(
    16,
    'Largest number of calls to the judge that wait for a reply at once. Raise '
    'it as far as the endpoint becomes faster.',
    minimum=1,
    may_change=True,
  )
  judge_timeout: float = flag(
    120.0,
    'Seconds after which a call to the judge is given up. Raise it for a judge '
    'that thinks for long.',
    above=0,
    may_change=True,
  )
  judge_retries: int = flag(
    4,
    'How often a call is repeated if it fails or its reply cannot be read. '
    'Raise it for an endpoint that is often busy.',
    minimum=0,
    may_change=True,
  )
  judge_backoff: float = flag(
    1.0,
    'Seconds before the first repetition of a call. The wait doubles each '
    'time, up to 30 seconds.',
    minimum=0,
    may_change=True,
  )
  judge_max_calls: int = flag(
    0,
    'Largest number of calls to the judge in a run, to bound its cost. 0 is no '
    'bound.',
    minimum=0,
    may_change=True,
  )
  judge_max_tokens: int = flag(
    0,
    'Largest number of tokens in the prompts and replies of the judge in a '
    'run, to bound its cost. 0 is no bound.',
    minimum=0,
    may_change=True,
  )
  judge_cache: str = flag(
    '~/.cache/awpo_jax/judge.sqlite',
    "SQLite file of the judge's scores, which several runs may share. Empty "
    'keeps none.',
  )
  judge_noise: float = flag(
    0.0,
    'Share of the answers whose score is a random number, whatever the judge '
    'says: to test an algorithm with. The answers of this and of the next two '
    'flags are drawn from a hash of request and answer; the shares sum to at '
    'most 1.',
    minimum=0,
    maximum=1,
  )
  judge_against: float = flag(
    0.0,
    "Share of the answers whose score is one minus the judge's.",
    minimum=0,
    maximum=1,
  )
  judge_vain: float = flag(
    0.0,
    'Share of the answers whose score is that of --judge=vain.',
    minimum=0,
    maximum=1,
  )
  min_judged: float | None = flag(
    None,
    'Share of the answers of a step that need a score before the step goes on. '
    'If not set it is 0.9 with --judge=llm, otherwise 0.',
    minimum=0,
    maximum=1,
    may_change=True,
  )
  judge_patience: float = flag(
    600.0,
    'Seconds without a new score after which the run saves and ends; it can be '
    'continued later.',
    minimum=0,
    may_change=True,
  )
