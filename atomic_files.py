# SPDX-License-Identifier: Apache-2.0
"""Files that a kill or a loss of power leaves whole, and that know themselves.

Written beside, synced, renamed, and the folder synced. A sealed JSON file holds
the sha256 of the rest of its content, so that a changed byte is noticed.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil

SEAL = "sha256"


@contextlib.contextmanager
def replacing(path, text=False):
  """Opens a file that takes the place of `path` once it is complete.

  Args:
    path: str.
    text: bool, whether str is written, as UTF-8, or bytes.

  Yields:
    a stream; when the block fails, what was at `path` is still there.

  Raises:
    EnvironmentError: it cannot be written; names the file.
  """
  temporary = path + ".tmp"
  with naming(path):
    try:
      with io.open(temporary, "wb") as writer:
        stream = io.TextIOWrapper(
            writer, encoding="utf-8", newline="") if text else writer
        yield stream
        stream.flush()
        os.fsync(writer.fileno())
        if text:
          stream.detach()
      replace_file(temporary, path)
    except BaseException:
      # On a full disk this gives back the room that it took.
      with contextlib.suppress(EnvironmentError):
        os.remove(temporary)
      raise


@contextlib.contextmanager
def naming(path):
  """Gives errors of the system the file's name, which a write's lacks."""
  try:
    yield
  except EnvironmentError as error:
    if error.errno is not None and error.filename is None:
      error.filename = path
    raise


def write_text(path, text):
  """Writes UTF-8 text so that a kill leaves the old file or the new one."""
  with replacing(path) as writer:
    writer.write(text.encode("utf-8"))


def copy_file(source, path):
  """Copies a file so that a kill leaves the old one or the new one."""
  with open(source, "rb") as reader, replacing(path) as writer:
    shutil.copyfileobj(reader, writer)


def replace_file(temporary, path):
  """Renames, and makes the rename last through a loss of power."""
  os.replace(temporary, path)
  sync_folder(os.path.dirname(os.path.abspath(path)))


def sync_file(path):
  """Makes a file's bytes last through a loss of power."""
  with naming(path), open(path, "rb+") as written:
    os.fsync(written.fileno())


def sync_folder(folder):
  """Makes the names in a folder last through a loss of power."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with naming(folder):
      os.fsync(descriptor)
  except EnvironmentError as error:
    if error.errno != errno.EINVAL:  # a file system that cannot
      raise
  finally:
    os.close(descriptor)


def make_folder(folder):
  """Makes a folder, and those above it, so that a loss of power leaves them."""
  parent = os.path.dirname(os.path.abspath(folder))
  if not os.path.isdir(folder):
    make_folder(parent)
    with contextlib.suppress(FileExistsError):
      os.mkdir(folder)
    sync_folder(parent)


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
  except (ValueError, RecursionError) as error:
    raise ValueError("%s is not JSON: %s" % (
        path, " ".join(str(error).split())))
  if not isinstance(value, dict):
    raise ValueError("%s holds no JSON object." % path)
  return value


def write_sealed(path, value):
  """Writes a dict as JSON, with the sha256 of the rest under `sha256`."""
  value = {key: value[key] for key in value if key != SEAL}
  write_text(path, to_json(dict(value, **{SEAL: _seal(value)})))


def read_sealed(path, required=False):
  """Reads what `write_sealed` wrote, without the seal.

  Args:
    path: str.
    required: bool, whether a file without a seal is broken; else it is of a
      program that wrote none.

  Returns:
    dict.

  Raises:
    ValueError: it is no JSON object, or not what was written.
  """
  value = read_json(path)
  seal = value.pop(SEAL, None)
  if seal is None and not required:
    return value
  try:
    is_whole = seal == _seal(value)
  except ValueError:  # NaN, which is never written
    is_whole = False
  if not is_whole:
    raise ValueError("%s has been changed since it was written (its sha256 "
                     "differs)" % path)
  return value


def _seal(value):
  return hashlib.sha256(to_json(value).encode("utf-8")).hexdigest()
