# SPDX-License-Identifier: Apache-2.0
"""Converted models against transformers: the same hidden states.

A tiny model of each type is made by transformers with random weights; skipped
where torch and transformers are not installed.
"""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
from multilabel.storage import checkpoint_restore
from multilabel.storage import hf_conversion


torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 12,
         "vocab_size": 30}


def bert(**changes):
  return transformers.BertModel(transformers.BertConfig(**dict(
      SIZES, **changes)))


def distilbert(**changes):
  return transformers.DistilBertModel(transformers.DistilBertConfig(**dict(
      dict(dim=16, n_layers=3, n_heads=2, hidden_dim=24, vocab_size=30,
           max_position_embeddings=12), **changes)))


def electra(**changes):
  return transformers.ElectraModel(transformers.ElectraConfig(**dict(
      SIZES, **changes)))


def ernie(**changes):
  return transformers.ErnieModel(transformers.ErnieConfig(**dict(
      dict(SIZES, layer_norm_eps=1e-5), **changes)))


# What the models that people take are, in small: name -> (make, has a pooler).
MODELS = {
    # BERT-wwm, RoBERTa-wwm-ext, MacBERT, RBT3, BGE, E5, MiniLM, LaBSE.
    "bert": (bert, True),
    "bert with a loose epsilon": (lambda: bert(layer_norm_eps=1e-3), True),
    "bert with gelu_new": (lambda: bert(hidden_act="gelu_new"), True),
    "bert without pooler": (lambda: transformers.BertModel(
        transformers.BertConfig(**SIZES), add_pooling_layer=False), False),
    "bert with a head": (lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(num_labels=5, **SIZES)), True),
    "ernie 1.0": (lambda: ernie(hidden_act="relu"), True),
    "ernie 3.0": (lambda: ernie(type_vocab_size=4, use_task_id=True), True),
    "ernie with a head": (lambda: transformers.ErnieForMaskedLM(
        transformers.ErnieConfig(use_task_id=True, **SIZES)), False),
    "distilbert": (distilbert, False),
    "distilbert with sines": (lambda: distilbert(
        sinusoidal_pos_embds=True), False),
    "distilbert with a head": (
        lambda: transformers.DistilBertForSequenceClassification(
            distilbert().config), False),
    "electra": (lambda: electra(embedding_size=16), False),
    "electra with narrow embeddings": (lambda: electra(embedding_size=8),
                                       False),
    "electra discriminator": (lambda: transformers.ElectraForPreTraining(
        electra(embedding_size=8).config), False),
}


def make_directory(folder, model):
  """Gives every weight a value that matters, and saves the model."""
  generator = torch.Generator().manual_seed(3)
  with torch.no_grad():
    for name, parameter in sorted(model.named_parameters()):
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.copy_(0.2 * noise + (
          "norm" in name.lower() and name.endswith("weight")))
  model.save_pretrained(str(folder))
  (folder / "vocab.txt").write_text(
      "[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "".join(
          "word%d\n" % i for i in range(26)))


def expected_states(folder, ids, mask, segments):
  """Hidden states of the embeddings and each layer, by transformers."""
  model = transformers.AutoModel.from_pretrained(str(folder)).eval()
  inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask),
                output_hidden_states=True)
  if model.config.model_type != "distilbert":
    inputs["token_type_ids"] = torch.tensor(segments)
  with torch.no_grad():
    outputs = model(**inputs)
  pooled = getattr(outputs, "pooler_output", None)
  return ([state.numpy() for state in outputs.hidden_states],
          None if pooled is None else pooled.numpy())


def our_states(folder, ids, mask, segments, has_pooler):
  config = modeling.BertConfig.from_json_file(
      os.path.join(folder, "bert_config.json"))
  with tf.Graph().as_default(), tf.Session() as session:
    model = modeling.BertModel(config, False, tf.constant(ids),
                               tf.constant(mask), tf.constant(segments))
    variables = tf.trainable_variables()
    checkpoint_restore.initialize_from_checkpoint(
        variables, os.path.join(folder, "bert_model.ckpt"),
        not_needed=() if has_pooler else ("bert/pooler/",))
    session.run(tf.global_variables_initializer())
    return session.run((
        [model.get_embedding_output()] + model.get_all_encoder_layers(),
        model.get_pooled_output()))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_hidden_states(tmp_path, name):
  make, has_pooler = MODELS[name]
  hf_dir = tmp_path / "hf"
  make_directory(hf_dir, make())
  out = str(tmp_path / "out")
  result = hf_conversion.convert(str(hf_dir), out)
  assert result.has_pooler == has_pooler
  ids = np.array([[2, 7, 9, 11, 3], [2, 29, 3, 0, 0]], np.int64)
  mask = (ids > 0).astype(np.int64)
  segments = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.int64)
  if "distilbert" in name:
    segments *= 0
  states, pooled = expected_states(hf_dir, ids, mask, segments)
  ours, our_pooled = our_states(out, ids, mask, segments, has_pooler)
  if "narrow" in name or "discriminator" in name:
    # transformers' first state is the projected one, as is ours.
    assert ours[0].shape[-1] == 16
  assert len(ours) == len(states) == 4
  for layer, state in enumerate(states):
    # Rows of padding are nobody's.
    difference = np.abs(ours[layer] - state)[mask == 1]
    assert np.abs(state).max() > 0.5
    assert difference.max() <= 1e-5, (layer, difference.max())
  if has_pooler:
    assert np.abs(our_pooled - pooled).max() <= 1e-5


@pytest.mark.parametrize("make", [
    lambda: transformers.AlbertModel(transformers.AlbertConfig(
        embedding_size=8, **SIZES)),
    lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZES)),
    lambda: transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(**SIZES)),
    lambda: transformers.DebertaModel(transformers.DebertaConfig(**SIZES)),
    lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES)),
    lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZES)),
    lambda: transformers.RoFormerModel(transformers.RoFormerConfig(**SIZES)),
    lambda: transformers.ModernBertModel(transformers.ModernBertConfig(
        pad_token_id=0, **SIZES)),
    lambda: transformers.MegatronBertModel(
        transformers.MegatronBertConfig(**SIZES)),
])
def test_other_models_are_refused_by_name(tmp_path, make):
  model = make()
  make_directory(tmp_path / "hf", model)
  with pytest.raises(ValueError) as error:
    hf_conversion.convert(str(tmp_path / "hf"), str(tmp_path / "out"))
  assert "model_type is '%s', which cannot be converted: " % (
      model.config.model_type) in str(error.value)
  assert not (tmp_path / "out").exists()


def test_a_bert_that_decodes_is_refused(tmp_path):
  model = transformers.BertModel(
      transformers.BertConfig(is_decoder=True, **SIZES))
  make_directory(tmp_path / "hf", model)
  with pytest.raises(ValueError, match="is_decoder is True"):
    hf_conversion.convert(str(tmp_path / "hf"), str(tmp_path / "out"))
