# SPDX-License-Identifier: Apache-2.0
"""A folder that an export creates: complete, or not there.

It is written to a hidden folder beside it and renamed when done. A folder that
is not empty is never replaced.
"""

import os

from multilabel.common import atomic_files
from multilabel.export import export_folder


def check(folder):
  """Raises ValueError if an export cannot become `folder`."""
  if os.path.isdir(folder) and os.listdir(folder):
    raise ValueError("export_dir %s already exists and has files, which are "
                     "not overwritten; name another one." % folder)
  if os.path.lexists(folder) and not os.path.isdir(folder):
    raise ValueError("export_dir %s is not a directory." % folder)
  unwritable = atomic_files.unwritable_folder(_parent(folder))
  if unwritable:
    raise ValueError(
        "export_dir %s: %s is not a writable directory." % (folder, unwritable))


def _parent(folder):
  return os.path.dirname(os.path.abspath(folder))


def make(folder, write):
  """Lets `write` fill a hidden folder, which then becomes `folder`.

  Args:
    folder: str, missing or empty.
    write: function of the path of an empty folder.

  Returns:
    What `write` returned.

  Raises:
    ValueError: something was written into `folder` meanwhile.
  """
  parent = _parent(folder)
  os.makedirs(parent, exist_ok=True)
  with export_folder.WorkFolder(parent) as work:
    result = write(work.path)
    for path, _, names in os.walk(work.path, topdown=False):
      for name in names:
        atomic_files.sync_file(os.path.join(path, name))
      atomic_files.sync_folder(path)
    try:
      # A folder that holds files is never replaced by a rename.
      atomic_files.replace_file(work.path, os.path.abspath(folder))
    except OSError:
      check(folder)
      raise
  return result
