# SPDX-License-Identifier: Apache-2.0
"""The names in a checkpoint: which tensor is which variable, and what exists.

A checkpoint of the right model may have different name prefixes: a wrapper's
`module/` or `model/`, ELECTRA's `electra/`, or none instead of `bert/`. They
are mapped if everything that the model needs exists; otherwise the error
describes what does.
"""

import collections
import re

_LANDMARKS = ("embeddings/word_embeddings", "embeddings/position_embeddings")
_PREFIX = re.compile(r"(?:module/|model/)*(?:bert/|electra/)?")
_LAYER = re.compile(r"(?:^|/)layer_(\d+)/")

# Ends of names that other kinds of checkpoints have.
_OBJECT_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def find_prefix(names, needed, scope="bert"):
  """Finds the prefix of the encoder's names in a checkpoint.

  Args:
    names: iterable of str, the checkpoint's tensors.
    needed: iterable of str, variables below `scope` that it must have.
    scope: str.

  Returns:
    str, the prefix in the checkpoint instead of `scope` and its slash; the
    latter if a needed variable exists under its own name, or nothing fits.
  """
  names = set(names)
  needed = [name[len(scope) + 1:] for name in needed]
  own = scope + "/"
  if not needed or any(own + name in names for name in needed):
    return own
  prefixes = {name[:-len(landmark)] for name in names
              for landmark in _LANDMARKS if name.endswith(landmark)}
  fitting = [prefix for prefix in sorted(prefixes)
             if _PREFIX.fullmatch(prefix)
             and all(prefix + name in names for name in needed)]
  return fitting[0] if len(fitting) == 1 else own


def describe(names):
  """Describes a checkpoint without the model's names.

  Args:
    names: iterable of str.

  Returns:
    str, part of a sentence.
  """
  names = sorted(names)
  if _OBJECT_GRAPH in names or any(
      name.endswith(_OBJECT_ATTRIBUTE) for name in names):
    return ("it is an object-based TensorFlow 2 checkpoint, which depends on "
            "its Keras program: use the model's TensorFlow 1 release, or its "
            "Hugging Face folder (--encoder)")
  if any("/inner_group_0/" in name for name in names):
    return "it is an ALBERT, whose layers share their weights"
  counts = collections.Counter(_beginning(name) for name in names)
  parts = ["%s (%d)" % item for item in sorted(
      counts.items(), key=lambda item: (-item[1], item[0]))]
  return "the names of its %d tensors start with %s" % (
      len(names), ", ".join(parts[:5]) + (", ..." if parts[5:] else ""))


def _beginning(name):
  """The first part of a name, and the second if there are more than two."""
  parts = name.split("/")
  begin = "".join(part + "/" for part in parts[:-1][:2]) or name
  return ascii(begin)[1:-1]


def count_layers(names):
  """Returns how many Transformer layers a checkpoint has: int."""
  return len({match.group(1) for match in map(_LAYER.search, names) if match})
