# SPDX-License-Identifier: Apache-2.0
"""Files that survive a kill or power failure intact, and that detect changes.

A file is written under a temporary name, synced and renamed, and the folder is
synced. A sealed JSON file contains the sha256 of the rest of its content, so
any changed byte is detected.
"""

import binascii
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat


SEAL = "sha256"

# Far more than the settings for a million labels need.
_MAX_JSON_BYTES = 1 << 30

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp\Z", re.DOTALL)


@contextlib.contextmanager
def replacing(path, text=False):
  """Opens a file that takes the place of `path` once it is complete.

  Args:
    path: str.
    text: bool, whether str is written, as UTF-8, or bytes.

  Yields:
    a stream; when the block fails, what was at `path` is still there. The file
    has the mode of the one before; several writers at once do not disturb each
    other, and what the last one wrote stays.

  Raises:
    EnvironmentError: it cannot be written; names the file.
    ValueError: what is at `path` is not a file.
  """
  path = target(path)
  with naming(path), temporary_file(path) as temporary:
    # The name was made a moment ago and belongs to nobody else.
    with io.open(temporary, "wb") as writer:
      stream = io.TextIOWrapper(
          writer, encoding="utf-8", newline="") if text else writer
      yield stream
      stream.flush()
      os.fsync(writer.fileno())
      if text:
        stream.detach()
    replace_file(temporary, path)


def target(path):
  """Returns what a file that is written under `path` takes the place of.

  Args:
    path: str; where it is a symbolic link, the link stays and what it points
      to is replaced.

  Returns:
    str.

  Raises:
    ValueError: something is there that is not a file, such as a pipe.
  """
  if os.path.islink(path):
    path = os.path.realpath(path)
  if os.path.lexists(path) and not os.path.isfile(path):
    raise ValueError("%s is not a file%s; name another." % (
        path, " but a folder" if os.path.isdir(path) else ""))
  return path


@contextlib.contextmanager
def temporary_file(path):
  """Makes an empty file beside `path`, under an unused name.

  It has the mode, and if possible the owner, of the file at `path`.

  Args:
    path: str, the file that it will be renamed to.

  Yields:
    str, its path; it is removed at the end, unless it has been renamed.
  """
  try:
    status = os.stat(path)
  except EnvironmentError:
    status = None
  mode = 0o666 if status is None else stat.S_IMODE(status.st_mode) & 0o777
  folder, name = os.path.split(path)
  if len(os.fsencode(name)) > 200:  # names have 255 bytes at most
    name = name[:50]
  while True:
    temporary = os.path.join(folder, ".%s.%s.tmp" % (
        name, binascii.hexlify(os.urandom(6)).decode("ascii")))
    try:
      descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                           mode)
      break
    except FileExistsError:
      pass
    except EnvironmentError as error:
      error.filename = path
      raise
  try:
    try:
      if status is not None:
        _take_over(descriptor, status)
    finally:
      os.close(descriptor)
    yield temporary
  finally:
    # Frees the space after an error, such as a full disk.
    with contextlib.suppress(EnvironmentError):
      os.remove(temporary)


def _take_over(descriptor, status):
  """Gives a new file the owner and the mode of the one before."""
  if not hasattr(os, "fchmod"):  # Windows
    return
  mine = os.fstat(descriptor)
  if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
    with contextlib.suppress(EnvironmentError):
      os.fchown(descriptor, status.st_uid, status.st_gid)
  os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)


def is_temporary(name):
  """Whether a file of that name (str) was made by `temporary_file`."""
  return bool(_TEMPORARY.match(name))


@contextlib.contextmanager
def naming(path):
  """Adds the file name to system errors, which lack it for writes."""
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
  with open_regular(source) as reader, replacing(path) as writer:
    shutil.copyfileobj(reader, writer)


def replace_file(temporary, path):
  """Renames, and makes the rename durable."""
  os.replace(temporary, path)
  sync_folder(os.path.dirname(os.path.abspath(path)))


def sync_file(path):
  """Makes a file's bytes durable."""
  with naming(path), open(path, "rb+") as written:
    os.fsync(written.fileno())


def sync_folder(folder):
  """Makes the names in a folder durable."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with naming(folder):
      os.fsync(descriptor)
  except EnvironmentError as error:
    if error.errno != errno.EINVAL:  # a file system that cannot do that
      raise
  finally:
    os.close(descriptor)


def make_folder(folder):
  """Makes a folder and its parents, durably."""
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


def open_regular(path):
  """Opens a regular file for bytes; a pipe or device might never end.

  Args:
    path: str.

  Returns:
    binary stream.

  Raises:
    EnvironmentError: there is no such file, or it cannot be read.
    ValueError: it is not a regular file, nor a link to one.
  """
  if os.path.lexists(path) and not os.path.isfile(path):
    raise ValueError("%s is not a regular file%s." % (
        path, " but a folder" if os.path.isdir(path) else
        ", but a link to nothing" if not os.path.exists(path) else ""))
  return open(path, "rb")


def file_sha256(path):
  """Hex sha256 of a file's bytes; raises as `open_regular` does."""
  digest = hashlib.sha256()
  with open_regular(path) as reader:
    for block in iter(lambda: reader.read(1 << 20), b""):
      digest.update(block)
  return digest.hexdigest()


def to_json(value):
  """Readable JSON text; refuses NaN."""
  return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False,
                    allow_nan=False) + "\n"


def read_json(path):
  """Reads a JSON object; ValueError with one sentence if it is not one."""
  with open_regular(path) as reader:
    data = reader.read(_MAX_JSON_BYTES + 1)
  if len(data) > _MAX_JSON_BYTES:
    raise ValueError("%s is longer than %d bytes." % (path, _MAX_JSON_BYTES))
  try:
    value = json.loads(data.decode("utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError("%s is not JSON: %s" % (
        path, " ".join(str(error).split())))
  if not isinstance(value, dict):
    raise ValueError("%s must hold a JSON object." % path)
  return value


def write_sealed(path, value):
  """Writes a dict as JSON, with the sha256 of the rest under `sha256`."""
  value = {key: value[key] for key in value if key != SEAL}
  write_text(path, to_json(dict(value, **{SEAL: _seal(value)})))


def read_sealed(path, required=False):
  """Reads what `write_sealed` wrote, without the seal.

  Args:
    path: str.
    required: bool, whether a file without a seal is broken; otherwise it is
      from a program that wrote none.

  Returns:
    dict.

  Raises:
    ValueError: it is not a JSON object, or not what was written.
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
    raise ValueError(
        "%s was changed after it was written (its sha256 differs)" % path)
  return value


def _seal(value):
  return hashlib.sha256(to_json(value).encode("utf-8")).hexdigest()
