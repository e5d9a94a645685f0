# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark's driver: turns, comparison, what dies, the table."""

import json
import os
import signal
import sys

import pytest

from benchmarks import measure
from benchmarks import result_text
from benchmarks import run
from benchmarks import training_order
from benchmarks import work_items
from benchmarks import worker_process
from multilabel.features import input_pipeline


SHAPE = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 32}


def test_flops_of_one_text_by_hand():
  # A token through a layer: 4 products of 8x8 and 2 of 8x32, 2 operations a
  # number: 2 * (4 * 64 + 2 * 256) = 1536. Attention of 3 tokens: scores and
  # context, 3 * 3 * 8 * 2 each = 288. Pooler 2 * 64, 5 labels 2 * 8 * 5.
  layer = 3 * 1536 + 288
  assert work_items.flops([3], SHAPE, 5, "pooler") == 2 * layer + 128 + 80
  assert work_items.flops([3, 3], SHAPE, 5, "cls") == 2 * (2 * layer + 80)
  assert work_items.flops([3], SHAPE, 5, "mean", training=True) == 3 * (
      2 * layer + 80)
  # Read of the last layer: keys and values of 3 tokens, 2 * 3 * 2 * 64; of
  # the first one, query, attention output and feed-forward; its attention to
  # 3 tokens, 2 * 3 * 8 * 2.
  last = 768 + 2 * (2 * 64 + 2 * 256) + 96
  assert work_items.flops([3], SHAPE, 5, "cls", full=False) == (
      layer + last + 80)
  assert work_items.flops([3], SHAPE, 5, "mean", full=False) == (
      2 * layer + 80)


def test_lengths_are_like_those_they_are_named_after():
  short = work_items.lengths_of("short", 20000, 1)
  assert 18.5 < sum(short) / 20000 < 19.5
  assert 43 <= sorted(short)[19800] <= 47  # 99th percentile
  mixed = work_items.lengths_of("mixed", 2000, 1)
  assert (min(mixed), max(mixed)) == (8, 512)
  assert work_items.lengths_of("short", 5, 1) != work_items.lengths_of(
      "short", 5, 2)


def test_sorted_batches_and_spread():
  assert work_items.sorted_batches([1, 5, 3], 2) == [[5, 3], [1]]
  assert work_items.spread(list(range(10)), 2) == [2, 7]
  assert work_items.spread([2, 1], 4) == [1, 2]


@pytest.mark.parametrize("count, batch_size", [(1600, 32), (70, 32), (9, 4)])
def test_peers_train_on_our_batches_in_our_order(count, batch_size):
  """Two epochs and a bit, as the input pipeline makes them."""
  lengths = work_items.lengths_of("short", count, 3)
  steps = training_order.Steps(lengths, batch_size)
  for epoch in range(3):
    for expected in input_pipeline.epoch_batches(
        lengths, batch_size, training_order.SEED, epoch):
      assert steps.next().tolist() == expected.tolist()


def test_difference():
  assert measure.difference([[1, 2.5]], [[1, 2]]) == 0.5
  assert measure.difference([[1]], [[1, 2]]) == float("inf")
  assert not measure.difference([[float("nan")]], [[1]]) <= 1e9


class FakeWorker(object):
  """Answers as a peer would; writes down whose turn it is."""

  def __init__(self, name, log, outputs, seconds, dies_at=None):
    self.name, self.log, self._outputs = name, log, outputs
    self._seconds, self._dies_at = seconds, dies_at
    self._runs = 0

  def ask(self, timeout, **request):
    del timeout
    if request["do"] == "load":
      self._form = request["job"].get("form")
      return {"says": "a fake"}
    if request["do"] == "check":
      return {"outputs": self._outputs}
    self._runs += 1
    if self._runs == self._dies_at:
      raise worker_process.WorkerFailure("it died")
    self.log.append(self.name)
    return {"seconds": self._seconds * self._runs, "cpu": 1.0, "each": None,
            "peak_mb": 5}


class FakeBench(object):
  with_limit = False

  def __init__(self, workers):
    self._workers, self.forgotten = workers, []

  def worker(self, name, *unused_args):
    if name not in self._workers:
      raise worker_process.WorkerFailure("no environment")
    return self._workers[name]

  def forget(self, name):
    self.forgotten.append(name)


def make_item():
  return measure.Item("f", work_items.WORKS["f"], "a title", {
      "kind": "features", "model": "tiny", "pooling": "pooler",
      "batch_size": 4, "checked": 2, "work_dir": "w"}, 10, [3] * 10)


def peers(*names):
  return [work_items.PEERS[name] for name in names]


def test_rounds_are_interleaved_and_the_first_one_does_not_count():
  log, results = [], {}
  bench = FakeBench({"ours": FakeWorker("A", log, [[1.0]], 2.0),
                     "original": FakeWorker("B", log, [[1.0002]], 6.0)})
  measure.measure(bench, make_item(), peers("ours", "original"), 2, results)
  assert log == ["A", "B"] * 3
  # 10 texts of ours, and a tenth of that of the original: 1 text.
  assert results["peers"]["ours"]["seconds"] == pytest.approx([0.4, 0.6])
  assert results["peers"]["original"]["seconds"] == pytest.approx([12, 18])
  assert results["peers"]["original"]["difference"] == pytest.approx(2e-4)
  assert result_text.ratios(
      results["peers"]["original"], results["peers"]["ours"]) == (
          pytest.approx([30, 30]))


def test_a_peer_whose_outputs_differ_is_not_timed():
  log, results = [], {}
  bench = FakeBench({"ours": FakeWorker("A", log, [[1.0]], 1.0),
                     "transformers": FakeWorker("B", log, [[1.1]], 1.0)})
  measure.measure(bench, make_item(), peers("ours", "transformers"), 2,
                  results)
  assert log == ["A"] * 3
  assert results["peers"]["transformers"]["seconds"] == []
  assert "differ from ours by 0.1" in results["peers"]["transformers"]["why"]


def test_a_peer_that_is_missing_or_dies_does_not_end_the_run():
  log, results = [], {}
  bench = FakeBench({
      "ours": FakeWorker("A", log, [[1.0]], 1.0),
      "original": FakeWorker("B", log, [[1.0]], 1.0, dies_at=3)})
  measure.measure(bench, make_item(),
                  peers("ours", "original", "transformers"), 3, results)
  assert log == ["A", "B", "A", "B", "A", "A"]
  assert results["peers"]["transformers"]["why"] == "no environment"
  assert results["peers"]["original"]["why"] == "it died"
  assert len(results["peers"]["original"]["seconds"]) == 1
  assert len(results["peers"]["ours"]["seconds"]) == 3
  assert bench.forgotten == ["transformers", "original"]


def test_a_worker_computes_fails_goes_on_and_dies(tmp_path):
  worker = worker_process.Worker(
      sys.executable, "peer_limit", 1, str(tmp_path / "log"),
      {"library": "numpy"})
  try:
    assert "numpy" in worker.ask(60, do="hello")["versions"]
    with pytest.raises(worker_process.WorkerFailure, match="hidden_size"):
      worker.ask(60, do="load", job={})
    job = dict(SHAPE, tokens=[3], training=False, flops=1)
    assert "numpy" in worker.ask(60, do="load", job=job)["says"]
    # 2 layers of 3 tokens, as in the test of flops, without attention.
    assert worker.ask(60, do="run")["each"] == [2 * 3 * 1536]
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(worker_process.WorkerFailure, match="status -9"):
      worker.ask(60, do="run")
  finally:
    worker.close()
  assert worker._process.poll() is not None


def fake_results(pooling):
  return {
      "date": "2026-01-02", "commit": "abcdef", "changed_files": 0,
      "cpu": "a CPU", "threads": 2, "cores": 4, "load_before": 0.25,
      "pooling": pooling, "missing": {"onnx": "no wheels"},
      "items": {"a": {
          "title": "short texts", "unit": "text", "letter": "a",
          "flops": 2e9, "flops_read": 1e9, "tokens": 19.0, "peers": {
              "ours": {"seconds": [0.01, 0.02, 0.03], "cpu": [0.02],
                       "says": "batches"},
              "onnxruntime": {"seconds": [0.02, 0.02, 0.03], "cpu": [0.02],
                              "difference": 3e-7, "says": "sorted"},
              "transformers": {"seconds": [], "why": "it died"},
              "limit, numpy": {"limit": True, "rates": [1e11, 2e11, 3e11]}}}}}


def test_table():
  text = result_text.format_results(fake_results("pooler"))
  assert "without onnx: no wheels" in text
  assert "transformers: it died" in text
  line, = [line for line in text.splitlines()
           if line.startswith("  onnxruntime ")]
  # 20 ms; rounds 2, 1 and 1 times ours; 2 GFLOP at 200 GFLOP/s are 10 ms.
  assert line.split() == ["onnxruntime", "20.00", "ms", "1.00", "(1.00-2.00)",
                          "1.10", "0.50", "20.00", "ms"]
  assert "ours reaches 0.25 of the limit" in text
  assert " 0.99 " in result_text.format_results(fake_results("mean"))


def test_a_run_without_our_environment_says_so(tmp_path, capsys):
  flags = ["--python_%s=none" % name for name in ("ours", "original", "torch",
                                                  "onnx")]
  assert run.main(flags + ["--output_dir=%s" % tmp_path]) == 1
  assert "Without ours: left out" in capsys.readouterr().err
  with open(str(tmp_path / "results.json")) as reader:
    assert json.load(reader)["items"] == {}


def test_unknown_works_and_peers_are_named():
  with pytest.raises(SystemExit, match="no workload z; choose from a, b"):
    run.chosen_works(run.parse(["--only=a,z"]))
  with pytest.raises(SystemExit, match="no peer 'x'"):
    run.chosen_peers(run.parse(["--peers=x"]))
  assert [peer.name for peer in run.chosen_peers(
      run.parse(["--peers=onnxruntime"]))] == ["ours", "onnxruntime"]


def test_every_work_has_items_and_targets_name_peers():
  options = run.parse(["--tiny"])
  lengths = {"short": [3], "mixed": [3], "train": [3], "base": [3],
             "features": [3]}
  items = measure.make_items(list(work_items.WORKS.values()), options.sizes,
                             lengths, options)
  assert [item.key for item in items] == [
      "a", "b", "c8", "c24", "c128", "d", "e", "f", "g", "h"]
  for letter, targets in work_items.TARGETS.items():
    assert set(targets) - {"limit"} <= set(work_items.WORKS[letter].peers)
