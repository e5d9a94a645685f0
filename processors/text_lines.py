# SPDX-License-Identifier: Apache-2.0
"""Lines of text files, plain or gzip, and words for messages about them."""

import functools
import gzip
import io
import os
import re
import zlib

# Characters of a line. A longer one is no text but what a broken or hostile
# file, small as it may be when packed, would fill the memory with.
MAX_LINE = 1 << 27
# errors="surrogateescape" turns the undecodable byte B into U+DC00 + B.
_BAD_CHARACTER = re.compile("[\0\udc80-\udcff]")
_FILE_STARTS = (
    (b"\xff\xfe", "it begins like UTF-16, save it as UTF-8"),
    (b"\xfe\xff", "it begins like UTF-16, save it as UTF-8"),
    (b"\x1f\x8b", "it begins like gzip data, whose name must end in .gz"),
    (b"PK\x03\x04", "it begins like a zip or a spreadsheet file, not text"),
)


def numbered_lines(path):
  """Yields (line number, line without its end) of a text file.

  Args:
    path: str, a UTF-8 file, as for `read_lines`.

  Yields:
    (int, str), from line 1 on; blank lines at the end are left out.

  Raises:
    ValueError: a blank line stands before others; as `read_lines`.
  """
  blank = 0
  for number, line in enumerate(read_lines(path), 1):
    line = line.rstrip("\r\n")
    # Tabs alone are a row of empty fields, which somebody else may refuse.
    if not line or line.isspace() and "\t" not in line:
      blank = blank or number
      continue
    if blank:
      raise ValueError("%s:%d: blank line before the end of the file." % (
          path, blank))
    yield number, line


def read_lines(path):
  r"""Yields the lines of a UTF-8 file, with their ends.

  Args:
    path: str, the file; a byte order mark is dropped, `.gz` is unpacked.

  Yields:
    str, ending in "\n", "\r\n" or "\r" (the last one maybe in none); other
    characters that Unicode calls line breaks are text.

  Raises:
    ValueError: the file cannot be opened or unpacked, or holds a byte that is
      not UTF-8, a NUL byte, or a line of more than `MAX_LINE` characters.
  """
  number = 0
  try:
    try:
      with _open_binary(path) as binary:
        # Line ends stay as they are: quoted fields keep their line breaks.
        # Python's "utf-8-sig" passes over a file that is half a mark.
        text = io.TextIOWrapper(_NulGuard(binary), "utf-8", newline="")
        read_line = functools.partial(text.readline, MAX_LINE + 1)
        for number, line in enumerate(iter(read_line, ""), 1):
          if number == 1 and line[0] == "\ufeff":
            line = line[1:]
            if not line:
              return
          if len(line) > MAX_LINE:
            raise ValueError("%s:%d: the line has more than %d characters." % (
                path, number, MAX_LINE))
          yield line
    except (UnicodeDecodeError, _NulByteError) as error:
      if not os.path.isfile(path):  # a pipe cannot be read again
        raise _bad_byte_in_stream(path, number, error)
      raise _bad_byte_error(path) or ValueError("%s: %s." % (path, error))
  except (EOFError, zlib.error) as error:
    raise ValueError("%s: broken gzip data (%s)." % (path, one_line(error)))
  except OSError as error:
    if error.errno is None and path.endswith(".gz"):
      raise ValueError("%s: broken gzip data (%s)." % (path, one_line(error)))
    if isinstance(error, (FileNotFoundError, PermissionError,
                          IsADirectoryError)):
      raise ValueError("%s: cannot be read (%s)." % (path, error.strerror))
    raise


class _NulByteError(Exception):
  """Has the `object` and `start` of a UnicodeDecodeError."""

  def __init__(self, data):
    super(_NulByteError, self).__init__("NUL byte")
    self.object = data
    self.start = data.index(b"\0")


class _NulGuard(io.BufferedIOBase):
  """Passes bytes through; csv differs by Python version on NUL bytes."""

  def __init__(self, binary):
    super(_NulGuard, self).__init__()
    self._binary = binary

  def readable(self):
    return True

  def read1(self, size=-1):
    data = self._binary.read1(size)
    if b"\0" in data:
      raise _NulByteError(data)
    return data


def _open_binary(path):
  if path.endswith(".gz"):
    return gzip.open(path, "rb")
  return open(path, "rb")


def _bad_byte_in_stream(path, lines_before, error):
  """Returns the error for a bad byte met after so many whole lines."""
  line = lines_before + 1 + len(
      re.findall(b"\r\n|\r|\n", error.object[:error.start]))
  byte = bytearray(error.object)[error.start]
  return ValueError("%s:%d: byte 0x%02x is not %s." % (
      path, line, byte, "text" if byte == 0 else "UTF-8"))


def _bad_byte_error(path):
  """Returns the error for the first NUL or undecodable byte of a file."""
  with _open_binary(path) as binary:
    start = binary.read(4)
  hints = [hint for magic, hint in _FILE_STARTS if start.startswith(magic)]
  line = 1
  with _open_binary(path) as binary:
    text = io.TextIOWrapper(binary, "utf-8", "surrogateescape")
    for chunk in iter(lambda: text.read(1 << 16), ""):
      bad = _BAD_CHARACTER.search(chunk)
      line += chunk.count("\n", 0, bad.start() if bad else len(chunk))
      if bad:
        byte = ord(bad.group()) & 0xff
        return ValueError("%s:%d: byte 0x%02x is not %s (%s)." % (
            path, line, byte, "text" if byte == 0 else "UTF-8",
            hints[0] if hints else "save the file as UTF-8"))
  return None


def list_names(names, most=20):
  """Returns a few names for a message, such as `'a', 'b', ... (40 in all)`."""
  names = list(names)
  text = ", ".join(shown(name) for name in names[:most])
  if len(names) > most:
    text += ", ... (%d in all)" % len(names)
  return text or "none"


def shown(value, most=60):
  """Returns a value as it can stand in a message: quoted, short, one line."""
  text = repr(value if not isinstance(value, str) else value[:most + 1])
  return text if len(text) <= most + 2 else text[:most] + "..."


def one_line(error):
  """Returns what an exception says, on one line."""
  return " ".join(str(error).split()) or type(error).__name__
