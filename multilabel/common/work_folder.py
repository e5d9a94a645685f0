# SPDX-License-Identifier: Apache-2.0
"""Hidden folders for work that is renamed when it is done.

A kill leaves one behind, which a later start removes. Its name alone does not
show that it is ours: a marker file does, which is removed last.
"""

import os
import re
import shutil
import tempfile


MARK_FILE = ".work-in-progress"
MARK = b"Made by bert-multilabel, which removes this folder.\n"

# What mkdtemp appends to a prefix.
_RANDOM = re.compile(r"[a-z0-9_]{8}\Z")


def make(parent, prefix):
  """Makes a folder with a new name in `parent`; returns its path."""
  path = tempfile.mkdtemp(prefix=prefix, dir=parent)
  with open(os.path.join(path, MARK_FILE), "wb") as writer:
    writer.write(MARK)
  return path


def is_ours(path, prefix):
  """Whether `make` made the folder with that prefix; no link is followed."""
  name = os.path.basename(path)
  mark = os.path.join(path, MARK_FILE)
  if not name.startswith(prefix) or not _RANDOM.match(name[len(prefix):]):
    return False
  if os.path.islink(path) or os.path.islink(mark) or not os.path.isfile(mark):
    return False
  with open(mark, "rb") as reader:
    return reader.read(len(MARK) + 1) == MARK


def remove(path):
  """Removes a folder of `make`, the marker last; ignores errors."""
  try:
    for name in os.listdir(path):
      inside = os.path.join(path, name)
      if name == MARK_FILE:
        continue
      if os.path.isdir(inside) and not os.path.islink(inside):
        shutil.rmtree(inside, ignore_errors=True)
      else:
        os.remove(inside)
    if os.listdir(path) == [MARK_FILE]:
      os.remove(os.path.join(path, MARK_FILE))
      os.rmdir(path)
  except EnvironmentError:
    pass
