# SPDX-License-Identifier: Apache-2.0
"""Which layers are trained, and how fast: --freeze_layers, --layer_decay.

The depth of a variable is 0 in the embeddings, i + 1 in layer i of n, n + 1 in
the pooler and n + 2 in the label head, as in ELECTRA's fine-tuning (Clark et
al. 2020, arXiv:2003.10555, appendix B).
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import re

import tensorflow.compat.v1 as tf


def check_flags(flag_values, num_layers):
  """Raises ValueError for what a model of so many layers cannot have."""
  frozen = flag_values.freeze_layers
  if frozen is not None and not 0 <= frozen <= num_layers:
    raise ValueError(
        "--freeze_layers is %d; it must be from 0 (the embeddings alone) to "
        "%d, the number of layers of this model." % (frozen, num_layers))
  if not 0 < flag_values.layer_decay <= 1:
    raise ValueError("--layer_decay is %s; it must be above 0 and at most 1." %
                     flag_values.layer_decay)


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
    freeze_layers: int, freezes the embeddings and so many layers; None:
      nothing.
  """
  lowest = -1 if freeze_layers is None else freeze_layers
  return [var for var in tf.trainable_variables()
          if depth(var.op.name, num_layers) > lowest]


def make_scale(num_layers, layer_decay=1.0, head_scale=1.0):
  """What a variable's learning rate is multiplied by.

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
