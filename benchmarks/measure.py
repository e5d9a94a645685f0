# SPDX-License-Identifier: Apache-2.0
"""Runs peers interleaved: loads, compares outputs, times them in rounds."""

import collections
import math
import os
import shutil
import sys
import time

from benchmarks import work_items
from benchmarks import worker_process


# Most that a logit, or the loss of a text, may differ from ours.
TOLERANCE = 1e-3
LOAD_SECONDS, RUN_SECONDS, WHOLE_SECONDS = 600, 900, 7200

# One table of results: a work, or a length of "one text at a time".
Item = collections.namedtuple(
    "Item", ["key", "work", "title", "job", "units", "lengths"])


def say(text):
  sys.stderr.write(text + "\n")
  sys.stderr.flush()


def middle(values):
  """The median of a list of numbers."""
  ordered = sorted(values)
  half = len(ordered) // 2
  return (ordered[half] if len(ordered) % 2
          else (ordered[half - 1] + ordered[half]) / 2)


def make_items(works, sizes, lengths, options):
  """The items of the chosen works.

  Args:
    works: list of `work_items.Work`.
    sizes: `work_items.Sizes`.
    lengths: {set of texts: token counts}, of `prepare`.
    options: the driver's flags.

  Returns:
    list of `Item`.
  """
  items = []
  for work in works:
    model = options.models.get(work.model, work.model)
    job = {"kind": work.kind, "model": model, "work_dir": options.work_dir,
           "pooling": options.pooling, "batch_size": 32,
           "max_seq_length": work_items.SHORT_LENGTH,
           "checked": sizes.checked}

    def item(key, title, texts, units, **changes):
      items.append(Item(key, work, title, dict(job, texts=texts, **changes),
                        units, lengths.get(texts)))

    if work.letter == "a":
      item("a", work.title, "short", sizes.short)
    elif work.letter == "b":
      item("b", work.title, "mixed", sizes.mixed,
           max_seq_length=work_items.MIXED_LENGTH)
    elif work.letter == "c":
      for tokens in work_items.SINGLE_LENGTHS:
        item("c%d" % tokens, "%s, %d tokens" % (work.title, tokens),
             "single %d" % tokens, sizes.single)
    elif work.letter == "d":
      item("d", work.title, "train", sizes.train_steps)
    elif work.letter == "e":
      title = work.title if model == work.model else (
          "%s (model %s here)" % (work.title, model))
      item("e", title, "base", sizes.base_steps, batch_size=8,
           max_seq_length=120)
    elif work.letter == "f":
      item("f", work.title, "features", sizes.features)
    elif work.letter == "g":
      item("g", work.title, "single 24", 1)
    else:
      item("h", "%s, %d texts" % (work.title, sizes.whole_texts), None, 1,
           max_seq_length=work_items.WHOLE_LENGTH, epochs=options.epochs,
           data_dir=os.path.join(options.work_dir, "data"))
  return items


class Bench(object):
  """The peers' processes, started when they are first needed."""

  def __init__(self, pythons, missing, threads, log_dir, with_limit=True):
    """See `environments.find` for the first two.

    Args:
      pythons: {environment: path of its Python}.
      missing: {environment: why there is none}.
      threads: int, threads and cores of each process.
      log_dir: str, folder of the processes' logs.
      with_limit: bool, whether the machine's limit is measured beside them.
    """
    self._pythons, self._missing = pythons, missing
    self.with_limit = with_limit
    self._threads, self._log_dir = threads, log_dir
    self._workers = {}
    self.versions, self.failed = {}, {}

  def start(self, name, module, environment, settings):
    """Starts a process; WorkerFailure if that fails."""
    if environment in self._missing:
      raise worker_process.WorkerFailure(
          "no environment: " + self._missing[environment])
    log = os.path.join(self._log_dir, "%s.log" % name.replace(", ", "-"))
    return worker_process.Worker(
        self._pythons[environment], module, self._threads, log, settings,
        settings.get("root", worker_process.ROOT))

  def worker(self, name, module, environment, settings):
    """The living process of that name; WorkerFailure if it has died."""
    if name in self.failed:
      raise worker_process.WorkerFailure(self.failed[name])
    if name not in self._workers:
      try:
        worker = self.start(name, module, environment, settings)
        self.versions[name] = worker.ask(LOAD_SECONDS, do="hello")["versions"]
      except (worker_process.WorkerFailure, OSError) as error:
        self.failed[name] = str(error)
        raise worker_process.WorkerFailure(str(error))
      self._workers[name] = worker
    return self._workers[name]

  def forget(self, name):
    """Ends a process; the next work that needs it starts another."""
    if name in self._workers:
      self._workers.pop(name).close()

  def close(self):
    for name in list(self._workers):
      self.forget(name)


def difference(outputs, reference):
  """The largest difference of two lists of lists; inf if shapes differ."""
  if [len(row) for row in outputs] != [len(row) for row in reference]:
    return float("inf")
  worst = 0.0
  for row, other in zip(outputs, reference):
    for x, y in zip(row, other):
      gap = abs(x - y)
      worst = gap if math.isnan(gap) or gap > worst else worst
  return worst


def limit_job(item, shape, training):
  """The products of an item's batches, for the machine's limit."""
  batches = work_items.sorted_batches(item.lengths, item.job["batch_size"])
  whole = [batch for batch in batches
           if len(batch) == item.job["batch_size"]] or batches
  tokens = work_items.spread([sum(batch) for batch in whole], 4)
  return dict(shape, tokens=tokens, training=training,
              flops=min(6e10, flops_of_unit(item, shape) * item.units))


def flops_of_unit(item, shape, full=True):
  """Floating-point operations of a text, or of a training step."""
  training = item.work.kind == "train"
  total = work_items.flops(item.lengths, shape, work_items.NUM_LABELS,
                           item.job["pooling"], full, training)
  return total / len(item.lengths) * (
      item.job["batch_size"] if training else 1)


class Turn(object):
  """A peer that takes part in an item, and what it showed."""

  def __init__(self, name, worker, units, result):
    self.name, self._worker = name, worker
    self._units, self.result = units, result

  def run(self, keep):
    """One turn; the first one, which warms up, is not kept."""
    answer = self._worker.ask(RUN_SECONDS, do="run")
    if keep:
      each = answer["each"]
      if self.result.get("limit"):
        self.result["rates"].append(each[0] / answer["seconds"])
        return
      self.result["seconds"].append(
          middle(each) if each else answer["seconds"] / self._units)
      self.result["cpu"].append(
          answer["cpu"] / (len(each) if each else self._units))
    self.result["peak_mb"] = answer["peak_mb"]


def load_turns(bench, item, peers, results):
  """Loads the item into each peer and compares outputs with ours."""
  turns, references = [], {}
  training = item.work.kind == "train"
  for peer in peers:
    result = results[peer.name] = {"seconds": [], "cpu": []}
    units = max(1, int(round(item.units * item.work.peers[peer.name])))
    job = dict(item.job)
    job.update({"steps": units, "count": 512} if training
               else {"count": units})
    job["checked"] = min(job["checked"], job["count"])
    job["work_dir"] = peer.settings.get("work_dir", job["work_dir"])
    try:
      worker = bench.worker(peer.name, peer.module, peer.environment,
                            peer.settings)
      if peer.name == "ours":
        # The original only has a form of GELU that differs from all others.
        for form in ("tanh", "trained"):
          if form == "trained" or any(
              other.environment == "original" for other in peers):
            result["says"] = worker.ask(LOAD_SECONDS, do="load", job=dict(
                job, form=form))["says"]
            references[form] = worker.ask(LOAD_SECONDS, do="check")["outputs"]
      else:
        result["says"] = worker.ask(LOAD_SECONDS, do="load", job=job)["says"]
        outputs = worker.ask(LOAD_SECONDS, do="check")["outputs"]
        form = "tanh" if peer.environment == "original" else "trained"
        result["difference"] = difference(
            outputs, references[form][:len(outputs)])
        if not result["difference"] <= TOLERANCE:
          result["why"] = ("outputs differ from ours by %.2g; not timed" %
                           result["difference"])
          say("  %s: %s" % (peer.name, result["why"]))
          continue
    except worker_process.WorkerFailure as failure:
      result["why"] = str(failure)
      say("  %s: %s" % (peer.name, failure))
      bench.forget(peer.name)
      if peer.name == "ours":
        return []
      continue
    say("  %s: %s%s" % (peer.name, result["says"], "" if peer.name == "ours"
                        else "; differs by %.1e" % result["difference"]))
    turns.append(Turn(peer.name, worker, units, result))
  return turns


def limit_turns(bench, item, shape, results):
  """The machine's limit by each library that is there."""
  turns = []
  if not bench.with_limit or item.work.kind not in ("predict", "train"):
    return turns
  for library, environment in (("torch", "torch"), ("numpy", "ours")):
    name = "limit, " + library
    result = results[name] = {"limit": True, "rates": []}
    try:
      worker = bench.worker(name, "peer_limit", environment,
                            {"library": library})
      result["says"] = worker.ask(LOAD_SECONDS, do="load", job=limit_job(
          item, shape, item.work.kind == "train"))["says"]
    except worker_process.WorkerFailure as failure:
      result["why"] = str(failure)
      bench.forget(name)
      continue
    turns.append(Turn(name, worker, 1, result))
  return turns


def measure(bench, item, peers, rounds, results):
  """Fills `results`, {peer: dict}, round by round; what fails is left out.

  Args:
    bench: `Bench`.
    item: `Item`.
    peers: list of `work_items.Peer`, ours first.
    rounds: int, rounds that count; one more comes before.
    results: dict, filled as it goes, so that an interrupted run keeps it.
  """
  shape = work_items.SHAPES[item.job["model"]]
  if item.work.kind in ("predict", "single", "train"):
    results["flops"] = flops_of_unit(item, shape)
    results["flops_read"] = flops_of_unit(item, shape, False)
    results["tokens"] = sum(item.lengths) / len(item.lengths) * (
        item.job["batch_size"] if item.work.kind == "train" else 1)
  found = results["peers"] = {}
  if item.work.kind in ("start", "whole"):
    return measure_fresh(bench, item, peers, rounds, found)
  turns = load_turns(bench, item, peers, found)
  if turns:
    turns += limit_turns(bench, item, shape, found)
  for number in range(rounds + 1):
    for turn in list(turns):
      try:
        turn.run(number > 0)
      except worker_process.WorkerFailure as failure:
        turn.result["why"] = str(failure)
        say("  %s: %s" % (turn.name, failure))
        bench.forget(turn.name)
        turns.remove(turn)


def measure_fresh(bench, item, peers, rounds, found):
  """Works that each time begin with the start of a process."""
  alive = list(peers)
  for peer in peers:
    found[peer.name] = {"seconds": [], "cpu": []}
  for _ in range(rounds):
    for peer in list(alive):
      result = found[peer.name]
      try:
        seconds, answer = fresh(bench, item, peer)
      except (worker_process.WorkerFailure, OSError) as failure:
        result["why"] = str(failure)
        say("  %s: %s" % (peer.name, failure))
        alive.remove(peer)
        continue
      result["seconds"].append(seconds)
      result["cpu"].append(answer["cpu"])
      result["says"] = answer["says"]
      result["peak_mb"] = answer["peak_mb"]
      if item.work.kind == "whole":
        result["micro_f1"] = answer["each"][0]
      say("  %s: %.1f s" % (peer.name, seconds))


def fresh(bench, item, peer):
  """(seconds from the start of a process on, its answer)."""
  whole = item.work.kind == "whole"
  module = "peer_script" if whole and peer.name == "ours" else peer.module
  job = dict(item.job, count=1, checked=1, work_dir=peer.settings.get(
      "work_dir", item.job["work_dir"]))
  if whole:
    job["output_dir"] = os.path.join(
        item.job["work_dir"], "whole", peer.name.replace(", ", "-"))
    shutil.rmtree(job["output_dir"], ignore_errors=True)
    os.makedirs(job["output_dir"])
  worker = bench.start(peer.name + " fresh", module, peer.environment,
                       peer.settings)
  try:
    says = worker.ask(LOAD_SECONDS, do="load", job=job)["says"]
    answer = worker.ask(WHOLE_SECONDS if whole else RUN_SECONDS, do="run")
    seconds = time.time() - worker.started
    return seconds, dict(answer, says=says)
  finally:
    worker.close()
