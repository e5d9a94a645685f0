# SPDX-License-Identifier: Apache-2.0
"""Gradients that hold one layer's activations at a time: --recompute_layers.

Of each encoder layer the forward pass keeps the input alone. The backward pass
builds the layer again from it, once the gradient of its output is there (Chen
et al. 2016, arXiv:1604.06174, with a segment a layer), which costs one more
forward pass. Dropout masks are those of the first time, because they are
functions of seed, step and place.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import tensorflow.compat.v1 as tf


def gradients(loss, variables, layers):
  """As `tf.gradients(loss, variables)`.

  Args:
    loss: float scalar tensor; of the layers' inside it uses the last output
      alone.
    variables: list of variables.
    layers: list of `modeling.RecordedLayer` from the lowest to the highest,
      each one's output the next one's input.

  Returns:
    list: a tensor, `tf.IndexedSlices`, or None for each variable.
  """
  inside = [[var for var in variables
             if var.op.name.startswith(layer.scope_name + "/")]
            for layer in layers]
  known = set(var.name for some in inside for var in some)
  outside = [var for var in variables if var.name not in known]

  top = layers[-1].output
  found = tf.gradients(loss, [top] + outside, stop_gradients=[top])
  gradient, by_name = found[0], {}
  _add(by_name, outside, found[1:])
  # What the loss does not reach from above the layers may lie below them.
  below = [var for var in outside if by_name[var.name] is None]
  for number in reversed(range(len(layers))):
    if not below and not any(inside[:number + 1]):
      break
    layer = layers[number]
    # Without this all layers would be built at once, or merged with the first.
    with tf.control_dependencies([gradient]):
      start = tf.identity(layer.input)
      output = layer.build(start)
      found = tf.gradients(output, [start] + inside[number],
                           grad_ys=[gradient])
    gradient = found[0]
    _add(by_name, inside[number], found[1:])
  if below:
    _add(by_name, below, tf.gradients(layers[0].input, below,
                                      grad_ys=[gradient]))
  return [by_name[var.name] for var in variables]


def _add(by_name, variables, found):
  by_name.update((var.name, gradient)
                 for var, gradient in zip(variables, found))
