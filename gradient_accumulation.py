# SPDX-License-Identifier: Apache-2.0
"""One update from several parts of its batch, one part in memory at a time.

The update is that of the whole batch: gradients are summed, each part weighing
as many examples as it has, then clipped, then applied. The sums are local
variables, which no checkpoint holds: a run killed between two parts makes the
whole update again.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import numpy as np
import tensorflow.compat.v1 as tf

# Keys of a part's batch, beside those of `input_pipeline.make_batch`: its share
# of the update's examples, whether it is the last, and what stands for the step
# in the key of dropout masks. The last is data, not computed in the graph: an
# op more before the model would draw other initial weights.
SHARE, IS_LAST, DROPOUT_STEP = "share", "is_last_part", "dropout_step"

# Above these bits of the step stands the part's number, from 0, and above those
# the device's, see `distribution`.
_STEP_BITS = 31


def check_flags(flag_values):
  """Raises ValueError for a batch that cannot be divided as is asked."""
  parts, size = (flag_values.gradient_accumulation_steps,
                 flag_values.train_batch_size)
  if parts < 1:
    raise ValueError("--gradient_accumulation_steps is %d; it must be 1 or "
                     "more." % parts)
  if size % parts:
    raise ValueError(
        "--train_batch_size is %d, which --gradient_accumulation_steps=%d does "
        "not divide; take %s examples an update, or another number of parts." %
        (size, parts, multiples_near(size, parts)))


def multiples_near(size, parts):
  """Names the multiples of `parts` on both sides of `size`."""
  return " or ".join(str(number * parts) for number in (
      size // parts, size // parts + 1) if number)


def split(numbers, part_size, step):
  """Cuts the examples of an update into parts of at most `part_size`.

  Args:
    numbers: list or array of the numbers of the examples.
    part_size: int.
    step: int, updates done before this one.

  Returns:
    list of (numbers of a part, dict of the numpy scalars `SHARE` (float32),
    `IS_LAST` (bool) and `DROPOUT_STEP` (int64, of the first part `step`));
    together each example once.
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


class GradientSums(object):
  """The sums over an update's parts.

  Attributes:
    accumulate_op: op that adds a part; it is run once for each.
    loss: float32 scalar tensor, the mean loss of the examples added so far.
    norm: float32 scalar tensor, the gradients' norm as `tf.global_norm` gives
      it for the whole batch.
  """

  def __init__(self, loss, share, gradients, variables):
    """Makes the variables of the sums, and the ops that add to them.

    Args:
      loss: float32 scalar tensor, a part's mean loss times `share`.
      share: float32 scalar tensor, the part's share of the examples.
      gradients: list of the gradients of `loss`; None, tensors, or
        `tf.IndexedSlices`, whose rows count in the norm before they are
        summed up.
      variables: list of the variables they are of.
    """
    self._pairs = []
    self._loss = local_sum("loss_sum", [2], tf.float32)  # losses and shares
    adding = [tf.assign_add(self._loss, tf.stack([loss, share])).op]
    self._row_squares, squares = [], []
    for gradient, var in zip(gradients, variables):
      if gradient is None:
        continue
      name = "gradient_sum/" + var.op.name
      total = local_sum(name, var.shape, var.dtype.base_dtype,
                     hasattr(var, "handle"))
      self._pairs.append((total, var))
      adding.append(tf.assign_add(
          total, tf.convert_to_tensor(gradient), use_locking=False).op)
      if isinstance(gradient, tf.IndexedSlices):
        rows = local_sum(name + "/row_squares", [], tf.float32)
        self._row_squares.append(rows)
        squares.append(rows)
        adding.append(tf.assign_add(
            rows, 2.0 * tf.nn.l2_loss(gradient.values)).op)
      else:
        squares.append(2.0 * tf.nn.l2_loss(total))
    self.accumulate_op = tf.group(*adding)
    # Computed anew, not read: a reference may show what is there afterwards.
    self.loss = self._loss[0] / self._loss[1]
    self.norm = tf.sqrt(tf.add_n([tf.identity(one) for one in squares]))

  def apply(self, optimizer, clip_norm, condition=None):
    """Makes the op that updates the variables and begins the next sums.

    Variables are updated one after the other, so that one clipped gradient is
    in memory at a time.

    Args:
      optimizer: `optimization.AdamWeightDecayOptimizer`.
      clip_norm: float, most norm of all gradients together.
      condition: bool scalar tensor or None; where it is false the gradients
        are zeros.

    Returns:
      The op.
    """
    zero = runtime_zero()
    # Read before the first of them is set back.
    last = tf.group(self.loss, self.norm, *(
        [] if condition is None else [condition]))
    for total, var in self._pairs:
      with tf.control_dependencies([last]):
        (gradient,), _ = tf.clip_by_global_norm([total], clip_norm, self.norm)
      if condition is not None:
        gradient = tf.where_v2(condition, gradient, tf.zeros_like(gradient))
      update = optimizer.apply_gradients([(gradient, var)])
      with tf.control_dependencies([update]):
        last = clear(total, zero)
    with tf.control_dependencies([last]):
      return tf.group(*[clear(var, zero) for var in
                        [self._loss] + self._row_squares])


def run_update(session, accumulate_fetches, update_fetches):
  """Runs the parts of an update, then the update.

  Args:
    session: `tf.Session`.
    accumulate_fetches: dict, what to fetch for each part: the op that adds it,
      `IS_LAST`, `num_tokens` (int), `shape` (int [2], of the part's ids).
    update_fetches: dict, what to fetch once, after the last part.

  Returns:
    dict: the values of `update_fetches`, and `num_tokens` and `shape` of all
    parts together.
  """
  num_tokens, num_rows, longest, is_last = 0, 0, 0, False
  while not is_last:
    part = session.run(accumulate_fetches)
    num_tokens += int(part["num_tokens"])
    num_rows += int(part["shape"][0])
    longest = max(longest, int(part["shape"][1]))
    is_last = part[IS_LAST]
  return dict(session.run(update_fetches), num_tokens=num_tokens,
              shape=[num_rows, longest])


def local_sum(name, shape, dtype, use_resource=None):
  """A variable of zeros that is no part of a checkpoint."""
  return tf.get_variable(
      name, shape, dtype, tf.zeros_initializer(), trainable=False,
      collections=[tf.GraphKeys.LOCAL_VARIABLES], use_resource=use_resource)


def runtime_zero():
  """A 0 that TensorFlow cannot know before it runs: of constants it would keep
  an array for each variable that is set back."""
  return tf.cast(tf.less(tf.train.get_or_create_global_step(), 0), tf.float32)


def clear(var, zero):
  """The op that sets a sum back."""
  return tf.assign(var, tf.fill(
      var.shape.as_list(), tf.cast(zero, var.dtype.base_dtype))).op
