# SPDX-License-Identifier: Apache-2.0
"""Multi-label BERT as a library.

    from bert_multilabel import MultiLabelClassifier   # fit and predict
    from bert_multilabel import SessionPredictor       # a trained directory
    from bert_multilabel import OnnxPredictor          # without TensorFlow

The modules of the repository stand in this package: `bert_multilabel.modeling`,
`bert_multilabel.processors`, `bert_multilabel.multilabel.metrics`, ...
"""

import importlib
import os
import sys

__version__ = "0.2.0"

# Loaded when they are asked for: one needs TensorFlow, the other must not.
_HOMES = {"MultiLabelClassifier": "multilabel_classifier",
          "SessionPredictor": "predict_session",
          "OnnxPredictor": "predict_onnx"}

__all__ = ["MultiLabelClassifier", "OnnxPredictor", "SessionPredictor"]


def __getattr__(name):
  if name not in _HOMES:
    raise AttributeError("module %s has no attribute %s" % (__name__, name))
  return getattr(_load(_HOMES[name]), name)


def __dir__():
  return sorted(list(globals()) + __all__)


def _load(module):
  """A module of the project: from this package, or from the clone around it."""
  folder = os.path.dirname(os.path.abspath(__file__))
  if os.path.exists(os.path.join(folder, module + ".py")):
    return importlib.import_module("%s.%s" % (__name__, module))
  root = os.path.dirname(folder)
  if root not in sys.path:
    sys.path.append(root)
  return importlib.import_module(module)
