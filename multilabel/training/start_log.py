# SPDX-License-Identifier: Apache-2.0
"""What the user should see before the first step: labels, columns, device.

Almost every mistake in the data shows up in the list of labels.
"""

import os
import platform

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from processors import DataProcessor
from processors.text_lines import list_names
from processors.text_lines import shown


# Up to this many labels are all listed; of more, only the ends of the list.
MOST_LABELS = 50
END_LABELS = 20
_MAX_WIDTH = 48


def log_data(parts, label_list, columns=()):
  """Logs what was read: columns, texts, and every label with its counts.

  Args:
    parts: dict from "train", "dev", "test" to an object with `scan`, a
      `DataScan`.
    label_list: list of str, in the order of the outputs.
    columns: iterable of str, see `DataProcessor.columns_taken`.
  """
  for line in data_lines(parts, label_list, columns):
    logging.info("%s", line)
  for line in data_warnings(parts, label_list):
    logging.warning("%s", line)


def columns_taken(processor, data_dir):
  """What a processor read as what: list of str; empty if unknown.
  """
  if data_dir is None or not isinstance(processor, DataProcessor):
    return []
  return list(processor.columns_taken(data_dir))


def data_lines(parts, label_list, columns=()):
  """The lines of `log_data`: list of str."""
  lines = ["***** Data *****"]
  lines.extend("  %s" % line for line in columns)
  names = [name for name in ("train", "dev", "test") if name in parts]
  for name in names:
    lines.append("  %s: %s" % (name, _describe_part(parts[name].scan)))
  shown_parts = [name for name in ("train", "dev") if name in parts]
  if not shown_parts:
    return lines
  counts = [parts[name].scan.label_counts for name in shown_parts]
  order = sorted(range(len(label_list)), key=lambda i: (-counts[0][i], i))
  lines.append("  %s label%s, and texts that have them in %s:" % (
      "{:,}".format(len(label_list)), "" if len(label_list) == 1 else "s",
      " and ".join(shown_parts)))
  groups = [order] if len(order) <= MOST_LABELS else [
      order[:END_LABELS], order[-END_LABELS:]]
  width = min(_MAX_WIDTH, max(
      len(_short(label_list[i])) for group in groups for i in group))
  for number, group in enumerate(groups):
    if number:
      lines.append("    ... %s labels between; the %d rarest:" % (
          "{:,}".format(len(order) - 2 * END_LABELS), END_LABELS))
    lines.extend("    %s %s" % (_short(label_list[i]).ljust(width), " ".join(
        "{:>9,}".format(int(column[i])) for column in counts))
                 for i in group)
  return lines


def data_warnings(parts, label_list):
  """Oddities of the labels: list of str."""
  warnings = []
  if "train" in parts and len(label_list) > max(
      MOST_LABELS, parts["train"].scan.num_examples // 2):
    warnings.append(
        "  there are {:,} labels for {:,} texts of train: is it the right "
        "column, and the right --label_separator?".format(
            len(label_list), parts["train"].scan.num_examples))
  warnings.extend(_repeated_texts(
      {name: part.scan.texts for name, part in parts.items()
       if len(part.scan.texts)}))
  for name in ("train", "dev"):
    if name not in parts:
      continue
    scan = parts[name].scan
    everywhere = [label for label, count in zip(label_list, scan.label_counts)
                  if count == scan.num_examples > 1]
    if everywhere:
      warnings.append("  every text of %s has the label%s %s: %s" % (
          name, "" if len(everywhere) == 1 else "s",
          list_names(everywhere),
          "there is nothing to learn about it" if name == "train" else
          "scores of it say nothing"))
  return warnings


def _repeated_texts(texts):
  """What is odd about texts that stand there more than once: list of str.

  Args:
    texts: dict from part to uint64 `[N, 2]`, as in `encoding.DataScan`.
  """
  warnings = []
  if "train" not in texts:
    return warnings
  # A text with several sets of labels is there several times among the pairs.
  pairs = np.unique(texts["train"], axis=0)
  train, counts = np.unique(pairs[:, 0], return_counts=True)
  differing = int((counts > 1).sum())
  if differing:
    warnings.append(
        "  {:,} text{} in train more than once, each time with other labels: "
        "if your file has a row per label, write one row per text with all of "
        "its labels".format(differing, " is" if differing == 1 else "s are"))
  for name in ("dev", "test"):
    if name in texts:
      common = int(np.isin(texts[name][:, 0], train).sum())
      if common:
        warnings.append(
            "  {:,} of the {:,} texts of {} {} in train, too: its scores will "
            "be better than on new texts".format(
                common, len(texts[name]), name,
                "is" if common == 1 else "are"))
  return warnings


def _describe_part(scan):
  text = "{:,} text{}".format(scan.num_examples,
                              "" if scan.num_examples == 1 else "s")
  more = ["{:,} {}".format(count, what) for count, what in (
      (scan.num_pairs, "of them pairs"),
      (scan.num_without, "without a label"),
      (len(scan.unlabelled), "that nobody labelled")) if count]
  return ", ".join([text] + more)


def _short(label):
  """A label for a column: quoted if necessary, truncated."""
  text = label if label.isprintable() else shown(label)[1:-1]
  return text if len(text) <= _MAX_WIDTH else text[:_MAX_WIDTH - 3] + "..."


def log_device(session):
  """Logs the versions, and the devices with their memory.

  Args:
    session: `tf.Session` that the run uses.
  """
  logging.info("  TensorFlow %s, Python %s; %s", tf.__version__,
               platform.python_version(), describe_devices(session))


def describe_devices(session):
  """The devices of a session and their memory: str.

  A CPU's memory is the machine's, since TensorFlow knows no limit of it.
  """
  found = []
  for device in session.list_devices():
    kind = device.device_type
    if kind in ("CPU", "XLA_CPU", "XLA_GPU"):
      continue
    found.append("%s, %s of memory" % (
        _device_name(device.name), _gigabytes(device.memory_limit_bytes)))
  if found:
    return "; ".join(found)
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
           else os.cpu_count() or 1)
  memory = _machine_memory()
  return "CPU, %d core%s%s" % (
      cores, "" if cores == 1 else "s",
      ", %s of memory" % _gigabytes(memory) if memory else "")


def _device_name(name):
  """`GPU:0` and, if TensorFlow knows it, the name of the card."""
  short = name.rpartition("device:")[2]
  try:
    number = int(short.rpartition(":")[2])
    card = tf.config.experimental.list_physical_devices("GPU")[number]
    details = tf.config.experimental.get_device_details(card)
    return "%s (%s)" % (short, details["device_name"])
  # Older versions have no such function, plugins no such detail.
  except (AttributeError, LookupError, ValueError, RuntimeError):
    return short


def _machine_memory():
  """Bytes of memory of this machine, or None if unknown."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, ValueError, OSError):
    return None


def _gigabytes(size):
  return "%.1f GB" % (size / 1e9)
