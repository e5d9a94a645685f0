# SPDX-License-Identifier: Apache-2.0
"""The work folder of the programs here, and its flags."""

import contextlib
import os
import shutil
import sys
import tempfile


def add_flags(parser):
  """Adds `--seed`, `--work_dir` and `--keep` to an `ArgumentParser`."""
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--work_dir", help="an empty or new folder; default: a "
                      "temporary one")
  parser.add_argument("--keep", action="store_true",
                      help="keep the work folder")


@contextlib.contextmanager
def open_folder(options):
  """Makes the folder that the flags name; it is removed at the end unless
  --keep.

  Args:
    options: what the parser of `add_flags` returned.

  Yields:
    str, its path.

  Raises:
    ValueError: it is there and not empty.
  """
  folder = options.work_dir or tempfile.mkdtemp(prefix="faults-")
  if os.path.isdir(folder) and os.listdir(folder):
    raise ValueError("--work_dir %s is not empty; name another one." % folder)
  os.makedirs(folder, exist_ok=True)
  try:
    yield folder
  finally:
    if options.keep:
      print("Kept: %s" % folder, file=sys.stderr)
    else:
      shutil.rmtree(folder, ignore_errors=True)
