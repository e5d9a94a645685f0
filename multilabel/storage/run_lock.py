# SPDX-License-Identifier: Apache-2.0
"""Locks output directories, and rejects those that are not ours.
"""

import contextlib
import errno
import os
import platform
import re


try:
  import fcntl
except ImportError:  # not on Windows, where there is no lock
  fcntl = None

from multilabel.common import atomic_files


SETTINGS_FILE = "model_settings.json"
LOCK_FILE = ".lock"

# Files that an operating system puts into any directory.
_ANYBODYS_FILES = re.compile(r"(lost\+found|\..*)\Z", re.DOTALL)
# What a run leaves in its directory before model_settings.json is there. Others
# have files with these names, too: they are ours if there is a run's lock
# beside them.
_BEGUN_FILES = re.compile(
    r"(bert_config\.json|vocab\.txt|labels\.txt|.*\.tf_record([.-].*)?|"
    r"events\.out\.tfevents\..*)\Z")
_LOCK_CONTENT = re.compile(r"pid \d+ on ")

# The files that a run replaces; temporary files of other programs in the
# directory are not removed.
_REPLACED = (
    r"(bert_config\.json|vocab\.txt|labels\.txt|model_settings\.json|"
    r"best_checkpoint\.json|checkpoint|model\.ckpt-\d+\..*|"
    r"(train|dev|test)\.tf_record.*|(test_)?eval_results\.(txt|json)|"
    r"(eval|test)_predictions\.(jsonl|csv)|test_results\.tsv|report\.html|"
    r"model_card\.md|cluster\.json)")
_REPLACED_FILES = re.compile(_REPLACED + r"\Z")
_TEMPORARY_FILES = re.compile(r"\." + _REPLACED + r"\.[0-9a-f]{12}\.tmp\Z")


def is_trained(output_dir):
  """Whether a run has been started in that directory."""
  return os.path.isfile(os.path.join(output_dir, SETTINGS_FILE))


def check_output_dir(output_dir):
  """Raises ValueError for a directory that we must not write to."""
  # lexists: a dangling link is in the way, too.
  if os.path.lexists(output_dir) and not os.path.isdir(output_dir):
    raise ValueError("output_dir %s is a file; name a directory." % output_dir)
  if re.search(r"[*?\[\]\\]", output_dir):
    raise ValueError(
        "output_dir %s has one of the characters * ? [ ] \\ in its name, which "
        "TensorFlow treats as a pattern; name another directory." % output_dir)
  if os.path.isdir(output_dir) and not is_trained(output_dir):
    has_begun = _has_own_lock(output_dir)
    foreign = sorted(
        name for name in os.listdir(output_dir)
        if not _ANYBODYS_FILES.match(name) and not (
            has_begun and _BEGUN_FILES.match(name)))
    if foreign:
      raise ValueError(
          "output_dir %s is not empty and not from a training run (it contains "
          "%s); name a new or empty directory." % (
              output_dir, ", ".join(foreign[:3])))
  folder = atomic_files.unwritable_folder(output_dir)
  if folder:
    raise ValueError("output_dir %s cannot be written: no permission to write "
                     "to %s." % (output_dir, folder))
  _check_links(output_dir)


def _check_links(output_dir):
  """Raises ValueError if writing into a directory would also write elsewhere.
  """
  home = os.path.join(os.path.realpath(output_dir), "")
  for name in sorted(os.listdir(home) if os.path.isdir(home) else ()):
    path = os.path.join(output_dir, name)
    if not os.path.islink(path) or not (
        name == LOCK_FILE or _REPLACED_FILES.match(name)):
      continue
    where = os.path.realpath(path)
    if name == LOCK_FILE or not where.startswith(home):
      raise ValueError(
          "output_dir %s: %s is a symbolic link to %s, which a run would "
          "overwrite; replace it by the file itself." % (
              output_dir, name, where))


def _has_own_lock(output_dir):
  """Whether a run has locked the directory, now or before.

  Raises:
    ValueError: the lock belongs to another program.
  """
  path = os.path.join(output_dir, LOCK_FILE)
  if not os.path.lexists(path):
    return False
  content = u""
  if os.path.isfile(path) and not os.path.islink(path):
    with open(path, "rb") as reader:
      content = reader.read(100).decode("utf-8", "replace")
    # A kill may happen between opening and writing.
    if not content or _LOCK_CONTENT.match(content):
      return bool(content)
  raise ValueError(
      "output_dir %s contains %s, which is not from a training run; name a new "
      "or empty directory." % (output_dir, LOCK_FILE))


def begun_files(output_dir):
  """Names in a directory that a run without its model_settings.json left."""
  names = os.listdir(output_dir) if os.path.isdir(output_dir) else []
  return sorted(name for name in names if _BEGUN_FILES.match(name) and
                not _ANYBODYS_FILES.match(name))


def remove_temporary_files(output_dir):
  """Removes partial files of a killed run.

  The caller holds the lock, so no run is writing one now.
  """
  for name in os.listdir(output_dir):
    path = os.path.join(output_dir, name)
    if _TEMPORARY_FILES.match(name) and os.path.isfile(path) and (
        not os.path.islink(path)):
      os.remove(path)


@contextlib.contextmanager
def lock(output_dir):
  """Creates the directory, and locks it against other runs.

  The kernel frees the lock when its holder ends, however it ends. A directory
  that was created here and is still empty is removed if the body fails, and so
  is the lock, which would mark later files as ours.

  Args:
    output_dir: str.

  Raises:
    ValueError: another process holds the lock; names its pid and host.
  """
  is_new = not os.path.isdir(output_dir)
  atomic_files.make_folder(output_dir)
  path = os.path.join(output_dir, LOCK_FILE)
  if os.path.lexists(path) and (os.path.islink(path) or
                                not os.path.isfile(path)):
    raise ValueError("output_dir %s: %s is not a file; remove it." % (
        output_dir, LOCK_FILE))
  with open(path, "a+") as holder:
    if fcntl is not None:
      try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except EnvironmentError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
          error.filename = path
          raise
        holder.seek(0)
        raise ValueError("output_dir %s is in use by another run (%s); wait "
                         "for it, or name another --output_dir." % (
                             output_dir, holder.read().strip() or "unknown"))
      if not os.path.exists(path) or not os.path.samestat(
          os.fstat(holder.fileno()), os.stat(path)):
        raise ValueError("output_dir %s was removed by a run that just failed; "
                         "start this one again." % output_dir)
    _locks.add(holder.fileno())
    try:
      with atomic_files.naming(path):
        os.ftruncate(holder.fileno(), 0)
        os.write(holder.fileno(), ("pid %d on %s" % (
            os.getpid(), platform.node())).encode("utf-8"))
      yield
    except BaseException:
      if os.listdir(output_dir) == [LOCK_FILE]:
        os.remove(path)
        if is_new:
          os.rmdir(output_dir)
      raise
    finally:
      _locks.discard(holder.fileno())


# Descriptors of the locks that this process holds.
_locks = set()


def _leave_locks():
  """Releases a lock that a forked worker would hold after its parent's end."""
  while _locks:
    os.close(_locks.pop())


if fcntl is not None:
  os.register_at_fork(after_in_child=_leave_locks)
