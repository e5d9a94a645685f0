# SPDX-License-Identifier: Apache-2.0
"""Trained directories in Hugging Face's form: our probabilities by their code.

What needs torch, transformers or sentence-transformers is skipped without them.
"""

import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model

import convert_checkpoint
import modeling
from multilabel import head
from multilabel.export import hugging_face
from multilabel.export import model_card
from multilabel.storage import safetensors_reader
from multilabel.storage import safetensors_writer
from multilabel.storage import trained_model
import predict_session


TEXTS = [u"the apple is a caf\xe9, unable!", u"\u732b\u72d7 \U0001f600 plum",
         u"", u"The HORSE and the pear" + u" apple cat" * 40]
# Names that JSON, YAML, Markdown and HTML each might take for their own.
LABELS = ("a | b", u"\u52a8\u7269 *x*: <i>", "no")


def make(folder, **settings):
  tiny_model.make(folder, labels=LABELS, **settings)
  return str(folder)


def our_probabilities(folder):
  with predict_session.SessionPredictor(folder) as predictor:
    return predictor.predict(TEXTS)


def test_files_of_the_classification_form(tmp_path):
  folder = make(tmp_path / "trained", pooling="pooler", do_lower_case=True)
  out = tmp_path / "new" / "out"
  result = hugging_face.export(folder, str(out))
  assert sorted(os.listdir(str(out))) == [
      "README.md", "config.json", "model.safetensors", "tokenizer_config.json",
      "vocab.txt"]
  assert os.listdir(str(tmp_path / "new")) == ["out"]
  config = json.loads((out / "config.json").read_text(encoding="utf-8"))
  assert config["problem_type"] == "multi_label_classification"
  assert config["id2label"] == {str(i): l for i, l in enumerate(LABELS)}
  assert config["label2id"] == {l: i for i, l in enumerate(LABELS)}
  assert config["hidden_act"] == "gelu_new"  # the tanh form
  tokenizer = json.loads((out / "tokenizer_config.json").read_text())
  assert tokenizer["do_lower_case"] is True
  assert tokenizer["model_max_length"] == 32
  weights = safetensors_reader.open_directory(str(out))
  trained = tiny_bert.read_weights(result.checkpoint)
  np.testing.assert_array_equal(
      weights["classifier.weight"].read("classifier.weight"),
      trained["output_weights"])
  name = "bert.encoder.layer.1.output.dense.weight"
  np.testing.assert_array_equal(
      weights[name].read(name),
      trained["bert/encoder/layer_1/output/dense/kernel"].T)
  assert result.num_tensors == len(weights) == 39 + 2


@pytest.mark.parametrize("pooling, form, words", [
    ("mean", "classification", "use --hf_form=sentence_transformers"),
    ("cls", "classification", "use --hf_form=sentence_transformers"),
    ("pooler", "sentence_transformers", "use --hf_form=classification")])
def test_what_a_form_cannot_express(tmp_path, pooling, form, words):
  folder = make(tmp_path / "trained", pooling=pooling)
  with pytest.raises(ValueError) as error:
    hugging_face.export(folder, str(tmp_path / "out"), form)
  assert words in str(error.value) and "--pooling=" + pooling in str(
      error.value)
  assert not (tmp_path / "out").exists()


def test_places_that_are_not_written_to(tmp_path):
  folder = make(tmp_path / "trained", pooling="pooler")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").write_text("x")
  with pytest.raises(ValueError, match="is not empty .it holds thesis.txt"):
    hugging_face.export(folder, str(tmp_path / "full"))
  with pytest.raises(ValueError, match="is not a folder"):
    hugging_face.export(folder, str(tmp_path / "full" / "thesis.txt"))
  with pytest.raises(ValueError, match="is not empty"):
    hugging_face.export(folder, folder)
  (tmp_path / "empty").mkdir()
  hugging_face.export(folder, str(tmp_path / "empty"))
  assert len(os.listdir(str(tmp_path / "empty"))) == 5


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
  folder = make(tmp_path / "trained", pooling="pooler")

  def full(path, tensors):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(safetensors_writer, "write", full)
  before = sorted(os.listdir(str(tmp_path)))
  with pytest.raises(RuntimeError, match="cannot be written: No space left"):
    hugging_face.export(folder, str(tmp_path / "out"))
  assert sorted(os.listdir(str(tmp_path))) == before


def test_a_card(tmp_path):
  folder = make(tmp_path / "trained", pooling="pooler",
                threshold=[0.25, 0.5, 0.125], threshold_kind="tune_per_label",
                run={"learning_rate": 0.0003, "random_seed": 7})
  with open(os.path.join(folder, "test_eval_results.txt"), "w",
            encoding="utf-8") as writer:
    writer.write("micro_f1 = 0.75\nmicro_f1_low = 0.7\nmicro_f1_high = 0.8125\n"
                 "macro_f1 = 0.5\nnum_examples = 1234\nf1/%s = 0.625\n" %
                 LABELS[1])
  tiny_bert.write_text(os.path.join(folder, "train.tf_record.json"),
                       u'{"num_examples": 4000}')
  card = model_card.make(trained_model.read(folder))
  for line in (
      u"# trained",
      u"| label | threshold | F1 on test |",
      u"| a \\| b | 0.25 |  |",
      u"| \u52a8\u7269 \\*x\\*: &lt;i\\> | 0.5 | 0.625 |",
      u"| no | 0.125 |  |",
      u"| score | test |",
      u"| micro-F1 | 0.750 (0.700 to 0.812) |",
      u"| macro-F1 | 0.500 |",
      u"- train: 4,000 texts", u"- test: 1,234 texts",
      u"| learning\\_rate | 0.0003 |", u"| random\\_seed | 7 |"):
    assert line in card.splitlines(), line
  assert "tuned on dev, separately for each label" in card
  assert "The model reads 32 tokens. Longer texts are truncated" in card


def test_a_card_is_written_until_somebody_takes_it_over(tmp_path):
  folder = make(tmp_path / "trained")
  trained = trained_model.read(folder)
  path = tmp_path / "trained" / "model_card.md"
  assert model_card.write(trained) == str(path)
  first = path.read_text(encoding="utf-8")
  assert first.startswith(model_card.make(trained))
  tiny_bert.write_text(os.path.join(folder, "eval_results.txt"),
                       u"micro_f1 = 0.5\n")
  assert model_card.write(trained) == str(path)
  assert "| micro-F1 | 0.500 |" in path.read_text(encoding="utf-8")
  mine = first.replace("<!-- Written by", "My notes.")
  path.write_text(mine, encoding="utf-8")
  assert model_card.write(trained) is None
  assert path.read_text(encoding="utf-8") == mine


def test_a_card_of_a_model_that_was_not_evaluated(tmp_path):
  card = model_card.make(trained_model.read(make(
      tmp_path / "trained", long_text="windows", stride=8)))
  assert "The model was not evaluated." in card
  assert "read in windows" in card
  assert "## Data" not in card


def test_script(tmp_path):
  folder = make(tmp_path / "trained", pooling="pooler")
  status, stdout, stderr = tiny_bert.call(convert_checkpoint, [
      "--model_dir=" + folder, "--hf_dir=" + str(tmp_path / "out")])[:3]
  assert (status, stderr) == (0, "")
  assert "Wrote 41 tensors" in stdout and "from model.ckpt-7" in stdout
  card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
  assert card.startswith("---\nlibrary_name: transformers\n")
  assert card.index("## Use") < card.index("## Labels")


# By their code.


@pytest.mark.slow
@pytest.mark.parametrize("do_lower_case", [True, False])
def test_transformers_gives_our_probabilities(tmp_path, do_lower_case):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  folder = make(tmp_path / "trained", pooling="pooler",
                do_lower_case=do_lower_case)
  out = str(tmp_path / "out")
  hugging_face.export(folder, out)
  expected = our_probabilities(folder)
  assert np.ptp(expected, axis=0).max() > 0.01  # texts differ
  model, notes = (
      transformers.AutoModelForSequenceClassification.from_pretrained(
          out, output_loading_info=True))
  assert not notes["missing_keys"] and not notes["unexpected_keys"]
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  with torch.no_grad():
    logits = model(**tokenizer(TEXTS, padding=True, truncation=True,
                               return_tensors="pt")).logits
  assert np.abs(torch.sigmoid(logits).numpy() - expected).max() <= 1e-5
  classify = transformers.pipeline(
      "text-classification", model=out, top_k=None)
  for row, scores in zip(expected, classify(TEXTS, truncation=True)):
    by_label = {score["label"]: score["score"] for score in scores}
    assert set(by_label) == set(LABELS)
    assert max(abs(by_label[label] - p)
               for label, p in zip(LABELS, row)) <= 1e-5


def make_other(folder, changes, **settings):
  """A trained directory of another configuration, with random weights."""
  make(folder, **settings)
  config = modeling.BertConfig.from_dict(dict(
      tiny_bert.CONFIG, vocab_size=len(tiny_bert.vocabulary()), **changes))
  os.remove(os.path.join(str(folder), "bert_config.json"))
  trained_model.write(
      str(folder), config, os.path.join(str(folder), "vocab.txt"),
      list(LABELS), dict(tiny_model.SETTINGS, **settings))
  random = np.random.RandomState(5)
  with tf.Graph().as_default():
    head.create_inference_graph(config, len(LABELS), settings["pooling"])
    weights = {
        var.op.name: np.float32(random.normal(
            1.0 if var.op.name.endswith("gamma") else 0.0, 0.3,
            var.shape.as_list())) for var in tf.trainable_variables()}
  tiny_model.write_checkpoint(str(folder), weights)
  return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"gelu_approximate": False}, {"layer_norm_eps": 1e-3},
    {"hidden_act": "relu"}, {"hidden_act": "linear"}])
def test_transformers_and_other_configurations(tmp_path, changes):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  folder = make_other(tmp_path / "trained", changes, pooling="pooler")
  out = str(tmp_path / "out")
  hugging_face.export(folder, out)
  classify = transformers.pipeline(
      "text-classification", model=out, top_k=None)
  for row, scores in zip(our_probabilities(folder),
                         classify(TEXTS, truncation=True)):
    by_label = {score["label"]: score["score"] for score in scores}
    assert max(abs(by_label[label] - p)
               for label, p in zip(LABELS, row)) <= 1e-5


@pytest.mark.slow
def test_sentence_transformers_and_narrow_embeddings(tmp_path):
  sentence_transformers = pytest.importorskip("sentence_transformers")
  folder = make_other(
      tmp_path / "trained", {"embedding_size": 8, "model_type": "electra"},
      pooling="mean")
  out = str(tmp_path / "out")
  hugging_face.export(folder, out, "sentence_transformers")
  probabilities = sentence_transformers.SentenceTransformer(out).encode(TEXTS)
  expected = our_probabilities(folder)
  assert np.ptp(expected, axis=0).max() > 0.01
  assert np.abs(probabilities - expected).max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_gives_our_probabilities(tmp_path, pooling):
  sentence_transformers = pytest.importorskip("sentence_transformers")
  folder = make(tmp_path / "trained", pooling=pooling)
  out = str(tmp_path / "out")
  hugging_face.export(folder, out, "sentence_transformers")
  model = sentence_transformers.SentenceTransformer(out)
  probabilities = model.encode(TEXTS)
  expected = our_probabilities(folder)
  assert probabilities.shape == expected.shape
  assert np.abs(probabilities - expected).max() <= 1e-5
