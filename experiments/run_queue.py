# SPDX-License-Identifier: Apache-2.0
"""Runs `run_multilabel_classifier.py` many times, a process per run; resumable.

Beside each other in the folder of a sweep:

  NAME/ the run's own --output_dir NAME.log its log NAME.json its exact flags,
  its inputs and its scores; written when it has
              finished, so that a run with that file is not started again

NAME says what was varied, and ends with a hash of all flags and of the data,
vocabulary, configuration and checkpoint they name: with other flags or data it
is another run. A run that was stopped is started with the same command, and
resumes from its checkpoint by itself.
"""

import collections
import copy
import glob
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

from absl import flags
from absl import logging

from multilabel.common import atomic_files
from multilabel.common.settings import Settings
from multilabel.common import command_line
from multilabel.storage import run_lock
from multilabel.training import evaluation
from multilabel.training import flag_checks
import run_multilabel_classifier


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "run_multilabel_classifier.py")

# Prefix of a metric's name here -> where it is read.
RESULT_FILES = collections.OrderedDict(
    [("", evaluation.RESULT_FILES["dev"]),
     ("test_", evaluation.RESULT_FILES["test"])])

# Flags that a run gets from the sweep, and those that change no result.
_OWN_FLAGS = ("output_dir", "random_seed", "resume", "debug")
_DATA_FILES = re.compile(r"(train|dev|test|labels|emotions)\.")
_LOG_LINES = 8  # of a failed run's log, in the report

# settings: {flag: text, or None for its default}, what was varied; flags:
# list of "--name=value", all but --output_dir; inputs: {path: sha256}.
Run = collections.namedtuple(
    "Run", ["name", "settings", "seed", "flags", "inputs"])

# scores: {metric: float}, None for a run that failed; failure: lines of text.
Outcome = collections.namedtuple(
    "Outcome", ["run", "scores", "commit", "versions", "failure"])


def run_flag_names(values):
  """Names of the flags of `run_multilabel_classifier.py`: list of str.

  Args:
    values: `flags.FlagValues` in which it has defined them.
  """
  module = run_multilabel_classifier.__name__
  return sorted(flag.name for flag in values.get_flags_for_module(module))


def plan_runs(base, variations, num_seeds, output_dir):
  """Checks every command before any run starts.

  Args:
    base: `flags.FlagValues`, parsed, with the flags of the run script.
    variations: list of `OrderedDict`, flag name -> text, or None for the
      flag's default; {} is the base itself.
    num_seeds: int, runs a variation, with --random_seed and those after it.
    output_dir: str, folder of the sweep.

  Returns:
    list of `Run`, the seeds of a variation after each other.

  Raises:
    ValueError: a flag does not exist or cannot have that value, or two
      variations are the same.
  """
  inputs, runs, seen = {}, [], {}
  for settings in variations:
    values = with_settings(base, settings)
    for seed in range(values.random_seed, values.random_seed + num_seeds):
      run = _make_run(values, settings, seed, inputs)
      same = seen.setdefault(tuple(run.flags), run)
      if same is not run:
        raise ValueError("%s and %s are the same run; remove one." % (
            describe(same.settings), describe(settings)))
      run_lock.check_output_dir(os.path.join(output_dir, run.name))
      runs.append(run)
  return runs


def describe(settings):
  """Settings in readable form: str."""
  return ", ".join("%s=%s" % (name, "default" if value is None else value)
                   for name, value in settings.items()) or "the base"


def with_settings(base, settings):
  """Makes a copy of the flags with other values, checked as a run does.

  Args:
    base: `flags.FlagValues`, parsed, with the flags of the run script.
    settings: dict, flag name -> text, or None for the flag's default.

  Returns:
    `flags.FlagValues`.

  Raises:
    ValueError: a flag does not exist or cannot have that value.
  """
  names = run_flag_names(base)
  for name in settings:
    if name not in names or name in _OWN_FLAGS:
      raise ValueError(
          "%s cannot be varied: %s." % (name, {
              "random_seed": "use --seeds to run several seeds",
              "output_dir": "every run gets its own directory",
          }.get(name, "it is not a flag of run_multilabel_classifier.py that "
                      "affects results (see its --help)")))
  values = copy.deepcopy(base)
  for name, value in settings.items():
    if value is None:
      values[name].unparse()
  try:
    values(["run"] + ["--%s=%s" % (name, value)
                      for name, value in settings.items()
                      if value is not None])
    checked = Settings.from_flags(values, run_flag_names(values))
    flag_checks.check_flags(checked)
    flag_checks.check_evaluation_flags(checked)
  except (flags.Error, ValueError) as error:
    raise ValueError("%s: %s" % (describe(settings), error))
  if not (values.do_eval or values.do_test):
    raise ValueError("a run without --do_eval or --do_test has no scores to "
                     "compare; add one of them to the flags.")
  return values


def _make_run(values, settings, seed, inputs):
  """One `Run`; `inputs` remembers the hashes of files."""
  chosen = [values[name].serialize() for name in run_flag_names(values)
            if values[name].present and name not in _OWN_FLAGS]
  chosen = [flag for flag in chosen if flag] + ["--random_seed=%d" % seed]
  paths = _input_files(values)
  for path in paths:
    if path not in inputs:
      inputs[path] = atomic_files.file_sha256(path)
  key = json.dumps([chosen, [[path, inputs[path]] for path in paths]])
  parts = ["%s-%s" % (name, "default" if value is None else value)
           for name, value in settings.items()]
  readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(
      parts + ["seed-%d" % seed]))
  name = "%s_%s" % (readable[:120].strip("-."), hashlib.sha256(
      key.encode("utf-8")).hexdigest()[:8])
  return Run(name, settings, seed, chosen, {path: inputs[path]
                                            for path in paths})


def _input_files(values):
  """The files that decide a run beside its flags: sorted list of str."""
  paths = [values.bert_config_file, values.vocab_file]
  if values.init_checkpoint:
    # It holds a checksum of every tensor, and is small.
    paths.append(values.init_checkpoint + ".index")
  if values.encoder and os.path.isdir(values.encoder):
    paths += [os.path.join(values.encoder, name)
              for name in os.listdir(values.encoder)
              if name.endswith((".index", ".json", ".safetensors", ".txt"))]
  if values.data_dir and os.path.isdir(values.data_dir):
    paths += [os.path.join(values.data_dir, name)
              for name in os.listdir(values.data_dir)
              if _DATA_FILES.match(name)]
  return sorted({path for path in paths if path and os.path.isfile(path)})


# --- Running ----------------------------------------------------------------


def command(run, output_dir):
  """The run's command: list of str, that starts it and resumes it."""
  return [sys.executable, SCRIPT] + run.flags + [
      "--output_dir=" + os.path.join(output_dir, run.name)]


def execute(runs, output_dir, jobs=1, keep_checkpoints=True):
  """Runs what has not finished yet.

  Args:
    runs: list of `Run`.
    output_dir: str, folder of the sweep; it is there.
    jobs: int, how many at a time.
    keep_checkpoints: bool; False removes the checkpoints and the feature files
      of a run when it has finished.

  Yields:
    `Outcome`s, as runs end; first those that had finished before. When the
    consumer stops, or a signal comes, the children save and end first.
  """
  waiting = []
  for run in runs:
    outcome = read_outcome(run, output_dir)
    if outcome is None:
      waiting.append(run)
      continue
    if not keep_checkpoints:
      remove_checkpoints(os.path.join(output_dir, run.name))
    yield outcome
  logging.info("%d runs: %d already finished, %d to do", len(runs),
               len(runs) - len(waiting), len(waiting))
  number = len(runs) - len(waiting)
  children = []
  try:
    while waiting or children:
      while waiting and len(children) < jobs:
        number += 1
        run = waiting.pop(0)
        logging.info("run %d of %d: %s", number, len(runs), run.name)
        children.append((run, _start(run, output_dir), time.time()))
      for child in [child for child in children
                    if child[1].poll() is not None]:
        children.remove(child)
        yield _finish(child, output_dir, keep_checkpoints)
      time.sleep(0.05)
  finally:
    stop([process for _, process, _ in children])


def _start(run, output_dir):
  # A process group of its own: Ctrl-C reaches it through this process alone,
  # once, since a second signal would keep it from saving.
  with open(os.path.join(output_dir, run.name + ".log"), "ab") as log:
    return subprocess.Popen(
        command(run, output_dir), stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT, start_new_session=True)


def stop(processes):
  """Lets processes save and end; at a second signal they are killed."""
  for process in processes:
    process.terminate()
  try:
    for process in processes:
      process.wait()
  except BaseException:
    for process in processes:
      process.kill()
      process.wait()
    raise


def _finish(child, output_dir, keep_checkpoints):
  """Reads what an ended child has left: `Outcome`."""
  run, process, started = child
  folder = os.path.join(output_dir, run.name)
  seconds = time.time() - started
  scores = read_scores(folder) if process.returncode == 0 else {}
  if not scores:
    what = ("was killed by signal %d" % -process.returncode
            if process.returncode < 0 else
            "ended with exit status %d" % process.returncode)
    if process.returncode == 0:
      what += ", but wrote no scores"
    logging.error("  %s after %.0f s; its log: %s.log", what, seconds, folder)
    return Outcome(run, None, None, None, [what] + _last_lines(
        folder + ".log"))
  outcome = Outcome(run, scores, commit(), _versions(folder), None)
  atomic_files.write_text(folder + ".json", json.dumps(
      collections.OrderedDict([
          ("flags", run.flags), ("inputs", run.inputs),
          ("commit", outcome.commit), ("versions", outcome.versions),
          ("seconds", round(seconds, 1)), ("scores", scores)]),
      indent=2) + "\n")
  logging.info("  finished in %.0f s", seconds)
  if not keep_checkpoints:
    remove_checkpoints(folder)
  return outcome


def raise_on_signals():
  """Lets the signals that stop a program raise `command_line.Interrupted`."""
  def on_signal(number, unused_frame):
    raise command_line.Interrupted(
        number, "stopped by signal %d; finished runs are kept, the current run "
                "has saved a checkpoint, and the same command resumes."
        % number)

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # What is ignored (nohup) stays so.
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, on_signal)


# --- What a run has left ----------------------------------------------------


def read_outcome(run, output_dir):
  """The `Outcome` of a run that has finished before, or None."""
  path = os.path.join(output_dir, run.name + ".json")
  if not os.path.exists(path):
    return None
  record = atomic_files.read_json(path)
  if record.get("flags") != run.flags or record.get("inputs") != run.inputs:
    raise ValueError("%s is from a run with other flags; move it away, or name "
                     "another --output_dir." % path)
  return Outcome(run, record["scores"], record["commit"], record["versions"],
                 None)


def read_scores(folder):
  """Reads `eval_results.txt`, and `test_eval_results.txt` where it is.

  Args:
    folder: str, a run's --output_dir.

  Returns:
    `OrderedDict`, metric -> float; those on test are `test_<metric>`. Values
    that are not numbers are left out.
  """
  scores = collections.OrderedDict()
  for prefix, name in RESULT_FILES.items():
    path = os.path.join(folder, name)
    if not os.path.exists(path):
      continue
    with open(path, encoding="utf-8") as reader:
      for line in reader:
        key, _, value = line.rstrip("\n").rpartition(" = ")
        try:
          scores[prefix + key] = float(value)
        except ValueError:
          pass  # a list of labels, a file's name
  return scores


def remove_checkpoints(folder):
  """Removes a run's checkpoints and feature files; its results stay."""
  for pattern in ("model.ckpt-*", "checkpoint", "*.tf_record*"):
    for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
      os.remove(path)


def _versions(folder):
  path = os.path.join(folder, run_lock.SETTINGS_FILE)
  if not os.path.exists(path):
    return {}
  return atomic_files.read_json(path).get("versions", {})


def commit():
  """The commit of the code, marked if it was changed: str, "" if unknown."""
  try:
    found = subprocess.check_output(
        ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"],
        stderr=subprocess.DEVNULL).decode("utf-8").strip()
    changed = subprocess.check_output(
        ["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"],
        stderr=subprocess.DEVNULL).strip()
  except (OSError, subprocess.CalledProcessError):
    return ""
  return found + (" with changes" if changed else "")


def _last_lines(path):
  with open(path, "rb") as reader:
    reader.seek(max(0, os.path.getsize(path) - 16384))
    lines = reader.read().decode("utf-8", "replace").splitlines()
  return [line for line in lines if line.strip()][-_LOG_LINES:]
