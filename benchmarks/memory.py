# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step: plain, in parts, frozen, recomputed.

  python -m benchmarks.memory                    measures BERT-Base here
  python -m benchmarks.memory --batch=8 --part=2 --length=128 --steps=1

Each measured row is a process of its own with random weights from a seed: the
most resident memory it ever had, less what it had before the graph was built.
The other columns are computed (see `compute`): weights, moments and gradients
are counted from the configuration; activations are those of the plain step on
BERT-Base, in proportion to layers, width and tokens (both sizes have heads of
64, so attention grows as all else does). Prints the table of docs/memory.md.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import argparse
import collections
import functools
import json
import os
import resource
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# layers, width; the rest follows.
SIZES = collections.OrderedDict([("base", (12, 768)), ("large", (24, 1024))])
VOCAB, POSITIONS, NUM_LABELS = 30522, 512, 28

# name -> (in parts, share of the layers that is frozen, recomputed)
VARIANTS = collections.OrderedDict([
    ("plain", (False, 0, False)),
    ("accumulation", (True, 0, False)),
    ("freeze", (False, 0.5, False)),
    ("recompute", (False, 0, True)),
    ("all three", (True, 0.5, True)),
])


def count_weights(size, frozen=0):
  """(all weights, those that are trained) of a size: ints."""
  layers, width = SIZES[size]
  embeddings = (VOCAB + POSITIONS + 2 + 2) * width
  layer = 12 * width * width + 13 * width
  head = width * width + width + NUM_LABELS * (width + 1)
  everything = embeddings + layers * layer + head
  return everything, everything - (
      embeddings + int(layers * frozen) * layer if frozen else 0)


def compute(size, variant, rows, length, activation):
  """Most bytes of a step that are in use at a time: float.

  Either at the end of the forward pass, where all activations that are kept
  are there; or at the end of the backward pass (recomputed: with one layer's
  activations); or at the update, where each gradient is there twice, as it was
  and clipped, and in parts once, as their sum.

  Args:
    size: key of `SIZES`.
    variant: key of `VARIANTS`.
    rows: int, texts in memory at a time.
    length: int, tokens of a text.
    activation: float, numbers kept a token, layer and unit of width.
  """
  in_parts, frozen, again = VARIANTS[variant]
  layers, width = SIZES[size]
  everything, trained = count_weights(size, frozen)
  layers -= int(layers * frozen)
  unit = 4.0 * rows * length * width
  state = 4.0 * everything + 8.0 * trained
  sums = 4.0 * trained if in_parts else 0.0
  if again:
    forward = state + sums + unit * (layers + 1)
    backward = state + 4.0 * trained + unit * (1 + activation)
  else:
    forward = state + sums + unit * layers * activation
    backward = state + 4.0 * trained
  update = state + (4.0 if in_parts else 8.0) * trained
  return max(forward, backward, update)


def activation_of(measured, options):
  """Numbers a token, layer and unit of width, from the plain step on Base."""
  layers, width = SIZES["base"]
  return (measured["plain"]["bytes"] - 12.0 * count_weights("base")[0]) / (
      4.0 * options.batch * options.length * width * layers)


def measure(options):
  """Runs a variant in this process; prints a JSON line."""
  # pylint: disable=g-import-not-at-top
  import numpy as np
  import tensorflow.compat.v1 as tf
  import layer_rates
  import modeling
  import multilabel_model
  import optimization
  import recompute
  tf.disable_v2_behavior()
  in_parts, frozen, again = VARIANTS[options.measure]
  layers, width = SIZES[options.size]
  config = modeling.BertConfig(
      VOCAB, width, layers, width // 64, 4 * width,
      max_position_embeddings=POSITIONS, type_vocab_size=2)
  tf.set_random_seed(1)
  recorded = [] if again else None
  ids = tf.placeholder(tf.int32, [None, options.length])
  labels = tf.placeholder(tf.float32, [None, NUM_LABELS])
  loss = multilabel_model.create_model(
      config, True, ids, tf.ones_like(ids), tf.zeros_like(ids), labels,
      NUM_LABELS, False, dropout_seed=(1, tf.train.get_or_create_global_step()),
      recorded_layers=recorded)[0]
  freeze = int(layers * frozen) if frozen else None
  rows = options.part if in_parts else options.batch
  parts = options.batch // rows
  step = optimization.create_train_op(
      loss, 1e-5, 100, 0, share=tf.constant(1.0 / parts) if in_parts else None,
      variables=layer_rates.trained_variables(layers, freeze),
      gradients=functools.partial(recompute.gradients, layers=recorded)
      if again else tf.gradients)
  random = np.random.RandomState(1)
  batch = {ids: random.randint(1000, VOCAB, (rows, options.length)),
           labels: random.randint(0, 2, (rows, NUM_LABELS))}
  before = _resident()
  with tf.Session() as session:
    session.run([tf.global_variables_initializer(),
                 tf.local_variables_initializer()])
    start = time.time()
    for _ in range(options.steps):
      if in_parts:
        for _ in range(parts):
          session.run(step.accumulate_op, batch)
        session.run(step.train_op)
      else:
        session.run(step.train_op, batch)
    seconds = (time.time() - start) / options.steps
  peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(json.dumps({"bytes": peak - before, "seconds": seconds}))


def _resident():
  with open("/proc/self/statm") as reader:
    return int(reader.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_measured(options, size, variant):
  """What `measure` says in a process of its own: dict."""
  # Freed arrays go back at once, so that the peak is what is in use.
  output = subprocess.check_output(
      [sys.executable, "-m", "benchmarks.memory", "--measure", variant,
       "--size", size, "--batch", str(options.batch), "--part",
       str(options.part), "--length", str(options.length), "--steps",
       str(options.steps)], cwd=ROOT, env=dict(
           os.environ, TF_CPP_MIN_LOG_LEVEL="2",
           MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"))
  return json.loads(output.decode("utf-8").splitlines()[-1])


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--part", type=int, default=2)
  parser.add_argument("--length", type=int, default=128)
  parser.add_argument("--steps", type=int, default=1)
  parser.add_argument("--size", default="base", choices=list(SIZES))
  parser.add_argument("--measure", choices=list(VARIANTS))
  options = parser.parse_args(argv)
  if options.measure:
    measure(options)
    return
  measured = collections.OrderedDict()
  for variant in VARIANTS:
    measured[variant] = run_measured(options, "base", variant)
    print("%s: %.2f GB, %.1f s a step" % (
        variant, measured[variant]["bytes"] / 1e9,
        measured[variant]["seconds"]), file=sys.stderr)
  activation = activation_of(measured, options)
  print("Numbers kept a token, layer and unit of width: %.0f" % activation)
  print("| GB | Base, %d texts: measured | computed | Base, 32 texts: computed "
        "| Large, %d texts: computed | Large, 32 texts: computed |" % (
            options.batch, options.batch))
  print("| --- | --- | --- | --- | --- | --- |")
  for variant, (in_parts, _, _) in VARIANTS.items():
    cells = ["%.1f" % (compute(
        size, variant, options.part if in_parts else batch, options.length,
        activation) / 1e9) for size in SIZES for batch in (options.batch, 32)]
    print("| %s | %.1f | %s |" % (
        variant, measured[variant]["bytes"] / 1e9, " | ".join(cells)))


if __name__ == "__main__":
  main()
