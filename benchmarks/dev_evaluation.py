# SPDX-License-Identifier: Apache-2.0
"""What evaluating on dev while training costs, beside its own forward time.

  python -m benchmarks.dev_evaluation \\
      --flagfile=examples/attack_tactics/flags.txt --output_dir=DIR

takes the flags of run_multilabel_classifier.py and trains, in rounds of one
graph and session: so many steps alone, so many steps with an evaluation after
them, and the forward passes of that evaluation alone. What is left of the
second without the first and the third (metrics, curves for TensorBoard, the
list of evaluations, what the next steps lose) is given as a share of the first.
No checkpoint is written, since training would write the same ones.
"""

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import contextlib
import os
import time

from absl import flags
import numpy as np
import tensorflow.compat.v1 as tf

import evaluation
import input_pipeline
import run_directory
import run_multilabel_classifier
import training

FLAGS = flags.FLAGS


def define_flags():
  """Defines the run script's flags and this one's."""
  run_multilabel_classifier.define_flags()
  with command_line.flag_group("Benchmark"):
    flags.DEFINE_integer("rounds", 7, "Rounds that are measured; one more "
                         "comes before.")
    flags.DEFINE_integer("block_steps", 20, "Steps of a round, alone and "
                         "before an evaluation.")


def seconds(work, *args):
  """Seconds of one call."""
  start = time.perf_counter()
  work(*args)
  return time.perf_counter() - start


def measure(run, model, label_list, records):
  """Seconds of each round: float64 `[rounds, 3]`, alone, with, forward."""
  steps = FLAGS.block_steps
  run.save = lambda step: None

  def train(first_step, last_step, dev):
    run.checkpoint_step = first_step
    training.train(run, last_step, last_step, FLAGS.log_steps,
                   FLAGS.train_batch_size, dev)

  def forward():
    with contextlib.closing(
        input_pipeline.RecordFile(records["dev"][0])) as rows:
      evaluation.run_part(run, rows, FLAGS.eval_batch_size, len(label_list),
                          model.long_text.pooling)

  dev = run_multilabel_classifier.make_dev_evaluation(
      run, model, label_list, records, FLAGS, 0)
  rows = []
  for first in range(0, 2 * steps * (FLAGS.rounds + 1), 2 * steps):
    rows.append([seconds(train, first, first + steps, None),
                 seconds(train, first + steps, first + 2 * steps, dev),
                 seconds(forward)])
  return np.array(rows[1:])  # the first round warms up


def main(argv):
  del argv
  tf.disable_v2_behavior()
  FLAGS.do_train = FLAGS.do_eval = True
  FLAGS.do_test = FLAGS.do_predict = False
  FLAGS.eval_steps = 2 * FLAGS.block_steps
  run_multilabel_classifier.check_flags(FLAGS)
  model = run_directory.choose_model(FLAGS)
  processor = run_directory.make_processor(FLAGS)
  label_list = run_directory.choose_labels(processor, FLAGS)
  parts = run_directory.read_parts(processor, label_list, model, FLAGS)
  with run_directory.claim(model, label_list, parts, FLAGS):
    records = run_directory.write_features(parts, label_list, model,
                                           FLAGS.output_dir)
    num_steps, _ = run_multilabel_classifier.plan_training(
        records["train"][1].num_records, FLAGS)
    if num_steps < 2 * FLAGS.block_steps * (FLAGS.rounds + 1):
      raise ValueError(
          "--rounds=%d of 2 x %d steps and one more need %d steps, and these "
          "flags train %d." % (FLAGS.rounds, FLAGS.block_steps, 2 *
                               FLAGS.block_steps * (FLAGS.rounds + 1),
                               num_steps))
    with run_multilabel_classifier.make_run(model, label_list, parts, records,
                                            FLAGS) as run:
      alone, evaluated, forward = measure(run, model, label_list, records).T
  shares = (evaluated - alone - forward) / alone
  print("%d texts, %d labels; %d rounds of %d steps; %d cores, load %.1f" % (
      parts["dev"].scan.num_examples, len(label_list), len(alone),
      FLAGS.block_steps, os.cpu_count(), os.getloadavg()[0]))
  for name, values in (("steps alone", alone),
                       ("steps, then an evaluation", evaluated),
                       ("its forward passes alone", forward)):
    print("%-27s %7.2f s (%.2f to %.2f)" % (
        name, np.median(values), values.min(), values.max()))
  print("beyond its forward time an evaluation costs %.2f s, %+.1f%% of %d "
        "steps (%+.1f%% to %+.1f%%)" % (
            np.median(evaluated - alone - forward), 100 * np.median(shares),
            FLAGS.block_steps, 100 * shares.min(), 100 * shares.max()))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
