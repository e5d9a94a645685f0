# SPDX-License-Identifier: Apache-2.0
"""A full or failing disk under TensorFlow's own writers, in one sentence."""

import contextlib
import re

import tensorflow.compat.v1 as tf


class StorageError(RuntimeError):
  """A file cannot be written; what was there before is intact."""


@contextlib.contextmanager
def naming(path, consequence=""):
  """Turns errors of writing a file into one sentence that names it.

  Args:
    path: str.
    consequence: str, how the sentence ends.

  Raises:
    StorageError: TensorFlow, or the system, could not write.
  """
  try:
    yield
  except tf.errors.OpError as error:
    reason = first_sentence(error)
  except EnvironmentError as error:
    reason = error.strerror or str(error)
  else:
    return
  raise StorageError("%s cannot be written: %s%s" % (
      path, reason.rpartition("; ")[2], consequence and "; " + consequence))


def first_sentence(error):
  """The message of a kernel, without its place in the graph."""
  # TensorFlow 2 wraps the kernel's message in a stack, 1.15 does not.
  message = error.message or type(error).__name__
  if message.startswith("Graph execution error"):
    found = re.search(r"\n([^\n]+)\n\t \[\[", message)
    message = found.group(1) if found else message
  return message.strip().split("\n")[0]
