# SPDX-License-Identifier: Apache-2.0
"""Turns a Hugging Face BERT directory into a TF1 checkpoint.

  python convert_checkpoint.py --hf_dir=IN --output_dir=OUT

reads `IN/config.json`, `IN/model.safetensors` (or its shards) and
`IN/vocab.txt`, and writes what google-research/bert releases consist of, for
any BERT code to load: `OUT/bert_config.json`, `OUT/bert_model.ckpt.*` and
`OUT/vocab.txt`. Neither torch nor transformers is needed, and nothing of the
input is run. What is not exactly a BERT is refused.

`bert_config.json` gets one key more than the original's: `gelu_approximate`,
false for Hugging Face's "gelu", which is the exact function with erf; the
original's is the tanh approximation.

Everything is written to a hidden folder inside `OUT` and renamed into place,
`bert_config.json` last: a folder without it is not finished.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import os
import re
import shutil
import tempfile

from absl import flags
from absl import logging

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()  # before it is imported

import tensorflow.compat.v1 as tf

import atomic_files
import modeling
import safetensors_reader
from safetensors_reader import shown

FLAGS = flags.FLAGS

CONFIG_FILE = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
VOCAB_FILE = "vocab.txt"
# In the order in which they are put in place.
_OUTPUT_FILES = (VOCAB_FILE, CHECKPOINT + ".data-00000-of-00001",
                 CHECKPOINT + ".index", CONFIG_FILE)
_WORK_PREFIX = ".conversion-"

_MAX_VOCAB_BYTES = 64 * 1024 * 1024

# Hugging Face's name of an activation -> ours, and whether gelu is the tanh
# approximation.
_ACTIVATIONS = {
    "gelu": ("gelu", False),
    "gelu_python": ("gelu", False),
    "gelu_new": ("gelu", True),
    "gelu_pytorch_tanh": ("gelu", True),
    "gelu_python_tanh": ("gelu", True),
    "relu": ("relu", True),
    "tanh": ("tanh", True),
    "linear": ("linear", True),
}

# Sizes in the tables below.
_DIMENSIONS = {
    "V": "vocab_size",
    "P": "max_position_embeddings",
    "T": "type_vocab_size",
    "H": "hidden_size",
    "I": "intermediate_size",
}
_COUNTS = tuple(sorted(_DIMENSIONS.values())) + (
    "num_attention_heads", "num_hidden_layers")
_RATES = ("attention_probs_dropout_prob", "hidden_dropout_prob",
          "initializer_range")

# A row: Hugging Face's name, the checkpoint's name, the shape in the
# checkpoint, whether Hugging Face has it transposed. torch keeps the matrix of
# a dense layer as [outputs, inputs], TensorFlow as [inputs, outputs].
_EMBEDDINGS = (
    ("embeddings.word_embeddings.weight",
     "bert/embeddings/word_embeddings", "VH", False),
    ("embeddings.position_embeddings.weight",
     "bert/embeddings/position_embeddings", "PH", False),
    ("embeddings.token_type_embeddings.weight",
     "bert/embeddings/token_type_embeddings", "TH", False),
    ("embeddings.LayerNorm.weight",
     "bert/embeddings/LayerNorm/gamma", "H", False),
    ("embeddings.LayerNorm.bias",
     "bert/embeddings/LayerNorm/beta", "H", False),
)
# After "encoder.layer.N." and "bert/encoder/layer_N/".
_LAYER = (
    ("attention.self.query.weight", "attention/self/query/kernel", "HH", True),
    ("attention.self.query.bias", "attention/self/query/bias", "H", False),
    ("attention.self.key.weight", "attention/self/key/kernel", "HH", True),
    ("attention.self.key.bias", "attention/self/key/bias", "H", False),
    ("attention.self.value.weight", "attention/self/value/kernel", "HH", True),
    ("attention.self.value.bias", "attention/self/value/bias", "H", False),
    ("attention.output.dense.weight",
     "attention/output/dense/kernel", "HH", True),
    ("attention.output.dense.bias", "attention/output/dense/bias", "H", False),
    ("attention.output.LayerNorm.weight",
     "attention/output/LayerNorm/gamma", "H", False),
    ("attention.output.LayerNorm.bias",
     "attention/output/LayerNorm/beta", "H", False),
    ("intermediate.dense.weight", "intermediate/dense/kernel", "HI", True),
    ("intermediate.dense.bias", "intermediate/dense/bias", "I", False),
    ("output.dense.weight", "output/dense/kernel", "IH", True),
    ("output.dense.bias", "output/dense/bias", "H", False),
    ("output.LayerNorm.weight", "output/LayerNorm/gamma", "H", False),
    ("output.LayerNorm.bias", "output/LayerNorm/beta", "H", False),
)
_POOLER = (
    ("pooler.dense.weight", "bert/pooler/dense/kernel", "HH", True),
    ("pooler.dense.bias", "bert/pooler/dense/bias", "H", False),
)
# Constants that older versions of transformers stored as if they were weights.
_BUFFERS = frozenset(["embeddings.position_ids", "embeddings.token_type_ids"])


Conversion = collections.namedtuple(
    "Conversion",
    ["num_tensors", "num_parameters", "has_pooler", "unused", "do_lower_case"])
Conversion.__doc__ = """What was converted.

  num_tensors: int, tensors in the checkpoint.
  num_parameters: int, numbers in them.
  has_pooler: bool.
  unused: list of str, tensors of the input that are not in the checkpoint.
  do_lower_case: bool, how texts for this model are to be tokenized.
"""


def convert(hf_dir, output_dir):
  """Converts one model.

  Args:
    hf_dir: str, folder with config.json, model.safetensors and vocab.txt.
    output_dir: str, folder for the result: a new or empty one, or one with an
      earlier conversion, which is replaced.

  Returns:
    A `Conversion`.

  Raises:
    ValueError: the input is not a BERT, or is broken; or `output_dir` holds
      something else. Nothing has been written then.
    RuntimeError: the result cannot be written.
  """
  if not os.path.isdir(hf_dir):
    raise ValueError("hf_dir %s is not a folder." % hf_dir)
  _check_output_dir(output_dir)
  config = read_config(os.path.join(hf_dir, "config.json"))
  do_lower_case = _read_tokenizer_config(hf_dir)
  vocab = _read_vocab(os.path.join(hf_dir, VOCAB_FILE), config.vocab_size)
  weights = safetensors_reader.open_directory(hf_dir)
  plan, unused = _match_tensors(hf_dir, weights, config)

  has_pooler = plan[-1][1] == _POOLER[-1][1]
  if not has_pooler:
    logging.warning(
        "%s has no pooler, so the checkpoint has none: its layer starts from "
        "random weights, or pool by mean or by the first token.", hf_dir)
  if unused:
    logging.info("Tensors not used: %s", ", ".join(shown(u) for u in unused))
  tensors = collections.OrderedDict()
  for hf_name, name, _, transposed in plan:
    value = weights[hf_name].read(hf_name)
    tensors[name] = value.T.copy() if transposed else value
  _write(output_dir, tensors, vocab, config.to_json_string())
  return Conversion(
      num_tensors=len(tensors),
      num_parameters=sum(value.size for value in tensors.values()),
      has_pooler=has_pooler, unused=unused, do_lower_case=do_lower_case)


def read_config(path):
  """Reads Hugging Face's config.json.

  Args:
    path: str.

  Returns:
    `modeling.BertConfig` with `gelu_approximate` set.

  Raises:
    ValueError: it is broken, or not of a BERT as this project has it; the
      sentence names the key and its value.
  """
  raw = safetensors_reader.load_json_object(path)
  _check_is_bert(path, raw)
  values = {}
  for key in _COUNTS:
    if key not in raw:
      raise ValueError("%s has no %s." % (path, key))
    values[key] = raw[key]
  for key in _RATES:
    if key in raw:
      values[key] = raw[key]
  for key, value in values.items():
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      raise ValueError("%s: %s is %s, not a number." % (
          path, key, shown(value)))
  activation = raw.get("hidden_act", "gelu")
  if not isinstance(activation, str) or activation not in _ACTIVATIONS:
    raise ValueError("%s: hidden_act is %s; supported are %s." % (
        path, shown(activation), ", ".join(sorted(_ACTIVATIONS))))
  values["hidden_act"], approximate = _ACTIVATIONS[activation]
  config = modeling.BertConfig(**values)
  config.gelu_approximate = approximate
  try:
    config.validate()
  except ValueError as error:
    raise ValueError("%s: %s" % (path, error))
  return config


def _check_is_bert(path, raw):
  """Refuses, by name, the models that only look like a BERT."""
  model_type = raw.get("model_type")
  if model_type is None:
    # Configurations from before model_type; RoBERTa's tensors have BERT's
    # names, so something must say which it is.
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or not architectures or not all(
        isinstance(a, str) and a.startswith("Bert") for a in architectures):
      raise ValueError(
          '%s has no model_type; if the model is a BERT, add "model_type": '
          '"bert".' % path)
  elif model_type != "bert":
    raise ValueError("%s: model_type is %s; only bert can be converted." % (
        path, shown(model_type)))
  for key, only in (("position_embedding_type", "absolute"),
                    ("is_decoder", False), ("add_cross_attention", False),
                    ("is_encoder_decoder", False),
                    ("embedding_size", raw.get("hidden_size")),
                    ("layer_norm_eps", modeling.LAYER_NORM_EPSILON)):
    if raw.get(key, only) != only:
      raise ValueError(
          "%s: %s is %s, but BERT as it is built here has %s; the model would "
          "give other results." % (path, key, shown(raw[key]), shown(only)))
  if "auto_map" in raw:
    logging.warning("%s names code of its own (auto_map), which is not run; "
                    "the model is read as a plain BERT.", path)


def _read_tokenizer_config(hf_dir):
  """Says how texts are to be tokenized; returns do_lower_case."""
  path = os.path.join(hf_dir, "tokenizer_config.json")
  raw = {}
  if os.path.exists(path):
    raw = safetensors_reader.load_json_object(path)
  # True is transformers' default, too.
  do_lower_case = raw.get("do_lower_case", True)
  if not isinstance(do_lower_case, bool):
    raise ValueError("%s: do_lower_case is %s, neither true nor false." % (
        path, shown(do_lower_case)))
  logging.info("The model wants --do_lower_case=%s (%s).",
               str(do_lower_case).lower(),
               path if "do_lower_case" in raw else
               "the default, as no tokenizer_config.json says otherwise")
  # Texts are always split at punctuation and around Chinese characters, and
  # lose their accents exactly when they are lower-cased.
  for key, ours in (("strip_accents", (None, do_lower_case)),
                    ("tokenize_chinese_chars", (True,)),
                    ("do_basic_tokenize", (True,)),
                    ("never_split", (None, [])),
                    ("tokenizer_class", (None, "BertTokenizer",
                                         "BertTokenizerFast"))):
    if key in raw and raw[key] not in ours:
      logging.warning(
          "%s: %s is %s, which the tokenizer here does not do (it has %s): "
          "some texts get other tokens than the model was trained with.",
          path, key, shown(raw[key]), shown(ours[-1]))
  return do_lower_case


def _read_vocab(path, vocab_size):
  """Returns the bytes of vocab.txt, checked."""
  try:
    with safetensors_reader.open_regular(path) as reader:
      vocab = reader.read(_MAX_VOCAB_BYTES + 1)
  except OSError as error:
    raise ValueError(
        "%s (the vocabulary, one token a line) cannot be read: %s; where newer "
        "versions of transformers left it out, take that of the model which "
        "was fine-tuned." % (path, error.strerror))
  if len(vocab) > _MAX_VOCAB_BYTES:
    raise ValueError("%s is longer than %d bytes; it is no vocabulary." % (
        path, _MAX_VOCAB_BYTES))
  try:
    vocab.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError("%s:%d is not UTF-8." % (
        path, vocab.count(b"\n", 0, error.start) + 1))
  lines = vocab.count(b"\n") + (not vocab.endswith(b"\n") and vocab != b"")
  if not lines:
    raise ValueError("%s is empty." % path)
  if lines > vocab_size:
    raise ValueError(
        "%s has %d tokens, but config.json says vocab_size is %d; they are not "
        "of the same model." % (path, lines, vocab_size))
  if lines < vocab_size:
    logging.info("%s has %d tokens, the embeddings %d rows; the last rows are "
                 "not used.", path, lines, vocab_size)
  return vocab


def _match_tensors(hf_dir, weights, config):
  """Finds each tensor of the checkpoint, and checks its shape.

  Args:
    hf_dir: str, for errors.
    weights: dict from tensor name to `SafetensorsFile`.
    config: `modeling.BertConfig`.

  Returns:
    (plan, unused): rows as those of `_EMBEDDINGS` with names as in `weights`
    and in the checkpoint and sizes for letters; the names of other tensors.

  Raises:
    ValueError: a tensor is missing, has another shape than the configuration
      says, or belongs to an encoder that is not BERT's.
  """
  prefix, found = _canonical_names(hf_dir, weights)
  # Counted first, so that no configuration makes the table long.
  layers = {match.group(1) for match in (
      re.match(r"encoder\.layer\.(\d+)\.", name) for name in found) if match}
  if len(layers) != config.num_hidden_layers:
    raise ValueError(
        "%s: config.json says num_hidden_layers is %d, but there are tensors "
        "of %d layers." % (hf_dir, config.num_hidden_layers, len(layers)))
  rows = _table(config.num_hidden_layers,
                any(row[0] in found for row in _POOLER))
  missing = [prefix + row[0] for row in rows if row[0] not in found]
  if missing:
    raise ValueError("%s lacks %d of BERT's %d tensors: %s%s." % (
        hf_dir, len(missing), len(rows), ", ".join(missing[:5]),
        " ..." if len(missing) > 5 else ""))
  plan = []
  for hf_name, name, letters, transposed in rows:
    given = found.pop(hf_name)
    keys = [_DIMENSIONS[letter] for letter in letters]
    if transposed:
      keys.reverse()
    expected = [getattr(config, key) for key in keys]
    actual = list(weights[given].shapes[given])
    if actual != expected:
      raise ValueError(
          "%s: tensor %s has the shape %s, but config.json (%s) asks for %s." %
          (weights[given].path, shown(given), shown(actual), ", ".join(keys),
           expected))
    plan.append((given, name, expected, transposed))
  for name, given in sorted(found.items()):
    # Without a prefix, a head's tensors stand among the encoder's.
    if name not in _BUFFERS and (
        prefix or re.match(r"(embeddings|encoder|pooler)\.", name)):
      raise ValueError(
          "%s: tensor %s is not part of a BERT with this config.json; the "
          "model would give other results without it." % (
              weights[given].path, shown(given)))
  used = {row[0] for row in plan}
  return plan, sorted(name for name in weights if name not in used)


def _table(num_layers, has_pooler):
  """Returns the rows of a whole model."""
  rows = list(_EMBEDDINGS)
  for layer in range(num_layers):
    rows.extend(("encoder.layer.%d.%s" % (layer, row[0]),
                 "bert/encoder/layer_%d/%s" % (layer, row[1])) + row[2:]
                for row in _LAYER)
  return rows + list(_POOLER if has_pooler else ())


def _canonical_names(hf_dir, weights):
  """Returns the prefix in use, and a dict from the tables' names to the file's.

  Models with a head have "bert." before each name of the encoder; old models
  say gamma and beta where newer ones say weight and bias.
  """
  prefix = "bert." if any(name.startswith("bert.") for name in weights) else ""
  found = {}
  for given in weights:
    if not given.startswith(prefix):
      continue
    name = given[len(prefix):]
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    if name in found:
      raise ValueError("%s: the tensors %s and %s are the same weight." % (
          hf_dir, shown(found[name]), shown(given)))
    found[name] = given
  return prefix, found


def _check_output_dir(output_dir):
  """Refuses a folder whose files are not of an earlier conversion."""
  if not os.path.lexists(output_dir):
    return
  if not os.path.isdir(output_dir):
    raise ValueError("output_dir %s is not a folder." % output_dir)
  names = os.listdir(output_dir)
  # Such a folder is left behind when a conversion is killed.
  ours = any(name.startswith(_WORK_PREFIX) for name in names)
  if CONFIG_FILE in names:
    # Released models have the same files, but not this key.
    ours = "gelu_approximate" in safetensors_reader.load_json_object(
        os.path.join(output_dir, CONFIG_FILE))
  for name in sorted(names):
    if not name.startswith(_WORK_PREFIX) and not (
        ours and name in _OUTPUT_FILES):
      raise ValueError(
          "output_dir %s holds %s, which is not of an earlier conversion; name "
          "a new folder." % (output_dir, shown(name)))


def _write(output_dir, tensors, vocab, config_json):
  """Writes the result; `bert_config.json` appears last."""
  new = not os.path.isdir(output_dir)
  try:
    os.makedirs(output_dir, exist_ok=True)
    for name in os.listdir(output_dir):
      if name.startswith(_WORK_PREFIX):
        shutil.rmtree(os.path.join(output_dir, name))
    work_dir = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=output_dir)
    try:
      with open(os.path.join(work_dir, VOCAB_FILE), "wb") as writer:
        writer.write(vocab)
      with open(os.path.join(work_dir, CONFIG_FILE), "w") as writer:
        writer.write(config_json)
      _save_tensors(os.path.join(work_dir, CHECKPOINT), tensors)
      _put_in_place(work_dir, output_dir)
    finally:
      shutil.rmtree(work_dir, ignore_errors=True)
      if new and not os.listdir(output_dir):
        os.rmdir(output_dir)
  except (OSError, tf.errors.OpError) as error:
    raise RuntimeError("output_dir %s cannot be written: %s" % (
        output_dir, " ".join(str(getattr(error, "message", error)).split())))


def _put_in_place(work_dir, output_dir):
  """Renames the finished files, the disk having them first."""
  for name in _OUTPUT_FILES:
    atomic_files.sync_file(os.path.join(work_dir, name))
  config_path = os.path.join(output_dir, CONFIG_FILE)
  if os.path.exists(config_path):
    os.remove(config_path)  # from here on the earlier conversion is undone
  for name in _OUTPUT_FILES:
    atomic_files.replace_file(os.path.join(work_dir, name),
                              os.path.join(output_dir, name))


def _save_tensors(prefix, tensors):
  """Writes a checkpoint of exactly these names and float32 arrays."""
  with tf.Graph().as_default():
    # Fed, since a graph's own constants end at 2 GB; and saved without
    # variables, which would be a second copy.
    placeholders = [tf.placeholder(tf.float32, value.shape)
                    for value in tensors.values()]
    save = tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors), tensors=placeholders)
    config = tf.ConfigProto(device_count={"GPU": 0})
    with tf.Session(config=config) as session:
      session.run(save, dict(zip(placeholders, tensors.values())))


def define_flags():
  """Defines the flags of the script."""
  with command_line.flag_group("Conversion"):
    flags.DEFINE_string(
        "hf_dir", None, "Hugging Face BERT directory: config.json, "
        "model.safetensors, vocab.txt.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for bert_config.json, bert_model.ckpt.* "
        "and vocab.txt: new, empty, or with an earlier conversion.")


def main(argv):
  """Converts `--hf_dir` and says how to use the result."""
  if len(argv) > 1:
    raise ValueError("%s is not a flag; --help lists them." % shown(argv[1]))
  for name in ("hf_dir", "output_dir"):
    if not getattr(FLAGS, name):
      raise ValueError("--%s is missing." % name)
  result = convert(FLAGS.hf_dir, FLAGS.output_dir)
  print("Wrote %d tensors with %s parameters%s. Train with\n"
        "  --bert_config_file=%s\n  --vocab_file=%s\n  --init_checkpoint=%s\n"
        "  --do_lower_case=%s" % (
            result.num_tensors, "{:,}".format(result.num_parameters),
            "" if result.has_pooler else " and no pooler",
            os.path.join(FLAGS.output_dir, CONFIG_FILE),
            os.path.join(FLAGS.output_dir, VOCAB_FILE),
            os.path.join(FLAGS.output_dir, CHECKPOINT),
            str(result.do_lower_case).lower()))


if __name__ == "__main__":
  command_line.run(
      main, define_flags,
      "Turns a Hugging Face BERT directory into a TF1 checkpoint that any BERT "
      "code loads.")
