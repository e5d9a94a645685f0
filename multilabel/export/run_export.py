# SPDX-License-Identifier: Apache-2.0
"""Answers TensorFlow Serving's REST predict requests with an export.

  python -m serving.run_export EXPORT/1 < requests.jsonl

reads one request body per line and writes one response body per line, in the
format of the published REST API: `instances` (row) or `inputs` (columnar),
optionally `signature_name`; bytes as {"b64": ...}. The export is loaded as
Serving loads it, into a session by its tag, with nothing of the program that
made it.
"""

import base64
import json
import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.export import export_manifest


class Export(object):
  """A SavedModel in a session."""

  def __init__(self, path):
    """Loads `path`, the folder of saved_model.pb.

    Raises:
      ValueError: a file differs from the exported one.
    """
    export_manifest.check(path)
    with open(os.path.join(path, "saved_model.pb"), "rb") as reader:
      if b"FastWordpieceTokenize" in reader.read():
        # Its ops are built into Serving, but not into tensorflow.
        import tensorflow_text  # noqa: F401  pylint: disable=all
    self._session = tf.Session(graph=tf.Graph())
    with self._session.graph.as_default():
      loaded = tf.saved_model.load(self._session, ["serve"], path)
    self.signatures = dict(loaded.signature_def)

  def run(self, signature_name, inputs):
    """Runs a signature.

    Args:
      signature_name: str.
      inputs: dict from input name to anything that numpy converts to an array.

    Returns:
      dict from output name to numpy array.

    Raises:
      ValueError: no such signature, or not exactly its inputs.
      tf.errors.OpError: the graph rejects the values.
    """
    if signature_name not in self.signatures:
      raise ValueError('Serving signature key "%s" not found.' %
                       signature_name)
    signature = self.signatures[signature_name]
    if set(inputs) != set(signature.inputs):
      raise ValueError(
          "input size does not match signature: given %s, needed %s." % (
              sorted(inputs), sorted(signature.inputs)))
    feed = {}
    for name, info in signature.inputs.items():
      dtype = tf.as_dtype(info.dtype).as_numpy_dtype
      feed[info.name] = np.array(inputs[name], dtype)
    return self._session.run(
        {name: info.name for name, info in signature.outputs.items()}, feed)

  def answer(self, request):
    """Answers a REST body: dict to dict."""
    signature_name = request.get("signature_name", "serving_default")
    names = sorted(self.signatures[signature_name].inputs
                   if signature_name in self.signatures else [])
    if ("instances" in request) == ("inputs" in request):
      raise ValueError("a request must have either instances or inputs.")
    rows = "instances" in request
    inputs = _decode(request["instances" if rows else "inputs"])
    if rows:
      inputs = _columns(inputs, names)
    elif not isinstance(inputs, dict):
      inputs = {name: inputs for name in names[:1]}
    outputs = {name: _texts(value.tolist()) for name, value in self.run(
        signature_name, inputs).items()}
    if not rows:
      return {"outputs": _unnamed(outputs)}
    size = len(next(iter(outputs.values())))
    return {"predictions": [
        _unnamed({name: value[row] for name, value in outputs.items()})
        for row in range(size)]}


def _columns(instances, names):
  """Rows to columns; a row that is not an object is the only input's value."""
  if instances and not isinstance(instances[0], dict):
    return {name: instances for name in names[:1]}
  return {name: [row[name] for row in instances]
          for name in (instances[0] if instances else [])}


def _unnamed(outputs):
  """A single output has no name."""
  return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _decode(value):
  if isinstance(value, list):
    return [_decode(part) for part in value]
  if isinstance(value, dict):
    if set(value) == {"b64"}:
      return base64.b64decode(value["b64"])
    return {name: _decode(part) for name, part in value.items()}
  # numpy would make its own kind of string of it.
  return value.encode("utf-8") if isinstance(value, str) else value


def _texts(value):
  if isinstance(value, list):
    return [_texts(part) for part in value]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def main(path):
  """Processes the lines of standard input."""
  export = Export(path)
  for line in sys.stdin.buffer:
    try:
      answer = export.answer(json.loads(line.decode("utf-8")))
    except (ValueError, tf.errors.OpError) as error:
      answer = {"error": getattr(error, "message", str(error))}
    print(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
  main(sys.argv[1])
