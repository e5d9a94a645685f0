# SPDX-License-Identifier: Apache-2.0
"""Weights that take half the space on disk: float16 there, float32 in memory.

The restore op converts them when the model is loaded, so prediction costs
nothing extra. (A cast in the model itself would run for every request.)
"""

import tensorflow.compat.v1 as tf
from tensorflow.python.training.saving import saveable_object


_DTYPE = tf.float16


def write_rounded(checkpoint, names, path):
  """`write`, but rounds to float16, stored as float32."""
  write(checkpoint, names, path, None)


def write(checkpoint, names, path, weights_dtype):
  """Writes a checkpoint with some of another's variables.

  Args:
    checkpoint: str, prefix.
    names: list of str, its variables to take, float32 or float16.
    path: str, prefix of the new one.
    weights_dtype: str, "float32" or "float16".

  Raises:
    ValueError: a weight is too large for float16.
  """
  with tf.Graph().as_default(), tf.Session() as session:
    shapes = [""] * len(names)
    dtypes = tf.train.load_checkpoint(checkpoint).get_variable_to_dtype_map()
    weights = [tf.cast(value, tf.float32) for value in tf.raw_ops.RestoreV2(
        prefix=checkpoint, tensor_names=names, shape_and_slices=shapes,
        dtypes=[dtypes[name] for name in names])]
    if weights_dtype == "float32":
      session.run(tf.raw_ops.SaveV2(
          prefix=path, tensor_names=names, shape_and_slices=shapes,
          tensors=weights))
      return
    largest = session.run([tf.reduce_max(tf.abs(value)) for value in weights])
    for name, value in zip(names, largest):
      if value > _DTYPE.max:
        raise ValueError(
            "%s has the weight %g, but the maximum of float16 is %g; leave out "
            "--weights_dtype." % (name, value, _DTYPE.max))
    session.run(tf.raw_ops.SaveV2(
        prefix=path, tensor_names=names, shape_and_slices=shapes,
        tensors=[rounded if weights_dtype else tf.cast(rounded, tf.float32)
                 for rounded in [tf.cast(value, _DTYPE) for value in weights]]
    ))


def saver(variables):
  """A `tf.train.Saver` that stores float32 variables as float16."""
  return tf.train.Saver([_HalfVariable(variable) for variable in variables])


class _HalfVariable(saveable_object.SaveableObject):
  """How a variable of any kind is saved and restored."""

  def __init__(self, variable):
    name = variable.op.name
    super(_HalfVariable, self).__init__(variable, [saveable_object.SaveSpec(
        tf.cast(variable, _DTYPE), "", name, _DTYPE, variable.device)], name)

  def restore(self, restored_tensors, unused_restored_shapes):
    value, = restored_tensors
    return tf.assign(self.op, tf.cast(value, tf.float32)).op
