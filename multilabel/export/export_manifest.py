# SPDX-License-Identifier: Apache-2.0
"""Which files are an export, and of which run: `assets.extra/manifest.json`.

It holds the size and sha256 of every other file, so that one that was changed,
or is of another run's export, is noticed where this program reads an export. A
server passes the folder over.
"""

import os

from multilabel.common import atomic_files


FILE_NAME = "manifest.json"
FOLDER = "assets.extra"

_NAME = FOLDER + "/" + FILE_NAME
# An export of this program has it; other SavedModels need no manifest.
_OWN_FILE = "model_settings.json"
_FORMAT_VERSION = 1


def write(path, model):
  """Writes the manifest; the export's other files must be complete.

  Args:
    path: str, the folder of saved_model.pb.
    model: dict that JSON can hold, says what was exported.
  """
  files = {name: {"bytes": os.path.getsize(os.path.join(path, name)),
                  "sha256": atomic_files.file_sha256(os.path.join(path, name))}
           for name in _names(path) if name != _NAME}
  atomic_files.write_sealed(os.path.join(path, FOLDER, FILE_NAME), {
      "format_version": _FORMAT_VERSION, "model": model, "files": files})


def _names(path):
  """The files below a folder, as `folder/name`."""
  return sorted(
      os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")
      for folder, _, names in os.walk(path) for name in names)


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
  manifest = os.path.join(path, FOLDER, FILE_NAME)
  if not os.path.isfile(manifest):
    if os.path.exists(os.path.join(path, FOLDER, _OWN_FILE)):
      return ("%s is missing, without which nothing says that the files belong "
              "together; bring it back, or export again." % _NAME)
    return None
  try:
    files = _read(manifest)
  except ValueError as error:
    return "%s; bring back what was written, or export again." % error
  for name in sorted(files):
    problem = _file_problem(os.path.join(path, name), files[name])
    if problem:
      return ("%s %s; bring back the one that was exported, or export "
              "again." % (name, problem))
  return None


def _read(manifest):
  """The `files` of a manifest; ValueError if it is no whole one."""
  content = atomic_files.read_sealed(manifest, True)
  files = content.get("files")
  if not isinstance(files, dict) or not files:
    raise ValueError("%s is no manifest of an export" % manifest)
  return files


def _file_problem(path, expected):
  """What is wrong with a file, or None."""
  if not os.path.isfile(path):
    return "is missing"
  if (os.path.getsize(path) != expected["bytes"] or
      atomic_files.file_sha256(path) != expected["sha256"]):
    return ("is not the file of this export (its sha256 is not the one in %s)" %
            _NAME)
  return None
