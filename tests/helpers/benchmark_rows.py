"""A folder with a few rows of our own of every benchmark."""

import json

from tests.helpers import bfcl_cases

STEPS = [
  {
    'id': f'Level1_{number}',
    'system': 'Tools: 1. Name: Find',
    'user': f'Find {city}.',
    'answer': [{'name': 'Find', 'parameters': {'city': city}}],
  }
  for number, city in enumerate(['Oslo', 'Rome'])
]
QUESTIONS = [
  {
    'question_id': number,
    'question': f'{number}?',
    'options': ['x', 'y', 'z'],
    'answer': 'ABC'[number % 3],
    'category': 'law' if number < 3 else 'math',
  }
  for number in range(5)
]


def write(folder):
  """Writes them; returns the folder."""
  bfcl_cases.write(folder / 'bfcl')
  (folder / 'apibank').mkdir()
  (folder / 'apibank' / 'level-1-api_processed.json').write_text(
    json.dumps(STEPS)
  )
  (folder / 'mmlu_pro').mkdir()
  (folder / 'mmlu_pro' / 'sample.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in QUESTIONS)
  )
  return folder
