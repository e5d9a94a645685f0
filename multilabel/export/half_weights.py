# SPDX-License-Identifier: Apache-2.0
"""Weights that take half of the room on disk: float16 there, float32 in memory.

The export's own restore op turns them back when a server loads it, so answering
costs nothing more. (A cast in the model itself would run for every request.)
"""

import tensorflow.compat.v1 as tf
from tensorflow.python.training.saving import saveable_object


_DTYPE = tf.float16


def write_rounded(checkpoint, names, path):
  """Writes a checkpoint whose float32 weights are numbers of float16.

  Args:
    checkpoint: str, prefix.
    names: list of str, its variables to take, all float32.
    path: str, prefix of the new one.

  Raises:
    ValueError: a weight is too large for float16.
  """
  with tf.Graph().as_default(), tf.Session() as session:
    shapes = [""] * len(names)
    weights = tf.raw_ops.RestoreV2(
        prefix=checkpoint, tensor_names=names, shape_and_slices=shapes,
        dtypes=[tf.float32] * len(names))
    largest = session.run([tf.reduce_max(tf.abs(value)) for value in weights])
    for name, value in zip(names, largest):
      if value > _DTYPE.max:
        raise ValueError("%s has the weight %g, and float16 ends at %g; leave "
                         "out --weights_dtype." % (name, value, _DTYPE.max))
    session.run(tf.raw_ops.SaveV2(
        prefix=path, tensor_names=names, shape_and_slices=shapes,
        tensors=[tf.cast(tf.cast(value, _DTYPE), tf.float32)
                 for value in weights]))


def saver(variables):
  """A `tf.train.Saver` that stores float32 variables as float16."""
  return tf.train.Saver([_HalfVariable(variable) for variable in variables])


class _HalfVariable(saveable_object.SaveableObject):
  """How a resource variable is saved and restored."""

  def __init__(self, variable):
    name = variable.op.name
    super(_HalfVariable, self).__init__(variable, [saveable_object.SaveSpec(
        tf.cast(variable, _DTYPE), "", name, _DTYPE, variable.device)], name)

  def restore(self, restored_tensors, unused_restored_shapes):
    value, = restored_tensors
    return tf.raw_ops.AssignVariableOp(
        resource=self.op.handle, value=tf.cast(value, tf.float32))
