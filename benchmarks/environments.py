# SPDX-License-Identifier: Apache-2.0
"""A separate environment for each peer, made by pip and reused.

Beside `tools/environment.py`, whose environments all have this project's
TensorFlow: a peer gets what it needs and nothing else.
"""

import os
import sys


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import environment  # pylint: disable=wrong-import-position


# Name: (TensorFlow whose Pythons fit, requirements).
PEERS = {
    "original": ("1.15", ["tensorflow==1.15.5", "bert-tensorflow==1.0.4",
                          "protobuf>=3.8,<3.21", "numpy<1.19"]),
    "torch": ("2.21", ["torch>=2.2,<2.16", "transformers>=4.40,<6",
                       "tokenizers>=0.19,<1", "safetensors>=0.4,<1",
                       "numpy>=1.26,<3"]),
    "onnx": ("2.21", ["onnxruntime>=1.17,<2", "onnx>=1.15,<2",
                      "tokenizers>=0.19,<1", "numpy>=1.26,<3"]),
}
NAMES = ("ours",) + tuple(sorted(PEERS))


def ensure(name):
  """Makes the environment of a peer, or finds it; returns its Python.

  Raises:
    environment.EnvironmentFailure: it cannot be made, in one sentence.
  """
  if name == "ours":
    return environment.ensure("demo")
  tf_version, requirements = PEERS[name]
  return environment.make(os.path.join(ROOT, ".venvs", "bench-" + name),
                          tf_version, [requirements], requirements)


def find(chosen):
  """The Python of each environment.

  Args:
    chosen: {name: path, "" to make it, or "none" to go without}.

  Returns:
    ({name: path}, {name: why there is none}).
  """
  pythons, missing = {}, {}
  for name in NAMES:
    path = chosen.get(name, "")
    if path == "none":
      missing[name] = "left out"
    elif path and not os.access(path, os.X_OK):
      missing[name] = "%s is not a usable Python" % path
    elif path:
      pythons[name] = os.path.abspath(path)
    else:
      try:
        pythons[name] = ensure(name)
      except (environment.EnvironmentFailure, OSError) as error:
        missing[name] = str(error)
  return pythons, missing
