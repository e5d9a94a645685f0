# SPDX-License-Identifier: Apache-2.0
"""Runs the tests in an environment that it makes itself.

  python3 tests/run.py                     TensorFlow 2.21
  python3 tests/run.py --tf=1.15           another version: 2.21, 2.15, 1.15
  python3 tests/run.py --tf=all            one after another: everything with
                                           2.21; with 1.15 and 2.15 what a
                                           version of TensorFlow, Python or
                                           numpy can change
  python3 tests/run.py tests/x_test.py -k name    whatever pytest takes
  python3 tests/run.py --extra=beam tests/batch_predict_test.py
                                           with an extra beside dev
  python3 tests/run.py --slow              also the tests marked slow

A version whose Python is missing on this machine is named and passed over
with `--tf=all`; the default one must be there. Needs nothing but a Python
from 3.7 on.
"""

import argparse
import glob
import os
import signal
import subprocess
import sys
import threading


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import environment  # pylint: disable=wrong-import-position


# What --tf=all runs on the oldest version: all that calls TensorFlow, and what
# reads files or numbers, where Python 3.7 and its numpy differ. Reports,
# servers, experiments, documents and more whole runs are left to the newest, as
# is what is marked newest in these files.
OLDEST = (
    "atomic_files", "best_checkpoint", "broken_checkpoint", "calibration",
    "cluster", "command_line", "convert_checkpoint", "distribution",
    "encoders", "evaluation", "event_files", "export_saved_model",
    "gradient_accumulation", "graph_counts", "hugging_face", "input_pipeline",
    "json_values", "label_cells", "label_head", "layer_rates",
    "mixed_precision", "model_dir", "modeling", "multilabel_*",
    "optimization", "original_processors", "pr_curves", "predict_session",
    "predict_session_texts", "processors", "recompute", "record_file",
    "run_multilabel_classifier", "safetensors_reader", "same_seed",
    "skip_nonfinite", "start_log", "strict_json", "table_reader", "tables",
    "text_features", "text_lines", "tokenization", "training")

# What it runs on a version between the oldest and the newest: what builds
# graphs and sessions.
BETWEEN = (
    "convert_checkpoint", "export_saved_model", "gradient_accumulation",
    "modeling", "multilabel_model", "optimization", "predict_session",
    "start_log")


def choose_files(tf_version):
  """pytest's arguments for a version of `--tf=all`: list of str."""
  if tf_version == environment.DEFAULT_TF:
    return []
  names = OLDEST if tf_version == list(environment.TENSORFLOWS)[-1] else BETWEEN
  files = []
  for name in names:
    found = sorted(glob.glob(os.path.join(ROOT, "tests", name + "_test.py")))
    if not found:
      raise ValueError("tests/run.py names %s_test.py, which is not there." %
                       name)
    files += [os.path.relpath(path, ROOT) for path in found]
  return ["-m", "not newest"] + files


class MakingAhead(object):
  """Makes environments one after another while other work goes on."""

  def __init__(self, extras, versions):
    """Starts.

    Args:
      extras: str, with commas.
      versions: list of keys of `environment.TENSORFLOWS`.
    """
    self._extras, self._process, self._is_over = extras, None, False
    self._lock = threading.Lock()
    self._made = {version: threading.Event() for version in versions}
    threading.Thread(target=self._make, args=(versions,), daemon=True).start()

  def _make(self, versions):
    for version in versions:
      try:
        with self._lock:
          if not self._is_over:
            # What fails is made again, and told, when it is needed.
            self._process = subprocess.Popen(
                [sys.executable, environment.__file__, "--tf=" + version,
                 "--extra=" + self._extras], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self._process is not None:
          self._process.wait()
      finally:
        self._made[version].set()

  def wait(self, version):
    """Waits until nothing is at work on an environment any more."""
    if version in self._made:
      while not self._made[version].wait(1):  # Ctrl-C comes through
        pass

  def stop(self):
    """Ends what is at work."""
    with self._lock:
      self._is_over = True
      if self._process is not None and self._process.poll() is None:
        self._process.terminate()
        self._process.wait()


def run_tests(tf_version, pytest_arguments, extras="dev"):
  """Runs pytest with one TensorFlow from the repository root.

  Args:
    tf_version: key of `environment.TENSORFLOWS`.
    pytest_arguments: list of str.
    extras: str, names of extras of `pyproject.toml`, with commas.

  Returns:
    pytest's exit status.

  Raises:
    environment.EnvironmentFailure: the environment cannot be made.
  """
  python = environment.ensure(extras, tf_version)
  environment.say("Testing with TensorFlow %s (%s)" % (
      tf_version, environment.relative(python)))
  settings = dict(os.environ)
  # TensorFlow's start-up notices would bury a failure.
  settings.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # Workers get whole files, so that what a file's tests share is made once. One
  # more than there are cores, since tests of servers mostly wait; `-n0` runs
  # all in one process, for a debugger.
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
           else os.cpu_count())
  process = subprocess.Popen(
      [python, "-m", "pytest", "-n", str(cores + 1), "--dist=loadfile",
       "--durations=10"] + pytest_arguments, cwd=ROOT, env=settings,
      stdin=subprocess.DEVNULL if os.environ.get("CI") else None)
  try:
    return process.wait()
  except KeyboardInterrupt as stop:
    # Ctrl-C reaches pytest by itself; a second one would cut its summary.
    if isinstance(stop, environment.Terminated):
      process.send_signal(signal.SIGINT)
    process.wait()
    raise


def main(argv=None):
  parser = argparse.ArgumentParser(
      description="Runs the tests in an environment that it makes itself; "
      "other arguments go to pytest.", allow_abbrev=False)
  parser.add_argument("--tf", default=environment.DEFAULT_TF,
                      choices=list(environment.TENSORFLOWS) + ["all"],
                      help="TensorFlow version (default: %(default)s)")
  parser.add_argument("--extra", default="", help="extras of pyproject.toml "
                      "beside dev, with commas")
  options, pytest_arguments = parser.parse_known_args(argv)
  environment.raise_on_sigterm()
  versions = (list(environment.TENSORFLOWS) if options.tf == "all"
              else [options.tf])
  extras = ",".join(["dev"] + [options.extra] * bool(options.extra))
  ahead = MakingAhead(extras, versions[1:])
  failed = []
  for version in versions:
    chosen = choose_files(version) if options.tf == "all" else []
    try:
      ahead.wait(version)
      if run_tests(version, pytest_arguments + chosen, extras):
        failed.append(version)
    except environment.PythonMissing as error:
      environment.say(str(error))
      if options.tf == "all" and version != environment.DEFAULT_TF:
        environment.say("The tests are not run with TensorFlow %s." % version)
      else:
        failed.append(version)
    except (environment.EnvironmentFailure, OSError) as error:
      environment.say(str(error))
      failed.append(version)
    except KeyboardInterrupt as stop:
      ahead.stop()
      environment.say("Interrupted.")
      return environment.stop_status(stop)
  if failed and len(versions) > 1:
    environment.say("Failed with TensorFlow %s." % ", ".join(failed))
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
