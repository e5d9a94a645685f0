# SPDX-License-Identifier: Apache-2.0
"""Reads Hugging Face's config.json: the type of the model and its sizes.

These model types have BERT's architecture and are supported:

  bert        BERT-wwm, RoBERTa-wwm-ext, MacBERT, RBT3, BGE, E5, MiniLM and
              LaBSE are of this type, too.
  ernie       ERNIE 1.0 and 3.0: a vector for the task is added to each token.
  distilbert  without segments and without a pooler.
  electra     without a pooler; a dense layer follows embeddings of other width.

All others are rejected by name, the most common ones with the reason.
"""

import collections
import json

from absl import logging

import modeling
from multilabel.storage import safetensors_reader
from processors.text_lines import shown


MODEL_TYPES = ("bert", "distilbert", "electra", "ernie")

_SHARED_LAYERS = "its layers share their weights, unlike BERT's"
_OTHER_TOKENS = ("its vocabulary is not WordPiece, so texts would be tokenized "
                 "differently here")
_RELATIVE = "its attention uses the distance between tokens, unlike BERT's"
_OTHER_LAYERS = "its layers are not BERT's"
_REASONS = {
    "albert": _SHARED_LAYERS,
    "bart": "it is an encoder-decoder model",
    "big_bird": _OTHER_TOKENS,
    "camembert": _OTHER_TOKENS,
    "canine": _OTHER_TOKENS,
    "convbert": _OTHER_LAYERS,
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE,
    "esm": _OTHER_LAYERS,
    "ernie_m": _OTHER_TOKENS,
    "eurobert": _OTHER_LAYERS,
    "flaubert": _OTHER_TOKENS,
    "fnet": _OTHER_LAYERS,
    "funnel": _OTHER_LAYERS,
    "gpt2": "it is a decoder",
    "ibert": _OTHER_TOKENS,
    "longformer": _OTHER_TOKENS,
    "luke": _OTHER_TOKENS,
    "megatron-bert": "it normalizes before each sublayer, BERT after it",
    "mobilebert": _OTHER_LAYERS,
    "modernbert": "its layers and its tokens are not BERT's",
    "mpnet": _RELATIVE,
    "nezha": _RELATIVE,
    "nomic_bert": _OTHER_LAYERS,
    "rembert": _OTHER_TOKENS,
    "roberta": _OTHER_TOKENS,
    "roberta-prelayernorm": _OTHER_TOKENS,
    "roformer": "it uses rotary position embeddings, BERT adds position "
                "embeddings",
    "squeezebert": _OTHER_LAYERS,
    "t5": "it is an encoder-decoder model",
    "xlm": _OTHER_TOKENS,
    "xlm-roberta": _OTHER_TOKENS,
    "xlm-roberta-xl": _OTHER_TOKENS,
    "xlnet": _RELATIVE,
}

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

_COUNTS = ("hidden_size", "intermediate_size", "max_position_embeddings",
           "num_attention_heads", "num_hidden_layers", "type_vocab_size",
           "vocab_size")
_RATES = ("attention_probs_dropout_prob", "hidden_dropout_prob",
          "initializer_range", "layer_norm_eps")
_DISTILBERT_KEYS = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_dropout_prob": "dropout",
    "hidden_act": "activation",
}
# Rows for segments that DistilBERT does not have: any text pair needs two.
_DISTILBERT_SEGMENTS = 2

HfModel = collections.namedtuple(
    "HfModel", ["config", "model_type", "num_task_types"])
HfModel.__doc__ = """What a config.json describes.

  config: `modeling.BertConfig` with `gelu_approximate` set; `layer_norm_eps`
    and `embedding_size` only where they are not BERT's.
  model_type: str, one of `MODEL_TYPES`.
  num_task_types: int, rows of ERNIE's task embeddings; 0: it has none.
"""


def read_model(path):
  """Reads Hugging Face's config.json.

  Args:
    path: str.

  Returns:
    `HfModel`.

  Raises:
    ValueError: it is broken, or not a supported BERT; names the key and its
      value.
  """
  raw = safetensors_reader.load_json_object(path)
  model_type = _model_type(path, raw)
  _check_fixed_values(path, raw, model_type)
  names = _DISTILBERT_KEYS if model_type == "distilbert" else {}
  values = _read_numbers(path, raw, names, model_type)
  act_key = names.get("hidden_act", "hidden_act")
  activation = raw.get(act_key, "gelu")
  if not isinstance(activation, str) or activation not in _ACTIVATIONS:
    raise ValueError("%s: %s is %s; supported: %s." % (
        path, act_key, shown(activation), ", ".join(sorted(_ACTIVATIONS))))
  values["hidden_act"], approximate = _ACTIVATIONS[activation]
  epsilon = values.pop("layer_norm_eps", modeling.LAYER_NORM_EPSILON)
  config = modeling.BertConfig(**values)
  config.gelu_approximate = approximate
  if epsilon != modeling.LAYER_NORM_EPSILON:
    config.layer_norm_eps = epsilon
  if model_type == "electra" and raw.get("embedding_size") not in (
      None, config.hidden_size):
    config.embedding_size = raw["embedding_size"]
    config.model_type = model_type
  num_task_types = 0
  if model_type == "ernie" and raw.get("use_task_id"):
    num_task_types = raw.get("task_type_vocab_size", 3)
    if type(num_task_types) is not int or num_task_types < 1:
      raise ValueError("%s: task_type_vocab_size is %s, not a number above 0." %
                       (path, shown(num_task_types)))
  try:
    config.validate()
  except ValueError as error:
    raise ValueError("%s: %s" % (path, error))
  return HfModel(config, model_type, num_task_types)


def _model_type(path, raw):
  """Returns the model's type; rejects models that only look like BERT."""
  model_type = raw.get("model_type")
  if model_type is None:
    # Configurations from before model_type; RoBERTa's tensors have BERT's
    # names, so the type must be explicit.
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or not architectures or not all(
        isinstance(a, str) and a.startswith("Bert") for a in architectures):
      raise ValueError(
          '%s has no model_type; if the model is a BERT, add "model_type": '
          '"bert".' % path)
    return "bert"
  if isinstance(model_type, str) and model_type in MODEL_TYPES:
    return model_type
  reason = _REASONS.get(model_type) if isinstance(model_type, str) else None
  raise ValueError("%s: model_type is %s, which cannot be converted%s; "
                   "supported: %s." % (path, shown(model_type),
                                 reason and ": " + reason or "",
                                 ", ".join(MODEL_TYPES)))


def _check_fixed_values(path, raw, model_type):
  """Rejects values for which the model computes something else."""
  fixed = modeling.FIXED_CONFIG_VALUES + (("quantization_config", None),)
  if model_type != "electra":
    fixed += (("embedding_size", raw.get("hidden_size")),)
  for key, only in fixed:
    if raw.get(key) not in (None, only):
      raise ValueError(
          "%s: %s is %s, but this BERT only supports %s; the model would give "
          "different results." % (path, key, shown(raw[key]), shown(only)))
  if "auto_map" in raw:
    logging.warning("%s refers to custom code (auto_map), which is not run; "
                    "the model is read as a plain BERT.", path)


def _read_numbers(path, raw, names, model_type):
  """Returns sizes and rates under BERT's names."""
  values = {}
  if model_type == "distilbert":
    values["type_vocab_size"] = _DISTILBERT_SEGMENTS
  for key in _COUNTS:
    name = names.get(key, key)
    if key in values:
      continue
    if name not in raw:
      raise ValueError("%s has no %s." % (path, name))
    values[key] = raw[name]
  for key in _RATES:
    if names.get(key, key) in raw:
      values[key] = raw[names.get(key, key)]
  for key, value in values.items():
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      raise ValueError("%s: %s is %s, not a number." % (
          path, names.get(key, key), shown(value)))
  return values


def describe(model):
  """Returns what differs from a plain BERT: str, "" if nothing does."""
  parts = []
  if model.model_type == "distilbert":
    parts.append("its segment vectors are zeros")
  if model.num_task_types:
    parts.append("the vector of task 0 is added to its segment vectors")
  if model.config.embedding_size:
    parts.append("embeddings of width %d are projected to %d" % (
        model.config.embedding_size, model.config.hidden_size))
  if model.config.layer_norm_eps != modeling.LAYER_NORM_EPSILON:
    parts.append("layer_norm_eps is %s" % json.dumps(
        model.config.layer_norm_eps))
  return "; ".join(parts)
