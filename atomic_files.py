# SPDX-License-Identifier: Apache-2.0
"""Files that a kill leaves whole: written beside, synced, renamed."""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import hashlib
import json
import os


def write_text(path, text):
  """Writes UTF-8 text so that a kill leaves the old file or the new one."""
  with open(path + ".tmp", "wb") as writer:
    writer.write(text.encode("utf-8"))
    writer.flush()
    os.fsync(writer.fileno())
  replace_file(path + ".tmp", path)


def replace_file(temporary, path):
  """Renames, and makes the rename last through a loss of power."""
  os.replace(temporary, path)
  folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def unwritable_folder(path):
  """Returns the nearest folder that exists, if nothing may be made in it.

  Args:
    path: str, a directory that exists or is to be made.

  Returns:
    str, the folder (or the file in its place) that forbids it, or None.
  """
  folder = os.path.abspath(path)
  while not os.path.exists(folder):
    folder = os.path.dirname(folder)
  if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
    return None
  return folder


def file_sha256(path):
  """Hex sha256 of a file's bytes."""
  digest = hashlib.sha256()
  with open(path, "rb") as reader:
    for block in iter(lambda: reader.read(1 << 20), b""):
      digest.update(block)
  return digest.hexdigest()


def to_json(value):
  """JSON text that a person can read; refuses NaN."""
  return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False,
                    allow_nan=False) + "\n"


def read_json(path):
  """Reads a JSON object; ValueError with one sentence when it is none."""
  try:
    with open(path, "rb") as reader:
      value = json.loads(reader.read().decode("utf-8"))
  except ValueError as error:
    raise ValueError("%s is not JSON: %s" % (
        path, " ".join(str(error).split())))
  if not isinstance(value, dict):
    raise ValueError("%s holds no JSON object." % path)
  return value
