# SPDX-License-Identifier: Apache-2.0
"""Tests of the file layer and of the loss of power, on small programs."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from robustness.faults import compare_folders
from robustness.faults import file_layer
from robustness.faults import lost_power


pytestmark = pytest.mark.skipif(
    file_layer.missing() is not None, reason=str(file_layer.missing()))

# Written, synced, renamed; the folder is synced.
WHOLE = """
import os, sys
os.chdir(sys.argv[1])
def put(name, data):
  with open(name + ".tmp", "wb", buffering=0) as writer:
    if writer.write(data) != len(data): print("short")
    os.fsync(writer.fileno())
  os.rename(name + ".tmp", name)
  folder = os.open(".", os.O_RDONLY)
  os.fsync(folder)
try:
  put("a", b"x" * 1000)
except OSError as error:
  print(error.errno)
print("ended")
"""

# As TensorFlow writes: by the C library's streams, nothing synced.
STREAM = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fopen((sys.argv[1] + "/s.tmp").encode(), b"w"))
for part in (b"a" * 10, b"b" * 10):
  if libc.fwrite(part, 1, 10, stream) != 10: print(ctypes.get_errno())
if libc.fclose(stream): print("close", ctypes.get_errno())
os.replace(sys.argv[1] + "/s.tmp", sys.argv[1] + "/s")
"""


@pytest.fixture
def layer(tmp_path):
  (tmp_path / "own").mkdir()
  (tmp_path / "root").mkdir()
  one = file_layer.Layer(str(tmp_path / "own"), str(tmp_path / "root"))
  yield one
  one.close()


def run(layer, program, fault=file_layer.NO_FAULT, power=False):
  """(exit status, lines printed) of a program under the layer."""
  layer.arm(fault, power)
  done = subprocess.run(
      [sys.executable, "-S", "-c", program, layer.root],
      env=dict(os.environ, **layer.environment()), stdout=subprocess.PIPE,
      # A loss of power ends the process group.
      start_new_session=True)
  layer.disarm()
  return done.returncode, done.stdout.decode("ascii").split()


def files(layer):
  return {name: open(os.path.join(layer.root, name), "rb").read()
          for name in os.listdir(layer.root)}


def test_operations_are_listed(layer):
  assert run(layer, WHOLE) == (0, ["ended"])
  assert [tuple(op) for op in layer.operations()] == [
      (0, 0, "open", "a.tmp"), (0, 1, "write", "a.tmp"),
      (0, 2, "fsync", "a.tmp"), (0, 3, "rename", "a"), (0, 4, "fsync", ".")]
  assert layer.counters == (5, 0) and not layer.fired
  assert run(layer, STREAM)[0] == 0
  assert [op.kind for op in layer.operations()] == [
      "open", "fwrite", "fwrite", "close", "rename"]
  # Event files have numbers of their own; removing and folders count too.
  run(layer, "import os, sys; p = sys.argv[1] + '/'; "
      "open(p + 'events.out.1', 'w').close(); os.mkdir(p + 'd'); "
      "os.rmdir(p + 'd'); os.remove(p + 'a')")
  assert [tuple(op) for op in layer.operations()] == [
      (1, 0, "open", "events.out.1"), (0, 0, "mkdir", "d"),
      (0, 1, "rmdir", "d"), (0, 2, "unlink", "a")]


@pytest.mark.parametrize("action, at, left", [
    ("kill_before", 0, {}),
    ("kill_after", 0, {"a.tmp": b""}),
    ("kill_before", 1, {"a.tmp": b""}),
    ("kill_within", 1, {"a.tmp": b"x" * 500}),
    ("kill_before", 3, {"a.tmp": b"x" * 1000}),
    ("kill_after", 3, {"a": b"x" * 1000}),
])
def test_a_kill_at_an_operation(layer, action, at, left):
  status, lines = run(layer, WHOLE, file_layer.Fault(action, at))
  assert (status, lines) == (-signal.SIGKILL, [])
  assert layer.fired and files(layer) == left


@pytest.mark.parametrize("at, error, left", [
    (0, errno.ENOSPC, {}), (1, errno.EIO, {"a.tmp": b""}),
    (2, errno.EIO, {"a.tmp": b"x" * 1000}),
    (3, errno.EIO, {"a.tmp": b"x" * 1000}),
    (4, errno.EIO, {"a": b"x" * 1000})])
def test_a_call_that_fails(layer, at, error, left):
  status, lines = run(layer, WHOLE, file_layer.Fault("fail", at, 0, error))
  assert (status, lines) == (0, [str(error), "ended"])
  assert files(layer) == left


def test_a_short_write(layer):
  assert run(layer, WHOLE, file_layer.Fault("short", 1)) == (
      0, ["short", "ended"])
  assert files(layer) == {"a": b"x" * 500}


def test_a_disk_that_stays_full(layer):
  full = file_layer.Fault("fail", 1, 0, errno.ENOSPC, lasting=True)
  program = WHOLE.replace('print("ended")',
                          'os.remove("a.tmp"); open("b", "w")')
  status, lines = run(layer, program, full)
  assert status == 1 and lines == [str(errno.ENOSPC)]
  assert files(layer) == {}


def test_streams_of_the_c_library(layer):
  kill = file_layer.Fault("kill_after", 2)
  assert run(layer, STREAM, kill)[0] == -signal.SIGKILL
  assert files(layer) == {"s.tmp": b""}  # the buffer dies with the process
  kill = file_layer.Fault("kill_within", 2)
  assert run(layer, STREAM, kill)[0] == -signal.SIGKILL
  assert files(layer) == {"s.tmp": b"a" * 10}
  fails = file_layer.Fault("fail", 2, 0, errno.ENOSPC)
  assert run(layer, STREAM, fails) == (0, [str(errno.ENOSPC)])
  assert files(layer) == {"s": b"a" * 10 + b"b" * 5}
  fails = file_layer.Fault("fail", 3, 0, errno.EIO)
  assert run(layer, STREAM, fails) == (0, ["close", str(errno.EIO)])
  assert files(layer) == {"s": b""}


def states(layer, times=60):
  """The states that a loss of power may leave, of those drawn."""
  log, found = layer.log(), []
  for seed in range(times):
    lost_power.write_state(log, layer.shadow, layer.root,
                           random.Random(seed))
    if files(layer) not in found:
      found.append(files(layer))
  return found


def test_power_lost_after_all_was_synced(layer):
  run(layer, WHOLE, power=True)
  assert states(layer) == [{"a": b"x" * 1000}]


def test_power_lost_before_the_folder_was_synced(layer):
  run(layer, WHOLE, file_layer.Fault("kill_after", 3), power=True)
  found = states(layer)
  whole = b"x" * 1000
  assert sorted(map(sorted, found)) == [[], ["a"], ["a.tmp"]]
  assert all(set(state.values()) <= {whole} for state in found)


def test_power_lost_with_nothing_synced(layer):
  run(layer, STREAM, power=True)
  found = [state["s"] for state in states(layer) if "s" in state]
  data = b"a" * 10 + b"b" * 10
  assert {b"", data, b"\0" * 20} <= set(found)
  assert any(0 < len(content) < 20 for content in found)
  assert {} in states(layer)


def test_power_lost_spares_what_was_there_before(layer):
  with open(os.path.join(layer.root, "old"), "wb") as writer:
    writer.write(b"old")
  program = ("import os, sys; os.mkdir(sys.argv[1] + '/d'); "
             "os.replace(sys.argv[1] + '/old', sys.argv[1] + '/d/new')")
  run(layer, program, power=True)
  found = set()
  for seed in range(40):
    lost_power.write_state(layer.log(), layer.shadow, layer.root,
                           random.Random(seed))
    found.add(tuple(sorted(compare_folders.read(layer.root)[0].items())))
  # Either name, never none.
  assert found <= {(("old", b"old"),), (("d/new", b"old"),)}
  assert len(found) == 2


def test_what_differs_is_counted_in_bytes():
  found = compare_folders.differences(
      {"same": b"1", "bytes": b"abc", "longer": b"ab", "gone": b"xyz"},
      {"same": b"1", "bytes": b"xbz", "longer": b"abcd", "new": b""})
  assert found == {"bytes": 2, "longer": 2, "gone": 3, "new": 1}


def test_no_compiler_is_one_sentence(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: None)
  with pytest.raises(ValueError, match="there is no cc on the PATH"):
    file_layer.build()
