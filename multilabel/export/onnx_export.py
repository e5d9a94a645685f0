# SPDX-License-Identifier: Apache-2.0
"""The model as an ONNX file, checked with onnxruntime.

Needs the packages tf2onnx and onnxruntime. Inputs and output are those of the
signature `serving_default`; ids are not checked, as ONNX cannot refuse them.
"""

import logging

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.export import signatures


# Old enough for every runtime in use, new enough for all ops.
OPSET = 15


def import_packages():
  """Returns (tf2onnx, onnxruntime); ValueError if one is missing."""
  try:
    # pylint: disable=g-import-not-at-top
    import onnxruntime
    import tf2onnx
  except ImportError as error:
    raise ValueError("--onnx needs the packages tf2onnx and onnxruntime: %s" %
                     " ".join(str(error).split()))
  return tf2onnx, onnxruntime


def export(trained, checkpoint, path, batch, expected, tolerance):
  """Writes the model and compares it with the predictor.

  Args:
    trained: `trained_model.TrainedModel`.
    checkpoint: str.
    path: str, the file to write.
    batch: dict of int32 arrays `[batch, seq]`, inputs to compare on.
    expected: float `[batch, num_labels]`, the predictor's probabilities.
    tolerance: float.

  Returns:
    float, the largest difference.

  Raises:
    ValueError: a package is missing.
    RuntimeError: it differs by more than `tolerance`.
  """
  tf2onnx, onnxruntime = import_packages()
  logging.getLogger("tf2onnx").setLevel(logging.ERROR)
  graph_def, inputs, outputs = signatures.frozen_graph(trained, checkpoint)
  with tf.Graph().as_default():
    tf2onnx.convert.from_graph_def(
        graph_def, input_names=inputs, output_names=outputs, opset=OPSET,
        output_path=path)
  session = onnxruntime.InferenceSession(
      path, providers=["CPUExecutionProvider"])
  names = {value.name.split(":")[0]: value.name
           for value in session.get_inputs()}
  answer, = session.run(None, {
      name: batch[key] for key, name in names.items()})
  difference = float(np.abs(answer - expected).max())
  if not difference <= tolerance:  # also when it is NaN
    raise RuntimeError(
        "the ONNX model differs from the predictor by %.3g, more than %g; "
        "nothing was written." % (difference, tolerance))
  return difference
