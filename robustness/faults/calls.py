# SPDX-License-Identifier: Apache-2.0
"""Functions for forked processes: the repository's scripts, and parts of them.

Each is called by `zygote.Zygote.run` in its own process, which ends as the
script's process would: exit status, stdout, stderr.
"""

import importlib
import io
import json
import os
import signal
import subprocess
import sys

from robustness.faults import zygote


def call_script(name, arguments):
  """Runs a script of the repository, which ends the process."""
  from multilabel.common import command_line  # pylint: disable=g-import-not-at-top
  module = importlib.import_module(name)
  sys.argv = [os.path.join(zygote.ROOT, name + ".py")] + arguments
  # The process that checks an export would import TensorFlow again.
  from multilabel.export import export_check  # pylint: disable=g-import-not-at-top
  export_check.subprocess = _ForkedProcesses
  command_line.run(module.main, module.define_flags, module.__doc__)


class _ForkedProcesses(object):
  """Replaces `subprocess` in `multilabel.export.export_check`."""

  PIPE = subprocess.PIPE

  class Popen(object):
    """`multilabel.export.run_export` in a process that is forked alone."""

    def __init__(self, command, **unused_options):
      assert command[-1].endswith(".run_export"), command
      self.returncode = None
      pipes = [os.pipe() for _ in range(3)]
      self.pid = os.fork()
      if not self.pid:
        for number, (reader, writer) in enumerate(pipes):
          os.dup2(reader if number == 0 else writer, number)
        for pipe in pipes:
          os.close(pipe[0])
          os.close(pipe[1])
        sys.stdin = open(0, closefd=False)
        sys.stdout = open(1, "w", closefd=False)
        zygote.end_with(_answer_export, ())
      self._stdin = os.fdopen(pipes[0][1], "wb")
      self._outputs = [os.fdopen(pipe[0], "rb") for pipe in pipes[1:]]
      for descriptor in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(descriptor)

    def communicate(self, data=b""):
      """As `subprocess.Popen.communicate`; stderr must be short."""
      try:
        self._stdin.write(data)
        self._stdin.close()
      except BrokenPipeError:
        pass
      found = [stream.read() for stream in self._outputs]
      for stream in self._outputs:
        stream.close()
      if self.returncode is None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = zygote.exit_status(status)
      return found

    def kill(self):
      os.kill(self.pid, signal.SIGKILL)


def _answer_export():
  from multilabel.export import run_export  # pylint: disable=g-import-not-at-top
  run_export.main(json.loads(sys.stdin.buffer.readline().decode("ascii")))


def train_until(step, arguments):
  """Trains, and is asked to stop (SIGTERM) in a step."""
  from multilabel.training import progress  # pylint: disable=g-import-not-at-top
  update = progress.Progress.update

  def update_and_stop(self, now, values):
    update(self, now, values)
    if now == step:
      os.kill(os.getpid(), signal.SIGTERM)

  progress.Progress.update = update_and_stop
  call_script("run_multilabel_classifier", arguments)


def predict(model_dir, texts, output_file):
  """Writes the predictor's results for texts: JSON, numbers exact."""
  from multilabel.common import command_line  # pylint: disable=g-import-not-at-top
  import predict_session  # pylint: disable=g-import-not-at-top

  def main(unused_argv):
    with predict_session.SessionPredictor(model_dir) as predictor:
      said = {"labels": predictor.labels,
              "probabilities": predictor.predict(texts).tolist(),
              "decided": predictor.predict_labels(texts)}
    with io.open(output_file, "w", encoding="utf-8") as writer:
      writer.write(json.dumps(said))

  sys.argv = ["predict_session.py"]
  command_line.run(main, lambda: None, "")


def ask_export(path, requests, output_file):
  """Checks an export, and writes its responses to REST requests."""
  from multilabel.common import command_line  # pylint: disable=g-import-not-at-top
  from multilabel.export import conformance  # pylint: disable=g-import-not-at-top
  from multilabel.export import run_export  # pylint: disable=g-import-not-at-top

  def main(unused_argv):
    found = conformance.problems(path)
    if found:
      raise ValueError("%s: %s" % (path, found[0]))
    export = run_export.Export(path)
    said = [export.answer(request) for request in requests]
    with io.open(output_file, "w", encoding="utf-8") as writer:
      writer.write(json.dumps(said))

  sys.argv = ["run_export.py"]
  command_line.run(main, lambda: None, "")
