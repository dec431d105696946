"""Rows of our own in BFCL's layout."""

import json

WEATHER = {
  'name': 'weather.get',
  'description': 'Weather of a city.',
  'parameters': {
    'type': 'dict',
    'properties': {
      'city': {'type': 'string', 'description': 'Which city.'},
      'days': {'type': 'integer', 'description': 'How many days.'},
      'wind': {'type': 'float', 'description': 'Smallest wind.'},
      'hours': {
        'type': 'array',
        'description': 'Which hours.',
        'items': {'type': 'integer'},
      },
      'area': {'type': 'dict', 'description': 'Around it.'},
      'stops': {
        'type': 'array',
        'description': 'On the way.',
        'items': {'type': 'dict'},
      },
      'near': {'type': 'boolean', 'description': 'Near ones too.'},
    },
    'required': ['city'],
  },
}
TIME = {
  'name': 'clock',
  'description': 'Time of a zone.',
  'parameters': {
    'type': 'dict',
    'properties': {'zone': {'type': 'string', 'description': 'Which zone.'}},
    'required': ['zone'],
  },
}
JAVA = {
  'name': 'Store.open',
  'description': 'Opens a store.',
  'parameters': {
    'type': 'dict',
    'properties': {
      'path': {'type': 'String', 'description': 'Where.'},
      'size': {'type': 'long', 'description': 'How large.'},
      'tags': {
        'type': 'ArrayList',
        'description': 'Its tags.',
        'items': {'type': 'String'},
      },
      'options': {'type': 'HashMap', 'description': 'Its options.'},
    },
    'required': ['path'],
  },
}
JAVASCRIPT = {
  'name': 'store',
  'description': 'Stores points.',
  'parameters': {
    'type': 'dict',
    'properties': {
      'points': {
        'type': 'array',
        'description': 'Pairs.',
        'items': {'type': 'array'},
      },
      'seen': {'type': 'Boolean', 'description': 'Whether seen.'},
      'meta': {'type': 'dict', 'description': 'More.'},
    },
    'required': ['points'],
  },
}

# Category -> (question, functions, ground truth).
ROWS = {
  'simple_python': [
    ('Oslo?', [WEATHER], [{'weather.get': {'city': ['Oslo'], 'days': [3, '']}}])
  ],
  'simple_java': [
    (
      'Open /a.',
      [JAVA],
      [
        {
          'Store.open': {
            'path': ['/a'],
            'size': [12],
            'tags': [['x', 'y']],
            'options': [{'k': [1], 'v': ['w']}],
          }
        }
      ],
    )
  ],
  'simple_javascript': [
    (
      'Store.',
      [JAVASCRIPT],
      [
        {
          'store': {
            'points': [[[1, 2], [3, 4]]],
            'seen': [True],
            'meta': [{'a': [1]}],
          }
        }
      ],
    )
  ],
  'multiple': [('Time?', [WEATHER, TIME], [{'clock': {'zone': ['CET']}}])],
  'parallel': [
    (
      'Two zones.',
      [TIME],
      [{'clock': {'zone': ['CET']}}, {'clock': {'zone': ['UTC']}}],
    )
  ],
  'parallel_multiple': [
    (
      'Both.',
      [WEATHER, TIME],
      [{'clock': {'zone': ['CET']}}, {'weather.get': {'city': ['Rome']}}],
    )
  ],
  'irrelevance': [('A song?', [TIME], None)],
  'live_simple': [
    ('Zone?', [TIME], [{'clock': {'zone': ['CET']}}]),
    # No answer can pass: a required parameter without an accepted value.
    ('Which?', [TIME], [{'clock': {'zone': []}}]),
  ],
  'live_relevance': [('Any time.', [TIME], None)],
  'live_irrelevance': [('A poem?', [], None)],
}


def write(folder):
  """Writes the rows as BFCL's files; returns the folder."""
  (folder / 'possible_answer').mkdir(parents=True)
  for category, rows in ROWS.items():
    questions, answers = [], []
    for number, (text, functions, truth) in enumerate(rows):
      row = {
        'id': f'{category}_{number}',
        'question': [[{'role': 'user', 'content': text}]],
        'function': functions,
      }
      questions.append(json.dumps(row) + '\n')
      answer = {'id': row['id'], 'ground_truth': truth}
      answers.append(json.dumps(answer) + '\n')
    name = f'BFCL_v4_{category}.json'
    (folder / name).write_text(''.join(questions))
    if 'relevance' not in category:
      (folder / 'possible_answer' / name).write_text(''.join(answers))
  return folder
