# SPDX-License-Identifier: Apache-2.0
"""Training and scoring on 1 to 64 devices, simulated from what was measured.

  python -m benchmarks.scaling measure docs/scaling_measured.json
  python -m benchmarks.scaling draw docs/scaling_measured.json docs/scaling.svg

`measure` times training steps of BERT-Base on this machine's CPU. `draw`
fits the cost of a step to two of the shapes, tells how far the third is off
(status 1 beyond 10%), prints the tables of docs/scaling.md, and draws them,
which needs matplotlib.
"""

import collections
import json
import os
import sys
import time

# name, layers, hidden size, feed-forward size, vocabulary
Encoder = collections.namedtuple(
    "Encoder", ["layers", "hidden", "inner", "vocab"])
BASE = Encoder(12, 768, 3072, 30522)
LARGE = Encoder(24, 1024, 4096, 30522)

# FLOP/s that a training step reaches, seconds of a step that do not depend on
# its batch, bytes/s each way of a device inside of its machine and of a machine
# to another, devices a machine, dollars an hour and device.
Device = collections.namedtuple(
    "Device", ["name", "rate", "fixed", "inside", "between", "a_machine",
               "price"])

# Sentences/s of fine-tuning BERT-Large at 384 tokens, TF32, DGX A100 40GB,
# 16 a GPU: NVIDIA/DeepLearningExamples, TensorFlow/LanguageModeling/BERT,
# README, "Fine-tuning training performance for SQuAD v1.1 on DGX A100 40GB".
A100_PUBLISHED = {1: 61.364, 4: 223.187, 8: 440.47}
# Bytes/s each way: third-generation NVLink is 600 GB/s both ways together; a
# machine of 8 has 400 Gb/s of network here, which the rings share, since each
# leaves a machine once. What collectives reach of it: an assumption.
NVLINK, NETWORK, REACHED = 300e9, 50e9, 0.7
# An assumption, between 1.80 and 2.25 that were asked on demand in 2026.
A100_PRICE = 2.0
# Two cores of a cloud machine: an assumption.
CPU_PRICE = 0.08
LATENCY = 20e-6  # seconds of a message: an assumption

SHAPES = ((2, 64), (4, 64), (2, 128))  # the last one is not fitted
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def num_parameters(encoder):
  """Parameters of the encoder, embeddings and pooler among them."""
  hidden = encoder.hidden
  layer = 4 * (hidden * hidden + hidden) + 2 * hidden * encoder.inner + (
      encoder.inner + hidden) + 4 * hidden
  return (encoder.layers * layer + (encoder.vocab + 514 + 2) * hidden +
          hidden * hidden + hidden)


def step_flops(encoder, batch, length):
  """FLOP of a step forward and backward, which is twice as much.

  A multiplication and an addition a weight and token, and the scores of
  attention and their use, `length` of them a token.
  """
  weights = encoder.layers * (4 * encoder.hidden ** 2 +
                              2 * encoder.hidden * encoder.inner)
  attention = encoder.layers * 2 * length * encoder.hidden
  return 3 * 2 * (weights + attention) * batch * length


def compute_seconds(device, encoder, batch, length):
  return device.fixed + step_flops(encoder, batch, length) / device.rate


def ring_seconds(device, num_bytes, count):
  """All-reduce in a ring: 2 (n - 1) / n of the gradients through the slowest.
  """
  if count == 1:
    return 0.0
  slowest = device.inside
  if count > device.a_machine:
    slowest = min(slowest, device.between)
  return 2 * (count - 1) / count * num_bytes / slowest + (
      2 * (count - 1) * LATENCY)


def ps_seconds(device, num_bytes, count, servers=1):
  """Each of `count` workers sends its gradients to the servers, and reads the
  weights; a server's network is that of one device."""
  if count == 1:
    return 0.0
  return 2 * num_bytes * count / servers / device.between + 2 * LATENCY


def simulate(device, encoder, batch, length, count, exchange, layers_ready=1.):
  """Seconds of a step: gradients leave as the layers have them.

  Event by event: the backward pass takes two thirds of the compute time and
  hands out the gradients of one layer after the other, the last one first;
  the network takes them one at a time. The embeddings come at the end.

  Args:
    device: `Device`.
    encoder: `Encoder`.
    batch: int, examples a device.
    length: int, tokens.
    count: int, devices.
    exchange: function of (device, bytes, count) to seconds.
    layers_ready: share of the backward pass under which gradients can leave;
      0: all of them after its end, as `SyncReplicasOptimizer` has it.

  Returns:
    (seconds, seconds of them that wait for the network).
  """
  compute = compute_seconds(device, encoder, batch, length)
  total = 4 * num_parameters(encoder)
  embeddings = 4 * encoder.vocab * encoder.hidden
  parts = [(total - embeddings) / encoder.layers] * encoder.layers
  parts.append(embeddings)
  moving = compute - device.fixed
  forward, backward = moving / 3, 2 * moving / 3
  network_free = 0.0
  for number, part in enumerate(parts):
    ready = forward + backward * (
        1 - layers_ready * (1 - min(number + 1, encoder.layers) /
                            encoder.layers))
    network_free = max(network_free, ready) + exchange(device, part, count)
  # The update waits for the last gradient.
  seconds = max(network_free, moving) + device.fixed
  return seconds, seconds - compute


def a100():
  """`Device` whose one-device rate is the published one."""
  rate = step_flops(LARGE, 16, 384) * A100_PUBLISHED[1] / 16
  return Device("A100 (TF32)", rate, 0.0, NVLINK * REACHED, NETWORK * REACHED,
                8, A100_PRICE)


def fit_cpu(measured):
  """`Device` from the first two shapes that were measured."""
  (one, first), (two, second) = [
      (step_flops(BASE, *shape), seconds) for shape, seconds in zip(
          SHAPES[:2], (measured["%dx%d" % shape] for shape in SHAPES[:2]))]
  rate = (two - one) / (second - first)
  return Device("2 CPU cores", rate, first - one / rate, 10e9 / 8 * REACHED,
                10e9 / 8 * REACHED, 1, CPU_PRICE)


def check_one_machine(measured):
  """[(shape, seconds that the model says, measured, whether it was fitted)]."""
  cpu = fit_cpu(measured)
  return [(shape, simulate(cpu, BASE, shape[0], shape[1], 1, ring_seconds)[0],
           measured["%dx%d" % shape], shape in SHAPES[:2]) for shape in SHAPES]


def training_rows(device, batch, length, encoder=BASE):
  """[(devices, ring, ring after the backward pass, ps, dollars)], texts/s."""
  rows = []
  for count in COUNTS:
    speeds = [count * batch / simulate(device, encoder, batch, length, count,
                                       exchange, ready)[0]
              for exchange, ready in ((ring_seconds, 1.0), (ring_seconds, 0.0),
                                      (ps_seconds, 0.0))]
    # Dollars of 10^6 texts, over the ring.
    rows.append((count,) + tuple(speeds) + (
        1e6 / speeds[0] * count * device.price / 3600,))
  return rows


def scoring_rows(device, length, encoder, texts=1e9):
  """[(devices, hours, dollars)] of scoring; a third of a step, no exchange."""
  speed = device.rate / (step_flops(encoder, 1, length) / 3)
  return [(count, texts / speed / count / 3600,
           texts / speed / 3600 * device.price) for count in COUNTS]


def measure(path, steps=3):
  """Times steps of BERT-Base and writes {shape: least seconds}.

  Seconds are those of the processor, all threads together, over the cores:
  what a step takes where nobody else uses the machine and threads do not wait
  for each other. `wall` has the time that passed.
  """
  import numpy as np
  import tensorflow.compat.v1 as tf
  import modeling
  import run_multilabel_classifier
  import training

  tf.disable_v2_behavior()
  config = modeling.BertConfig(
      BASE.vocab, BASE.hidden, BASE.layers, 12, BASE.inner)
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = {
        key: tf.placeholder(tf.int32, [None, None]) for key in (
            "input_ids", "input_mask", "segment_ids")}
    placeholders["label_ids"] = tf.placeholder(tf.float32, [None, 28])
    tf.train.get_or_create_global_step()
    spec = run_multilabel_classifier.model_fn_builder(
        config, 28, None, 2e-5, 1000, 100, False, False, random_seed=1)(
            placeholders, training.TRAIN, {"batch_size": SHAPES[0][0]})
    session.run(tf.global_variables_initializer())
    seconds = collections.defaultdict(list)
    wall = collections.defaultdict(list)
    cores = os.cpu_count()
    for step in range(steps + 1):
      for batch, length in SHAPES:
        feed = {placeholders[key]: np.ones([batch, length], np.int32)
                for key in ("input_ids", "input_mask", "segment_ids")}
        feed[placeholders["label_ids"]] = np.ones([batch, 28], np.float32)
        used, start = time.process_time(), time.perf_counter()
        session.run([spec.train_op, spec.loss], feed)
        if step:  # the first one makes memory and kernels
          name = "%dx%d" % (batch, length)
          seconds[name].append((time.process_time() - used) / cores)
          wall[name].append(time.perf_counter() - start)
  result = {shape: min(times) for shape, times in seconds.items()}
  result["all"] = seconds
  result["wall"] = wall
  result["cores"] = cores
  result["tensorflow"] = tf.__version__
  with open(path, "w") as writer:
    json.dump(result, writer, indent=1, sort_keys=True)
  print(json.dumps(result))


def tables(measured):
  """The tables of docs/scaling.md as text, and whether the model holds."""
  lines, holds = [], True
  for shape, said, seen, fitted in check_one_machine(measured):
    off = said / seen - 1
    holds = holds and abs(off) <= 0.1
    lines.append("%d texts of %d tokens: model %.2f s, measured %.2f s, %+.1f%%"
                 "%s" % (shape + (said, seen, 100 * off,
                                  " (fitted)" if fitted else "")))
  for count, published in sorted(A100_PUBLISHED.items()):
    said = count * 16 / simulate(a100(), LARGE, 16, 384, count,
                                 ring_seconds)[0]
    lines.append("BERT-Large, %d A100: model %.0f texts/s, published %.0f" % (
        count, said, published))
  for device, batch in ((a100(), 32), (fit_cpu(measured), 8)):
    lines.append("%s, BERT-Base, %d texts of 128 tokens a device" % (
        device.name, batch))
    for row in training_rows(device, batch, 128):
      lines.append("| %d | %.1f | %.1f | %.1f | %.2f |" % row)
    lines.append("%s, 10^9 texts of 128 tokens" % device.name)
    for row in scoring_rows(device, 128, BASE):
      lines.append("| %d | %.0f | %.0f |" % row)
  return lines, holds


def draw(measured, path):
  """Writes an image: throughput of training, and hours of scoring."""
  import matplotlib
  matplotlib.use("Agg")
  matplotlib.rcParams["svg.hashsalt"] = "scaling"  # the same bytes each time
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(1, 3, figsize=(9.6, 3.2))
  for panel, (device, batch) in zip(
      panels, ((a100(), 32), (fit_cpu(measured), 8))):
    rows = training_rows(device, batch, 128)
    for column, name in ((1, "ring, overlapped"), (2, "ring, behind"),
                         (3, "one ps")):
      panel.loglog(COUNTS, [row[column] for row in rows], "o-", base=2,
                   markersize=4, label=name)
    panel.loglog(COUNTS, [rows[0][1] * count for count in COUNTS], "--",
                 base=2, color="grey", label="linear")
    panel.set_title("BERT-Base, %s" % device.name, fontsize=9)
    panel.set_ylabel("texts/s in training", fontsize=8)
  for device in (a100(), fit_cpu(measured)):
    panels[2].loglog(COUNTS, [row[1] for row in scoring_rows(
        device, 128, BASE)], "o-", base=2, markersize=4, label=device.name)
  panels[2].set_title("scoring 10^9 texts of 128 tokens", fontsize=9)
  panels[2].set_ylabel("hours", fontsize=8)
  for panel in panels:
    panel.set_xlabel("devices", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(True, which="major", alpha=0.3)
    panel.legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})
  pyplot.close(figure)


def main(argv):
  if argv[1:2] == ["measure"] and len(argv) == 3:
    measure(argv[2])
    return 0
  if argv[1:2] != ["draw"] or len(argv) != 4:
    print("usage: python -m benchmarks.scaling measure FILE.json\n"
          "       python -m benchmarks.scaling draw FILE.json FILE.svg",
          file=sys.stderr)
    return 2
  with open(argv[2]) as reader:
    measured = json.load(reader)
  lines, holds = tables(measured)
  print("\n".join(lines))
  draw(measured, argv[3])
  return 0 if holds else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
