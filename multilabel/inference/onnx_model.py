# SPDX-License-Identifier: Apache-2.0
"""Runs a folder of `export_saved_model.py --format=onnx` in onnxruntime.

Needs numpy and onnxruntime, not TensorFlow.
"""

import concurrent.futures
import os
import threading

import numpy as np

from multilabel.inference import predictor
from multilabel.storage import onnx_folder


class OnnxEngine(predictor.Engine):
  """See `predictor.Engine`."""

  folder_name = "folder"

  def __init__(self, folder, inter_op_threads=None, intra_op_threads=None,
               verify=True, profile_dir=None):
    """Takes what `predict_onnx.OnnxPredictor` takes; reads nothing yet."""
    for name, threads in (("inter_op_threads", inter_op_threads),
                          ("intra_op_threads", intra_op_threads)):
      if threads is not None and threads < 1:
        raise ValueError("%s is %d; it must be 1 or more." % (name, threads))
    self.folder = folder
    self._inter_op_threads = inter_op_threads
    self._intra_op_threads = intra_op_threads
    self._verify = verify
    self._profile_dir = profile_dir
    self._read = None

  def read(self):
    self._read = onnx_folder.read(onnx_folder.newest(self.folder))
    return self._read

  def find(self):
    return self._read.path

  def identity(self, found):
    return onnx_folder.identity(found)

  def load(self, found):
    identity = self.identity(found)
    # Every byte is hashed while the runtime is imported and initialized: both
    # take about as long.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      check = thread.submit(onnx_folder.find_problem, found, self._verify)
      session, error = self._session(found)
      problem = check.result()
    if problem:
      raise ValueError("%s: %s" % (found, problem))
    if error is not None:
      raise ValueError("%s cannot be loaded: %s" % (
          os.path.join(found, onnx_folder.MODEL_FILE),
          " ".join(str(error).split())[:300]))
    return OnnxWeights(session, found, self._read, identity)

  def _session(self, found):
    """(`onnxruntime.InferenceSession`, None), or (None, what it raised)."""
    try:
      import onnxruntime  # pylint: disable=g-import-not-at-top
    except ImportError as error:
      raise ValueError("an ONNX model needs the package onnxruntime (pip "
                       "install onnxruntime): %s" % error)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Spinning threads take the cores from all others; spinning made one short
    # text no faster, and a server's 16 clients 1.7 times slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if self._intra_op_threads is not None:
      options.intra_op_num_threads = self._intra_op_threads
    if self._inter_op_threads is not None:
      options.inter_op_num_threads = self._inter_op_threads
      options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    if self._profile_dir is not None:
      os.makedirs(self._profile_dir, exist_ok=True)
      options.enable_profiling = True
      options.profile_file_prefix = os.path.join(self._profile_dir, "predict")
    try:
      return onnxruntime.InferenceSession(
          os.path.join(found, onnx_folder.MODEL_FILE), options,
          providers=["CPUExecutionProvider"]), None
    except Exception as error:  # pylint: disable=broad-except
      return None, error  # It has a class for each of its status codes.


class OnnxWeights(predictor.LoadedWeights):
  """A session of onnxruntime; see `predictor.LoadedWeights`."""

  def __init__(self, session, path, trained, identity):
    super(OnnxWeights, self).__init__(
        len(trained.labels), trained.bert_config.max_position_embeddings)
    self._session = session
    self._calibration = trained.calibration
    self.checkpoint = path
    self.step = onnx_folder.read_step(path)
    self.identity = identity

  def run(self, batch, with_logits, deadline):
    session = self._session
    if session is None:
      raise ValueError("this predictor is closed.")
    names = ["probabilities"] + ["logits"] * bool(with_logits)
    seconds = deadline.remaining()
    if seconds is None:
      return session.run(names, batch)
    import onnxruntime  # pylint: disable=g-import-not-at-top
    options = onnxruntime.RunOptions()
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX),
                            lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
      return session.run(names, batch, options)
    except Exception:
      if options.terminate:
        raise deadline.error() from None
      raise
    finally:
      timer.cancel()

  def sigmoid(self, logits, deadline):
    deadline.remaining()
    if self._calibration is not None:
      logits = self._calibration.apply(logits)
    # exp of a number at most 0 does not overflow.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)

  def close(self):
    session, self._session = self._session, None
    if session is not None and session.get_session_options().enable_profiling:
      session.end_profiling()
