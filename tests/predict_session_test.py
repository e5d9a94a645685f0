# SPDX-License-Identifier: Apache-2.0
"""Tests of the session predictor as a class; the oracle is BERT in numpy."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model
from tiny_bert import error_of

from multilabel.common import atomic_files
from multilabel.inference import predictor as predictor_of
from multilabel.storage import checkpoint_restore
from multilabel.storage import trained_model
import predict_session


TEXTS = [
    u"the apple", u"a", u"plum , pear and \u732b", u"we see \U0001f680 !",
    u"", u"\u72d7", u"un see one caf", u"the apple " * 9,
]


@pytest.fixture(scope="module")
def predictor(made):
  with predict_session.SessionPredictor(made[0]) as loaded:
    yield loaded


@pytest.fixture
def copy(made, tmp_path):
  """A trained directory to be broken."""
  folder = str(tmp_path / "copy")
  shutil.copytree(made[0], folder)
  return folder


def expected(weights, texts, **options):
  return tiny_model.probabilities(
      weights, [tiny_model.encode(*(text if isinstance(text, tuple) else
                                    (text,))) for text in texts], **options)


def load(folder):
  predict_session.SessionPredictor(folder).close()


# Predictions.


def test_predict_is_bert(made, predictor):
  result = predictor.predict(TEXTS)
  assert result.shape == (8, 3)
  assert result.dtype == np.float32
  np.testing.assert_allclose(result, expected(made[1], TEXTS), atol=1e-5)
  # An oracle that gives all texts the same would prove nothing.
  assert result.std(axis=0).min() > 0.03


@pytest.mark.parametrize("pooling", ["pooler", "cls"])
def test_other_poolings(pooling, tmp_path):
  weights = tiny_model.make(tmp_path / "model", seed=4, pooling=pooling)
  with predict_session.SessionPredictor(str(tmp_path / "model")) as loaded:
    np.testing.assert_allclose(
        loaded.predict(TEXTS), expected(weights, TEXTS, pooling=pooling),
        atol=1e-5)


def test_pairs(made, predictor):
  texts = [(u"the apple", u"a pear"), u"the apple", (u"", u""),
           (u"\u732b", u"see \U0001f680"), [u"one", u"two"]]
  plain = texts[:4] + [(u"one", u"two")]
  np.testing.assert_allclose(
      predictor.predict(texts), expected(made[1], plain), atol=1e-5)


def test_no_texts(predictor):
  result = predictor.predict([])
  assert result.shape == (0, 3)
  assert result.dtype == np.float32
  assert predictor.predict_labels([]) == []


def test_any_iterable(predictor):
  want = predictor.predict(TEXTS)
  np.testing.assert_allclose(predictor.predict(iter(TEXTS)), want, atol=1e-6)
  np.testing.assert_allclose(
      predictor.predict(np.array(TEXTS)), want, atol=1e-6)


def test_unusual_texts(made, predictor):
  texts = [
      u"THE   Apple\t\u00a0",           # case and white space
      u"\u732b\u72d7\u9a6c",            # three words without spaces
      u"caf\u00e9s \ud800 \udfff",      # an accent; lone surrogates
      u"w" * 10000,                     # one word
      u"apple " * 10000,
      u"\U0001f469\u200d\U0001f680",    # joined emoji
      u"\0\x07\ufffd",                  # nothing is left
      u"a\nb\r\nc",
  ]
  same = [
      u"the apple", u"\u732b \u72d7 \u9a6c", u"caf ##e ##s x x", u"x",
      u"apple " * 10000, u"x", u"", u"a x x"]
  np.testing.assert_allclose(
      predictor.predict(texts), expected(made[1], same), atol=1e-5)


def test_long_text_and_pair_are_cut(made, predictor):
  np.testing.assert_allclose(
      predictor.predict([u"the apple " * 40, (u"see " * 50, u"one " * 9)]),
      expected(made[1], [u"the apple " * 15, (u"see " * 20, u"one " * 9)]),
      atol=1e-5)


def test_order_and_batch_size_do_not_matter(made):
  texts = [row["text"] for row in tiny_bert.make_rows(100, 5)]
  order = list(range(100))
  random.Random(6).shuffle(order)
  with predict_session.SessionPredictor(made[0], batch_size=1) as single:
    want = single.predict(texts)
  for batch_size in (3, 32, 1000):
    with predict_session.SessionPredictor(made[0], batch_size) as loaded:
      np.testing.assert_allclose(loaded.predict(texts), want, atol=1e-5)
      np.testing.assert_allclose(
          loaded.predict([texts[i] for i in order]), want[order], atol=1e-5)


def test_windows_keep_the_order(predictor, monkeypatch):
  want = predictor.predict(TEXTS)
  monkeypatch.setattr(predictor_of, "ROWS_HELD", 3)
  np.testing.assert_allclose(predictor.predict(TEXTS), want, atol=1e-6)


def test_equal_to_do_predict(learned, data):
  output_dir = learned.output_dir
  with open(os.path.join(output_dir, "test_results.tsv")) as lines:
    table = np.array([[float(x) for x in line.split("\t")] for line in lines])
  texts = [json.loads(line)["text"] for line in tiny_bert.read_text(
      os.path.join(data, "test.jsonl")).splitlines()]
  with predict_session.SessionPredictor(output_dir) as loaded:
    assert loaded.labels == list(tiny_bert.LABELS)
    np.testing.assert_allclose(loaded.predict(texts), table, atol=1e-5)
  # Far more than the tolerance, or equality would prove little.
  assert table.std(axis=0).min() > 0.01


# Labels.


def test_predict_labels(made, predictor):
  probabilities = expected(made[1], TEXTS)
  for result, row in zip(predictor.predict_labels(TEXTS), probabilities):
    want = sorted(((p, label) for p, label in zip(row, tiny_bert.LABELS)
                   if p >= 0.5), reverse=True)
    assert [label for label, _ in result] == [label for _, label in want]
    np.testing.assert_allclose([p for _, p in result], [p for p, _ in want],
                               atol=1e-5)
  assert [len(row) for row in predictor.predict_labels(TEXTS, 0)] == [3] * 8
  assert predictor.predict_labels(TEXTS, 1) == [[]] * 8


def test_describe(predictor):
  rows = np.array([[0.5, 0.7, 0.2], [0.1, 0.2, 0.3], [0.9, 0.9, 0.95]],
                  np.float32)
  party, fruit, animals = tiny_bert.LABELS

  def names(threshold=None):
    return [[label for label, _ in row.labels]
            for row in predictor.describe(rows, threshold)]

  # A probability equal to the threshold passes; equal ones keep their order.
  assert names() == [[fruit, party], [], [animals, party, fruit]]
  assert names(0.7) == [[fruit], [], [animals, party, fruit]]
  assert names([0.6, 0.8, 0.1]) == [
      [animals], [animals], [animals, party, fruit]]
  first = predictor.describe(rows)[0]
  assert list(first.probabilities) == [party, fruit, animals]
  assert first.probabilities[fruit] == pytest.approx(0.7)
  assert type(first.labels[0][1]) is float  # JSON takes no numpy number
  assert "2,)" in error_of(predictor.describe, rows, [0.1, 0.2])
  assert "1.5" in error_of(predictor.describe, rows, 1.5)


def test_threshold_of_the_directory(tmp_path):
  tiny_model.make(tmp_path / "model", threshold=0.0)
  with predict_session.SessionPredictor(str(tmp_path / "model")) as loaded:
    assert loaded.threshold == 0.0
    assert len(loaded.predict_labels([u"the apple"])[0]) == 3


# Life of a predictor.


def test_two_predictors(made, predictor, tmp_path):
  weights = tiny_model.make(tmp_path / "model", labels=["x", "y"], seed=9)
  with predict_session.SessionPredictor(str(tmp_path / "model")) as other:
    for _ in range(2):
      np.testing.assert_allclose(
          other.predict(TEXTS), expected(weights, TEXTS), atol=1e-5)
      np.testing.assert_allclose(
          predictor.predict(TEXTS), expected(made[1], TEXTS), atol=1e-5)
  assert predictor.predict(TEXTS).shape == (8, 3)


def test_threads(predictor):
  texts = [[row["text"] for row in tiny_bert.make_rows(40, 100 + i)]
           for i in range(8)]
  want = [predictor.predict(part) for part in texts]
  differences, start = [], threading.Barrier(8)

  def work(number):
    start.wait()
    for _ in range(5):
      differences.append(np.abs(
          predictor.predict(texts[number]) - want[number]).max())

  threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(differences) == 40
  assert max(differences) < 1e-5


def test_close(made):
  loaded = predict_session.SessionPredictor(made[0])
  loaded.close()
  loaded.close()
  for texts in ([u"the apple"], []):
    assert "closed" in error_of(loaded.predict, texts)
  with predict_session.SessionPredictor(made[0]) as loaded:
    assert loaded.predict([u"the apple"]).shape == (1, 3)
  assert "closed" in error_of(loaded.predict_labels, [u"the apple"])


def test_close_while_threads_predict(made):
  """Each call ends with an answer, or with the sentence."""
  loaded = predict_session.SessionPredictor(made[0], batch_size=1)
  outcomes, running = [], threading.Semaphore(0)

  def work():
    try:
      while True:
        loaded.predict([u"the apple", u"a"])
        running.release()
    except Exception as error:  # pylint: disable=broad-except
      outcomes.append(error)

  threads = [threading.Thread(target=work) for _ in range(4)]
  for thread in threads:
    thread.start()
  for _ in range(20):
    running.acquire()
  loaded.close()
  for thread in threads:
    thread.join(30)
  assert [str(error) for error in outcomes] == [
      "this predictor is closed."] * 4
  assert {type(error) for error in outcomes} == {ValueError}


def test_nothing_of_the_program_changes(made):
  eager = tf.executing_eagerly()
  graph = tf.get_default_graph()
  with predict_session.SessionPredictor(made[0]) as loaded:
    loaded.predict(TEXTS)
    assert tf.executing_eagerly() == eager
    assert tf.get_default_graph() is graph
  assert not graph.get_operations()


PROGRAM = u"""
import sys
import tensorflow as tf
v1 = tf.compat.v1
mode, folder = sys.argv[1:]
if mode == "v1":
  v1.disable_v2_behavior()
elif mode == "eager":
  v1.enable_eager_execution()
import predict_session
absent = [name for name in sys.modules
          if name.startswith(("multilabel.training", "optimization"))]
predictor = predict_session.SessionPredictor(folder)
rows = predictor.predict([u"the apple", u"a"])
if mode == "eager":
  assert tf.executing_eagerly()
  assert (tf.constant(1) + 1).numpy() == 2
  w = tf.Variable(3.0)
  with tf.GradientTape() as tape:
    y = w * w
  assert tape.gradient(y, w).numpy() == 6.0
  assert tf.function(lambda x: x + 1)(tf.constant(1)).numpy() == 2
else:
  assert not tf.executing_eagerly()
  with v1.Session() as session:
    assert session.run(v1.constant(1) + 1) == 2
rows = predictor.predict([u"the apple", u"a"])
print(absent, rows.tolist())
"""


@pytest.mark.parametrize("mode", ["eager", "v1"])
def test_inside_a_program(mode, made):
  """In an eager program, and in one without TF 2; training is not imported."""
  environment = dict(os.environ, PYTHONPATH=tiny_bert.ROOT)
  output = subprocess.check_output(
      [sys.executable, "-W", "ignore", "-c", PROGRAM, mode, made[0]],
      env=environment, timeout=300)
  absent, _, rows = output.decode("utf-8").strip().partition(" ")
  assert absent == "[]"
  np.testing.assert_allclose(
      json.loads(rows), expected(made[1], [u"the apple", u"a"]), atol=1e-5)


def test_variables_are_the_model_alone(predictor):
  with predictor._engine.model.graph.as_default():
    names = {variable.op.name for variable in tf.global_variables()}
  shapes = tiny_bert.variable_shapes(len(tiny_bert.vocabulary()))
  assert names == {name for name, _ in shapes if name.startswith("bert/")} | {
      "output_weights", "output_bias"}
  assert predictor.checkpoint.endswith("model.ckpt-7")


def test_newest_checkpoint(made, copy):
  weights = tiny_model.random_weights(3, seed=77)
  tiny_model.write_checkpoint(copy, weights, step=11)
  with predict_session.SessionPredictor(copy) as loaded:
    assert loaded.checkpoint.endswith("model.ckpt-11")
    np.testing.assert_allclose(
        loaded.predict(TEXTS), expected(weights, TEXTS), atol=1e-5)


def test_directory_can_be_moved(made, copy):
  """The checkpoint is the directory's own, not one at the old place."""
  with predict_session.SessionPredictor(copy) as loaded:
    assert os.path.dirname(loaded.checkpoint) == copy


# What is refused.


class Table(object):
  """What a data frame shows of itself."""

  def __init__(self, columns):
    self.columns = columns

  def __iter__(self):
    return iter(self.columns)


class Column(object):
  """As Column of pyarrow, whose elements are no str."""

  def __init__(self, texts):
    self._texts = texts

  def __iter__(self):
    return iter([object()])

  def to_pylist(self):
    return list(self._texts)


def test_what_holds_texts(predictor):
  expected = predictor.predict([u"a", u"the apple"])
  for texts in ((u"a", u"the apple"), iter([u"a", u"the apple"]),
                np.array([u"a", u"the apple"]), Column([u"a", u"the apple"]),
                np.array([u"a", u"the apple"], object)):
    np.testing.assert_array_equal(predictor.predict(texts), expected)


def test_columns_of_pandas(predictor):
  pandas = pytest.importorskip("pandas")
  frame = pandas.DataFrame({"text": [u"a", u"the apple"]}, index=[7, 3])
  np.testing.assert_array_equal(predictor.predict(frame["text"]),
                                predictor.predict([u"a", u"the apple"]))
  for table in (frame, frame[["text"]]):
    assert "not a whole DataFrame" in error_of(predictor.predict, table)
  frame.loc[3, "text"] = None
  assert "text 1 is" in error_of(predictor.predict, frame["text"])


@pytest.mark.parametrize("texts, message", [
    (u"one text", "predict takes a list of texts, not one text."),
    (b"one text", "predict takes a list of texts, not one text."),
    ([u"a", 5], "text 1 is int"),
    ([None], "text 0 is NoneType"),
    ([b"a"], "text 0 is bytes"),
    ([(u"a", 5)], "text 0 is tuple"),
    ([(u"a", u"b", u"c")], "text 0 is tuple"),
    ([(u"a",)], "text 0 is tuple"),
    (None, "predict takes a list of texts"),
    (5, "predict takes a list of texts"),
    ({u"text": u"a"}, "predict takes a list of texts, not a dict."),
    ({u"a", u"b"}, "predict takes a list of texts, not a set."),
    (Table({"text": [u"a"]}), 'such as table["text"], not a whole Table.'),
])
def test_no_texts_at_all(texts, message, predictor):
  assert message in error_of(predictor.predict, texts)


def test_number_of_a_bad_text_in_a_later_window(predictor, monkeypatch):
  monkeypatch.setattr(predictor_of, "ROWS_HELD", 2)
  assert "text 4 is float" in error_of(
      predictor.predict, [u"a", u"b", u"c", u"d", 1.5])


def test_batch_size(made):
  assert "batch_size is 0" in error_of(
      predict_session.SessionPredictor, made[0], 0)


def test_no_directory(tmp_path):
  assert "nowhere is not a directory" in error_of(
      load, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", [
    "bert_config.json", "vocab.txt", "labels.txt", "model_settings.json"])
def test_missing_file(name, copy):
  os.remove(os.path.join(copy, name))
  message = error_of(load, copy)
  assert copy in message
  assert "has no %s" % name in message


@pytest.mark.parametrize("name", [
    "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"])
def test_checkpoint_that_is_not_whole(name, copy):
  os.remove(os.path.join(copy, name))
  message = error_of(load, copy)
  assert "model.ckpt-7" in message
  assert "missing" in message
  os.remove(os.path.join(copy, "checkpoint"))
  assert "%s has no checkpoint" % copy in error_of(load, copy)


def test_broken_files_of_a_checkpoint(copy):
  path = os.path.join(copy, "model.ckpt-7.data-00000-of-00001")
  with open(path, "rb") as reader:
    data = reader.read()
  # Each variable is protected by a checksum; slots are not even read.
  for broken in (data[:len(data) // 2], b"", data[::-1]):
    with open(path, "wb") as writer:
      writer.write(broken)
    assert "model.ckpt-7 cannot be restored" in error_of(load, copy)
  with open(os.path.join(copy, "model.ckpt-7.index"), "wb") as writer:
    writer.write(b"no index")
  assert "model.ckpt-7" in error_of(load, copy)


def test_never_random_weights(copy, made):
  """A checkpoint that lacks any one variable is refused by its name."""
  names = [name for name in made[1] if "adam" not in name]
  assert len(names) == 5 + 2 * 16 + 2 + 2
  with predict_session.SessionPredictor(copy) as loaded:
    with loaded._engine.model.graph.as_default():
      variables = tf.global_variables()
  assert sorted(variable.op.name for variable in variables) == sorted(names)
  for name in names:
    tiny_model.write_checkpoint(
        copy, {other: made[1][other] for other in names if other != name})
    assert "lacks %s, shape [" % name in error_of(
        checkpoint_restore.check_checkpoint, os.path.join(copy, "model.ckpt-7"),
        variables)
  # The last one is refused on loading, too.
  assert "lacks %s, shape [" % name in error_of(load, copy)


@pytest.mark.parametrize("name, shape, asked", [
    ("output_weights", [2, 16], [3, 16]),
    ("output_bias", [4], [3]),
    ("bert/embeddings/word_embeddings", [20, 16], [32, 16]),
    ("bert/pooler/dense/kernel", [16, 8], [16, 16]),
    ("bert/encoder/layer_1/intermediate/dense/bias", [32, 1], [32]),
])
def test_checkpoint_of_another_shape(name, shape, asked, copy, made):
  tiny_model.write_checkpoint(
      copy, dict(made[1], **{name: np.zeros(shape, np.float32)}))
  message = error_of(load, copy)
  for part in (name, str(shape), str(asked)):
    assert part in message


def test_checkpoint_of_another_type(copy, made):
  tiny_model.write_checkpoint(
      copy, dict(made[1], output_bias=np.zeros([3], np.int32)))
  assert "cannot be restored" in error_of(load, copy)


def test_config_of_another_size(copy):
  path = os.path.join(copy, "bert_config.json")
  config = json.loads(tiny_bert.read_text(path))
  config["num_hidden_layers"] = 3
  tiny_bert.write_text(path, json.dumps(config))
  settings_path = os.path.join(copy, "model_settings.json")
  settings = json.loads(tiny_bert.read_text(settings_path))
  settings["bert_config_sha256"] = atomic_files.file_sha256(path)
  trained_model.write_settings(copy, settings)
  assert "lacks bert/encoder/layer_2/" in error_of(load, copy)


@pytest.mark.parametrize("change, parts", [
    (lambda text: text + u"one more\n", ["labels.txt", "4", "3"]),
    (lambda text: text.partition(u"\n")[2], ["labels.txt", "2", "3"]),
    (lambda text: u"fruit\nfruit\nparty time\n",
     ["labels.txt", "no duplicates"]),
    (lambda text: u"fruit\n\nparty time\n", ["labels.txt", "empty"]),
    (lambda text: u"", ["labels.txt"]),
])
def test_labels_that_do_not_fit(change, parts, copy):
  path = os.path.join(copy, "labels.txt")
  tiny_bert.write_text(path, change(tiny_bert.read_text(path)))
  message = error_of(load, copy)
  for part in parts:
    assert part in message


def test_vocabulary_that_changed(copy):
  path = os.path.join(copy, "vocab.txt")
  tiny_bert.write_text(
      path, tiny_bert.read_text(path).replace(u"apple", u"grape"))
  message = error_of(load, copy)
  assert path in message
  assert "not the file used in training" in message


@pytest.mark.parametrize("text, part", [
    (u"{", "is not JSON"),
    (u"[]", "must hold a JSON object"),
    (u"\ufeff{}", "is not JSON"),
    (u"{}", "is null; it is missing"),
])
def test_settings_that_are_none(text, part, copy):
  path = os.path.join(copy, "model_settings.json")
  tiny_bert.write_text(path, text)
  message = error_of(load, copy)
  assert path in message
  assert part in message


@pytest.mark.parametrize("key, value", [
    ("do_lower_case", "yes"), ("do_lower_case", 1), ("max_seq_length", "32"),
    ("max_seq_length", 2.5), ("pooling", 3), ("pooling", "max"),
    ("loss", None), ("threshold", "0.5"), ("threshold", None),
    ("num_labels", "3"), ("num_labels", 4), ("vocab_sha256", 7),
    ("format_version", 999)])
def test_settings_of_the_wrong_kind(key, value, copy):
  path = os.path.join(copy, "model_settings.json")
  settings = json.loads(tiny_bert.read_text(path))
  settings[key] = value
  trained_model.write_settings(copy, settings)
  words = {"format_version": "format 999", "num_labels": "3"}
  assert words.get(key, key) in error_of(load, copy)
