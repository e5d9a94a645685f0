# SPDX-License-Identifier: Apache-2.0
"""The manifest of an export, `assets.extra/manifest.json`.

It contains the size and sha256 of every other file, so this program detects a
file that was changed or comes from another run's export. A server ignores it.
"""

import os

from multilabel.storage import file_manifest


FILE_NAME = "manifest.json"
FOLDER = "assets.extra"

_NAME = FOLDER + "/" + FILE_NAME
# Exports of this program have it; other SavedModels need no manifest.
_OWN_FILE = "model_settings.json"


def write(path, model):
  """Writes the manifest; the export's other files must be complete.

  Args:
    path: str, the folder of saved_model.pb.
    model: dict that JSON can hold, says what was exported.
  """
  file_manifest.write(path, _NAME, model)


def is_there(path):
  """Whether a folder (str) has the manifest of an export of this program."""
  return os.path.isfile(os.path.join(path, FOLDER, FILE_NAME))


def check(path):
  """Raises ValueError with the result of `find_problem`, if any."""
  problem = find_problem(path)
  if problem:
    raise ValueError("%s: %s" % (path, problem))


def find_problem(path):
  """Says which file was changed after the export; reads every byte.

  Args:
    path: str, the folder of saved_model.pb; one that this program did not
      write has no manifest and no problem.

  Returns:
    str, a sentence that names the file, or None.
  """
  if is_there(path):
    return file_manifest.find_problem(path, _NAME)
  if os.path.exists(os.path.join(path, FOLDER, _OWN_FILE)):
    return ("%s is missing, so the files cannot be verified; restore it, or "
            "export again." % _NAME)
  return None
