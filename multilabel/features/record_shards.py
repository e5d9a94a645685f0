# SPDX-License-Identifier: Apache-2.0
"""Record files in shards, `train.tf_record-00003-of-00010`, read as one.

Together, the shards contain what a single file would, so the number of each
record, and thus the batch of each step, is the same.
"""

import glob
import os
import re

import numpy as np

from multilabel.common import atomic_files
from multilabel.features import record_file


_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_PATTERN = re.compile(r"(.*)-(?:\d{5}|[*?]+)-of-(?:\d{5}|[*?]+)$")


def shard_path(path, number, num_shards):
  """Name of a shard of `path`, from 0 on."""
  return "%s-%05d-of-%05d" % (path, number, num_shards)


def find_shards(path):
  """Finds the shards of a record file.

  Args:
    path: str, `train.tf_record`, one of its shards, or a pattern of them,
      `train.tf_record-?????-of-00010`.

  Returns:
    list of str, all of them in order; empty if there are none.

  Raises:
    ValueError: one is missing, or belongs to a set of another size; names it.
  """
  match = _PATTERN.match(path)
  base = match.group(1) if match else path
  # Its name may have characters that are special in a pattern.
  names = glob.glob(glob.escape(base) + "-?????-of-?????")
  found = sorted(name for name in names if _SHARD.match(name))
  if not found:
    return []
  counts = [int(_SHARD.match(name).group(3)) for name in found]
  # The set with the most shards is the intended one.
  num_shards = max(counts, key=lambda count: (counts.count(count), count))
  wanted = [shard_path(base, i, num_shards) for i in range(num_shards)]
  extra = sorted(set(found) - set(wanted))
  if extra:
    raise ValueError(
        "%s does not belong to the set of %d shards; remove the shards of "
        "other sets." % (extra[0], num_shards))
  missing = sorted(set(wanted) - set(found))
  if missing:
    raise ValueError(
        "%s is missing: there are %d of %d shards; restore it, or rebuild all "
        "shards with scale.make_features." % (
            missing[0], len(found), num_shards))
  return wanted


def read_shard_stats(paths, fingerprint, first_example=0):
  """Checks shards, and sums their statistics.

  The bytes of a record are checked when it is read, by its checksum.

  Args:
    paths: list of str, of `find_shards`.
    fingerprint: str, see `encoding.features_fingerprint`.
    first_example: int, number of the first one's first example.

  Returns:
    `record_file.FeatureStats` of all of them.

  Raises:
    ValueError: a shard is from other data or settings, truncated, or out of
      place; names it.
  """
  again = "rebuild the shards with scale.make_features, or remove them"
  total = np.zeros([len(record_file.FeatureStats._fields)], np.int64)
  for path in paths:
    if not os.path.isfile(path + ".json"):
      raise ValueError("%s.json is missing, so %s is incomplete; %s." % (
          path, path, again))
    manifest = atomic_files.read_sealed(path + ".json", True)
    if manifest.get("fingerprint") != fingerprint:
      raise ValueError(
          "%s was made from other data or settings; %s." % (path, again))
    first = first_example + int(total[0])
    if manifest.get("first_example") != first:
      raise ValueError("%s begins with example %s, but %d examples come before "
                       "it; %s." % (path, manifest.get("first_example"), first,
                                again))
    records = record_file.RecordFile(path)
    try:
      num_records = len(records)
      records.check_end()
    finally:
      records.close()
    if num_records != manifest["num_records"]:
      raise ValueError("%s has %d records, but its manifest says %d; %s." % (
          path, num_records, manifest["num_records"], again))
    total += [manifest[key] for key in record_file.FeatureStats._fields]
  return record_file.FeatureStats(*[int(number) for number in total])


def open_records(path, num_texts=None):
  """Opens a record file, or its shards.

  Args:
    path: str, as for `find_shards`.
    num_texts: int or None, read only the first N texts; None: all.

  Returns:
    `record_file.RecordFile` or `ShardedRecords`.

  Raises:
    ValueError: there is neither, or a shard is missing, extra or truncated.
  """
  paths = [] if os.path.isfile(path) and not _SHARD.match(path) else (
      find_shards(path))
  if not paths:
    return record_file.RecordFile(path, num_texts)
  return ShardedRecords(paths, num_texts)


class ShardedRecords(object):
  """`record_file.RecordFile` of several consecutive files."""

  def __init__(self, paths, num_texts=None):
    self._files = []
    try:
      for path in paths:
        self._files.append(record_file.RecordFile(path))
        self._files[-1].check_end()
    except BaseException:
      self.close()
      raise
    sizes = [len(records) for records in self._files]
    texts = [records.num_texts for records in self._files]
    # Where each file's records, and its texts, begin.
    self._starts = np.cumsum([0] + sizes)
    first_texts = np.cumsum([0] + texts)
    self.lengths = np.concatenate([records.lengths for records in self._files])
    self.texts = np.concatenate([
        records.texts + first for records, first in zip(
            self._files, first_texts)])
    if num_texts is not None:
      rows = int(np.searchsorted(self.texts, num_texts))
      self.lengths, self.texts = self.lengths[:rows], self.texts[:rows]
    self.num_texts = int(self.texts[-1]) + 1 if len(self.texts) else 0

  def __len__(self):
    return len(self.lengths)

  def read(self, number, num_labels=None):
    """Returns the `InputFeatures` of a record; see `RecordFile.read`."""
    shard = int(np.searchsorted(self._starts, number, side="right")) - 1
    return self._files[shard].read(
        int(number - self._starts[shard]), num_labels)

  def close(self):
    for records in self._files:
      records.close()
