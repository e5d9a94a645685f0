# SPDX-License-Identifier: Apache-2.0
"""The Beam pipeline of `scale.make_features`: examples to shards of records."""

import collections

import apache_beam as beam
from apache_beam.metrics import Metrics

from multilabel.features import encoding
from multilabel.features import preparation
from multilabel.features import record_file
from multilabel.features import record_shards
import processors
import tokenization


NAMESPACE = "make_features"
CHUNK = 1000  # examples that are tokenized together

# What a shard is to hold: `number` of `num_shards`, examples `first` to
# `end` - 1 of the part.
Shard = collections.namedtuple(
    "Shard", ["path", "number", "num_shards", "first", "end", "fingerprint"])

# Where examples come from: arguments of `processors.create_processor` and
# `preparation.part_examples`.
Source = collections.namedtuple(
    "Source", ["processor", "data_dir", "max_train_examples", "labels"])


def plan_shards(path, num_shards, num_examples, fingerprint):
  """Shards of similar size, in the order of the examples: list of `Shard`."""
  bounds = [i * num_examples // num_shards for i in range(num_shards + 1)]
  return [Shard(path, i, num_shards, bounds[i], bounds[i + 1], fingerprint)
          for i in range(num_shards)]


class ReadChunks(beam.DoFn):
  """(part, its shards) to (shard, number of the chunk, rows), in order.

  The fingerprint covers all examples in order, and a processor reads them in
  order, so one worker reads a split.
  """

  def __init__(self, source):
    self._source = source

  def process(self, part):
    name, shards = part
    source = self._source
    label_map = {label: i for i, label in enumerate(source.labels)}
    examples = enumerate(preparation.part_examples(
        processors.create_processor(*source.processor), name, source.data_dir,
        source.max_train_examples))
    for shard in shards:
      rows, chunk = [], 0
      for number, example in examples:
        if number < shard.first:
          continue
        rows.append((example.text_a, getattr(example, "text_b", None),
                     encoding.label_ids(example, label_map)))
        if len(rows) == CHUNK:
          yield tuple(shard), chunk, rows
          rows, chunk = [], chunk + 1
        if number + 1 == shard.end:
          break
      if rows:
        yield tuple(shard), chunk, rows


class Encode(beam.DoFn):
  """Rows to records: where the time goes."""

  def __init__(self, vocab_file, do_lower_case, max_seq_length, long_text):
    self._vocab = (vocab_file, do_lower_case)
    self._settings = (None, max_seq_length, long_text)
    self._tokenizer = None

  def setup(self):
    self._tokenizer = tokenization.FullTokenizer(*self._vocab)

  def process(self, element):
    shard, chunk, rows = element
    Metrics.counter(NAMESPACE, "examples").inc(len(rows))
    yield shard, (chunk, record_file.encode_chunk(
        (self._tokenizer,) + self._settings, rows))


class WriteShard(beam.DoFn):
  """Writes a whole shard to its file, which appears complete or not at all.

  The content depends only on the shard, so a retry writes the same.
  """

  def process(self, element):
    shard, chunks = Shard(*element[0]), sorted(
        element[1], key=lambda chunk: chunk[0])
    rows = [row for _, encoded in chunks for row in encoded]
    if len(rows) != shard.end - shard.first:
      raise ValueError(
          "%s: %d examples arrived for shard %d, but %d were counted before; "
          "the data changed meanwhile, so start again." % (
              shard.path, len(rows), shard.number, shard.end - shard.first))
    path = record_shards.shard_path(shard.path, shard.number, shard.num_shards)
    stats = record_file.write_rows(rows, path, shard.fingerprint,
                                   first_example=shard.first)
    Metrics.counter(NAMESPACE, "records").inc(stats.num_records)
    yield path


def build(pipeline, parts, source, vocab_file, do_lower_case, max_seq_length,
          long_text):
  """Adds all steps to a pipeline.

  Args:
    pipeline: `beam.Pipeline`.
    parts: list of (name, list of `Shard` that are to be written).
    source: `Source`.
    vocab_file: str, at the same place for every worker.
    do_lower_case: bool.
    max_seq_length: int.
    long_text: `encoding.LongText`.
  """
  return (pipeline | "Parts" >> beam.Create(parts)
          | "SpreadParts" >> beam.Reshuffle()
          | "Read" >> beam.ParDo(ReadChunks(source))
          | "SpreadChunks" >> beam.Reshuffle()
          | "Encode" >> beam.ParDo(Encode(
              vocab_file, do_lower_case, max_seq_length, long_text))
          | "Gather" >> beam.GroupByKey()
          | "WriteShards" >> beam.ParDo(WriteShard()))
