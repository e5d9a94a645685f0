# SPDX-License-Identifier: Apache-2.0
"""Compares the files of finished runs byte by byte.
"""

import hashlib
import os
import re


# Times, the pid, and files that a run may or may not write.
_NOT_COMPARED = re.compile(r"(^|/)(events\.out\..*|\.lock)$")
# Harmless remains of a kill.
_LEFT_OVER = re.compile(
    r"\.tmp\w*$|\.tempstate\d+$|_temp(/|$)|(^|/)\.(export|removed)-")
# Protocol buffers with maps, whose order is chance with TensorFlow 1. Checksums
# depend on it, those of a record file and of the manifest, so of these the
# length must do.
_IN_ANY_ORDER = re.compile(r"^exports/\d+/saved_model\.pb$")
_OF_A_LENGTH = re.compile(
    r"^exports/\d+/assets\.extra/(tf_serving_warmup_requests|"
    r"manifest\.json)$")
_RANDOM = re.compile(
    r"\d{9,}|(?<=\.tmp)[0-9a-f]{32}|\b[0-9a-f]{12}(?=\.tmp$)|"
    r"(?<=\.export-)\w+")


def read(folder):
  """{name: bytes} of what is compared, and a set of names left over."""
  contents, left_over = {}, set()
  for path, name in _walk(folder):
    if _NOT_COMPARED.search(name):
      continue
    if _LEFT_OVER.search(name):
      left_over.add(name)
      continue
    with open(path, "rb") as reader:
      contents[name] = reader.read()
    if _IN_ANY_ORDER.match(name):
      contents[name] = bytes(bytearray(sorted(bytearray(contents[name]))))
    elif _OF_A_LENGTH.match(name):
      contents[name] = b"-" * len(contents[name])
  return contents, left_over


def differences(expected, found):
  """{name: number of bytes that differ} of two results of `read`."""
  result = {}
  for name in sorted(set(expected) | set(found)):
    first, second = expected.get(name), found.get(name)
    if first is None or second is None:
      result[name] = max(1, len(first or second or b""))
    elif first != second:
      result[name] = abs(len(first) - len(second)) + sum(
          a != b for a, b in zip(first, second))
  return result


def fingerprint(folder):
  """What a resumed program could notice of a folder: str.

  Of leftover files only the names count.
  """
  digest = hashlib.sha256()
  rows = []
  for path, name in _walk(folder):
    if _NOT_COMPARED.search(name):
      continue
    content = b""
    if not _LEFT_OVER.search(name):
      with open(path, "rb") as reader:
        content = reader.read()
    rows.append("%s %s" % (_RANDOM.sub("#", name),
                           hashlib.sha256(content).hexdigest()))
  digest.update("\n".join(sorted(rows)).encode("utf-8", "surrogateescape"))
  return digest.hexdigest()


def _walk(folder):
  for parent, _, names in os.walk(folder):
    for name in sorted(names):
      path = os.path.join(parent, name)
      yield path, os.path.relpath(path, folder)
