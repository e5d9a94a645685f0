# SPDX-License-Identifier: Apache-2.0
"""The model_card.md of an exported folder."""

import os

from multilabel.common import atomic_files
from multilabel.export import model_card
from multilabel.storage import onnx_folder

_USE = """
```python
from bert_multilabel import OnnxPredictor

with OnnxPredictor("this folder") as predictor:
  print(predictor.predict_labels(["a sentence"]))
```
"""


def write(folder, trained, manifest, difference, change):
  """Writes the card of the trained model and its ONNX form.

  Args:
    folder: str, the folder of model.onnx.
    trained: `model_settings.ModelFiles`, of the trained directory.
    manifest: dict, what manifest.json says of the model.
    difference: float, of the float32 model from the session predictor.
    change: dict of `dtype_change.measure`, or None.
  """
  text = model_card.make(trained).rstrip() + "\n\n"
  lines = ["## ONNX", "",
           "Checkpoint %s, step %d; weights stored as %s; opset %d." % (
               manifest["checkpoint"], manifest["step"],
               manifest["weights_dtype"], manifest["opset"]),
           "", "The float32 graph differs from the TensorFlow model by at "
           "most %.2g in a probability." % difference]
  if change is not None:
    lines += ["", "Effect of %s:" % manifest["weights_dtype"], ""]
    lines += ["| | float32 | %s |" % manifest["weights_dtype"],
              "| --- | --- | --- |"] + [
                  "| %s | %s | %s |" % tuple([title] + [
                      "undefined" if value is None else "%.4f" % value
                      for value in change[key]])
                  for title, key in (
                      ("micro-F1", "micro_f1"),
                      ("mean average precision", "mean_average_precision"))
                  if key in change] if "examples" in change else []
    lines += ["", "The largest change in a probability is %.3g%s." % (
        change["largest_change"], ", measured on %d examples of %s" % (
            change["examples"], change["source"])
        if "examples" in change else ", measured on a few texts")]
  atomic_files.write_text(os.path.join(folder, onnx_folder.CARD_FILE),
                          text + "\n".join(lines) + "\n" + _USE)
