# SPDX-License-Identifier: Apache-2.0
"""Which encoding a text file has, and which one it may have.

A byte order mark decides. Without one a file is UTF-8, or what `--encoding`
says. A file that is neither is an error that names the encodings it could be,
found by decoding a piece of it.
"""

import codecs
import re

from absl import logging


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before those of UTF-16, which they begin like.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Text encodings of Python's that are escapes, not characters of a file.
_NOT_OF_FILES = frozenset((
    "idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined",
    "raw-unicode-escape", "unicode-escape", "mbcs", "oem"))
_MULTIBYTE_UTF8 = re.compile(b"[\xc2-\xf4][\x80-\xbf]+")
# So many characters of another encoding are never UTF-8 by chance.
_SURELY_UTF8 = 6


def check(encoding):
  """Returns Python's name of an encoding; None for None or "".

  Args:
    encoding: str, such as "gb18030" or "latin-1", or None.

  Raises:
    ValueError: there is no such encoding of text files.
  """
  if not encoding:
    return None
  try:
    name = codecs.lookup(encoding).name
    # Codecs of bytes, such as base64, raise LookupError when they are used.
    if name in _NOT_OF_FILES or not "\n".encode(name):
      raise LookupError(encoding)
  except (LookupError, ValueError):  # ValueError: NUL in the name
    raise ValueError(
        "--encoding=%s is no encoding of text files: give a name such as "
        "gb18030, big5, shift_jis, cp1252 or utf-16." % repr(encoding[:60]))
  return "utf-8" if name == "utf-8-sig" else name


def choose(start, encoding, path):
  """Returns (encoding, bytes of the mark) of a file.

  Args:
    start: bytes, the beginning of the file.
    encoding: str, as `check` returns it; None: UTF-8.
    path: str, for the log.

  Returns:
    (str, int): a name for Python, and how many bytes to leave out.

  Raises:
    ValueError: the bytes of its characters are in another order.
  """
  for mark, name in _MARKS:
    if start.startswith(mark):
      return name, len(mark)
  if encoding is None:
    return "utf-8", 0
  if encoding.startswith(("utf-16", "utf-32")):
    wide = _guess_wide(start)
    if wide and not wide[0].startswith(encoding):
      raise ValueError("%s reads as %s, not as --encoding=%s: give "
                       "--encoding=%s." % (path, wide[0], encoding, wide[0]))
    return (wide[0] if wide else encoding), 0
  if encoding != "utf-8":
    if _is_surely_utf8(start):
      logging.warning("%s is UTF-8 and read as that, not as --encoding=%s.",
                      path, encoding)
      return "utf-8", 0
  return encoding, 0


def _is_surely_utf8(data):
  """Whether a file's beginning has UTF-8 sequences, and nothing else."""
  # What was cut off at the end is not a fault.
  found = codecs.getincrementaldecoder("utf-8")()
  try:
    found.decode(data)
  except UnicodeDecodeError:
    return False
  return len(_MULTIBYTE_UTF8.findall(data)) >= _SURELY_UTF8


# --- Guessing ----------------------------------------------------------------

# Characters of two bytes; `common` are those that most of a text consists of.
_TOKENS = {
    "gb18030": re.compile(
        b"(?P<common>[\xb0-\xd7][\xa1-\xfe]|[\xa1-\xa3][\xa1-\xfe])"
        b"|[\x81-\xfe][\x30-\x39][\x81-\xfe][\x30-\x39]"
        b"|[\x81-\xfe][\x40-\x7e\x80-\xfe]|[\x80-\xff]"),
    "big5": re.compile(
        b"(?P<common>[\xa4-\xc6][\x40-\x7e\xa1-\xfe]"
        b"|[\xa1-\xa3][\x40-\x7e\xa1-\xfe])"
        b"|[\x81-\xfe][\x40-\x7e\xa1-\xfe]|[\x80-\xff]"),
    "shift_jis": re.compile(
        b"(?P<common>(?:[\x81-\x83]|[\x88-\x97])[\x40-\x7e\x80-\xfc])"
        b"|[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]|[\x80-\xff]"),
    "cp949": re.compile(
        b"(?P<common>[\xb0-\xc8][\xa1-\xfe])"
        b"|[\x81-\xfe][\x41-\x5a\x61-\x7a\x81-\xfe]|[\x80-\xff]"),
    # A letter with an accent, or a quotation mark, is alone among others.
    "cp1252": re.compile(
        b"(?P<common>(?<![\x80-\xff])"
        b"[\x80\x85\x91-\x97\xa0\xa3\xab\xb0\xbb\xbf-\xff](?![\x80-\xff]))"
        b"|[\x80-\xff]"),
    "cp1251": re.compile(
        b"(?P<common>(?:[\xc0-\xff](?=[\xe0-\xff]))|(?:(?<=[\xc0-\xff])"
        b"[\xe0-\xff]))|[\x80-\xff]"),
}
_MOST = 1 << 17  # bytes that are looked at


def guess(data):
  """Says which encodings a piece of text may have.

  Args:
    data: bytes; some of them no UTF-8. The last character may be cut.

  Returns:
    list of (name for --encoding, data as str), the likeliest first; empty
    where nothing fits.
  """
  data = data[:_MOST]
  wide = _guess_wide(data)
  if wide:
    return [wide]
  found = []
  for order, name in enumerate(_ORDER):
    try:
      text = codecs.getincrementaldecoder(name)().decode(data)
    except UnicodeDecodeError:
      continue
    tokens = common = 0
    for match in _TOKENS[name].finditer(data):
      tokens += 1
      common += match.group("common") is not None
    # A few characters of Chinese may all be among Korean ones.
    if 2 * common > tokens and (name != "cp949" or tokens >= 8):
      found.append((-common / float(tokens), order, name, text))
  return [(name, text) for _, _, name, text in sorted(found)]


# Of two that fit as well, the first is likelier.
_ORDER = ("cp949", "gb18030", "big5", "shift_jis", "cp1252", "cp1251")


def _guess_wide(data):
  """UTF-16 or UTF-32 without a mark, by where its zero bytes are; or None."""
  size = len(data) // 4 * 4
  zeros = [data[start:size:4].count(b"\0") for start in range(4)]
  if not sum(zeros):
    return None
  most = 0.9 * size / 4
  if zeros[2] >= most and zeros[3] >= most:
    name = "utf-32-le"
  elif zeros[0] >= most and zeros[1] >= most:
    name = "utf-32-be"
  elif zeros[1] + zeros[3] > 4 * (zeros[0] + zeros[2]):
    name = "utf-16-le"
  elif zeros[0] + zeros[2] > 4 * (zeros[1] + zeros[3]):
    name = "utf-16-be"
  else:
    return None
  # A few zero bytes in a damaged file are not an encoding: its lines end as
  # ever.
  end = "\n".encode(name)
  if data.count(end) < 0.8 * data.count(b"\n") or (
      b"\n" not in data and sum(zeros) < 0.3 * len(data)):
    return None
  return name, data.decode(name, "replace")


def advice(data, before=b""):
  """What to do about bytes that are not in the encoding that was expected.

  Args:
    data: bytes, with the bad one among them.
    before: bytes, good ones, which may show that the file is UTF-8 after all.

  Returns:
    str, the end of a sentence without its full stop.
  """
  guesses = guess(data)
  if not guesses or len(_MULTIBYTE_UTF8.findall(before)) >= _SURELY_UTF8:
    return "save the file as UTF-8, or name its encoding with --encoding"
  name, text = guesses[0]
  line = next((line for line in text.splitlines() if _is_not_ascii(line)),
              text.strip()[:20].splitlines()[0] if text.strip() else "")
  odd = next((at for at, char in enumerate(line) if ord(char) > 127), 0)
  return "it may be %s%s, where it reads %r: give --encoding=%s" % (
      name, "".join(" or " + other for other, _ in guesses[1:3]),
      line[max(0, odd - 8):odd + 12], name)


def _is_not_ascii(text):
  return any(ord(char) > 127 for char in text)
