# SPDX-License-Identifier: Apache-2.0
"""Lines of text files, plain or gzip, and words for messages about them."""

import codecs
import contextlib
import functools
import io
import itertools
import os
import re

from processors import file_bytes
from processors import text_encoding


# Maximum characters of a line, and of a row of a table. A longer one is not
# text but a broken or hostile file, which may be small when packed.
MAX_LINE = 1 << 24
_BREAK = re.compile("\r\n|\r|\n")
_PIECE = 1 << 16
BLANK_LINES = "%s: blank lines passed over: %d, the first is line %d."


def numbered_lines(path, encoding=None, log=None):
  """Yields (line number, line without its end) of a text file.

  Args:
    path: str, a text file, as for `read_lines`.
    encoding: str, as for `read_lines`.
    log: function of a message and its arguments, told of blank lines that are
      passed over; None: a blank line before others is an error.

  Yields:
    (int, str), from line 1 on; blank lines at the end are left out.

  Raises:
    ValueError: a blank line stands before others; as `read_lines`.
  """
  blank = passed_over = count = 0
  for number, line in enumerate(read_lines(path, encoding), 1):
    line = line.rstrip("\r\n")
    # Tabs alone are a row of empty fields, left to the caller.
    if not line or line.isspace() and "\t" not in line:
      blank = blank or number
      count += 1
      continue
    if count and log is not None:
      passed_over, count = passed_over + count, 0
    if blank and log is None:
      raise ValueError(
          "%s:%d: blank line before the end of the file: remove it." % (
              path, blank))
    yield number, line
  if passed_over:
    log(BLANK_LINES, path, passed_over, blank)


def read_lines(path, encoding=None):
  r"""Yields the lines of a text file, with their ends.

  Args:
    path: str, the file; `.gz` is unpacked.
    encoding: str, a name that Python knows; None: UTF-8. A byte order mark
      (UTF-8, UTF-16, UTF-32) takes precedence and is dropped; a file that is
      unmistakably UTF-8 is read as that.

  Yields:
    str, ending in "\n", "\r\n" or "\r" (the last one maybe in none); other
    characters that Unicode calls line breaks are text.

  Raises:
    ValueError: the file cannot be opened or unpacked, is not text, or holds a
      byte that is not of its encoding, a NUL byte, or a line of more than
      `MAX_LINE` characters.
  """
  number = 0
  with _open_text(path, encoding) as (text, encoding):
    read_line = functools.partial(text.readline, MAX_LINE + 1)
    try:
      for number, line in enumerate(iter(read_line, ""), 1):
        if len(line) > MAX_LINE:
          raise ValueError("%s:%d: the line has more than %d characters." % (
              path, number, MAX_LINE))
        if "\0" in line:
          raise _bad_byte(path, encoding, number) or ValueError(
              "%s:%d: byte 0x00 is not text." % (path, number))
        yield line
    except UnicodeDecodeError as error:
      raise _bad_byte(path, encoding, number, error) or ValueError(
          "%s: %s." % (path, one_line(error)))


def read_pieces(path, encoding=None):
  """Yields a text file in pieces of some size; as `read_lines` otherwise."""
  lines = 0
  with _open_text(path, encoding) as (text, encoding):
    try:
      for piece in iter(lambda: text.read(_PIECE), ""):
        if "\0" in piece:
          lines += piece.count("\n", 0, piece.index("\0"))
          raise _bad_byte(path, encoding, lines) or ValueError(
              "%s:%d: byte 0x00 is not text." % (path, lines + 1))
        yield piece
        lines += piece.count("\n")
    except UnicodeDecodeError as error:
      raise _bad_byte(path, encoding, lines, error) or ValueError(
          "%s: %s." % (path, one_line(error)))


@contextlib.contextmanager
def _open_text(path, encoding):
  """Yields (text stream, its encoding), past the byte order mark."""
  encoding = text_encoding.check(encoding)
  with file_bytes.unpacking(path), file_bytes.open_bytes(path) as opened:
    binary, start = opened
    encoding, mark_size = text_encoding.choose(start, encoding, path)
    binary.read(mark_size)
    # Line ends stay as they are: quoted fields keep their line breaks.
    yield io.TextIOWrapper(binary, encoding, newline=""), encoding


def is_utf8(path):
  """Whether a file can be read without naming an encoding."""
  try:
    for _ in read_pieces(path):
      pass
  except ValueError:
    return False
  return True


def _bad_byte(path, encoding, lines_before, error=None):
  """The ValueError for the first byte of a file that is not text.

  Args:
    path: str; a file is read again, a pipe cannot be.
    encoding: str, what it is read with.
    lines_before: int, whole lines that were read.
    error: UnicodeDecodeError, or None where it is a NUL byte.
  """
  if not os.path.isfile(path):
    if error is None:
      return None
    before = error.object[:error.start].decode(encoding, "replace")
    return _bad_byte_error(
        path, lines_before + 1 + len(_BREAK.findall(before)), encoding, error,
        error.object)
  decoder = codecs.getincrementaldecoder(encoding)()
  line, last = 1, ""
  with file_bytes.open_bytes(path) as opened:
    binary, start = opened
    binary.read(text_encoding.choose(start, None, path)[1])
    pieces = iter(lambda: binary.read(_PIECE), b"")
    for data in itertools.chain(pieces, (b"",)):
      found = None
      try:
        text = decoder.decode(data, final=not data)
      except UnicodeDecodeError as unreadable:
        found, data = unreadable, unreadable.object
        text = data[:found.start].decode(encoding, "replace")
      if "\0" in text:
        found, text = None, text[:text.index("\0") + 1]
      line += len(_BREAK.findall(text)) - (
          last == "\r" and text.startswith("\n"))
      if found or text.endswith("\0"):
        return _bad_byte_error(path, line, encoding, found,
                               data + binary.read(_PIECE))
      last = text[-1:]
  return None


def _bad_byte_error(path, line, encoding, error, data):
  """Says which byte it is, and what encoding the data may have."""
  byte = bytearray(error.object)[error.start] if error else 0
  return ValueError("%s:%d: byte 0x%02x is not %s (%s)." % (
      path, line, byte, encoding.upper() if error else "text",
      text_encoding.advice(data, error.object[:error.start] if error else b"")))


def list_names(names, most=20):
  """Returns a few names for a message, such as `'a', 'b', ... (40 in all)`."""
  names = list(names)
  text = ", ".join(shown(name) for name in names[:most])
  if len(names) > most:
    text += ", ... (%d in all)" % len(names)
  return text or "none"


def shown(value, most=60):
  """Returns a value for a message: quoted, short, one line."""
  try:
    text = repr(value if not isinstance(value, str) else value[:most + 1])
  except RecursionError:
    text = "(nested too deep to show)"
  return text if len(text) <= most + 2 else text[:most] + "..."


def one_line(error):
  """Returns what an exception says, on one line."""
  return " ".join(str(error).split()) or type(error).__name__
