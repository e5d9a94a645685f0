# SPDX-License-Identifier: Apache-2.0
"""Which settings a sweep tries: all of a grid, or some; for how many epochs.

Random search (Bergstra and Bengio 2012, "Random Search for Hyper-Parameter
Optimization") draws each setting by itself. Successive halving (Jamieson and
Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", section 3) trains all for a few epochs and continues with the
best of them for more.
"""

import collections
import itertools
import math
import random
import re

_RANGE = re.compile(r"([^,]+?)\.\.([^,]+?)(:log)?$")

# One flag's numbers from `low` to `high`; `is_log`: of even logarithms.
Range = collections.namedtuple("Range", ["low", "high", "is_log", "is_int"])

# The settings of a round, and the epochs that each is trained for.
Round = collections.namedtuple("Round", ["num_settings", "num_epochs"])


def parse(grid):
  """Reads --grid.

  Args:
    grid: list of str, "name=value,value", or "name=low..high" and, for even
      logarithms, "name=low..high:log".

  Returns:
    `OrderedDict`: flag name -> list of text, with None for the flag's default;
    or `Range`.

  Raises:
    ValueError: not of that form, or a flag is there twice.
  """
  choices = collections.OrderedDict()
  for entry in grid:
    name, equals, values = entry.partition("=")
    name = name.strip().lstrip("-")
    if name in choices:
      raise ValueError("--grid names %s twice; give all its values at once." %
                       name)
    found = _RANGE.match(values.strip()) if name and equals else None
    if found:
      choices[name] = _parse_range(entry, *found.groups())
      continue
    values = [value.strip() for value in values.split(",")]
    if not name or not equals or "" in values:
      raise ValueError("--grid %s must be name=value,value,..., such as "
                       "learning_rate=1e-4,3e-4, or name=low..high." % entry)
    choices[name] = [None if value == "default" else value for value in values]
  return choices


def _parse_range(entry, low, high, log):
  is_int = re.match(r"-?\d+$", low) and re.match(r"-?\d+$", high)
  try:
    low, high = float(low), float(high)
  except ValueError:
    raise ValueError("--grid %s must be two numbers, low..high." % entry)
  if not low < high < float("inf") or (log and low <= 0):
    raise ValueError(
        "--grid %s must be two numbers, the second one greater%s." % (
                         entry, ", both above 0 for log" if log else ""))
  return Range(low, high, bool(log), bool(is_int))


def combinations(choices):
  """Every combination: list of `OrderedDict`, the last flag varies fastest.

  Raises:
    ValueError: there is a range, of which there is no every.
  """
  for name, values in choices.items():
    if isinstance(values, Range):
      raise ValueError("--grid %s=%g..%g is a range, which needs "
                       "--random=N." % (name, values.low, values.high))
  return [collections.OrderedDict(zip(choices, combination))
          for combination in itertools.product(*choices.values())]


def draw(choices, size, seed):
  """Draws settings: list of `OrderedDict`, all different.

  Args:
    choices: what `parse` returned.
    size: int, 1 or more.
    seed: int; the same one draws the same settings, and of more settings the
      first are those of fewer.

  Raises:
    ValueError: there are fewer different ones.
  """
  if not choices:
    raise ValueError("--random needs --grid to draw from.")
  rng, drawn = random.Random(seed), collections.OrderedDict()
  for _ in range(100 * size):
    settings = collections.OrderedDict(
        (name, _draw(values, rng)) for name, values in choices.items())
    drawn.setdefault(tuple(settings.items()), settings)
    if len(drawn) == size:
      return list(drawn.values())
  raise ValueError("--random=%d: --grid has fewer different settings (%d were "
                   "found)." % (size, len(drawn)))


def _draw(values, rng):
  """A flag's text."""
  if not isinstance(values, Range):
    return rng.choice(values)
  if values.is_log:
    number = math.exp(rng.uniform(math.log(values.low), math.log(values.high)))
  else:
    number = rng.uniform(values.low, values.high)
  if values.is_int:
    return "%d" % min(max(round(number), values.low), values.high)
  return "%.4g" % number


def halving_rounds(num_settings, num_epochs, factor):
  """The rounds of successive halving: list of `Round`.

  Each round has a `factor`-th of the settings of the one before, for `factor`
  times the epochs; the last has `num_epochs`. All rounds cost about the same.

  Raises:
    ValueError: `factor` is below 2.
  """
  if factor < 2:
    raise ValueError("--halving is %d; it must be 2 or more." % factor)
  sizes = [num_settings]
  while sizes[-1] >= factor:
    sizes.append(sizes[-1] // factor)
  last = len(sizes) - 1
  return [Round(size, num_epochs / factor ** (last - number))
          for number, size in enumerate(sizes)]
