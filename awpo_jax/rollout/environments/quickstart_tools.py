"""Tools of the quickstart task, and the ways a user asks for each."""

import dataclasses
import random
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.environments import quickstart_values
from awpo_jax.rollout.text import tool_calls

Argument = quickstart_values.Argument

TRAIN_PHRASINGS = 6  # the rest of a request's phrasings is held out


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user may ask for, and the tool that serves it if one exists.

  Attributes:
    name: the tool's name.
    description: the tool's description.
    arguments: one to three.
    phrasings: templates over the argument names; the first
      `TRAIN_PHRASINGS` are for training, the others held out.
  """

  name: str
  description: str
  arguments: tuple[Argument, ...]
  phrasings: tuple[str, ...]

  def tool(self) -> types.Tool:
    """The tool as a prompt offers it."""
    parameters = {one.name: one.schema() for one in self.arguments}
    return types.Tool(self.name, self.description, parameters)


def draw_call(
  rng: random.Random, request: Request, *, held_out: bool
) -> tool_calls.ToolCall:
  """A call of the request's tool with training or held-out values."""
  parameters: dict[str, Any] = {}
  for argument in request.arguments:
    value = quickstart_values.draw(rng, argument, held_out=held_out)
    while value in parameters.values():  # a train from a city to itself
      value = quickstart_values.draw(rng, argument, held_out=held_out)
    parameters[argument.name] = value
  return tool_calls.ToolCall(request.name, parameters)


_CITY = Argument('city', 'string', source='place')
_DATE = Argument('date', 'date')

TOOLS: tuple[Request, ...] = (
  Request(
    'get_weather',
    'Weather forecast.',
    (_CITY, _DATE),
    (
      'what is the weather in {city} on {date}?',
      'show the forecast for {city} on {date}.',
      'on {date} I am in {city}, how is the weather?',
      'tell me the weather for {date} in {city}.',
      'I need the {date} forecast for {city}.',
      'how will the weather be in {city} on {date}?',
      'give me the {city} weather on {date}.',
      'is there a forecast for {date}? I am in {city}.',
    ),
  ),
  Request(
    'book_train',
    'Book a train.',
    (
      Argument('origin', 'string', source='place'),
      Argument('destination', 'string', source='place'),
    ),
    (
      'book a train from {origin} to {destination}.',
      'I need a train ticket to {destination} from {origin}.',
      'get me on a train from {origin} to {destination}.',
      'I am in {origin}, book me a train to {destination}.',
      'find a rail ticket from {origin} to {destination}.',
      'I want to go to {destination} by rail from {origin}.',
      'I want a train ticket from {origin} to {destination}.',
      'by train, please, to {destination} from {origin}.',
    ),
  ),
  Request(
    'book_hotel',
    'Book a hotel room.',
    (
      _CITY,
      Argument('nights', 'integer'),
      Argument('room', 'enum', choices=('single', 'double', 'suite')),
    ),
    (
      'book a {room} hotel room in {city} for {nights} nights.',
      'I need a hotel in {city}, {nights} nights, {room}.',
      'find a {room} room at a hotel in {city}, {nights} nights.',
      'for {nights} nights in {city} I need a {room} hotel room.',
      'get me a hotel in {city}: {room}, {nights} nights.',
      'I am {nights} nights in {city}, book a hotel, {room}.',
      'I want a {room} in a hotel in {city} for {nights} nights.',
      'hotel for {nights} nights, please: {city}, {room}.',
    ),
  ),
  Request(
    'send_email',
    'Send an email.',
    (
      Argument('to', 'string', source='person'),
      Argument('subject', 'string', source='topic'),
    ),
    (
      'send an email to {to} about {subject}.',
      'email {to} about the {subject}.',
      'write to {to} about {subject} by email.',
      'I need to email {to} on the {subject}.',
      'send {to} a mail about the {subject}.',
      'about the {subject}: send an email to {to}.',
      'please email the {subject} to {to}.',
      'I want to mail {to} about {subject}.',
    ),
  ),
  Request(
    'call_person',
    'Call a person.',
    (Argument('name', 'string', source='person'),),
    (
      'call {name}.',
      'please call {name} now.',
      'phone {name} for me.',
      'I need to call {name}.',
      'give {name} a call.',
      'I want to phone {name}.',
      'can you call {name} for me?',
      'get {name} on the phone.',
    ),
  ),
  Request(
    'set_timer',
    'Set a timer.',
    (Argument('minutes', 'integer'),),
    (
      'set a timer for {minutes} minutes.',
      'start a timer of {minutes} minutes.',
      'I need a {minutes} minutes timer.',
      'set the timer to {minutes} minutes.',
      'in {minutes} minutes a timer should ring.',
      'please start a {minutes} minutes countdown.',
      'I want a timer for {minutes} minutes.',
      'set a countdown to {minutes} minutes.',
    ),
  ),
  Request(
    'add_event',
    'Add a calendar event.',
    (Argument('title', 'string', source='topic'), _DATE),
    (
      'add {title} to my calendar on {date}.',
      'put {title} on the calendar for {date}.',
      'on {date} add the event {title}.',
      'I have {title} on {date}, add it to my calendar.',
      'add an event on {date}: {title}.',
      'set the event {title} for {date}.',
      'my calendar needs {title} on {date}.',
      'for {date} put the event {title}.',
    ),
  ),
  Request(
    'convert_dollars',
    'Convert dollars.',
    (
      Argument('amount', 'float'),
      Argument('currency', 'enum', choices=('euro', 'yen', 'pound')),
    ),
    (
      'convert {amount} dollars to {currency}.',
      'how much {currency} is {amount} dollars?',
      'I have {amount} dollars, convert them to {currency}.',
      'what is {amount} dollars in {currency}?',
      'to {currency}, please convert {amount} dollars.',
      'change {amount} dollars to {currency}.',
      'I want {currency} for {amount} dollars.',
      'in {currency}, how much is {amount} dollars?',
    ),
  ),
  Request(
    'compute_tip',
    'Compute a tip.',
    (
      Argument('bill', 'float'),
      Argument('percent', 'integer'),
    ),
    (
      'what is a {percent} percent tip on {bill}?',
      'the bill is {bill}, compute a {percent} percent tip.',
      'how much is a tip of {percent} percent on {bill}?',
      'on a bill of {bill} I tip {percent} percent, how much is it?',
      'compute the tip for {bill} at {percent} percent.',
      'I want to tip {percent} percent on {bill}.',
      'tell me the {percent} percent tip for a bill of {bill}.',
      'my bill is {bill}, how much is a tip of {percent} percent?',
    ),
  ),
  Request(
    'buy_item',
    'Buy an item.',
    (
      Argument('item', 'string', source='product'),
      Argument('count', 'integer'),
    ),
    (
      'buy {count} {item}.',
      'order {count} {item} from the shop.',
      'please buy {item}, {count} of them.',
      'I need {count} {item}, order them.',
      'from the shop I want {count} {item}.',
      'get me {count} {item} from the shop.',
      'I want to order {count} {item}.',
      'I need {item} from the shop, {count} of them.',
    ),
  ),
  Request(
    'find_recipe',
    'Find a recipe.',
    (Argument('foods', 'list', source='food'),),
    (
      'find a recipe with {foods}.',
      'what can I cook with {foods}?',
      'I have {foods}, find a recipe.',
      'show me a recipe for {foods}.',
      'give me a recipe that uses {foods}.',
      'I want to cook {foods}.',
      'I need a recipe with {foods}.',
      'with {foods}, what can I cook?',
    ),
  ),
  Request(
    'average',
    'Average of numbers.',
    (Argument('numbers', 'list'),),
    (
      'what is the average of {numbers}?',
      'compute the average of {numbers}.',
      'I need the average for {numbers}.',
      'find the mean of {numbers}.',
      'tell me the mean of {numbers}.',
      'give me the average of {numbers}.',
      'how much is the average of {numbers}?',
      'I want the mean for {numbers}.',
    ),
  ),
)

# Requests that no tool of any prompt serves.
UNSERVED: tuple[Request, ...] = (
  Request(
    'play_song',
    '',
    (Argument('title', 'string', source='topic'),),
    (
      'play a song about {title}.',
      'play the song {title}.',
      'I want a song about {title}.',
      'please play {title} for me.',
      'put on the song {title}.',
      'find a song about {title}.',
      'I need the song {title}.',
      'can you play {title}?',
    ),
  ),
  Request(
    'order_taxi',
    '',
    (Argument('place', 'string', source='place'),),
    (
      'get me a taxi to {place}.',
      'I need a taxi in {place}.',
      'find a taxi from {place}.',
      'please send a taxi to {place}.',
      'I want a taxi to {place} now.',
      'send a cab to {place}.',
      'I need a cab to {place}.',
      'is there a taxi in {place}?',
    ),
  ),
  Request(
    'translate',
    '',
    (Argument('text', 'string', source='product'),),
    (
      'translate {text} to Latin.',
      'what is {text} in Latin?',
      'how do I say {text} in Latin?',
      'please translate {text}.',
      'I need {text} in Latin.',
      'tell me the Latin for {text}.',
      'give me {text} in Latin.',
      'can you translate {text}?',
    ),
  ),
  Request(
    'tell_joke',
    '',
    (Argument('name', 'string', source='person'),),
    (
      'tell me a joke about {name}.',
      'I want a joke for {name}.',
      'please write a joke about {name}.',
      'tell {name} a joke.',
      'I need a joke about {name}.',
      'find a joke for {name}.',
      'give me a joke about {name}.',
      'is there a joke for {name}?',
    ),
  ),
)

BY_NAME = {request.name: request for request in TOOLS}
