# SPDX-License-Identifier: Apache-2.0
"""Which files belong together: a JSON file with the sha256 of each.

It has the size and sha256 of every other file of a folder, so a file that was
changed or comes from another export is detected.
"""

import os

from multilabel.common import atomic_files

_FORMAT_VERSION = 1


def write(folder, name, model):
  """Writes the manifest; the folder's other files must be complete.

  Args:
    folder: str.
    name: str, the manifest's, `folder/name` from there.
    model: dict that JSON can hold, says what was exported.
  """
  files = {
      path: {"bytes": os.path.getsize(os.path.join(folder, path)),
             "sha256": atomic_files.file_sha256(os.path.join(folder, path))}
      for path in _names(folder) if path != name}
  atomic_files.write_sealed(os.path.join(folder, name), {
      "format_version": _FORMAT_VERSION, "model": model, "files": files})


def _names(path):
  """The files below a folder, as `folder/name`."""
  return sorted(
      os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")
      for folder, _, names in os.walk(path) for name in names)


def find_problem(folder, name, read_all=True):
  """Says which file differs from the export.

  Args:
    folder: str.
    name: str, the manifest's, which must exist.
    read_all: bool; False checks only sizes.

  Returns:
    str, a sentence that names the file, or None.
  """
  try:
    files = _read(os.path.join(folder, name))
  except ValueError as error:
    return "%s; restore the original, or export again." % error
  for path in sorted(files):
    problem = _file_problem(os.path.join(folder, path), files[path], name,
                            read_all)
    if problem:
      return ("%s %s; restore the exported file, or export "
              "again." % (path, problem))
  return None


def _read(manifest):
  """The `files` of a manifest; ValueError if it is not a complete one."""
  content = atomic_files.read_sealed(manifest, True)
  files = content.get("files")
  if not isinstance(files, dict) or not files:
    raise ValueError("%s is not the manifest of an export" % manifest)
  return files


def _file_problem(path, expected, name, read_all):
  """What is wrong with a file, or None."""
  if not os.path.isfile(path):
    return "is missing"
  if (os.path.getsize(path) != expected["bytes"] or read_all and
      atomic_files.file_sha256(path) != expected["sha256"]):
    return ("does not belong to this export (its sha256 differs from the one "
            "in %s)" %
            name)
  return None
