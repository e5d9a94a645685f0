# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file, plain or gzip, after a check that they can be text."""

import contextlib
import gzip
import io
import os
import stat
import threading
import zlib


# First bytes of files that are not text, and what to do.
_GZIP = b"\x1f\x8b"
_STARTS = (
    (_GZIP, "gzip data: end its name in .gz"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet: end the name of a "
     "spreadsheet in .xlsx, unpack an archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PAR1", "Parquet: end its name in .parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file: save it as .xlsx or "
     ".csv"),
    (b"BZh", "bzip2 data: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "xz data: unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd data: unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
    (b"%PDF-", "a PDF file: save its text"),
    (b"{\\rtf", "a rich text file: save it as plain text"),
    (b"SQLite format 3\0", "an SQLite database: export a table as .csv"),
    (b"Obj\x01", "an Avro file: save it as .csv or .jsonl"),
    (b"ARROW1", "an Arrow file: save it as .parquet"),
    (b"version https://git-lfs.github.com/spec/",
     "a pointer of Git LFS: fetch the file itself with git lfs pull"),
)
_START_SIZE = 512
PIPE_SECONDS = 30
_TAR = (257, b"ustar")


class _Started(io.BufferedIOBase):
  """A stream whose first bytes have already been read."""

  def __init__(self, start, stream):
    super(_Started, self).__init__()
    self._start = start
    self._stream = stream

  def readable(self):
    return True

  def read(self, size=-1):
    if size is None or size < 0:
      data, self._start = self._start, b""
      return data + self._stream.read()
    data, self._start = self._start[:size], self._start[size:]
    return data or self._stream.read(size)

  def read1(self, size=-1):
    if self._start:
      return self.read(size if size and size > 0 else len(self._start))
    return self._stream.read1(size)


@contextlib.contextmanager
def open_bytes(path):
  """Opens a file that holds text.

  Args:
    path: str; `.gz` is unpacked, consecutive members as one.

  Yields:
    (stream, start): a binary stream with `read` and `read1`, and its first
    bytes, which it will return again.

  Raises:
    ValueError: the file cannot be opened or unpacked, or has a known binary
      format.
  """
  is_packed = path.endswith(".gz")
  with contextlib.ExitStack() as stack:
    raw = stack.enter_context(open_raw(path))
    start = _read_start(raw)
    if is_packed:
      if not start.startswith(_GZIP):
        raise ValueError("%s: broken gzip data (%s)." % (
            path, "the file is empty" if not start else
            "it is %s" % kind(start) if kind(start) else
            "it is not packed, take .gz off its name"))
      with unpacking(path):
        raw = stack.enter_context(gzip.GzipFile(
            fileobj=_Started(start, raw)))
        start = _read_start(raw)
    if kind(start):
      raise ValueError("%s%s is %s." % (
          path, " unpacked" if is_packed else "",
          "gzip data again: unpack it once"
          if is_packed and start.startswith(_GZIP) else kind(start)))
    yield _Started(start, raw), start


def open_raw(path):
  """Opens a file, or a pipe with a writer.

  Args:
    path: str.

  Returns:
    binary stream.

  Raises:
    ValueError: it cannot be opened, or is a pipe without a writer within
      `PIPE_SECONDS`.
  """
  try:
    if not stat.S_ISFIFO(os.stat(path).st_mode):
      return open(path, "rb")
    opened = []
    # A pipe opens only when its other end does, maybe never.
    opener = threading.Thread(target=lambda: opened.append(open(path, "rb")),
                              daemon=True)
    opener.start()
    opener.join(PIPE_SECONDS)
    if not opened:
      os.close(os.open(path, os.O_RDWR))  # lets the thread end
      raise ValueError("%s: it is a pipe that nothing has opened for writing "
                       "within %d s." % (path, PIPE_SECONDS))
    return opened[0]
  except OSError as error:
    raise ValueError("%s: cannot be read (%s)." % (
        path, error.strerror or error))


@contextlib.contextmanager
def unpacking(path):
  """Turns errors while unpacking a file into one sentence."""
  try:
    yield
  except (EOFError, zlib.error) as error:
    raise ValueError(broken_gzip(path, error))
  except OSError as error:
    if error.errno is None and path.endswith(".gz"):
      raise ValueError(broken_gzip(path, error))
    raise


def broken_gzip(path, error):
  """The sentence for truncated or broken gzip data."""
  return "%s: broken gzip data (%s)." % (
      path, " ".join(str(error).split()) or type(error).__name__)


def _read_start(stream):
  """The first bytes of a stream, even if it returns small pieces."""
  start = b""
  while len(start) < _START_SIZE:
    piece = stream.read1(_START_SIZE - len(start)) if hasattr(
        stream, "read1") else stream.read(_START_SIZE - len(start))
    if not piece:
      break
    start += piece
  return start


def kind(start):
  """The type of a file with these first bytes, and what to do; None: maybe
  text."""
  if start[_TAR[0]:].startswith(_TAR[1]):
    return "a tar archive: unpack it"
  for magic, kind in _STARTS:
    if start.startswith(magic):
      return kind
  return None
