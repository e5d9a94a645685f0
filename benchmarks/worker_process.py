# SPDX-License-Identifier: Apache-2.0
"""A peer in a separate process, as the driver sees it.

Requests and answers are JSON, a line each. Between its turns a worker is
stopped by a signal, so that threads which wait actively take nothing from the
one whose turn it is.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class WorkerFailure(RuntimeError):
  """A worker failed, died or took too long; the message is one sentence."""


class Worker(object):
  """Starts `python -m benchmarks.worker <module>`.

  Attributes:
    started: float, `time.time()` when the process was started.
  """

  def __init__(self, python, module, threads, log_path, settings=None,
               root=ROOT):
    """Starts the process; `hello` waits until it answers.

    Args:
      python: str, path of the environment's Python.
      module: str, module of `benchmarks` with the peer.
      threads: int, threads of its products and cores it may use.
      log_path: str, file that gets what it writes to stderr.
      settings: dict, the peer's own.
      root: str, folder of the project that the process runs.
    """
    self._log_path = log_path
    self._answers = queue.Queue()
    environment = dict(os.environ, PYTHONUNBUFFERED="1",
                       BENCHMARK_THREADS=str(threads))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS",
                 "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
      environment[name] = str(threads)
    environment.update({"TF_CPP_MIN_LOG_LEVEL": "3",
                        "TOKENIZERS_PARALLELISM": "true",
                        "HF_HUB_OFFLINE": "1"})
    self.started = time.time()
    with open(log_path, "ab") as log:
      self._process = subprocess.Popen(
          [python, "-W", "ignore", "-m", "benchmarks.worker", module,
           json.dumps(settings or {})],
          cwd=root, env=environment, stdin=subprocess.PIPE,
          stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self):
    for line in self._process.stdout:
      self._answers.put(line)
    self._answers.put(None)

  def ask(self, timeout, **request):
    """Sends a request and returns the answer: dict.

    Args:
      timeout: float, seconds.
      **request: "do" and what it needs; see `worker`.

    Raises:
      WorkerFailure: it reported a failure, or died, or took too long; in the
        last two cases it is over.
    """
    self._signal("SIGCONT")
    try:
      self._process.stdin.write((json.dumps(request) + "\n").encode("utf-8"))
      self._process.stdin.flush()
      line = self._answers.get(timeout=timeout)
    except (OSError, ValueError):
      line = None
    except queue.Empty:
      self.close()
      raise WorkerFailure("no answer to %s within %.0f seconds" % (
          request["do"], timeout))
    if line is None:
      self.close()
      raise WorkerFailure("the process ended with status %s: %s" % (
          self._process.returncode, self.last_words()))
    self._signal("SIGSTOP")
    answer = json.loads(line.decode("utf-8"))
    if "error" in answer:
      raise WorkerFailure(answer["error"])
    return answer

  def last_words(self):
    """The last line that the process wrote to stderr."""
    try:
      with open(self._log_path, "rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - 4000))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
      lines = []
    return lines[-1][:300] if lines else "no output"

  def _signal(self, name):
    """Sends a signal to the process and its children, where there are such."""
    number = getattr(signal, name, None)
    if number is not None and self._process.poll() is None:
      try:
        os.killpg(self._process.pid, number)
      except OSError:
        pass

  def close(self):
    """Ends the process, its children too; calling it twice does no harm."""
    self._signal("SIGCONT")
    self._signal("SIGKILL")
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      try:
        pipe.close()
      except (OSError, ValueError):
        pass
