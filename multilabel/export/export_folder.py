# SPDX-License-Identifier: Apache-2.0
"""The folder that a server polls: numbered, complete versions.

An export is written to a hidden folder beside them, which is renamed when done.
The folder is locked while its exporter is alive, so the remains of a killed
exporter can be told from an export in progress.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time

from absl import logging

from multilabel.common import atomic_files
from multilabel.export import export_manifest


MODEL_FILE = "saved_model.pb"

_WORK_PREFIX = ".export-"
_WORK_NAME = re.compile(r"\.export-[a-z0-9_]{8}\Z")  # as mkdtemp makes it
# An empty file in a hidden folder that an exporter made, which nothing else
# has: without it, a folder is not ours, whatever its name.
_MARK = ".bert_multilabel_export"
_MAX_VERSION = (1 << 63) - 1


def versions(export_dir):
  """The versions in a folder, list of int, lowest first."""
  names = os.listdir(export_dir) if os.path.isdir(export_dir) else []
  return sorted(int(name) for name in names if re.match(r"[0-9]+\Z", name))


def check(export_dir, version, keep_versions):
  """Checks the arguments of an export, before any work.

  Args:
    export_dir: str, a folder of versions; need not exist.
    version: int, or None for an unused one.
    keep_versions: int, versions to keep; 0: all.

  Raises:
    ValueError: one of them is invalid.
  """
  if re.search(r"[*?\[\]\\]", os.path.abspath(export_dir)):
    raise ValueError(
        "export_dir %s has one of the characters * ? [ ] \\ in its path, which "
        "TensorFlow treats as a pattern; name another directory." % export_dir)
  if os.path.exists(os.path.join(export_dir, MODEL_FILE)):
    raise ValueError("export_dir %s is itself an export; name the directory "
                     "above it, which holds the versions." % export_dir)
  folder = atomic_files.unwritable_folder(export_dir)
  if folder:
    raise ValueError(
        "export_dir %s: %s is not a writable directory." % (export_dir, folder))
  if version is not None:
    if not 0 < version <= _MAX_VERSION:
      raise ValueError("version is %d; it must be from 1 to %d." % (
          version, _MAX_VERSION))
    if version in versions(export_dir):
      raise ValueError(
          "version %d already exists in %s and is not overwritten; give "
          "another --version." % (version, export_dir))
  if keep_versions < 0:
    raise ValueError("keep_versions is %d; it must be 0 (keep all) or more." %
                     keep_versions)


class WorkFolder(object):
  """A hidden folder in the export folder, locked, removed in the end.

  Attributes:
    path: str, an empty folder in it, which becomes the version.
    scratch: str, the folder itself, for temporary files.
  """

  def __init__(self, export_dir):
    self._export_dir = export_dir
    self.scratch = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=export_dir)
    self._lock = _lock(self.scratch)
    with open(os.path.join(self.scratch, _MARK), "w"):
      pass
    # mkdtemp denies access to other users; a server may run as another user.
    self.path = os.path.join(self.scratch, "version")
    os.mkdir(self.path)

  def publish(self, version):
    """Renames the work to a version.

    Args:
      version: int; None: the time in seconds, or one more than the highest
        version there.

    Returns:
      str, the version's folder.

    Raises:
      ValueError: the version was created meanwhile.
    """
    for folder, _, names in os.walk(self.path, topdown=False):
      for name in names:
        atomic_files.sync_file(os.path.join(folder, name))
      atomic_files.sync_folder(folder)
    while True:
      existing = versions(self._export_dir)
      number = version
      if number is None:
        number = max([int(time.time())] + [v + 1 for v in existing[-1:]])
      path = os.path.join(self._export_dir, str(number))
      try:
        # A folder that holds files is never replaced by a rename.
        if number in existing or os.path.lexists(path):
          raise FileExistsError(path)
        atomic_files.replace_file(self.path, path)
        return path
      except OSError:
        if not os.path.lexists(path):
          raise
        if version is not None:
          raise ValueError("version %d was created in %s meanwhile and is not "
                           "overwritten; give another --version." % (
                               version, self._export_dir))

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    _remove(self.scratch)
    if self._lock is not None:
      os.close(self._lock)


def _remove(scratch):
  """Removes a work folder, the marker last, in case of a kill."""
  for name in os.listdir(scratch):
    path = os.path.join(scratch, name)
    if os.path.isdir(path) and not os.path.islink(path):
      shutil.rmtree(path, ignore_errors=True)
    elif name != _MARK:
      with contextlib.suppress(OSError):
        os.remove(path)
  shutil.rmtree(scratch, ignore_errors=True)


def _lock(path):
  """A descriptor that keeps a folder locked; None if it is already locked.

  The lock ends with the process, however that ends.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor
  except OSError:
    os.close(descriptor)
    return None


def remove_left_over(export_dir):
  """Removes what killed exporters left, but not exports in progress."""
  for name in os.listdir(export_dir):
    path = os.path.join(export_dir, name)
    if not _WORK_NAME.match(name) or not os.path.isfile(
        os.path.join(path, _MARK)):
      continue
    try:
      age = time.time() - os.stat(path).st_ctime
      # A new one may not be locked yet.
      lock = _lock(path) if age > 60 else None
    except FileNotFoundError:
      continue  # Its exporter has just renamed it.
    if lock is not None:
      logging.info("Removing %s, left by an export that was killed.", path)
      _remove(path)
      os.close(lock)


def remove_oldest(export_dir, keep_versions, newest):
  """Removes the lowest versions, but never `newest`, until `keep` are left.

  Versions without a manifest of this program are not ours: they are neither
  counted nor removed.
  """
  others = []
  for version in versions(export_dir):
    path = os.path.join(export_dir, str(version))
    if str(version) == newest or not os.path.exists(
        os.path.join(path, MODEL_FILE)):
      continue
    if export_manifest.is_there(path):
      others.append(path)
    else:
      logging.info("%s has no manifest of this program, so it is kept.", path)
  for path in others[:max(0, len(others) + 1 - keep_versions)]:
    # Hidden first: a server must not find half of it.
    with WorkFolder(export_dir) as work:
      try:
        os.rename(path, os.path.join(work.scratch, "removed"))
      except FileNotFoundError:
        continue  # Another exporter was quicker.
    logging.info("Removed %s.", path)
