# SPDX-License-Identifier: Apache-2.0
"""What /openapi.json says: the paths, the forms and the limits, OpenAPI 3.1."""

from multilabel import decisions
from multilabel.serving import http_requests


_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}

# Status: what it is for, of those that any path can answer.
_ERRORS = {
    "400": "The request is wrong; `error` says where.",
    "401": "An API key is needed.",
    "404": "There is no such model or version.",
    "408": "The body did not come in time.",
    "413": "The body is too long.",
    "415": "The body is of another type or encoding.",
    "503": "Too much to do at the moment; see Retry-After.",
    "504": "The answer was not ready in time.",
}


def describe(name, version, labels, limits, needs_key):
  """Returns the description.

  Args:
    name: str, the model's.
    version: str.
    labels: list of str.
    limits: `http_requests.Limits`.
    needs_key: bool.

  Returns:
    dict.
  """
  paths = {
      "/": {"get": _operation("A page to try the model.",
                              {"text/html": {}})},
      "/healthz": {"get": _plain("Whether the process lives.")},
      "/readyz": {"get": _plain("Whether it takes requests.", ["503"])},
      "/metrics": {"get": _operation("Counts, for Prometheus.",
                                     {"text/plain": {}})},
      "/openapi.json": {"get": _plain("This description.")},
      "/v1/label": {"post": _post(
          "Labels of texts.", _label_request(limits), _label_answer(labels))},
      "/v1/explain": {"post": _post(
          "How much each word of a text speaks for a label.",
          _explain_request(labels, limits), _explain_answer(labels))},
  }
  for start in ("/v1/models/" + name,
                "/v1/models/%s/versions/%s" % (name, version)):
    paths[start] = {"get": _plain("The model's state, as TensorFlow Serving.",
                                  ["404"])}
    paths[start + "/metadata"] = {"get": _plain(
        "The model's signatures, as TensorFlow Serving.", ["404"])}
    paths[start + ":predict"] = {"post": _post(
        "Probabilities, as TensorFlow Serving.", _predict_request(limits),
        {"type": "object"})}
    paths[start + ":classify"] = {"post": _post(
        "Labels and scores, as TensorFlow Serving.",
        _classify_request(limits), _classify_answer(labels))}
  described = {
      "openapi": "3.1.0",
      "info": {"title": "Multi-label classification: " + name,
               "version": version},
      "paths": paths,
      "components": {"schemas": {"Error": _object({
          "error": {"type": "string"}}, ["error"])}},
  }
  if needs_key:
    described["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    described["security"] = [{"bearer": []}, {"header": []}]
    for path in ("/", "/healthz", "/readyz"):
      paths[path]["get"]["security"] = []
  return described


def _plain(summary, errors=()):
  return _operation(summary, {"application/json": {
      "schema": {"type": "object"}}}, errors)


def _operation(summary, content, errors=()):
  responses = {"200": {"description": "The answer.", "content": content}}
  for status in list(errors) + ["401"]:
    responses[status] = {
        "description": _ERRORS[status],
        "content": {"application/json": {
            "schema": {"$ref": "#/components/schemas/Error"}}}}
  return {"summary": summary, "responses": responses}


def _post(summary, request, answer):
  operation = _operation(summary, {"application/json": {"schema": answer}},
                         sorted(_ERRORS))
  operation["requestBody"] = {
      "required": True, "content": {"application/json": {"schema": request}}}
  return operation


def _object(properties, required=()):
  return {"type": "object", "properties": properties,
          "required": list(required), "additionalProperties": False}


def _list(items, most=None):
  found = {"type": "array", "items": items, "minItems": 1}
  if most is not None:
    found["maxItems"] = most
  return found


def _text(limits):
  return {"type": "string", "maxLength": limits.max_characters}


def _label_request(limits):
  text = _text(limits)
  pair = dict(_list(text, 2), minItems=2)
  return _object({
      "texts": _list({"anyOf": [text, pair]}, limits.max_texts),
      "threshold": {"anyOf": [_PROBABILITY, {"type": "null"}]},
      "top_k": {"anyOf": [{"type": "integer", "minimum": 1,
                           "maximum": (1 << 31) - 1}, {"type": "null"}]},
      "always_one_label": {"type": ["boolean", "null"]},
      "probabilities": {"anyOf": [
          {"enum": [decisions.ALL, decisions.LABELS,
                    None]},
          {"type": "integer", "minimum": 1, "maximum": (1 << 31) - 1}]},
  }, ["texts"])


def _label_answer(labels):
  return _object({
      "model": {"type": "string"},
      "version": {"type": "string"},
      "thresholds": _by_label(labels),
      "results": _list(_object({
          "labels": {"type": "array", "items": _label_name(labels)},
          "probabilities": _by_label(labels),
      }, ["labels", "probabilities"])),
  }, ["model", "version", "thresholds", "results"])


def _by_label(labels):
  """A number a label, of all of them or of those that were asked for."""
  if len(labels) > decisions.MAX_ANSWERED:
    return {"type": "object", "additionalProperties": _PROBABILITY}
  return _object({label: _PROBABILITY for label in labels})


def _label_name(labels):
  """One of the labels; of very many the description names none."""
  if len(labels) > decisions.MAX_ANSWERED:
    return {"type": "string"}
  return {"enum": labels}


def _explain_request(labels, limits):
  return _object({"text": _text(limits),
                  "label": {"anyOf": [_label_name(labels), {"type": "null"}]}},
                 ["text"])


def _explain_answer(labels):
  position = {"type": "integer", "minimum": 0}
  return _object({
      "label": _label_name(labels),
      "probability": _PROBABILITY,
      "words": {"type": "array", "items": _object({
          "start": position, "end": position,
          "weight": {"type": "number"},
      }, ["start", "end", "weight"])},
  }, ["label", "probability", "words"])


def _ids(size, limits):
  return _list({"type": "integer", "minimum": 0, "maximum": size - 1},
               limits.max_position_embeddings)


def _features(limits, required=http_requests.FEATURES):
  return _object({
      "input_ids": _ids(limits.vocab_size, limits),
      "input_mask": _ids(2, limits),
      "segment_ids": _ids(limits.type_vocab_size, limits)}, required)


def _predict_request(limits):
  """The four signatures, each in row and in columnar form."""
  ids = _ids(limits.vocab_size, limits)
  features = _features(limits)
  text = {"anyOf": [_text(limits), _object({"b64": {"type": "string"}},
                                           ["b64"])]}
  forms = []
  for signatures, row, value in (
      ([http_requests.DEFAULT, http_requests.PREDICT_LABELS], features, None),
      ([http_requests.IDS_ONLY], _object({"input_ids": ids}, ["input_ids"]),
       ids),
      ([http_requests.TEXT], _object({"text": text}, ["text"]), text)):
    columns = _object(
        {name: _list(schema, limits.max_texts)
         for name, schema in row["properties"].items()}, row["required"])
    rows = [_list(row, limits.max_texts)]
    columnar = [columns]
    if value is not None:
      # A single input may stand without its name.
      rows.append(_list(value, limits.max_texts))
      columnar.append(_list(value, limits.max_texts))
    name = {"signature_name": {"enum": signatures}}
    needed = [] if http_requests.DEFAULT in signatures else ["signature_name"]
    forms.append(_object(dict(name, instances={"anyOf": rows}),
                         needed + ["instances"]))
    forms.append(_object(dict(name, inputs={"anyOf": columnar}),
                         needed + ["inputs"]))
  return {"anyOf": forms}


def _classify_request(limits):
  return _object({
      "signature_name": {"enum": [http_requests.CLASSIFY]},
      "context": _features(limits, ()),
      "examples": _list(_features(limits, ()), limits.max_texts),
  }, ["examples"])


def _classify_answer(labels):
  return _object({"results": _list(_list(
      {"type": "array",
       "prefixItems": [_label_name(labels), _PROBABILITY]}))}, ["results"])
