# SPDX-License-Identifier: Apache-2.0
"""Random changes of good input, the same ones for the same seed."""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import random

MAX_LENGTH = 4000


class Mutator(object):
  """Makes cases for a target."""

  def __init__(self, target, seed):
    """Takes a `targets.Target` and a whole number."""
    self._target = target
    self._random = random.Random(seed)

  def case(self):
    """Returns the next case, bytes."""
    rng = self._random
    data = bytearray(rng.choice(self._target.seeds))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8, 20))):
      self._change(data)
    return bytes(data[:MAX_LENGTH])

  def _change(self, data):
    """Changes a bytearray in place."""
    rng = self._random
    where = rng.randint(0, len(data))
    end = min(len(data), where + rng.choice((1, 1, 2, 4, 16, 64)))
    kind = rng.randrange(8)
    if kind == 0 and where < len(data):
      data[where] = rng.randrange(256)
    elif kind == 1:
      data[where:where] = bytes(bytearray(
          rng.randrange(256) for _ in range(rng.randint(1, 4))))
    elif kind == 2:
      del data[where:end]
    elif kind == 3:
      data[where:where] = data[where:end] * rng.choice((1, 2, 9))
    elif kind == 4:
      other = rng.choice(self._target.seeds)
      cut = rng.randint(0, len(other))
      data[where:] = other[cut:]
    elif kind == 5:
      data[where:end] = rng.choice(self._target.tokens)
    else:
      data[where:where] = rng.choice(self._target.tokens)
