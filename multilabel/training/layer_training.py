# SPDX-License-Identifier: Apache-2.0
"""Which layers are trained, and how fast: --freeze_layers, --layer_decay.

The depth of a variable is 0 in the embeddings, i + 1 in layer i of n, n + 1 in
the pooler and n + 2 in the label head, as in ELECTRA's fine-tuning (Clark et
al. 2020, arXiv:2003.10555, appendix B).
"""

import re

import tensorflow.compat.v1 as tf


def depth(variable_name, num_layers):
  """How far a variable is from the input: int, see above."""
  if variable_name.startswith(("bert/embeddings/",
                               "bert/embeddings_project/")):
    return 0
  layer = re.match(r"bert/encoder/layer_(\d+)/", variable_name)
  if layer:
    return int(layer.group(1)) + 1
  return num_layers + (1 if variable_name.startswith("bert/pooler/") else 2)


def trained_variables(num_layers, freeze_layers=None):
  """The trainable variables of the graph that are not frozen: list.

  Args:
    num_layers: int.
    freeze_layers: int, freezes the embeddings and that many layers; None:
      nothing.
  """
  lowest = -1 if freeze_layers is None else freeze_layers
  return [var for var in tf.trainable_variables()
          if depth(var.op.name, num_layers) > lowest]


def make_scale(num_layers, layer_decay=1.0, head_scale=1.0):
  """The factor of a variable's learning rate.

  Args:
    num_layers: int.
    layer_decay: float, the factor from one depth to the next lower one.
    head_scale: float, the factor of the label head.

  Returns:
    Function of a variable's name to a float; None if it is 1 for all.
  """
  if layer_decay == 1.0 and head_scale == 1.0:
    return None

  def scale(variable_name):
    below = num_layers + 2 - depth(variable_name, num_layers)
    return layer_decay ** below if below else head_scale

  return scale


def recomputed_gradients(loss, variables, layers):
  """As `tf.gradients(loss, variables)`.

  Args:
    loss: float scalar tensor; inside the layers, it uses only the last output.
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
  # Variables not reached from above the layers may be below them.
  below = [var for var in outside if by_name[var.name] is None]
  for number in reversed(range(len(layers))):
    if not below and not any(inside[:number + 1]):
      break
    layer = layers[number]
    # Without this, all layers would be built at once, or merged with the first.
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
