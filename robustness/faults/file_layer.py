# SPDX-License-Identifier: Apache-2.0
"""The Python side of file_layer.c: builds it, arms it, reads its log.

  layer = file_layer.Layer(folder, root)
  process = subprocess.Popen(..., env=dict(os.environ, **layer.environment()))
  layer.arm(Fault("fail", at=12, error=errno.ENOSPC))

Linux with the GNU C library, and a C compiler named `cc`, are needed.
"""

import collections
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile


SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "file_layer.c")
CACHE = os.path.join(os.path.dirname(SOURCE), ".cache")

# Numbers of file_layer.c.
ACTIONS = {"none": 0, "kill_before": 1, "kill_after": 2, "kill_within": 3,
           "fail": 4, "short": 5}
_HEADER = struct.Struct("=12I")
_TEXT = 1024
_SIZE = _HEADER.size + 3 * _TEXT
_COUNTERS = 8 * 4  # offset
_FIRED = 10 * 4


class Operation(collections.namedtuple(
    "Operation", ["stream", "number", "kind", "name"])):
  """An operation that changes a file.

  stream: int, 0, or 1 for TensorFlow's event files. number: int, from 0 in its
  stream. kind: str, as in file_layer.c. name: str, below the root.
  """

  __slots__ = ()


# action: key of `ACTIONS`, at the operation `at` of `stream`; error: int, the
# errno of "fail"; lasting: whether all that needs room fails from there on.
Fault = collections.namedtuple(
    "Fault", ["action", "at", "stream", "error", "lasting"])
Fault.__new__.__defaults__ = (0, 0, 0, False)

NO_FAULT = Fault("none")


def missing():
  """Why the layer cannot be used here: str; None if it can."""
  if not sys.platform.startswith("linux"):
    return "the file layer needs Linux (LD_PRELOAD)."
  if shutil.which("cc") is None:
    return "the file layer needs a C compiler; there is no cc on the PATH."
  return None


def build():
  """Compiles the library, unless that has been done: its path.

  Raises:
    ValueError: it cannot be, in one sentence.
  """
  reason = missing()
  if reason:
    raise ValueError(reason)
  with open(SOURCE, "rb") as reader:
    digest = hashlib.sha256(reader.read()).hexdigest()[:16]
  folder = CACHE
  try:
    os.makedirs(folder, exist_ok=True)
    # It excludes itself from the repository.
    with open(os.path.join(folder, ".gitignore"), "w") as writer:
      writer.write("*\n")
  except EnvironmentError:
    folder = tempfile.gettempdir()
  path = os.path.join(folder, "file_layer-%s-%d.so" % (digest, os.getuid()))
  if not os.path.exists(path):
    temporary = "%s.%d" % (path, os.getpid())
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", temporary, SOURCE, "-ldl"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
      lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
      raise ValueError("%s cannot be compiled: %s" % (
          SOURCE, lines[-1] if lines else "cc ended with %d" %
          done.returncode))
    os.rename(temporary, path)
  return path


class Layer(object):
  """The layer of the processes that have its `environment`.

  Attributes:
    root: str, the folder whose files are counted.
    shadow: str, where `arm(power=True)` keeps what was synced; on the file
      system of `root`.
  """

  def __init__(self, folder, root):
    """Makes the control file.

    Args:
      folder: str, an existing folder for the layer's own files, outside of
        `root`.
      root: str.
    """
    self._library = build()
    folder = os.path.realpath(folder)
    self.root = os.path.realpath(root)
    self.shadow = os.path.join(folder, "shadow")
    self._log = os.path.join(folder, "operations")
    self._control = os.path.join(folder, "control")
    self._first = []
    for path in (self.root, self._log, self.shadow):
      if len(os.fsencode(path)) >= _TEXT - 1:
        raise ValueError("the path %s is too long for the file layer." % path)
    with open(self._control, "wb") as writer:
      writer.write(b"\0" * _SIZE)
    with open(self._control, "rb+") as both:
      self._memory = mmap.mmap(both.fileno(), _SIZE)

  def environment(self):
    """Variables for processes to be under the layer: dict."""
    earlier = os.environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": ":".join(filter(None, [self._library, earlier])),
            "FAULTS_CONTROL": self._control}

  def arm(self, fault=NO_FAULT, power=False):
    """Starts counting at 0, with one pending fault.

    Args:
      fault: `Fault`.
      power: bool, keep what a disk would keep; a kill takes all processes.
    """
    self.disarm()
    if os.path.exists(self._log):
      os.remove(self._log)
    shutil.rmtree(self.shadow, ignore_errors=True)
    os.makedirs(self.shadow)
    self._first = self._keep_all() if power else []
    values = [1, ACTIONS[fault.action], fault.error, int(fault.lasting),
              int(power), int(power), fault.stream, fault.at, 0, 0, 0, 0]
    text = b"".join(os.fsencode(path).ljust(_TEXT, b"\0") for path in (
        self.root, self._log, self.shadow))
    # Armed last: a process may be looking.
    self._memory[4:_SIZE] = (_HEADER.pack(*values) + text)[4:]
    self._memory[0:4] = struct.pack("=I", 1)

  def _keep_all(self):
    """Treats existing files as synced: lines for the log."""
    lines = []
    for folder, subfolders, names in os.walk(self.root):
      parent = str(os.stat(folder).st_ino)
      for name in subfolders + names:
        path = os.path.join(folder, name)
        number = str(os.stat(path).st_ino)
        lines.append(["create", parent, name, number])
        if name in names:
          kept = os.path.join(self.shadow, number)
          os.link(path, kept)
          shutil.copyfile(path, kept + ".first")
          lines.append(["sync", number, "first"])
      lines.append(["syncdir", parent])
    return lines

  def disarm(self):
    """Lets everything pass."""
    self._memory[0:4] = struct.pack("=I", 0)

  @property
  def fired(self):
    """Whether the operation of the fault was reached."""
    return bool(struct.unpack_from("=I", self._memory, _FIRED)[0])

  @property
  def counters(self):
    """Operations so far, of each stream: (int, int)."""
    return struct.unpack_from("=2I", self._memory, _COUNTERS)

  def log(self):
    """Lines of the log since `arm`, each a list of str; see `lost_power`."""
    if not os.path.exists(self._log):
      return list(self._first)
    with open(self._log, encoding="utf-8", errors="surrogateescape") as reader:
      return self._first + [line.rstrip("\n").split("\t") for line in reader
                            if line.endswith("\n")]

  def operations(self):
    """`Operation`s since `arm`, in the order of the log."""
    return [Operation(int(line[0]), int(line[1]), line[2], line[3])
            for line in self.log() if line[0].isdigit()]

  def close(self):
    self._memory.close()
