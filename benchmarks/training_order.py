# SPDX-License-Identifier: Apache-2.0
"""The batches that each engine trains on in a round, the same ones in order.

Needs numpy alone: it runs where TensorFlow is not installed. The order is that
of `multilabel.features.input_pipeline.epoch_batches`, which a test compares.
"""

import numpy as np


SEED = 1
_WINDOW_BATCHES = 50


def batches(lengths, batch_size, epoch):
  """The batches of an epoch.

  Args:
    lengths: int `[n]`, tokens of each text.
    batch_size: int.
    epoch: int, from 0.

  Returns:
    list of int arrays, the numbers of the texts of each batch.
  """
  lengths = np.asarray(lengths, np.int64)
  rng = np.random.RandomState([SEED, epoch])
  order = rng.permutation(len(lengths))
  half = -(-len(lengths) // (2 * batch_size))
  window = batch_size * min(_WINDOW_BATCHES, max(half, 1))
  cut = []
  for start in range(0, len(order), window):
    part = order[start:start + window]
    part = part[np.argsort(-lengths[part], kind="stable")]
    cut += [part[i:i + batch_size] for i in range(0, len(part), batch_size)]
  return [cut[i] for i in rng.permutation(len(cut))]


class Steps(object):
  """The batches of one step after the other."""

  def __init__(self, lengths, batch_size):
    self._arguments = lengths, batch_size
    self._left, self._epoch = [], 0

  def next(self):
    """The next step's batch: int array."""
    if not self._left:
      self._left = batches(*self._arguments, epoch=self._epoch)[::-1]
      self._epoch += 1
    return self._left.pop()
