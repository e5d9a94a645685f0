# SPDX-License-Identifier: Apache-2.0
"""Rounds of fault injection: a run is disturbed, restarted until it finishes,
compared."""

import collections
import errno
import os
import random
import re
import shutil
import time

from robustness.faults import compare_folders
from robustness.faults import file_layer
from robustness.faults import lost_power
from robustness.faults import tiny_world
from robustness.faults import zygote


TRAIN, EXPORT = "run_multilabel_classifier", "export_saved_model"

# The most critical operations, by name and kind.
_GROUPS = (
    ("records", lambda op: "tf_record" in op.name),
    ("renames", lambda op: op.kind in ("rename", "fsync")),
    ("checkpoint data", lambda op: ".data-" in op.name),
    ("checkpoint index", lambda op: re.search(r"ckpt-\d+\.index", op.name)),
    ("checkpoint state", lambda op: re.search(r"checkpoint(\.tmp\w+)?$",
                                              op.name)),
    ("best_checkpoint.json", lambda op: "best_checkpoint.json" in op.name),
    ("settings", lambda op: re.search(r"\.json|\.txt", op.name)),
    ("evaluation", lambda op: op.stream == 1),
    ("results", lambda op: re.search(r"eval_|test_(pred|res)", op.name)),
    ("removals", lambda op: op.kind == "unlink"),
)

_WRITES = ("write", "fwrite", "flush", "close")

# Faults of a call by its kind: (name, action, errno).
_ENOSPC = ("ENOSPC", "fail", errno.ENOSPC)
_EIO = ("EIO", "fail", errno.EIO)
_FAULTS = {
    "open": (_ENOSPC, _EIO),
    "write": (_ENOSPC, _EIO, ("short write", "short", 0)),
    "fwrite": (_ENOSPC, _EIO), "flush": (_ENOSPC, _EIO),
    "close": (_ENOSPC, _EIO),
    "fsync": (("failing fsync", "fail", errno.EIO),),
    "rename": (("failing rename", "fail", errno.EIO),),
    "unlink": (_EIO,), "truncate": (_EIO,), "mkdir": (_ENOSPC,),
    "rmdir": (_EIO,), "link": (_ENOSPC,)}

NO_SPACE = errno.ENOSPC
_MOST_STARTS = 6


class Counts(object):
  """The results of all rounds.

  Attributes:
    kills, power_cuts, restarts, rounds, skipped: int; `skipped` are the
      restarts skipped because a run had already resumed from the same state.
    faults: Counter by name. passed: Counter, those that a run ended well
      with. left_over: int, rounds that left temporary files.
    differing_bytes: int. stuck, tracebacks: int.
    findings: list of str, one per failed round.
    seconds: float, of CPU time.
  """

  def __init__(self):
    self.rounds = self.kills = self.power_cuts = self.restarts = 0
    self.skipped = self.left_over = 0
    self.faults, self.passed = collections.Counter(), collections.Counter()
    self.differing_bytes = self.stuck = self.tracebacks = 0
    self.seconds = 0.0
    self.findings = []

  @property
  def is_clean(self):
    return not (self.differing_bytes or self.stuck or self.tracebacks or
                self.findings)

  def lines(self):
    """Readable lines: list of str."""
    faults = ", ".join("%s %d" % item for item in sorted(self.faults.items()))
    passed = ", ".join("%s %d" % item for item in sorted(self.passed.items()))
    return [
        "rounds               %d" % self.rounds,
        "kills                %d" % self.kills,
        "power cuts           %d" % self.power_cuts,
        "faults               %d%s" % (
            sum(self.faults.values()), " (%s)" % faults if faults else ""),
        "  the run went on    %d%s" % (
            sum(self.passed.values()), " (%s)" % passed if passed else ""),
        "restarts             %d (and %d states seen before)" % (
            self.restarts, self.skipped),
        "rounds with leftover temporary files  %d" % self.left_over,
        "processor seconds    %.0f" % self.seconds,
        "differing bytes      %d" % self.differing_bytes,
        "stuck directories    %d" % self.stuck,
        "tracebacks           %d" % self.tracebacks]


class Storm(object):
  """A small run, its undisturbed result, and rounds that disturb it.

  Attributes:
    counts: `Counts`.
    operations: {TRAIN: list of `Operation`, EXPORT: ...}, undisturbed.
    seconds: {TRAIN: float, ...}, CPU time undisturbed.
  """

  def __init__(self, work_dir, seed, say=None, changes=None):
    """Makes the data and runs the commands undisturbed.

    Args:
      work_dir: str, an existing empty folder.
      seed: int.
      say: function of a line, or None.
      changes: {flag: value} of the training, beside or instead of the usual.
    """
    self.counts = Counts()
    self._seed = seed
    self._say = say or (lambda line: None)
    self._changes = changes or {}
    self._root = os.path.join(work_dir, "run")
    self._trained = os.path.join(work_dir, "trained")
    self._world = tiny_world.make(os.path.join(work_dir, "world"))
    self._seen = {}
    os.mkdir(self._root)
    own = os.path.join(work_dir, "layer")
    os.mkdir(own)
    self.layer = file_layer.Layer(own, self._root)
    self._zygote = zygote.Zygote(own, self.layer.environment())
    try:
      self._run_undisturbed()
    except BaseException:
      self.close()
      raise

  def _run_undisturbed(self):
    self.operations, self.seconds, self._expected = {}, {}, {}
    self._by_clock = {}
    for command in (TRAIN, EXPORT):
      self.layer.arm()
      start = time.time()
      ended = self._start(command)
      self._by_clock[command] = time.time() - start
      if ended.status != 0:
        raise ValueError("the undisturbed run fails: %s" %
                         _last_line(ended.stderr))
      self.operations[command] = self.layer.operations()
      self.seconds[command] = ended.seconds
      if command == TRAIN:
        shutil.copytree(self._root, self._trained)
      self._expected[command], left_over = compare_folders.read(self._root)
      if left_over:
        raise ValueError("the undisturbed run leaves %s." %
                         ", ".join(sorted(left_over)))

  def _flags(self, command):
    output_dir = os.path.join(self._root, "out")
    if command == TRAIN:
      return tiny_world.training_flags(self._world, output_dir,
                                       **self._changes)
    return tiny_world.export_flags(
        output_dir, os.path.join(self._root, "exports")) + ["--version=1"]

  def _start(self, command, kill_after=None):
    ended = self._zygote.run("robustness.faults.calls:call_script", command,
                             self._flags(command), kill_after=kill_after)
    self.counts.seconds += ended.seconds
    return ended

  def close(self):
    self._zygote.close()
    self.layer.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()

  # Rounds.

  def kill_round(self, number):
    """A run is killed, some restarts too."""
    rng = self._begin("kill", number)
    command = EXPORT if number % 6 == 5 else TRAIN
    story = []
    ended = self._kill(command, rng, story)
    for _ in range(_MOST_STARTS):
      if self._is_over(command, ended):
        break
      self.counts.restarts += 1
      if rng.random() < 0.3:
        ended = self._kill(command, rng, story)
      else:
        ended = self._start_calmly(command, story)
        break
    self._judge(command, ended, story)

  def power_round(self, number):
    """Power is lost, perhaps again after the restart."""
    rng = self._begin("power", number)
    command = EXPORT if number % 6 == 5 else TRAIN
    story, ended = [], None
    for again in range(2 if rng.random() < 0.3 else 1):
      operation = self._choose(command, rng)
      fault = file_layer.Fault(
          rng.choice(["kill_before", "kill_after", "kill_within"]),
          operation.number, operation.stream)
      self.layer.arm(fault, power=True)
      ended = self._start(command)
      self.layer.disarm()
      self.counts.restarts += again
      self._note(ended, story, "power lost at " + _describe(operation))
      if self._is_over(command, ended):
        break
      self.counts.power_cuts += 1
      lost = lost_power.write_state(
          self.layer.log(), self.layer.shadow, self._root, rng)
      story.append("(%s)" % ("; ".join(lost) or "nothing lost"))
    if not self._is_over(command, ended):
      self.counts.restarts += 1
      ended = self._start_calmly(command, story)
    self._judge(command, ended, story)

  def fault_round(self, command, operation, fault_name, action, error,
                  lasting=False):
    """One call fails, or all that need room from there on."""
    name = "full disk" if lasting else fault_name
    rng = self._begin("%s %s" % (command, name), operation.number, command)
    story = []
    self.layer.arm(file_layer.Fault(
        action, operation.number, operation.stream, error, lasting))
    ended = self._start(command)
    fired = self.layer.fired
    newest = _newest_whole(self.layer.operations())
    self.layer.disarm()
    self._note(ended, story, "%s at %s" % (name, _describe(operation)))
    if not fired:
      self.counts.passed["not reached"] += 1
    else:
      self.counts.faults[name] += 1
    if ended.status == 0:
      self.counts.passed[name] += 1
    elif ended.status is not None:
      self._check_sentence(ended, story)
      if lasting and newest and not os.path.exists(
          os.path.join(self._root, "out", newest)):
        self._find(story, "the last intact checkpoint %s is missing" % newest)
      seen = compare_folders.fingerprint(self._root)
      # A state from which a run has resumed is tried again only sometimes.
      if seen in self._seen and rng.random() < 0.75:
        self.counts.skipped += 1
        return
      self._seen[seen] = operation
      self.counts.restarts += 1
      ended = self._start_calmly(command, story)
    self._judge(command, ended, story)

  def every_fault(self, command):
    """All of `fault_round`: list of (operation, name, action, errno).

    Calls on event files, which are many and alike, fail in one way each.
    """
    found = []
    for operation in self.operations[command]:
      faults = _FAULTS[operation.kind]
      if operation.stream:
        faults = [faults[operation.number % len(faults)]]
      found += [(operation,) + fault for fault in faults]
    return found

  def full_disk_operations(self, command):
    """Operations that a disk can become full at."""
    return [operation for operation in self.operations[command]
            if operation.kind in _WRITES + ("open", "mkdir")]

  # Parts of a round.

  def _begin(self, kind, number, command=None):
    """Clears the folder; returns the round's own random numbers."""
    self.counts.rounds += 1
    self._round = "%s %d" % (kind, number)
    is_export = (command or (EXPORT if number % 6 == 5 else TRAIN)) == EXPORT
    self.layer.disarm()
    shutil.rmtree(self._root)
    if is_export:
      shutil.copytree(self._trained, self._root)
    else:
      os.mkdir(self._root)
    return random.Random("%d %s" % (self._seed, self._round))

  def _choose(self, command, rng):
    """An operation: first a group of them, then one of it."""
    operations = self.operations[command]
    groups = [[op for op in operations if is_in(op)] for _, is_in in _GROUPS]
    groups = [group for group in groups if group]
    return rng.choice(operations if command == EXPORT else rng.choice(groups))

  def _kill(self, command, rng, story):
    if rng.random() < 0.25:
      seconds = rng.random() * self._by_clock[command]
      self.layer.arm()
      ended = self._start(command, kill_after=seconds)
      what = "killed after %.2f s" % seconds
    else:
      operation = self._choose(command, rng)
      actions = ["kill_before", "kill_after"]
      if operation.kind in _WRITES:
        actions.append("kill_within")
      action = rng.choice(actions)
      self.layer.arm(file_layer.Fault(action, operation.number,
                                      operation.stream))
      ended = self._start(command)
      what = "%s %s" % (action, _describe(operation))
    self.layer.disarm()
    self._note(ended, story, what)
    if ended.status == -9:
      self.counts.kills += 1
    return ended

  def _start_calmly(self, command, story):
    self.layer.disarm()
    ended = self._start(command)
    self._note(ended, story, "started again")
    return ended

  def _note(self, ended, story, what):
    """Adds to the story of a round what happened, and looks for tracebacks."""
    story.append("%s: %s" % (what, _outcome(ended)))
    if ended.status is None:
      return
    is_crash = ended.status < 0 and ended.status != -9
    if is_crash or "Traceback" in ended.stderr + ended.stdout:
      self.counts.tracebacks += 1
      self._find(story, "it crashed" if is_crash else "a traceback")

  def _check_sentence(self, ended, story):
    """What fails says why in one line that begins with the script's name."""
    lines = [line for line in ended.stderr.splitlines()
             if re.match(r"\w+\.py: \S", line)]
    if len(lines) != 1 or lines[0] != ended.stderr.rstrip().splitlines()[-1]:
      self._find(story, "it did not end with a one-sentence error")

  def _is_over(self, command, ended):
    """Whether there is nothing to start again."""
    if ended is None or ended.status is None:
      return False
    if command == EXPORT and os.path.exists(
        os.path.join(self._root, "exports", "1")):
      return True
    return ended.status != -9

  def _judge(self, command, ended, story):
    """Compares the end of a round with the undisturbed run."""
    is_export_there = command == EXPORT and os.path.exists(
        os.path.join(self._root, "exports", "1"))
    if ended.status != 0 and not is_export_there:
      self.counts.stuck += 1
      self._find(story, "stuck")
      return
    found, left_over = compare_folders.read(self._root)
    different = compare_folders.differences(self._expected[command], found)
    self.counts.left_over += bool(left_over)
    if different:
      self.counts.differing_bytes += sum(different.values())
      self._find(story, "differs: " + ", ".join(
          "%s (%d bytes)" % item for item in sorted(different.items())))

  def _find(self, story, what):
    line = "seed %d, round %s: %s | %s" % (
        self._seed, self._round, what, " | ".join(story))
    self.counts.findings.append(line)
    self._say(line)


def _newest_whole(operations):
  """Name of the index file of the last checkpoint that was complete."""
  newest = renamed = None
  for operation in operations[:-1]:
    if operation.kind != "rename":
      continue
    match = re.match(r"out/(model\.ckpt-\d+\.index)$", operation.name)
    if match:
      renamed = match.group(1)
    elif operation.name == "out/checkpoint":
      newest = renamed
  return newest


def _describe(operation):
  return "%d:%d %s %s" % operation


def _outcome(ended):
  if ended.status is None:
    return "did not end"
  if ended.status in (0, -9):
    return "ended well" if ended.status == 0 else "killed"
  return "status %d, %s" % (ended.status, _last_line(ended.stderr))


def _last_line(text):
  lines = text.strip().splitlines()
  return lines[-1][-300:] if lines else "(nothing)"
