# SPDX-License-Identifier: Apache-2.0
"""Keeps two jobs from writing to the same output, on any Beam file system.

Each job writes its own claim beside the output, then checks for others. If two
start at once, neither misses the other's claim.
"""

import contextlib
import json
import os
import platform
import re
import time
import uuid

from apache_beam.io import filesystems


@contextlib.contextmanager
def claim(prefix):
  """Claims an output as long as the block runs.

  Args:
    prefix: str, what the shards' names begin with, such as `labelled/part`.

  Raises:
    ValueError: another job has claimed it; names the claim's file. Or its name
      is a pattern.
  """
  if re.search(r"[*?\[\]]", prefix):
    raise ValueError(
        "--output %s has one of the characters * ? [ ], which Beam treats as a "
        "pattern; name another output." % prefix)
  files = filesystems.FileSystems
  begin = prefix + ".running-"
  path = "%s%s.json" % (begin, uuid.uuid4().hex)
  _make_folder(prefix)
  with files.create(path, "application/json",
                    filesystems.CompressionTypes.UNCOMPRESSED) as writer:
    writer.write(json.dumps({
        "pid": os.getpid(), "host": platform.node(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S")}).encode("ascii"))
  try:
    others = [found.path for found in
              files.match([begin + "*.json"])[0].metadata_list
              if os.path.basename(found.path) != os.path.basename(path)]
    for other in others:
      raise ValueError(
          "--output: another job is writing to %s (%s); wait for it, or, if it "
          "is no longer running, remove %s." % (
              prefix, _describe(other), other))
    yield
  finally:
    # Whatever happened, this file is ours.
    files.delete([path])


def _make_folder(prefix):
  folder = filesystems.FileSystems.split(prefix)[0]
  if folder and not filesystems.FileSystems.exists(folder):
    try:
      filesystems.FileSystems.mkdirs(folder)
    except OSError:  # another job was faster
      pass


def _describe(path):
  """The owner of a claim, as far as it can be read."""
  try:
    with filesystems.FileSystems.open(
        path, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
    ) as reader:
      there = json.loads(reader.read(10000).decode("utf-8"))
    return "pid %s on %s since %s" % tuple(
        str(there[key])[:100] for key in ("pid", "host", "started"))
  except Exception:  # pylint: disable=broad-except
    return "its lock file cannot be read"
