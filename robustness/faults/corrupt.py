# SPDX-License-Identifier: Apache-2.0
"""Corrupts files of a trained directory, and checks what happens.

  python -m robustness.faults.corrupt --corruptions=500 --seed=1

Each time, one file of a trained directory, its features, or an export is
changed (flipped bits, truncation, zeros, extra bytes, a different file), and
one of four readers is tried: the predictor, evaluation and prediction of
run_multilabel_classifier.py, the rest of an interrupted training, the export.
It must either fail with one sentence, or return exactly the undisturbed result;
the exit status is 1 if it returned a different result without an error.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import sys
import time

from robustness.faults import compare_folders
from robustness.faults import tiny_world
from robustness.faults import work_folder
from robustness.faults import zygote


PREDICT, RUN, RESUME, EXPORT = "predict", "run", "resume", "export"
STAGES = (PREDICT, RUN, RESUME, EXPORT)
_WEIGHTS = {PREDICT: 5, RUN: 5, RESUME: 7, EXPORT: 3}

ERROR, UNCHANGED, WRONG, CRASH = "error", "unchanged", "wrong", "crash"

# The step at which the training that `RESUME` ends was interrupted.
_STOPPED_AT = 10

# Files that are written but not read are rarely corrupted.
_OUTPUTS = re.compile(
    r"(^|/)(events\.|eval_results|eval_predictions|test_results|"
    r"test_predictions|\.)")
# What RESUME has to end with: not the flags that model_settings.json holds.
_RESULTS = re.compile(
    r"(model\.ckpt-.*|eval_results\.txt|best_checkpoint\.json|"
    r"\w+_predictions\.jsonl|test_results\.tsv|labels\.txt|vocab\.txt|"
    r"bert_config\.json)$")

# stage, file, change: str, what was done. outcome: one of the four.
# names_file: bool, whether an error's sentence names a file. said: str.
Corruption = collections.namedtuple(
    "Corruption", ["number", "stage", "file", "change", "outcome",
                   "names_file", "said"])


class Corrupter(object):
  """Two trained directories, an interrupted one of each, and readers."""

  def __init__(self, work_dir, seed, stages=STAGES):
    """Trains; the second run has other texts, seed and thresholds.

    Args:
      work_dir: str, an existing empty folder.
      seed: int.
      stages: the readers that may be asked, of `STAGES`.
    """
    self._seed = seed
    self._stages = stages
    self._work_dir = os.path.realpath(work_dir)
    self._here = self._path("here")
    self._zygote = zygote.Zygote(self._work_dir)
    self.seconds = 0.0
    self._worlds = [tiny_world.make(self._path("world%d" % number), number)
                    for number in (1, 2)]
    try:
      for number, world in enumerate(self._worlds):
        self._make_run(number, world)
      self._expected = {stage: self._ask(stage) for stage in stages}
    except BaseException:
      self.close()
      raise
    for stage, (ended, result) in self._expected.items():
      if ended.status != 0:
        raise ValueError("without faults, %s fails: %s" % (
            stage, _last_line(ended.stderr)))
      self._expected[stage] = result

  def _path(self, *names):
    return os.path.join(self._work_dir, *names)

  def _flags(self, world, number):
    """Flags of a run; both are made at the same place and then moved."""
    changes = {} if number == 0 else {"random_seed": 12, "threshold": 0.3}
    return tiny_world.training_flags(
        world, os.path.join(self._here, "out"), **changes)

  def _make_run(self, number, world):
    """Makes the folders trained<number> and stopped<number>."""
    flags = self._flags(world, number)
    exports = os.path.join(self._here, "exports")
    export = ("call_script", "export_saved_model", tiny_world.export_flags(
        os.path.join(self._here, "out"), exports) + ["--version=1"])
    for name, status, commands, stages in (
        ("stopped", 143, [("train_until", _STOPPED_AT, flags)], (RESUME,)),
        ("trained", 0, [("call_script", "run_multilabel_classifier", flags)] +
         [export] * (EXPORT in self._stages), (PREDICT, RUN, EXPORT))):
      if not set(stages) & set(self._stages):
        continue
      for command in commands:
        ended = self._call(*command)
        if ended.status != status:
          raise ValueError("the run to corrupt fails: %s" %
                           _last_line(ended.stderr))
      os.rename(self._here, self._path("%s%d" % (name, number)))

  def _call(self, name, *arguments):
    ended = self._zygote.run("robustness.faults.calls:" + name, *arguments)
    self.seconds += ended.seconds
    return ended

  def close(self):
    self._zygote.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()

  # Corruptions.

  def corrupt(self, number):
    """Makes one corruption and tries a reader: `Corruption`."""
    rng = random.Random("%d corruption %d" % (self._seed, number))
    stage = rng.choices(self._stages, [_WEIGHTS[stage] for stage in
                                       self._stages])[0]
    source, folder = self._source(stage)
    shutil.rmtree(self._here, ignore_errors=True)
    shutil.copytree(source, self._here)
    names = self._choose_files(folder)
    while True:
      name = rng.choice(names)
      change = self._change(name, folder, source, rng)
      if change:
        break
    ended, result = self._ask(stage, is_there=True)
    if stage == RESUME and change.endswith("appended") and result:
      # Bytes behind what is read of a file that training had no need to write
      # again are still there, and no part of the result.
      file_name, here = os.path.basename(name), self._expected[stage]
      if result.get(file_name, b"").startswith(here.get(file_name, b"?")):
        result[file_name] = here[file_name]
    outcome, names_file = self._judge(stage, ended, result)
    return Corruption(
        number, stage, name, change, outcome, names_file,
        _last_line(ended.stderr) if outcome != UNCHANGED else "")

  def _source(self, stage):
    """(the folder that a stage works on a copy of, the part to corrupt)."""
    if stage == EXPORT:
      return self._path("trained0"), "exports"
    return self._path("stopped0" if stage == RESUME else "trained0"), "out"

  def _choose_files(self, folder):
    """Files below a folder, each a few times: list of relative names."""
    names = []
    for parent, _, files in os.walk(os.path.join(self._here, folder)):
      for name in sorted(files):
        path = os.path.relpath(os.path.join(parent, name), self._here)
        if name == ".lock" or not os.path.getsize(
            os.path.join(self._here, path)):
          continue
        names += [path] * (1 if _OUTPUTS.search(path) else 5)
    return sorted(names)

  def _change(self, name, folder, source, rng):
    """Changes a file: what was done, or None if that changed nothing."""
    path = os.path.join(self._here, name)
    with open(path, "rb") as reader:
      before = reader.read()
    kind = rng.choice(["bits", "bits", "cut", "zeros", "append", "swap",
                       "other run", "other run"])
    if kind == "swap":
      return self._swap(name, folder, before, rng)
    if kind == "other run":
      return self._take_over(name, source, before, rng)
    after, what = _damage(kind, before, rng)
    if after == before:
      return None
    _write(path, after)
    return what

  def _swap(self, name, folder, before, rng):
    """Swaps two files, similar ones if possible."""
    names = sorted(set(self._choose_files(folder)) - {name})
    alike = [other for other in names if re.sub(r"\d+|train|dev|test", "", (
        other)) == re.sub(r"\d+|train|dev|test", "", name)]
    other = rng.choice(alike if alike and rng.random() < 0.7 else names)
    with open(os.path.join(self._here, other), "rb") as reader:
      content = reader.read()
    if content == before:
      return None
    _write(os.path.join(self._here, other), before)
    _write(os.path.join(self._here, name), content)
    return "swapped with " + other

  def _take_over(self, name, source, before, rng):
    """Puts the other run's file in its place; of a checkpoint, maybe both."""
    other = source[:-1] + "1"
    names = [name]
    pair = re.match(r"(.*ckpt-\d+|.*/variables)\.(index|data-.*)$", name)
    if pair and rng.random() < 0.7:
      names = [pair.group(1) + suffix for suffix in (
          ".index", ".data-00000-of-00001")]
    changed = False
    for name in names:
      path = os.path.join(other, name)
      if not os.path.exists(path):
        return None  # its best checkpoint is of another step
      with open(path, "rb") as reader:
        content = reader.read()
      changed = changed or content != before
      _write(os.path.join(self._here, name), content)
    return "of another run" + (" (both files)" if len(names) > 1 else "") if (
        changed) else None

  # Readers.

  def _ask(self, stage, is_there=False):
    """Runs the reader of a stage: (`Ended`, result)."""
    if not is_there:
      shutil.rmtree(self._here, ignore_errors=True)
      shutil.copytree(self._source(stage)[0], self._here)
    out = os.path.join(self._here, "out")
    said = self._path("said")
    if os.path.exists(said):
      os.remove(said)
    if stage == PREDICT:
      ended = self._call("predict", out, tiny_world.texts(), said)
    elif stage == EXPORT:
      ended = self._call("ask_export", os.path.join(
          self._here, "exports", "1"), tiny_world.requests(), said)
    elif stage == RESUME:
      ended = self._call("call_script", "run_multilabel_classifier",
                         self._flags(self._worlds[0], 0))
    else:
      # The thresholds of the directory: none is asked for.
      flags = tiny_world.training_flags(
          self._worlds[0], out, do_train="false", threshold=None,
          eval_steps=None)
      ended = self._call("call_script", "run_multilabel_classifier", flags)
    if stage in (PREDICT, EXPORT):
      result = None
      if os.path.exists(said):
        with open(said, "rb") as reader:
          result = json.loads(reader.read().decode("utf-8"))
      return ended, result
    contents, _ = compare_folders.read(out)
    wanted = _RESULTS if stage == RESUME else re.compile(
        r"(eval_results\.txt|\w+_predictions\.jsonl|test_results\.tsv)$")
    return ended, {name: content for name, content in contents.items()
                   if wanted.match(name)}

  def _judge(self, stage, ended, result):
    """(outcome, whether an error names a file of the folder)."""
    is_crash = (ended.status is None or ended.status < 0 or
                "Traceback" in ended.stderr)
    if is_crash:
      return CRASH, False
    if ended.status:
      said = (ended.stderr.strip().splitlines() or [""])[-1]
      return ERROR, any(name in said for name in self._names())
    return (UNCHANGED if result == self._expected[stage] else WRONG), False

  def _names(self):
    """What an error may name: files, checkpoints, the folder of an export."""
    names = {os.path.join(self._here, "exports", "1")}
    for parent, _, files in os.walk(self._here):
      for name in files:
        names.add(name)
        names.add(re.sub(r"\.(index|data-.*)$", "", name))
    return names - {".lock"}


def _damage(kind, before, rng):
  """(bytes after a damage, what it was)."""
  size = len(before)
  if kind == "bits":
    after = bytearray(before)
    places = [rng.randrange(8 * size) for _ in range(rng.choice([1, 1, 1, 3]))]
    for place in places:
      after[place // 8] ^= 1 << place % 8
    return bytes(after), "bit %s flipped" % ", ".join(
        "%d.%d" % (place // 8, place % 8) for place in sorted(places))
  if kind == "cut":
    left = rng.choice([0, size - 1, rng.randrange(size)])
    return before[:left], "cut to %d of %d bytes" % (left, size)
  if kind == "zeros":
    start = rng.randrange(size)
    stop = min(size, start + rng.choice([1, 4, 64, 512]))
    return (before[:start] + b"\0" * (stop - start) + before[stop:],
            "zeros from %d to %d" % (start, stop))
  more = rng.choice([b"\0", b"\n", before[-16:], before])
  return before + more, "%d bytes appended" % len(more)


def _write(path, content):
  with open(path, "wb") as writer:
    writer.write(content)


def _last_line(text):
  lines = text.strip().splitlines()
  return lines[-1][-400:] if lines else ""


def describe(corruption):
  """One readable line."""
  return "%d %s: %s, %s: %s %s" % (
      corruption.number, corruption.stage, corruption.file, corruption.change,
      corruption.outcome.upper(), corruption.said)


def summary(corruptions):
  """The counts, by stage: list of str."""
  lines = []
  for stage in STAGES + ("all",):
    outcomes = collections.Counter(
        corruption.outcome for corruption in corruptions
        if stage in (corruption.stage, "all"))
    lines.append("%-8s %4d corruptions: %d errors, %d unchanged, %d WRONG, "
                 "%d crashed" % ((stage, sum(outcomes.values())) + tuple(
                     outcomes[key] for key in (ERROR, UNCHANGED, WRONG,
                                               CRASH))))
  unnamed = [corruption for corruption in corruptions
             if corruption.outcome == ERROR and not corruption.names_file]
  lines.append("errors without a file name: %d" % len(unnamed))
  return lines + ["  " + describe(corruption) for corruption in unnamed[:20]]


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python -m robustness.faults.corrupt", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--corruptions", type=int, default=500,
                      help="default: %(default)s")
  parser.add_argument("--only", type=int,
      help="repeat only this one, by number")
  work_folder.add_flags(parser)
  options = parser.parse_args(argv)
  numbers = (range(options.corruptions) if options.only is None
             else [options.only])
  done = []
  try:
    with work_folder.open_folder(options) as work_dir, Corrupter(
        work_dir, options.seed) as corrupter:
      shown = time.time()
      for number in numbers:
        done.append(corrupter.corrupt(number))
        if time.time() - shown > 30:
          shown = time.time()
          print("%d done, %.0f s of CPU time" % (
              len(done), corrupter.seconds), file=sys.stderr)
        if done[-1].outcome in (WRONG, CRASH) or options.only is not None:
          print(describe(done[-1]), file=sys.stderr)
          sys.stderr.flush()
      seconds = corrupter.seconds
  except ValueError as error:
    print("robustness.faults.corrupt: %s" % error, file=sys.stderr)
    return 2
  bad = [corruption for corruption in done
         if corruption.outcome in (WRONG, CRASH)]
  print("\n".join([describe(corruption) for corruption in bad] +
                  summary(done) + ["processor seconds: %.0f" % seconds]))
  return 1 if bad else 0


if __name__ == "__main__":
  sys.exit(main())
