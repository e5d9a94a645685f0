# SPDX-License-Identifier: Apache-2.0
"""From a processor's examples to record files in the output directory."""

import collections
import contextlib
import functools
import itertools
import os

from absl import logging

from multilabel.common import waiting
from multilabel.features import encoding
from multilabel.features import record_file
from multilabel.features import record_shards
from multilabel.features import vocabulary
import processors
from processors import label_checks
import tokenization


# Fraction of [UNK] above which there is a warning.
_MOST_UNKNOWN = 0.05

# One of train, dev, test: a function that returns its examples, and the result
# of the first scan.
DataPart = collections.namedtuple("DataPart", ["name", "examples", "scan"])


def read_parts(processor, label_list, model, settings):
  """Reads and checks the examples that the run needs: {name: DataPart}."""
  names = [name for name, is_needed in (
      ("train", settings.do_train), ("dev", settings.do_eval),
      ("test", settings.do_predict or settings.do_test)) if is_needed]
  parts = {}
  for name in names:
    is_scored = name != "test" or settings.do_test
    examples = functools.partial(
        part_examples, processor, name, settings.data_dir,
        settings.max_train_examples)
    scan = encoding.scan_examples(
        waiting.counted(examples(), "Reading " + name), label_list,
        name != "test", name, settings.data_dir, not is_scored)
    if not scan.num_examples:
      raise ValueError("%s has no %s examples." % (settings.data_dir, name))
    if scan.num_pairs and model.max_seq_length < 4:
      raise ValueError("--max_seq_length is %d; pairs of texts need at least "
                       "4." % model.max_seq_length)
    if is_scored:
      check_scored(name, scan, settings.data_dir)
    else:
      examples = _predicted_only(examples, scan, label_list)
    parts[name] = DataPart(name, examples, scan)
  return parts


def check_scored(name, scan, data_dir):
  """Raises ValueError if a part has nothing to train on or to score.

  Args:
    name: "train", "dev" or "test".
    scan: `encoding.DataScan`.
    data_dir: str.
  """
  what_else = ("use --do_predict instead of --do_test to predict it"
               if name == "test" else "write the labels into its file")
  if len(scan.unlabelled) == scan.num_examples:
    raise ValueError(
        "the %s set of %s has no labels, so it cannot be scored: %s." % (
            name, data_dir, what_else))
  if not scan.label_counts.any():
    raise ValueError(
        "none of the %d texts of the %s set of %s has a label, so there is "
        "nothing to %s: %s." % (
            scan.num_examples - len(scan.unlabelled), name, data_dir,
            "learn" if name == "train" else "score", what_else))


def _predicted_only(examples, scan, label_list):
  """Removes placeholder labels: a function to examples.

  If no text has labels, or all have the placeholder that processors for
  google-research/bert use, the test set is not labelled.
  """
  counts = dict(zip(label_list, scan.label_counts))
  num_labelled = scan.num_examples - len(scan.unlabelled)
  if counts.get(label_checks.PLACEHOLDER, 0) == scan.label_counts.sum() and (
      scan.label_counts.sum() in (0, num_labelled)):
    return lambda: label_checks.without_labels(examples())
  if scan.num_placeholders:
    known = frozenset(label_list)
    return lambda: label_checks.without_labels(examples(), known)
  return examples


def part_examples(processor, name, data_dir, max_train_examples=0):
  """The examples of "train", "dev" or "test": an iterable."""
  examples = processors.get_examples(processor, name, data_dir)
  if name != "train":
    return examples
  return itertools.islice(examples, max_train_examples or None)


def write_features(parts, label_list, model, output_dir, num_workers=None):
  """Writes the record file of each part, or finds it.

  Args:
    parts: {name: `DataPart`}.
    label_list: list of str.
    model: `run_setup.Model`.
    output_dir: str.
    num_workers: int, processes that compute features; None: chosen by the
      number of examples.

  Returns:
    {name: (path, `input_pipeline.FeatureStats`)}.
  """
  tokenizer = tokenization.FullTokenizer(model.vocab_file, model.do_lower_case)
  records = {}
  for name, part in sorted(parts.items()):
    path = record_path(output_dir, name)
    fingerprint = encoding.features_fingerprint(
        part.scan, label_list, model.vocab_file, model.do_lower_case,
        model.max_seq_length, model.long_text)
    shards = record_shards.find_shards(path)
    stats = (record_shards.read_shard_stats(shards, fingerprint) if shards else
             record_file.read_feature_stats(path, fingerprint))
    if shards and os.path.exists(path):
      raise ValueError("%s exists beside its shards %s, ...; remove either "
                       "one." % (path, shards[0]))
    if stats:
      logging.info("Features of %s: found in %s", name, path)
    else:
      stats = record_file.file_based_convert_examples_to_features(
          part.examples(), label_list, model.max_seq_length, tokenizer, path,
          fingerprint, num_workers or record_file.choose_num_workers(
              part.scan.num_examples), model.long_text)
      logging.info("Features of %s: written to %s", name, path)
    logging.info(
        "  %s texts; %s longer than %d tokens and truncated; %s empty",
        "{:,}".format(stats.num_examples), "{:,}".format(stats.num_truncated),
        model.max_seq_length, "{:,}".format(stats.num_empty))
    if model.long_text.form == "windows":
      logging.info("  %s windows of at most %d tokens, one every %d",
                   "{:,}".format(stats.num_records), model.max_seq_length,
                   model.long_text.stride)
    if name == "train":
      _log_unknown(path, tokenizer.vocab)
    records[name] = (path, stats)
  return records


def _log_unknown(path, vocab):
  """Says what fraction of a part's tokens is [UNK]."""
  with contextlib.closing(record_shards.open_records(path)) as records:
    unknown, tokens = vocabulary.count_unknown(records, vocab)
  share = unknown / max(1, tokens)
  logging.info("  %.2f%% of %s tokens are [UNK]", 100 * share,
               "{:,}".format(tokens))
  if share > _MOST_UNKNOWN:
    logging.warning(
        "  more than %d%% of the tokens are [UNK], that is, not in the "
        "vocabulary: does it match the language of the texts, and is "
        "--do_lower_case right?",
        100 * _MOST_UNKNOWN)


def record_path(output_dir, name):
  """The record file of train, dev or test."""
  return os.path.join(output_dir, name + ".tf_record")
