# SPDX-License-Identifier: Apache-2.0
r"""Makes the record files of a training run in shards, on Apache Beam.

  python -m scale.make_features --num_shards=100 --flagfile=run.flags \
      -- --runner=...

takes the flags of run_multilabel_classifier.py, reads the splits that they
require (--do_train, --do_eval, --do_test, --do_predict), and writes into
--output_dir what the run itself would write, in shards
train.tf_record-00000-of-00100. The run with the same flags finds them there.
Started again after an interruption, it makes the missing shards.

The data, the vocabulary and --output_dir must be on a file system that all
workers mount at the same path. Arguments after a bare -- are for Beam. Needs
the extra `beam`.
"""

from multilabel.common import command_line
from multilabel.common.settings import Settings


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import os
import sys

from absl import flags
from absl import logging

from multilabel.features import encoding
from multilabel.features import preparation
from multilabel.features import record_shards
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import flag_checks
from multilabel.training import run_setup
import run_multilabel_classifier
from scale import batch_predict


FLAGS = flags.FLAGS


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Shards"):
    flags.DEFINE_integer("num_shards", 10,
        "Number of record files per split; a worker holds one of them in "
        "memory.")
  run_multilabel_classifier.define_flags()


def plan(parts, label_list, model, flag_values):
  """The shards to write: list of (part, list of `Shard`).

  Raises:
    ValueError: there are records of other data, settings or number of shards.
  """
  from scale import beam_features
  planned = []
  for name, part in sorted(parts.items()):
    path = os.path.join(flag_values.output_dir, name + ".tf_record")
    if part.scan.num_examples < flag_values.num_shards:
      raise ValueError("--num_shards is %d, but %s has %d examples." % (
          flag_values.num_shards, name, part.scan.num_examples))
    if os.path.exists(path):
      raise ValueError("%s already exists and is complete; remove it, or name "
                       "another --output_dir." % path)
    shards = beam_features.plan_shards(
        path, flag_values.num_shards, part.scan.num_examples,
        encoding.features_fingerprint(
            part.scan, label_list, model.vocab_file, model.do_lower_case,
            model.max_seq_length, model.long_text))
    missing = [shard for shard in shards if not is_written(shard)]
    names = {os.path.basename(record_shards.shard_path(
        path, shard.number, shard.num_shards)) for shard in shards}
    extra = sorted(
        other for other in os.listdir(flag_values.output_dir)
        if other.startswith(name + ".tf_record-") and other not in names and
        not other.endswith((".json", ".index.npy", ".tmp")))
    if extra:
      raise ValueError(
          "%s already exists with another number of shards; remove it, or name "
          "another --output_dir." % os.path.join(
                           flag_values.output_dir, extra[0]))
    logging.info("Features of %s: %d of %d shards to build", name,
                 len(missing), len(shards))
    if missing:
      planned.append((name, missing))
  return planned


def is_written(shard):
  """Whether a shard exists; ValueError if it is a different one."""
  path = record_shards.shard_path(shard.path, shard.number, shard.num_shards)
  if not os.path.exists(path + ".json"):  # which is written last
    return False
  record_shards.read_shard_stats([path], shard.fingerprint, shard.first)
  return True


def main(argv):
  settings = Settings.from_flags(FLAGS, command_line.flag_names())
  flag_checks.check_flags(settings)
  if not 1 <= FLAGS.num_shards <= 99999:
    raise ValueError("--num_shards is %d; it must be from 1 to 99999." %
                     FLAGS.num_shards)
  own, beam_arguments = batch_predict.split_arguments(argv)
  if own:
    raise ValueError("unexpected argument %s; Beam's options follow a bare --."
                     % own[0])
  apache_beam = batch_predict.import_beam(FLAGS.debug)
  from scale import beam_features
  run_lock.check_output_dir(FLAGS.output_dir)
  trained = None if FLAGS.do_train else trained_model.read(FLAGS.output_dir)
  model = run_setup.choose_model(settings, trained)
  processor = run_setup.make_processor(settings)
  label_list = run_setup.choose_labels(processor, settings, trained)
  parts = preparation.read_parts(processor, label_list, model, settings)
  source = beam_features.Source(
      run_setup.processor_settings(settings), os.path.abspath(FLAGS.data_dir),
      FLAGS.max_train_examples, label_list)
  with run_lock.lock(FLAGS.output_dir):
    planned = plan(parts, label_list, model, FLAGS)
    if planned:
      metrics = batch_predict.run_pipeline(
          apache_beam, beam_arguments, FLAGS.debug,
          lambda pipeline: beam_features.build(
              pipeline, planned, source, os.path.abspath(model.vocab_file),
              model.do_lower_case, model.max_seq_length, model.long_text))
      sys.stderr.write("%s examples, %s records\n" % tuple(
          "{:,}".format(batch_predict.counters_of(metrics, "make_features").get(
              name, 0)) for name in ("examples", "records")))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
