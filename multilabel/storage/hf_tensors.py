# SPDX-License-Identifier: Apache-2.0
"""Names of a BERT's tensors in Hugging Face and google-research/bert.

One table serves both directions: a row is Hugging Face's name, the checkpoint's
name, the shape in the checkpoint as letters, and whether it is transposed in
Hugging Face. torch stores the matrix of a dense layer as [outputs, inputs],
TensorFlow as [inputs, outputs].
"""

import collections
import re

import numpy as np

from processors.text_lines import shown


# Sizes in the tables below.
_DIMENSIONS = {
    "V": "vocab_size",
    "P": "max_position_embeddings",
    "T": "type_vocab_size",
    "E": "embedding_size",
    "H": "hidden_size",
    "I": "intermediate_size",
}

Row = collections.namedtuple(
    "Row", ["hf_name", "name", "letters", "transposed"])


def _dense(hf_name, name, letters):
  return (Row(hf_name + ".weight", name + "/kernel", letters, True),
          Row(hf_name + ".bias", name + "/bias", letters[-1], False))


def _norm(hf_name, name, letter):
  return (Row(hf_name + ".weight", name + "/gamma", letter, False),
          Row(hf_name + ".bias", name + "/beta", letter, False))


_SEGMENTS = Row("embeddings.token_type_embeddings.weight",
                "bert/embeddings/token_type_embeddings", "TE", False)
_EMBEDDINGS = (
    Row("embeddings.word_embeddings.weight",
        "bert/embeddings/word_embeddings", "VE", False),
    Row("embeddings.position_embeddings.weight",
        "bert/embeddings/position_embeddings", "PE", False),
    _SEGMENTS,
) + _norm("embeddings.LayerNorm", "bert/embeddings/LayerNorm", "E")
_PROJECTION = _dense("embeddings_project", "bert/embeddings_project", "EH")
_POOLER = _dense("pooler.dense", "bert/pooler/dense", "HH")

# After "encoder.layer.N." and "bert/encoder/layer_N/".
_LAYER = (
    _dense("attention.self.query", "attention/self/query", "HH") +
    _dense("attention.self.key", "attention/self/key", "HH") +
    _dense("attention.self.value", "attention/self/value", "HH") +
    _dense("attention.output.dense", "attention/output/dense", "HH") +
    _norm("attention.output.LayerNorm", "attention/output/LayerNorm", "H") +
    _dense("intermediate.dense", "intermediate/dense", "HI") +
    _dense("output.dense", "output/dense", "IH") +
    _norm("output.LayerNorm", "output/LayerNorm", "H"))
# After "transformer.layer.N.", in the order of `_LAYER`.
_DISTILBERT_LAYER = (
    "attention.q_lin", "attention.k_lin", "attention.v_lin",
    "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2",
    "output_layer_norm")

# Constants that older versions of transformers stored like weights.
_BUFFERS = frozenset(["embeddings.position_ids", "embeddings.token_type_ids"])
_TASKS = "embeddings.task_type_embeddings.weight"

# Alternative names after the prefix: the second is used if the first is
# missing.
_LANDMARKS = ("embeddings.word_embeddings.weight",
              "embeddings.position_embeddings.weight")
# Prefixes added by wrappers (DataParallel, Lightning and others), and the name
# of the encoder inside a model with a head.
_PREFIX = re.compile(
    r"(?:module\.|model\.|auto_model\.)*(bert\.|distilbert\.|electra\.|ernie\."
    r")?")

Plan = collections.namedtuple("Plan", ["reads", "has_pooler", "unused"])
Plan.__doc__ = """How a checkpoint is made of a model's tensors.

  reads: OrderedDict from the checkpoint's name to (names of the tensors read,
    function of their float32 arrays to the tensor of the checkpoint).
  has_pooler: bool.
  unused: list of str, the model's tensors that are not read.
"""


def bert_rows(num_layers, has_projection=False, has_pooler=True):
  """Returns the rows of a complete BERT, as for model_type bert (or electra).

  Args:
    num_layers: int.
    has_projection: bool, whether `embeddings_project` follows the embeddings.
    has_pooler: bool.

  Returns:
    list of `Row`.
  """
  rows = list(_EMBEDDINGS + (_PROJECTION if has_projection else ()))
  for layer in range(num_layers):
    rows.extend(row._replace(
        hf_name="encoder.layer.%d.%s" % (layer, row.hf_name),
        name="bert/encoder/layer_%d/%s" % (layer, row.name)) for row in _LAYER)
  return rows + list(_POOLER if has_pooler else ())


def _distilbert_rows(num_layers):
  rows = [row for row in _EMBEDDINGS if row is not _SEGMENTS]
  for layer in range(num_layers):
    for index, row in enumerate(_LAYER):
      ending = row.hf_name.rsplit(".", 1)[1]
      rows.append(row._replace(
          hf_name="transformer.layer.%d.%s.%s" % (
              layer, _DISTILBERT_LAYER[index // 2], ending),
          name="bert/encoder/layer_%d/%s" % (layer, row.name)))
  return rows


def row_shape(row, config):
  """Returns the shape of a row's tensor, in Hugging Face's order.

  Args:
    row: `Row`.
    config: `modeling.BertConfig`.

  Returns:
    (list of int, list of the configuration keys that determine it).
  """
  keys = [_DIMENSIONS[letter] for letter in row.letters]
  if not config.embedding_size:
    keys = ["hidden_size" if key == "embedding_size" else key for key in keys]
  if row.transposed:
    keys.reverse()
  return [getattr(config, key) for key in keys], keys


def match(hf_dir, shapes, model):
  """Finds each tensor of the checkpoint, and checks its shape.

  Args:
    hf_dir: str, for errors.
    shapes: dict from tensor name to list of int.
    model: `hf_config.HfModel`.

  Returns:
    `Plan`.

  Raises:
    ValueError: a tensor is missing, has another shape than the configuration
      says, or belongs to an encoder that is not a BERT.
  """
  config = model.config
  prefix, has_head, found = _canonical_names(hf_dir, shapes)
  layers_at = ("transformer" if model.model_type == "distilbert" else
               "encoder") + ".layer."
  # Counted first, so that no configuration can make the table huge.
  layers = {name[len(layers_at):].split(".")[0] for name in found
            if re.match(re.escape(layers_at) + r"\d+\.", name)}
  if len(layers) != config.num_hidden_layers:
    raise ValueError(
        "%s: config.json says num_hidden_layers is %d, but there are tensors "
        "for %d layers." % (hf_dir, config.num_hidden_layers, len(layers)))
  has_pooler = (model.model_type in ("bert", "ernie") and
                any(row.hf_name in found for row in _POOLER))
  rows = (_distilbert_rows(config.num_hidden_layers)
          if model.model_type == "distilbert" else
          bert_rows(config.num_hidden_layers, bool(config.embedding_size),
                    has_pooler))
  if model.num_task_types:
    rows.append(Row(_TASKS, None, "", False))
  missing = [prefix + row.hf_name for row in rows if row.hf_name not in found]
  if missing:
    raise ValueError("%s lacks %d of BERT's %d tensors: %s%s." % (
        hf_dir, len(missing), len(rows), ", ".join(missing[:5]),
        " ..." if len(missing) > 5 else ""))
  reads = collections.OrderedDict()
  for row in rows:
    given = found.pop(row.hf_name)
    _check_shape(hf_dir, given, shapes[given], row, model)
    if row.name is None:
      # Each token has exactly one segment, so the task's vector can go there.
      segments, _ = reads[_SEGMENTS.name]
      reads[_SEGMENTS.name] = (segments + [given], _add_first_row)
    else:
      reads[row.name] = ([given], _transpose if row.transposed else _same)
  if model.model_type == "distilbert":
    reads[_SEGMENTS.name] = ([], lambda: np.zeros(
        [config.type_vocab_size, config.hidden_size], np.float32))
  _check_rest(hf_dir, found, prefix, has_head, model)
  used = {name for names, _ in reads.values() for name in names}
  return Plan(reads, has_pooler, sorted(set(shapes) - used))


def _same(value):
  return value


def _transpose(value):
  return value.T.copy()


def _add_first_row(segments, tasks):
  return segments + tasks[:1]


def _check_shape(hf_dir, given, actual, row, model):
  if row.name is None:
    expected = [model.num_task_types, model.config.hidden_size]
    keys = ["task_type_vocab_size", "hidden_size"]
  else:
    expected, keys = row_shape(row, model.config)
  if list(actual) != expected:
    raise ValueError(
        "%s: tensor %s has shape %s, but config.json (%s) requires %s." % (
            hf_dir, shown(given), shown(list(actual)), ", ".join(keys),
            expected))


def _check_rest(hf_dir, found, prefix, has_head, model):
  """Rejects tensors of an encoder that has more than BERT."""
  for name, given in sorted(found.items()):
    if name in _BUFFERS or (name == _TASKS and model.model_type == "ernie"):
      continue
    # Without a prefix of the encoder, a head's tensors are among its own.
    if has_head or re.match(
        r"(embeddings|embeddings_project|encoder|transformer|pooler)\.", name):
      raise ValueError(
          "%s: tensor %s is not part of a BERT with this config.json; without "
          "it, the model would give different results." % (
              hf_dir, shown(given)))


def _canonical_names(hf_dir, names):
  """Finds the encoder among a model's tensors.

  Models with a head have a prefix such as "bert." before each name of the
  encoder; old models have gamma and beta instead of weight and bias.

  Returns:
    (prefix, whether the encoder is inside a model with a head, dict from the
    tables' names to the model's).
  """
  for landmark in _LANDMARKS:
    prefixes = sorted(name[:-len(landmark)] for name in names
                      if name.endswith(landmark))
    if prefixes:
      break
  known = [prefix for prefix in prefixes if _PREFIX.fullmatch(prefix)]
  if len(known) > 1 or (prefixes and not known):
    raise ValueError(
        "%s: the tensor names of the encoder start with %s; there must be one "
        "encoder, with the prefix bert., model., module. or none." % (
            hf_dir, " and with ".join(shown(p) for p in prefixes[:5])))
  if not known:
    raise ValueError("%s lacks %s; its %d tensors start with %s." % (
        hf_dir, _LANDMARKS[0], len(names), some_beginnings(names, ".")))
  prefix = known[0]
  found = {}
  for given in names:
    if not given.startswith(prefix):
      continue
    name = given[len(prefix):]
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    if name in found:
      raise ValueError("%s: the tensors %s and %s are the same weight." % (
          hf_dir, shown(found[name]), shown(given)))
    found[name] = given
  return prefix, bool(_PREFIX.fullmatch(prefix).group(1)), found


def some_beginnings(names, separator):
  """Returns the prefixes of names, with counts, most frequent first: str."""
  counts = collections.Counter(
      name.split(separator)[0] + separator if separator in name else name
      for name in names)
  parts = ["%s (%d)" % (shown(begin)[1:-1], count)
           for begin, count in sorted(counts.items(),
                                      key=lambda item: (-item[1], item[0]))]
  return ", ".join(parts[:5]) + (", ..." if len(parts) > 5 else "")
