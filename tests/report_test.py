# SPDX-License-Identifier: Apache-2.0
"""Tests of reporting.report: the page, its words, its figures, its safety."""

import base64
import hashlib
from html import parser as html_parser
import io
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import LINES
from tiny_run import SETTINGS
from tiny_run import make_run
from tiny_run import write_json
from tiny_run import write_lines

from multilabel.reporting import analysis
from multilabel.reporting import charts
from multilabel.reporting import report


NASTY = ["<script>alert(1)</script>", "\"&'", u"\U0001f642 emoji",
         u"\u4e2d\u6587\u6807\u7b7e", "$math$", "_^{", "two\nlines", "a = b",
         "<img src=x onerror=alert(2)>", u"\u202eevil", "x" * 300]


class _Page(html_parser.HTMLParser):
  """What a page holds: elements with attributes, text, scripts, figures."""

  def __init__(self, text):
    super(_Page, self).__init__(convert_charrefs=True)
    self.elements, self.texts, self.scripts, self.svg_texts = [], [], [], []
    self._open = []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in ("meta", "input", "br"):
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open and self._open[-1] == "script":
      self.scripts.append(data)
    elif "svg" in self._open:
      self.svg_texts.append(data)
    else:
      self.texts.append(data)

  @property
  def text(self):
    return re.sub(r"\s+", " ", " ".join(self.texts))


def read_page(path):
  with io.open(path, encoding="utf-8") as reader:
    return reader.read()


def write_and_parse(folder, **kwargs):
  pytest.importorskip("matplotlib")
  return _Page(read_page(report.write(str(folder), **kwargs)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """(text of the page, `_Page`) of the run as `make_run` makes it."""
  pytest.importorskip("matplotlib")
  folder = make_run(tmp_path_factory.mktemp("plain"))
  text = read_page(report.write(folder))
  return text, _Page(text)


@pytest.fixture
def no_figures(monkeypatch):
  """For tests of words alone: figures take most of the time."""
  monkeypatch.setattr(charts, "draw", lambda *args, **kwargs: "<svg></svg>")


def random_lines(labels, num_texts, seed=0, texts=("some text",)):
  rng = np.random.RandomState(seed)
  lines = []
  for i in range(num_texts):
    true = rng.rand(len(labels)) < 0.2
    scores = np.clip(0.55 * rng.rand(len(labels)) + 0.4 * true, 0, 1)
    lines.append({
        "id": "<b>%d" % i, "text": texts[i % len(texts)],
        "labels": [l for l, p in zip(labels, scores) if p >= 0.5],
        "true_labels": [l for l, t in zip(labels, true) if t],
        "probabilities": {l: round(float(p), 6)
                          for l, p in zip(labels, scores)}})
  return lines


def test_headline_scores_are_those_by_hand(plain):
  page = plain[1]
  assert "On 4 test texts, not seen in training, 75.0% of" in page.text
  assert "finds 75.0% of the true labels" in page.text
  assert "50.0% of the texts get exactly their labels" in page.text
  for card in ("micro-F1 on test 0.750", "macro-F1 on test 0.733"):
    assert card in page.text
  # b's positives are its highest scores; a's stand at ranks 1 and 3.
  assert "mAP on test 0.917" in page.text
  assert "95% bootstrap intervals (1,000 resamples" in page.text
  assert re.search(r"micro-F1 0\.750 \(0\.\d{3}.[01]\.\d{3}\)", page.text)


@pytest.mark.usefixtures("no_figures")
def test_scores_at_half_and_at_the_stored_threshold(tmp_path):
  # At 0.75 only the first two texts get a: tp 1, fp 1, fn 3.
  lines = [dict(line, labels=[name for name, p in
                              line["probabilities"].items() if p >= 0.75])
           for line in LINES]
  page = write_and_parse(make_run(tmp_path, lines, dict(
      SETTINGS, threshold=0.75, threshold_kind="tune")))
  assert "micro-F1 on test 0.333" in page.text
  assert "0.750 at threshold 0.5" in page.text
  assert "test, threshold 0.75" in page.text
  assert "test, threshold 0.5" in page.text
  assert "tuned on dev" in page.text


def test_page_is_one_file_with_a_strict_policy(plain):
  page = plain[1]
  for tag, attributes in page.elements:
    assert tag not in ("link", "img", "iframe", "object", "embed", "base")
    for name, value in attributes.items():
      assert not name.startswith("on")
      if name in ("src", "href", "xlink:href"):
        assert value.startswith("#")
      # A figure refers to itself alone.
      assert "url(" not in (value or "").replace("url(#", "")
  script, = page.scripts
  policy = [a["content"] for tag, a in page.elements
            if a.get("http-equiv") == "Content-Security-Policy"][0]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert policy.startswith("default-src 'none'")
  assert "script-src 'sha256-%s'" % digest in policy


def test_ids_are_unique_and_all_references_have_one(plain):
  page = plain[1]
  ids = [a["id"] for _, a in page.elements if "id" in a]
  assert len(set(ids)) == len(ids)
  for _, attributes in page.elements:
    for value in attributes.values():
      for target in re.findall(r"(?:^|url\()#([\w-]+)", value or ""):
        assert target in ids


def test_labels_and_texts_are_escaped_everywhere(tmp_path):
  texts = ["<script>alert('t')</script>", "a\nb & \"c\"", u"\u4e2d\u6587",
           "nul \x00 \x1b", u"\ud800 lone", "$x^2$", ""]
  path = tmp_path / "test_predictions.jsonl"
  with io.open(str(path), "w", encoding="utf-8") as writer:
    for line in random_lines(NASTY, 60, texts=texts):
      writer.write(json.dumps(line) + u"\n")
  write_json(tmp_path / "model_settings.json", dict(SETTINGS, threshold=[
      0.4] * len(NASTY), threshold_kind="tune_per_label", flags={
          "data_dir": "</pre><b>x</b>"}))
  page = write_and_parse(str(tmp_path), command="run </pre><script>")
  assert len(page.scripts) == 1
  tags = {tag for tag, _ in page.elements}
  assert not tags & {"img", "iframe"}
  for _, attributes in page.elements:
    assert not [name for name in attributes if name.startswith("on")]
  for label in NASTY:
    shown = label.replace(u"\u202e", u"\ufffd")
    assert shown in page.texts
    # Figures hold no word of the user's, so none can be mathtext or unknown
    # to a font.
    assert shown not in "".join(page.svg_texts)
  assert "<script>alert('t')</script>" in page.texts
  assert u"nul \ufffd \ufffd" in page.texts
  assert u"\ufffd lone" in page.texts
  assert "(empty)" in page.texts
  assert "run </pre><script>" in page.texts


def test_figures_take_their_colours_from_the_page(plain):
  text = plain[0]
  figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
  assert len(figures) == 9  # 7 by matplotlib, a small one for each label
  for figure in figures:
    # rc defaults would be written as hexadecimal colours.
    assert not re.search(r"#[0-9a-fA-F]{6}\b", figure)
    assert "var(--c1)" in figure
    assert "aria-label" in figure
  assert "prefers-color-scheme: dark" in text
  assert "@media print" in text


def test_same_files_give_same_bytes_with_any_matplotlibrc(tmp_path):
  matplotlib = pytest.importorskip("matplotlib")
  folder = make_run(tmp_path)
  first = read_page(report.write(folder))
  with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9,
                              "font.size": 33, "axes.grid": False}):
    assert read_page(report.write(folder)) == first


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("names, sentence", [
    (["model_settings.json"], "No model_settings.json"),
    (["test_predictions.jsonl"], "No test_predictions.jsonl"),
    (["eval_predictions.jsonl"], "No eval_predictions.jsonl"),
    (["best_checkpoint.json"], "No best_checkpoint.json"),
    (["events.out.tfevents.1000.host"], "No events.out.tfevents.*"),
    (["train.tf_record.json"], "No *.tf_record.index.npy"),
    (["train.tf_record.index.npy"], "No *.tf_record.index.npy"),
    (["test_predictions.jsonl", "eval_predictions.jsonl"],
     "nothing is shown for dev"),
    (["labels.txt"], "micro-F1 on test 0.750"),
    (["eval_results.txt", "test_eval_results.txt"], "micro-F1 on test 0.750"),
])
def test_a_missing_file_leaves_its_section_out(tmp_path, names, sentence):
  folder = make_run(tmp_path)
  for name in names:
    os.remove(os.path.join(folder, name))
  page = write_and_parse(folder)
  assert sentence in page.text
  sections = [a["id"] for tag, a in page.elements if tag == "section"]
  assert sections == ["summary", "labels", "cut", "curves", "together",
                      "mistakes", "training", "lengths", "settings"]


@pytest.mark.usefixtures("no_figures")
def test_a_label_without_a_mistake_is_no_weak_one(tmp_path):
  folder = make_run(tmp_path)
  assert "Weakest labels: b (F1 0.67" in write_and_parse(folder).text
  right = [dict(line, labels=line["true_labels"]) for line in LINES]
  write_lines(tmp_path / "test_predictions.jsonl", right)
  assert "Weakest" not in write_and_parse(folder).text
  # One label of the two has a mistake, and one text neither has nor gets any.
  right[0] = dict(right[0], labels=["a", "b"])
  right[2] = dict(right[2], labels=[], true_labels=[])
  write_lines(tmp_path / "test_predictions.jsonl", right)
  text = write_and_parse(folder).text
  assert "Weakest labels: b (F1 " in text and "a (F1 1.00" not in text
  for name, score in (("F1 per text, mean (without labels: 0)",
                       (2 / 3 + 1 + 0 + 1) / 4),
                      ("F1 per text with a true or predicted label, mean",
                       (2 / 3 + 1 + 1) / 3)):
    assert "%.3f" % score in text.partition(name)[2][:40], name


@pytest.mark.usefixtures("no_figures")
def test_without_test_labels_dev_is_shown(tmp_path):
  folder = make_run(tmp_path)
  write_lines(tmp_path / "test_predictions.jsonl", [
      {key: value for key, value in line.items() if key != "true_labels"}
      for line in LINES])
  page = write_and_parse(folder)
  assert "On 3 dev texts, " in page.text
  assert "No text in test_predictions.jsonl has true labels" in (
      page.text)


@pytest.mark.usefixtures("no_figures")
def test_texts_without_true_labels_are_counted(tmp_path):
  lines = LINES + [dict(LINES[0], true_labels=None), dict(LINES[1])]
  del lines[-1]["true_labels"]
  page = write_and_parse(make_run(tmp_path, lines))
  assert "On 4 test texts" in page.text
  assert "2 texts of test have no true labels and are not counted" in (
      page.text)


@pytest.mark.parametrize("change", [
    "one text", "one label", "nothing given", "nothing true", "all right"])
def test_degenerate_data_give_a_page(tmp_path, change):
  lines = [dict(line) for line in LINES]
  for line in lines:
    if change == "nothing given":
      line.update(labels=[], probabilities={"a": 0, "b": 0})
    elif change == "nothing true":
      line.update(true_labels=[])
    elif change == "all right":
      line.update(labels=line["true_labels"])
  if change == "one text":
    lines = lines[:1]
  folder = make_run(tmp_path, lines)
  if change == "one label":
    (tmp_path / "labels.txt").write_text(u"a\n", encoding="utf-8")
    for name in ("test", "eval"):
      write_lines(tmp_path / (name + "_predictions.jsonl"), [
          {"id": "1", "text": "t", "labels": ["a"], "true_labels": ["a"],
           "probabilities": {"a": 0.7}}] * 3)
  page = write_and_parse(folder)
  assert "nan" not in page.text.replace("dominant", "")
  if change == "nothing true":
    assert "No test text has the labels a, b" in page.text
  if change == "all right":
    assert page.text.count("There are no wrong decisions.") == 2


def test_five_hundred_labels_stay_readable_and_small(tmp_path, monkeypatch):
  pytest.importorskip("matplotlib")
  monkeypatch.setattr(analysis, "num_resamples", lambda num_cells: 20)
  labels = ["label %03d of many" % i for i in range(500)]
  texts = [u"\u6587" * 200, "word " * 40]
  write_lines(tmp_path / "test_predictions.jsonl",
              random_lines(labels, 300, texts=texts))
  write_json(tmp_path / "model_settings.json", SETTINGS)
  path = report.write(str(tmp_path))
  assert os.path.getsize(path) < 3e6
  text = read_page(path)
  page = _Page(text)
  assert "The 25 best" in page.text and "The 25 worst" in page.text
  assert text.count('<svg class="small"') == 50
  table = text[text.index('id="all-labels"'):text.index('<section id="cut"')]
  assert table.count("<tr data-name=") == 500
  searches = [a["data-rows"] for tag, a in page.elements if tag == "input"]
  assert searches == ["#all-labels tbody tr", "#all-mistakes > details"]
  assert "Showing the 25 most frequent of 500 labels" in page.text


def test_mistakes_are_the_surest_ones(plain):
  page = plain[1]
  mistakes = page.text[page.text.index("Most confident mistakes"):]
  assert ("a 1 false, 0 missed Predicted, but not in the data 0.800 second "
          "data: b model: a b id 2") in mistakes
  assert ("b 0 false, 1 missed In the data, but not predicted 0.400 third "
          "data: b model: none id 3") in mistakes


def test_lengths_and_truncation(plain):
  page = plain[1]
  assert ("Texts of more than 12 tokens are truncated to that length" in
          page.text)
  assert "train 3 7 12 12 1 (33.3%) 0 (0.0%)" in page.text


@pytest.mark.usefixtures("no_figures")
def test_windows_are_counted(tmp_path):
  folder = make_run(tmp_path, settings=dict(
      SETTINGS, long_text="windows", window_pooling="mean"))
  write_json(tmp_path / "train.tf_record.json", {
      "num_examples": 2, "num_records": 3, "num_truncated": 0, "num_empty": 0})
  page = write_and_parse(folder)
  assert "is split into overlapping windows" in page.text
  assert "train 2 3 7 12 12 0 (0.0%) 0 (0.0%)" in page.text


def test_training_section_names_the_best_step(plain):
  page = plain[1]
  assert ("Best on dev by micro_f1: 0.7500 at step 20, model.ckpt-20." in
          page.text)
  assert "micro-F1, sample of train" in page.text
  assert "trained on 9 September 2001" in page.text


@pytest.mark.usefixtures("no_figures")
def test_command_given_or_made_of_the_flags(tmp_path):
  folder = make_run(tmp_path)
  page = write_and_parse(folder, command=["python", "x.py", "--a=b c"])
  assert "python x.py '--a=b c'" in page.text
  page = write_and_parse(folder)
  command = [text for text in page.texts if "run_multilabel" in text][0]
  assert shlex.split(command.replace("\\\n", "")) == [
      "python", "run_multilabel_classifier.py", "--data_dir=my data",
      "--nodo_lower_case", "--do_train", "--learning_rate=0.0003"]
  assert "2.21.0" in page.text


@pytest.mark.usefixtures("no_figures")
def test_long_values_of_settings_are_cut(tmp_path):
  thresholds = [0.123456789] * 2
  page = write_and_parse(make_run(tmp_path, settings=dict(
      SETTINGS, threshold=thresholds, run={"key": "v" * 5000})))
  assert "v" * 200 not in page.text


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  folder = make_run(tmp_path)
  with pytest.raises(report.ReportUnavailable, match="pip install") as error:
    report.write(folder)
  assert isinstance(error.value, ImportError)
  assert "\n" not in str(error.value)
  assert not os.path.exists(os.path.join(folder, "report.html"))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name, content, message", [
    ("test_predictions.jsonl", u"{}\n", "jsonl:1: there is no key"),
    ("test_predictions.jsonl", u"", "the file is empty"),
    ("test_predictions.jsonl", u"[1]\n", "jsonl:1: not a valid prediction"),
    ("test_predictions.jsonl", u"{\n", "jsonl:1: "),
    ("model_settings.json", u"[]", "must hold a JSON object"),
    ("eval_results.txt", u"a = 1\nb\n", "eval_results.txt:2: "),
    ("labels.txt", u"a\na\n", "without duplicates"),
    ("train.tf_record.index.npy", u"x", "index.npy is broken"),
    ("best_checkpoint.json", u"{", "best_checkpoint.json is not JSON"),
])
def test_a_broken_file_is_named(tmp_path, name, content, message):
  pytest.importorskip("matplotlib")
  folder = make_run(tmp_path)
  (tmp_path / name).write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=message) as error:
    report.write(folder)
  assert "\n" not in str(error.value)


def test_thresholds_must_fit_the_labels(tmp_path):
  pytest.importorskip("matplotlib")
  folder = make_run(tmp_path, settings=dict(SETTINGS, threshold=[0.5] * 3))
  with pytest.raises(ValueError, match="for 2 labels"):
    report.write(folder)


@pytest.mark.usefixtures("no_figures")
def test_too_many_cells_go_without_intervals(tmp_path, monkeypatch):
  monkeypatch.setattr(analysis, "num_resamples", lambda num_cells: 0)
  page = write_and_parse(make_run(tmp_path))
  assert "no intervals are computed" in page.text
  assert "micro-F1 on test 0.750" in page.text


def test_script_prints_the_path(tmp_path):
  pytest.importorskip("matplotlib")
  folder = make_run(tmp_path)
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  done = subprocess.run(
      [sys.executable, "-m", "multilabel.reporting.report",
       "--model_dir=" + folder],
      cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
  assert (done.returncode, done.stdout.decode().strip()) == (
      0, os.path.join(folder, "report.html"))
