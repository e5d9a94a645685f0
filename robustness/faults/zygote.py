# SPDX-License-Identifier: Apache-2.0
"""A process that has imported TensorFlow, and forks one for each run.

Importing takes each process seconds, forking only milliseconds, so hundreds of
runs can be started and killed in minutes. `Zygote` is the driver's side; this
file, run as a program, is the other. `calls` has the functions to call.
"""

import collections
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import traceback


ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

_PR_SET_PDEATHSIG = 1

# Of CPU time: a run takes 2. By the clock that may be any number.
_MOST_SECONDS = 60

# status: int, as subprocess has it (-9: killed); None: it did not end in time.
# seconds: float, CPU time. stdout, stderr: str.
Ended = collections.namedtuple(
    "Ended", ["status", "seconds", "stdout", "stderr"])


class Zygote(object):
  """Starts runs, one at a time."""

  def __init__(self, folder, environment=None):
    """Starts the process that the runs are forked from.

    Args:
      folder: str, an existing folder for the output of the runs.
      environment: dict of variables for it, or None.
    """
    self._paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
    settings = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2")
    settings.update(environment or {})
    self._process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "robustness.faults.zygote"] +
        self._paths,
        cwd=ROOT, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

  def run(self, function, *arguments, **limits):
    """Forks, calls a function there, and waits for the end.

    Args:
      function: str, `module:name`; its result is the exit status (None: 0).
      *arguments: its arguments, as JSON values.
      **limits: `kill_after`: float, seconds until SIGKILL, or None; `timeout`:
        float, seconds until it counts as stuck; with `_MOST_SECONDS` of CPU
        time it does, too.

    Returns:
      `Ended`.
    """
    kill_after = limits.pop("kill_after", None)
    timeout = limits.pop("timeout", 1800.0)
    line = json.dumps([function, arguments, kill_after, timeout])
    self._process.stdin.write(line.encode("ascii") + b"\n")
    self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      raise RuntimeError("the process from which runs are forked ended with "
                         "status %s." % self._process.wait())
    texts = []
    for path in self._paths:
      with open(path, "rb") as reader:
        texts.append(reader.read().decode("utf-8", "replace"))
    status, seconds = json.loads(answer.decode("ascii"))
    return Ended(status, seconds, *texts)

  def close(self):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def exit_status(status):
  return (os.WEXITSTATUS(status) if os.WIFEXITED(status)
          else -os.WTERMSIG(status))


def _die_with_parent():
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with(function, arguments):
  """Calls a function and ends this process as the interpreter would."""
  status = 1
  try:
    status = function(*arguments) or 0
  except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
  except BaseException:  # pylint: disable=broad-except
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # pylint: disable=protected-access


def _run_one(function, arguments, paths):
  """The forked process: never returns."""
  _die_with_parent()
  os.setpgid(0, 0)
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS + 5))
  null = os.open(os.devnull, os.O_RDONLY)
  os.dup2(null, 0)
  for number, path in zip((1, 2), paths):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(descriptor, number)
    os.close(descriptor)
  sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
  sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
  module, _, name = function.partition(":")
  end_with(getattr(importlib.import_module(module), name), arguments)


class _Late(Exception):
  pass


def _raise_late(*unused_args):
  raise _Late()


def _wait(pid, kill_after, timeout):
  """Waits, kills when it is time.

  Returns:
    (exit status, None for one that is stuck; seconds of CPU time).
  """
  signal.signal(signal.SIGALRM, _raise_late)
  is_stuck = kill_after is None
  try:
    signal.setitimer(signal.ITIMER_REAL, timeout if is_stuck else kill_after)
    _, status, usage = os.wait4(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
  except _Late:
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if is_stuck:
      status = None
  try:
    os.killpg(pid, signal.SIGKILL)  # what it had forked
  except ProcessLookupError:
    pass
  if status is not None:
    status = exit_status(status)
  return (None if status == -signal.SIGXCPU else status,
          usage.ru_utime + usage.ru_stime)


def main(paths):
  """Reads what to run from stdin, a JSON line each."""
  _die_with_parent()
  sys.path.insert(0, ROOT)
  answers = os.fdopen(os.dup(1), "wb")
  requests = os.fdopen(os.dup(0), "rb")
  from multilabel.common import command_line  # pylint: disable=g-import-not-at-top
  command_line.quiet_tensorflow()
  # pylint: disable=g-import-not-at-top,unused-import
  import export_saved_model
  from multilabel.export import run_export
  import predict_session
  import run_multilabel_classifier
  for line in iter(requests.readline, b""):
    function, arguments, kill_after, timeout = json.loads(line.decode("ascii"))
    pid = os.fork()
    if not pid:
      answers.close()
      requests.close()
      _run_one(function, arguments, paths)
    answers.write(json.dumps(_wait(pid, kill_after, timeout)).encode("ascii"))
    answers.write(b"\n")
    answers.flush()


if __name__ == "__main__":
  main(sys.argv[1:])
