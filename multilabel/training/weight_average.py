# SPDX-License-Identifier: Apache-2.0
"""--ema_decay: an exponential moving average of the weights.

  average = d * average + (1 - d) * weight,  d = min(decay, (1 + t) / (10 + t))

after update t, 0 being the first: Polyak and Juditsky 1992, with the warm-up of
`tf.train.ExponentialMovingAverage`, without which a short run's average would
contain much of the initial weights. It depends only on the steps, so a resumed
run has the same.

A checkpoint has the averages under the names of the weights, so prediction and
export use them, and the weights for further training as `<name>/unaveraged`.
Evaluation during training uses the averages.
"""

import collections

import tensorflow.compat.v1 as tf


UNAVERAGED = "/unaveraged"
_AVERAGE = "/average"


class WeightAverage(object):
  """The averages of some variables of the current graph.

  Attributes:
    start_op: op that sets every average to its weight; to be run once, at the
      start of a run.
  """

  def __init__(self, variables, decay):
    """Makes the variables of the averages.

    Args:
      variables: list of variables (reference or resource).
      decay: float in (0, 1).
    """
    self._decay = decay
    self._averages = collections.OrderedDict()
    self._weights = collections.OrderedDict()
    for var in variables:
      name = var.op.name
      self._weights[name] = var
      self._averages[name] = tf.get_variable(
          name + _AVERAGE, var.shape, var.dtype.base_dtype,
          tf.zeros_initializer(), trainable=False,
          use_resource=hasattr(var, "handle"))
    self.start_op = tf.group(*[
        tf.assign(self._averages[name], var)
        for name, var in self._weights.items()])

  def update_after(self, update):
    """The op of an update of the weights, and of the averages after it.

    Args:
      update: op that changes the weights; the global step changes later.

    Returns:
      The op.
    """
    step = tf.cast(tf.train.get_or_create_global_step(), tf.float32)
    rest = 1.0 - tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
    updates = []
    with tf.control_dependencies([update, rest]):
      for name, var in self._weights.items():
        average = self._averages[name]
        updates.append(tf.assign_sub(
            average, tf.cast(rest, var.dtype.base_dtype) * (
                average.read_value() - var.read_value())).op)
    return tf.group(*updates)

  def getter(self, getter, name, **kwargs):
    """A `custom_getter` of variable scopes that replaces weights by
    averages."""
    return self._averages[name] if name in self._averages else getter(
        name, **kwargs)

  def saved_names(self, variables):
    """{name in a checkpoint: variable} of all variables of the graph."""
    names = {}
    for var in variables:
      name = var.op.name
      if name.endswith(_AVERAGE) and name[:-len(_AVERAGE)] in self._averages:
        name = name[:-len(_AVERAGE)]
      elif name in self._averages:
        name += UNAVERAGED
      names[name] = var
    return names
