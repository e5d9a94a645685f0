# SPDX-License-Identifier: Apache-2.0
"""Writes the model as ONNX from the checkpoint's weights, and compares it.

Needs the packages onnx and onnxruntime.
"""

import os
import shutil

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.export import dtype_change
from multilabel.export import onnx_card
from multilabel.inference import onnx_model
from multilabel.inference import predictor
from multilabel.storage import file_manifest
from multilabel.storage import model_settings
from multilabel.storage import onnx_folder
from multilabel.storage import run_lock

# Largest difference of a float32 probability from the session's.
TOLERANCE = 1e-5

# Larger constants are in the file that is mapped into memory.
_SMALL_BYTES = 1024

# A graph is one protocol buffer, limited to 2 GB; 64 MB are left for nodes.
_MAX_INLINE_BYTES = (1 << 31) - (64 << 20)


def import_packages():
  """Returns (onnx, onnxruntime); ValueError if one is missing."""
  try:
    # pylint: disable=g-import-not-at-top
    import onnx
    import onnxruntime
  except ImportError as error:
    raise ValueError("ONNX needs the packages onnx and onnxruntime (pip "
                     "install onnx onnxruntime): %s" %
                     " ".join(str(error).split()))
  return onnx, onnxruntime


def read_weights(trained, checkpoint):
  """The model's variables from a checkpoint: dict, name to float32 array."""
  with tf.Graph().as_default():
    head.create_inference_graph(trained.bert_config, len(trained.labels),
                                trained.settings["pooling"])
    names = [variable.op.name for variable in tf.global_variables()]
  reader = tf.train.load_checkpoint(checkpoint)
  return {name: reader.get_tensor(name).astype(np.float32)
          for name in names}


def write_file(trained, checkpoint, path, batch, expected):
  """Writes the float32 model as one file, and compares it.

  Args:
    trained: `model_settings.ModelFiles`.
    checkpoint: str.
    path: str, the file.
    batch: dict of int32 arrays `[batch, seq]`, inputs to compare on.
    expected: float `[batch, num_labels]`, the predictor's probabilities.

  Returns:
    float, the largest difference.

  Raises:
    ValueError: a package is missing, or the weights are too large.
    RuntimeError: it differs by more than `TOLERANCE`.
  """
  onnx, onnxruntime = import_packages()
  from multilabel.export import onnx_graph  # pylint: disable=g-import-not-at-top
  weights = read_weights(trained, checkpoint)
  if sum(value.nbytes for value in weights.values()) > _MAX_INLINE_BYTES:
    raise ValueError("weights larger than 2 GB do not fit in one ONNX file; "
                     "leave out --onnx, or use --format=onnx.")
  onnx.save_model(onnx_graph.build(
      weights, trained.bert_config, trained.settings["pooling"],
      calibration=trained.calibration, outputs=["probabilities"]), path)
  session = onnxruntime.InferenceSession(
      path, providers=["CPUExecutionProvider"])
  answer, = session.run(["probabilities"], batch)
  return _compare(answer, expected)


def write_folder(folder, trained, source, expected, options):
  """Writes a folder that `predict_onnx.OnnxPredictor` reads.

  The float32 model is written first and compared with the session's
  probabilities, to separate the effect of the weights' data type from that of
  the graph.

  Args:
    folder: str, empty.
    trained: `model_settings.ModelFiles`.
    source: dict for the manifest, `checkpoint` (str, path of the prefix),
      `step` and `run`.
    expected: `export_check.Expected`.
    options: `dtype_change.Options`.

  Returns:
    (float, dict or None): the largest difference of the float32 model's
    probabilities from the session's; the effect of the data type, see
    `dtype_change.measure`.

  Raises:
    ValueError: a package or the examples to measure on are missing, or F1 drops
      by more than allowed.
    RuntimeError: the model does not reproduce the session's probabilities.
  """
  import_packages()
  from multilabel.export import onnx_graph  # pylint: disable=g-import-not-at-top
  weights = read_weights(trained, source["checkpoint"])
  for name in (model_settings.VOCAB_FILE, model_settings.LABELS_FILE,
               model_settings.BERT_CONFIG_FILE, run_lock.SETTINGS_FILE):
    shutil.copyfile(os.path.join(trained.path, name),
                    os.path.join(folder, name))
  manifest = dict(source, checkpoint=os.path.basename(source["checkpoint"]),
                  weights_dtype=options.weights_dtype, opset=onnx_graph.OPSET)

  def save(weights_dtype, about):
    _save(onnx_graph.build(weights, trained.bert_config,
                           trained.settings["pooling"], weights_dtype,
                           trained.calibration), folder)
    file_manifest.write(folder, onnx_folder.MANIFEST_FILE, about)

  save("float32", manifest)
  examples = dtype_change.read_examples(trained, options)
  with _open(folder) as float_model:
    difference = _check(float_model, expected)
    before = examples and dtype_change.probabilities(float_model, examples)
    answers = _answers(float_model, expected)
  change = None
  if options.weights_dtype != "float32":
    save(options.weights_dtype, manifest)
    with _open(folder) as stored:
      change = dtype_change.measure(
          trained, examples, before, stored, options,
          float(np.abs(_answers(stored, expected) - answers).max()))
  onnx_card.write(folder, trained, manifest, difference, change)
  file_manifest.write(folder, onnx_folder.MANIFEST_FILE, dict(
      manifest, difference=difference, change=change))
  return difference, change


def _save(model, folder):
  """model.onnx, and its weights beside it, where a runtime maps them."""
  onnx, _ = import_packages()
  # onnx appends to an existing file.
  data = os.path.join(folder, onnx_folder.DATA_FILE)
  if os.path.exists(data):
    os.remove(data)
  path = os.path.join(folder, onnx_folder.MODEL_FILE)
  onnx.save_model(model, path, save_as_external_data=True,
                  location=onnx_folder.DATA_FILE, size_threshold=_SMALL_BYTES)
  # onnx makes it private; a server may run as another user.
  if os.path.exists(data):
    shutil.copymode(path, data)


def _open(folder):
  return predictor.Predictor(onnx_model.OnnxEngine(folder), 32)


def _answers(model, expected):
  """Probabilities of the rows of `Expected`, one at a time."""
  return np.concatenate([model.predict_features([row])
                         for row in expected.rows])


def _check(model, expected):
  """The largest difference from the session's; texts, rows, one and all."""
  return max([
      _compare(np.concatenate([model.predict([text])
                               for text in expected.texts]),
               expected.of_texts),
      _compare(model.predict(expected.texts), expected.of_texts),
      _compare(_answers(model, expected), expected.of_rows),
      _compare(model.predict_features(expected.rows), expected.of_rows)])


def _compare(answer, expected):
  difference = float(np.abs(answer - expected).max())
  if not difference <= TOLERANCE:  # also when it is NaN
    raise RuntimeError(
        "the ONNX model differs from the predictor by %.3g, more than %g; "
        "nothing was written." % (difference, TOLERANCE))
  return difference
