# SPDX-License-Identifier: Apache-2.0
"""A trained model as a Hugging Face folder.

Two forms:

  classification         for transformers' AutoModelForSequenceClassification
                         and pipeline("text-classification"). Supports only
                         --pooling=pooler.
  sentence_transformers  for SentenceTransformer(...).encode(texts), whose rows
                         are then the probabilities; for every pooling.
"""

import collections
import json
import os
import re
import shutil
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.export import model_card
from multilabel.storage import checkpoint_choice
from multilabel.storage import hf_tensors
from multilabel.storage import safetensors_writer
from multilabel.storage import trained_model
import tokenization


FORMS = ("classification", "sentence_transformers")

_HIDDEN_ACTS = {"gelu": "gelu_new", "relu": "relu", "tanh": "tanh",
                "linear": "linear", "": "linear"}
# The dropout of multilabel/head.py before the head.
_CLASSIFIER_DROPOUT = 0.1

HfExport = collections.namedtuple(
    "HfExport", ["num_tensors", "num_parameters", "checkpoint"])


def export(trained_dir, hf_dir, form="classification"):
  """Writes the model of a trained directory in Hugging Face's format.

  Args:
    trained_dir: str, the --output_dir of a training run.
    hf_dir: str, a new or empty folder.
    form: str, one of `FORMS`.

  Returns:
    `HfExport`; `checkpoint` is the prefix of the weights.

  Raises:
    ValueError: the model cannot be expressed in that form, the directory is not
      a trained one, or `hf_dir` is not empty.
    RuntimeError: `hf_dir` cannot be written.
  """
  trained = trained_model.read(trained_dir)
  check_form(trained, form)
  _check_hf_dir(hf_dir)
  checkpoint = checkpoint_choice.prediction_checkpoint(trained_dir)
  if checkpoint is None:
    raise ValueError("model_dir %s has no checkpoint; train it first." %
                     trained_dir)
  encoder, weights, bias = _read_tensors(trained, checkpoint)
  try:
    parent = os.path.dirname(os.path.abspath(hf_dir))
    os.makedirs(parent, exist_ok=True)
    work_dir = tempfile.mkdtemp(prefix=".hugging-face-", dir=parent)
    try:
      num_tensors = (_write_classification if form == "classification" else
                     _write_sentence_transformers)(
                         work_dir, trained, encoder, weights, bias)
      _write_tokenizer(work_dir, trained)
      _write_card(work_dir, trained, form)
      os.chmod(work_dir, 0o777 & ~_umask())
      for where, _, names in os.walk(work_dir):
        for name in names:
          atomic_files.sync_file(os.path.join(where, name))
      os.rename(work_dir, hf_dir)
    finally:
      shutil.rmtree(work_dir, ignore_errors=True)
  except OSError as error:
    raise RuntimeError("hf_dir %s cannot be written: %s." % (
        hf_dir, error.strerror or error))
  return HfExport(num_tensors, bias.size + weights.size + sum(
      value.size for value in encoder.values()), checkpoint)


def check_form(trained, form):
  """Raises ValueError if a form does not support the model."""
  if form not in FORMS:
    raise ValueError("the format is %s; it must be one of %s." % (
        form, ", ".join(FORMS)))
  pooling = trained.settings["pooling"]
  if form == "classification" and pooling != "pooler":
    raise ValueError(
        "model_dir %s has --pooling=%s, but BertForSequenceClassification of "
        "transformers only supports the pooler; use "
        "--hf_form=sentence_transformers." % (
            trained.path, pooling))
  config = trained.bert_config
  if pooling == "pooler" and form != "classification":
    raise ValueError(
        "model_dir %s has --pooling=pooler, which sentence-transformers does "
        "not support; use --hf_form=classification." % trained.path)
  if form == "classification" and config.embedding_size not in (
      None, config.hidden_size):
    raise ValueError(
        "model_dir %s has embeddings of width %d but hidden_size %d, which "
        "BertForSequenceClassification does not support." % (
            trained.path, config.embedding_size, config.hidden_size))


def _check_hf_dir(hf_dir):
  if not os.path.lexists(hf_dir):
    return
  if not os.path.isdir(hf_dir) or os.path.islink(hf_dir):
    raise ValueError("hf_dir %s is not a folder." % hf_dir)
  names = sorted(os.listdir(hf_dir))
  if names:
    raise ValueError("hf_dir %s is not empty (it holds %s); name a new folder."
                     % (hf_dir, ", ".join(names[:3])))


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _has_projection(config):
  return config.embedding_size not in (None, config.hidden_size)


def _read_tensors(trained, checkpoint):
  """Returns ({Hugging Face's name: array}, output_weights, output_bias)."""
  config = trained.bert_config
  rows = hf_tensors.bert_rows(
      config.num_hidden_layers, _has_projection(config),
      has_pooler=not _has_projection(config))
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    encoder = collections.OrderedDict()
    for row in rows:
      value = reader.get_tensor(row.name)
      value = value.T.copy() if row.transposed else value
      expected, _ = hf_tensors.row_shape(row, config)
      if list(value.shape) != expected:
        raise ValueError("%s has shape %s, not %s" % (
            row.name, list(value.shape), expected))
      encoder[row.hf_name] = value
    head = [reader.get_tensor(name) for name in
            ("output_weights", "output_bias")]
  except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
    raise ValueError("checkpoint %s does not fit this model: %s." % (
        checkpoint, " ".join(str(error).split())))
  weights, bias = head
  if trained.calibration is not None:
    # scale * (w x + b) + shift; these forms can only hold it in the head.
    scale, shift = trained.calibration.arrays(len(bias))
    weights, bias = weights * scale[:, np.newaxis], bias * scale + shift
  return encoder, weights, bias


def _bert_config(trained, architecture):
  """Returns config.json's content, but for a head."""
  config = trained.bert_config
  act = (config.hidden_act or "").lower()
  hidden_act = _HIDDEN_ACTS[act]
  if act == "gelu" and not config.gelu_approximate:
    hidden_act = "gelu"
  ids = tokenization.load_vocab(trained.vocab_file)
  values = {
      "architectures": [architecture],
      "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
      "hidden_act": hidden_act,
      "hidden_dropout_prob": config.hidden_dropout_prob,
      "hidden_size": config.hidden_size,
      "initializer_range": config.initializer_range,
      "intermediate_size": config.intermediate_size,
      "layer_norm_eps": config.layer_norm_eps,
      "max_position_embeddings": config.max_position_embeddings,
      "model_type": "bert",
      "num_attention_heads": config.num_attention_heads,
      "num_hidden_layers": config.num_hidden_layers,
      "pad_token_id": ids["[PAD]"],
      "position_embedding_type": "absolute",
      "torch_dtype": "float32",
      "type_vocab_size": config.type_vocab_size,
      "vocab_size": config.vocab_size,
  }
  if _has_projection(config):
    values.update(architectures=["ElectraModel"], model_type="electra",
                  embedding_size=config.embedding_size)
  return values


def _write_classification(folder, trained, encoder, weights, bias):
  """config.json and weights of a BertForSequenceClassification."""
  labels = trained.labels
  _write_json(os.path.join(folder, "config.json"), dict(
      _bert_config(trained, "BertForSequenceClassification"),
      classifier_dropout=_CLASSIFIER_DROPOUT,
      id2label={str(i): label for i, label in enumerate(labels)},
      label2id={label: i for i, label in enumerate(labels)},
      problem_type="multi_label_classification"))
  tensors = collections.OrderedDict(
      ("bert." + name, value) for name, value in encoder.items())
  tensors["classifier.weight"] = weights
  tensors["classifier.bias"] = bias
  safetensors_writer.write(os.path.join(folder, "model.safetensors"), tensors)
  return len(tensors)


def _write_sentence_transformers(folder, trained, encoder, weights, bias):
  """Three modules: the encoder, the pooling, and a dense layer with sigmoid."""
  config = trained.bert_config
  _write_json(os.path.join(folder, "config.json"),
              _bert_config(trained, "BertModel"))
  safetensors_writer.write(os.path.join(folder, "model.safetensors"), encoder)
  _write_json(os.path.join(folder, "modules.json"), [
      {"idx": i, "name": str(i), "path": path,
       "type": "sentence_transformers.models." + kind}
      for i, (path, kind) in enumerate((
          ("", "Transformer"), ("1_Pooling", "Pooling"),
          ("2_Dense", "Dense")))])
  _write_json(os.path.join(folder, "sentence_bert_config.json"), {
      "max_seq_length": trained.settings["max_seq_length"],
      "do_lower_case": False})  # the tokenizer does it
  os.mkdir(os.path.join(folder, "1_Pooling"))
  _write_json(os.path.join(folder, "1_Pooling", "config.json"), {
      "word_embedding_dimension": config.hidden_size,
      "pooling_mode_cls_token": trained.settings["pooling"] == "cls",
      "pooling_mode_mean_tokens": trained.settings["pooling"] == "mean",
      "pooling_mode_max_tokens": False,
      "pooling_mode_mean_sqrt_len_tokens": False})
  os.mkdir(os.path.join(folder, "2_Dense"))
  _write_json(os.path.join(folder, "2_Dense", "config.json"), {
      "in_features": config.hidden_size, "out_features": len(trained.labels),
      "bias": True,
      "activation_function": "torch.nn.modules.activation.Sigmoid"})
  safetensors_writer.write(
      os.path.join(folder, "2_Dense", "model.safetensors"),
      {"linear.weight": weights, "linear.bias": bias})
  atomic_files.write_text(os.path.join(folder, "labels.txt"), "".join(
      label + "\n" for label in trained.labels))
  return len(encoder) + 2


def _write_tokenizer(folder, trained):
  shutil.copyfile(trained.vocab_file, os.path.join(folder, "vocab.txt"))
  _write_json(os.path.join(folder, "tokenizer_config.json"), {
      "tokenizer_class": "BertTokenizer",
      "do_lower_case": trained.settings["do_lower_case"],
      "model_max_length": trained.settings["max_seq_length"],
      "strip_accents": None, "tokenize_chinese_chars": True,
      "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
      "pad_token": "[PAD]", "mask_token": "[MASK]"})


_CLASSIFICATION_USE = """## Use

```python
from transformers import pipeline

classify = pipeline("text-classification", model=FOLDER, top_k=None)
classify(texts, truncation=True)  # for each text, label and probability
```

Every label has its own probability (`problem_type` is
`multi_label_classification`, so a sigmoid is applied, not a softmax)."""

_SENTENCE_TRANSFORMERS_USE = """## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(FOLDER)
probabilities = model.encode(texts)  # [number of texts, number of labels]
labels = open(FOLDER + "/labels.txt", encoding="utf-8").read().splitlines()
```

The last module is the label head with its sigmoid, so `encode` returns
probabilities, in the order of `labels.txt`."""


def _write_card(folder, trained, form):
  """README.md, whose front matter the hub reads."""
  front = ["---", "library_name: %s" % {
      "classification": "transformers"}.get(form, "sentence-transformers"),
           "pipeline_tag: text-classification",
           "tags:", "- multi-label-classification", "- bert", "---", "", ""]
  card = model_card.make(trained)
  title, _, rest = card.partition("\n\n")
  use = (_CLASSIFICATION_USE if form == "classification" else
         _SENTENCE_TRANSFORMERS_USE)
  rest = re.sub(r"\n\n## ", lambda match: "\n\n%s\n\n## " % use, rest, count=1)
  atomic_files.write_text(os.path.join(folder, "README.md"),
                          "\n".join(front) + title + "\n\n" + rest)


def _write_json(path, value):
  with open(path, "w", encoding="utf-8") as writer:
    json.dump(value, writer, ensure_ascii=False, indent=2)
    writer.write("\n")
