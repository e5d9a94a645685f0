# SPDX-License-Identifier: Apache-2.0
"""Which files are an export, and of which run: `assets.extra/manifest.json`.

It holds the size and sha256 of every other file, so that one that was changed,
or is of another run's export, is noticed where this program reads an export. A
server passes the folder over.
"""

import os

from multilabel.storage import file_manifest


FILE_NAME = "manifest.json"
FOLDER = "assets.extra"

_NAME = FOLDER + "/" + FILE_NAME
# An export of this program has it; other SavedModels need no manifest.
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
  """Raises ValueError with what `find_problem` says of an export."""
  problem = find_problem(path)
  if problem:
    raise ValueError("%s: %s" % (path, problem))


def find_problem(path):
  """Says which file is not as it was exported; reads every byte.

  Args:
    path: str, the folder of saved_model.pb; one that this program did not
      write has no manifest and no problem.

  Returns:
    str, a sentence that names the file, or None.
  """
  if is_there(path):
    return file_manifest.find_problem(path, _NAME)
  if os.path.exists(os.path.join(path, FOLDER, _OWN_FILE)):
    return ("%s is missing, without which nothing says that the files belong "
            "together; bring it back, or export again." % _NAME)
  return None
