"""What is wrong with a run, in words."""

import dataclasses
import textwrap

from awpo_jax.analysis import checks, records

PAGE = 'docs/metrics.md'
_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Finding:
  """A check with the figure of a run.

  Attributes:
    check: which one.
    value: the figure.
  """

  check: checks.Check
  value: float

  @property
  def link(self) -> str:
    """The section of the docs."""
    return f'{PAGE}#{self.check.title.lower().replace(" ", "-")}'

  def to_json(self) -> dict[str, str]:
    """What is wrong, in words."""
    return {
      'title': self.check.title,
      'what': f'{self.check.figure}: {self.value:.3g}, which is '
      f'{self.check.side} {self.check.limit:g}.',
      'why': self.check.why,
      'remedy': self.check.remedy,
      'link': self.link,
    }


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """What was looked at.

  Attributes:
    findings: what is wrong, in the order in which to look.
    sound: what was looked for and not found.
    unknown: checks for which the run has no figures.
  """

  findings: tuple[Finding, ...]
  sound: tuple[Finding, ...]
  unknown: tuple[checks.Check, ...]

  def text(self) -> str:
    """All of it for a terminal."""
    parts = [self.heading()]
    for number, finding in enumerate(self.findings, start=1):
      words = finding.to_json()
      lines = [words['what'], words['why'], f'What to do: {words["remedy"]}']
      body = [_wrapped(line, '   ') for line in lines]
      title = f'{number}. {words["title"]}'
      parts.append('\n'.join([title, *body, f'   {words["link"]}']))
    if self.sound:
      lines = [
        _wrapped(
          f'- {x.check.title}? {x.check.figure}: {x.value:.3g}, not '
          f'{x.check.side} {x.check.limit:g}.',
          '  ',
        )
        for x in self.sound
      ]
      parts.append('\n'.join(['Looked for and not found:', *lines]))
    if self.unknown:
      lines = [f'  - {x.title}? {x.metric}' for x in self.unknown]
      head = 'Not looked for, as too few steps of the run have the metric:'
      parts.append('\n'.join([head, *lines]))
    return '\n\n'.join(parts)

  def heading(self) -> str:
    """How much was found."""
    count, looked = len(self.findings), len(self.sound) + len(self.findings)
    found = f'{count} of {looked} checks found something'
    if not count:
      return f'Nothing found by {looked} checks.'
    return f'{found}; look at the first one first.'


def _wrapped(text: str, indent: str) -> str:
  return textwrap.fill(
    text,
    _WIDTH,
    initial_indent=indent,
    subsequent_indent=indent + '  ' * text.startswith('- '),
    break_on_hyphens=False,
    break_long_words=False,
  )


def diagnose(record: records.Record) -> Diagnosis:
  """Looks at the metrics of a run.

  Args:
    record: of a finished run or of one that goes on.
  """
  measured = [(check, check.measure(record)) for check in checks.CHECKS]
  known = [(check, value) for check, value in measured if value is not None]
  return Diagnosis(
    tuple(Finding(check, x) for check, x in known if check.is_wrong(x)),
    tuple(Finding(check, x) for check, x in known if not check.is_wrong(x)),
    tuple(check for check, value in measured if value is None),
  )
