# SPDX-License-Identifier: Apache-2.0
"""The parts of a batch, whose gradients are summed one part at a time."""

import numpy as np
import tensorflow.compat.v1 as tf


# Keys of a part's batch, beside those of `feature_rows.make_batch`: its share
# of the update's examples, whether it is the last, and what replaces the step
# in the key of the dropout masks. The last is data, not computed in the graph:
# one more op before the model would change the initial weights.
SHARE, IS_LAST, DROPOUT_STEP = "share", "is_last_part", "dropout_step"


# Above these bits of the step is the part's number, from 0, and above those the
# device's, see `mirrored`.
_STEP_BITS = 31


def split(numbers, part_size, step):
  """Cuts the examples of an update into parts of at most `part_size`.

  Args:
    numbers: list or array of the numbers of the examples.
    part_size: int.
    step: int, updates done before this one.

  Returns:
    list of (numbers of a part, dict of the numpy scalars `SHARE` (float32),
    `IS_LAST` (bool) and `DROPOUT_STEP` (int64, of the first part `step`));
    together they have each example once.
  """
  parts = [numbers[start:start + part_size]
           for start in range(0, len(numbers), part_size)]
  return [(part, {SHARE: np.float32(len(part) / len(numbers)),
                  IS_LAST: np.bool_(index == len(parts) - 1),
                  DROPOUT_STEP: np.int64(step | index << _STEP_BITS)})
          for index, part in enumerate(parts)]


def element_types():
  """(types, shapes) of what `split` adds to a batch, for `tf.data`."""
  types = {SHARE: tf.float32, IS_LAST: tf.bool, DROPOUT_STEP: tf.int64}
  return types, {key: tf.TensorShape([]) for key in types}
