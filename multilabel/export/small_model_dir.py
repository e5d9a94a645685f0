# SPDX-License-Identifier: Apache-2.0
"""A trained directory for distribution: weights, and what prediction needs.

From the checkpoint, the model's variables are kept in float32 or float16,
without optimizer state; from the rest, what `SessionPredictor` reads.
"""

import os
import shutil

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.storage import half_weights
from multilabel.storage import checkpoint_files
from multilabel.storage import model_settings
from multilabel.storage import trained_model

# Largest difference of a probability from that of the full directory.
_TOLERANCE = 1e-6


def write(folder, trained, checkpoint, weights_dtype):
  """Writes the directory.

  Args:
    folder: str, empty.
    trained: `trained_model.TrainedModel`.
    checkpoint: str, prefix.
    weights_dtype: str, "float32" or "float16".

  Raises:
    ValueError: a weight is too large for float16.
  """
  for name in (model_settings.VOCAB_FILE, model_settings.LABELS_FILE,
               model_settings.BERT_CONFIG_FILE):
    shutil.copyfile(os.path.join(trained.path, name),
                    os.path.join(folder, name))
  trained_model.write_settings(
      folder, dict(trained.settings, weights_dtype=weights_dtype))
  with tf.Graph().as_default():
    head.create_inference_graph(trained.bert_config, len(trained.labels),
                                trained.settings["pooling"])
    names = [variable.op.name for variable in tf.global_variables()]
  step = checkpoint.rpartition("-")[2]
  prefix = os.path.join(folder, "%s-%s" % (
      checkpoint_files.PREFIX, step if step.isdigit() else "0"))
  half_weights.write(checkpoint, names, prefix, weights_dtype)
  checkpoint_files.finish(prefix, trained.settings["fingerprint"], {})


def compare(predictor, expected, weights_dtype):
  """Compares the probabilities of the new directory.

  Args:
    predictor: `Predictor`.
    expected: `export_check.Expected` of the full directory.
    weights_dtype: str.

  Returns:
    (float, dict or None): as `onnx_export.write_folder`.

  Raises:
    RuntimeError: with float32 weights they differ.
  """
  difference = max(
      float(np.abs(np.concatenate([
          predictor.predict([text]) for text in expected.texts]) -
                   expected.of_texts).max()),
      float(np.abs(np.concatenate([
          predictor.predict_features([row]) for row in expected.rows]) -
                   expected.of_rows).max()))
  if weights_dtype == "float16":
    return 0.0, {"largest_change": difference}
  if not difference <= _TOLERANCE:  # also when it is NaN
    raise RuntimeError(
        "the new directory differs from the old one by %.3g in a probability; "
        "nothing was written." % difference)
  return difference, None
