# SPDX-License-Identifier: Apache-2.0
"""What a folder with an ONNX model contains, and whether it is complete.

  model.onnx           the graph
  model.onnx.data      its weights, which a runtime maps into memory
  bert_config.json, vocab.txt, labels.txt, model_settings.json
                       as in a trained directory
  manifest.json        size and sha256 of each file, what was exported, and
                       the effect of the weights' data type
  model_card.md the same, readable

Needs no TensorFlow.
"""

import os
import re

from multilabel.common import atomic_files
from multilabel.storage import file_manifest
from multilabel.storage import model_settings

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "model_card.md"


def is_onnx(folder):
  """Whether a folder holds an ONNX model, or versions of one."""
  return os.path.isfile(os.path.join(folder, MODEL_FILE)) or bool(
      _versions(folder))


def _versions(folder):
  """Numbers of the folders with an ONNX model in a folder, ascending."""
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return sorted(int(name) for name in names if re.match(r"[0-9]+\Z", name) and
                os.path.isfile(os.path.join(folder, name, MODEL_FILE)))


def newest(folder):
  """The folder of model.onnx: `folder`, or the highest version in it.

  Raises:
    ValueError: there is none.
  """
  if not os.path.isdir(folder):
    raise ValueError("folder %s is not a directory." % folder)
  if os.path.isfile(os.path.join(folder, MODEL_FILE)):
    return folder
  versions = _versions(folder)
  if not versions:
    raise ValueError(
        "folder %s has no %s; is it the --export_dir of export_saved_model.py "
        "--format=onnx?" % (folder, MODEL_FILE))
  return os.path.join(folder, str(versions[-1]))


def read(folder):
  """Reads everything but the model.

  Args:
    folder: str, the folder of model.onnx.

  Returns:
    `model_settings.ModelFiles`.

  Raises:
    ValueError: a file is missing or broken, or they do not fit each other.
  """
  found = model_settings.read(
      folder, "is it a folder of export_saved_model.py --format=onnx?")
  manifest = os.path.join(folder, MANIFEST_FILE)
  if not os.path.isfile(manifest):
    raise ValueError("%s is missing, so the files cannot be verified; restore "
                     "it, or export again." %
                     manifest)
  return found


def read_step(folder):
  """The training step in the manifest: int, 0 if there is none."""
  manifest = atomic_files.read_sealed(os.path.join(folder, MANIFEST_FILE), True)
  step = manifest.get("model", {}).get("step")
  return step if model_settings.is_of(step, int) else 0


def find_problem(folder, read_all=True):
  """Says which file is not as it was exported: a sentence, or None.

  Args:
    folder: str, the folder of model.onnx.
    read_all: bool; False checks only sizes.
  """
  return file_manifest.find_problem(folder, MANIFEST_FILE, read_all)


def identity(folder):
  """What changes when the folder is rewritten."""
  stat = os.stat(os.path.join(folder, MANIFEST_FILE))
  return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
