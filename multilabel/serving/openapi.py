# SPDX-License-Identifier: Apache-2.0
"""The content of /openapi.json: paths, types and limits, OpenAPI 3.1.

msgspec generates the schemas from the types that check requests and write
responses.
"""

import msgspec

from multilabel.serving import http_answers


# Meaning of the statuses that any path can return.
_ERRORS = {
    "400": "The request is invalid; `error` says where.",
    "401": "An API key is needed.",
    "403": "Without API keys: the request comes from another site.",
    "404": "There is no such model or version.",
    "408": "The body did not arrive in time.",
    "413": "The body is too long.",
    "415": "The body has an unsupported type or encoding.",
    "503": "The server is overloaded; see Retry-After.",
    "504": "The response was not ready in time.",
}


def describe(name, version, requests, needs_key):
  """Returns the description.

  Args:
    name: str, the model's.
    version: str.
    requests: `http_requests.Requests`.
    needs_key: bool.

  Returns:
    dict.
  """
  types = [requests.label, requests.explain, requests.classify,
           http_answers.LabelAnswer, http_answers.ExplainAnswer,
           http_answers.ClassifyAnswer, http_answers.LabelsAnswer,
           http_answers.ErrorAnswer]
  types += list(requests.predict.values())
  schemas, components = msgspec.json.schema_components(
      types, ref_template="#/components/schemas/{name}")
  (label, explain, classify, label_answer, explain_answer, classify_answer,
   labels_answer) = schemas[:7]
  paths = {
      "/": {"get": _operation("A page to try the model.",
                              {"text/html": {}})},
      "/healthz": {"get": _plain("Liveness.")},
      "/readyz": {"get": _plain("Readiness.", ["503"])},
      "/metrics": {"get": _operation("Metrics for Prometheus.",
                                     {"text/plain": {}})},
      "/openapi.json": {"get": _plain("This description.")},
      "/v1/labels": {"get": _operation(
          "The model's labels.",
          {"application/json": {"schema": labels_answer}})},
      "/v1/label": {"post": _post("Labels of texts.", label, label_answer)},
      "/v1/explain": {"post": _post(
          "How much each word of a text contributes to a label.", explain,
          explain_answer)},
  }
  for start in ("/v1/models/" + name,
                "/v1/models/%s/versions/%s" % (name, version)):
    paths[start] = {"get": _plain(
        "The model's state, as in TensorFlow Serving.",
                                  ["404"])}
    paths[start + "/metadata"] = {"get": _plain(
        "The model's signatures, as in TensorFlow Serving.", ["404"])}
    paths[start + ":predict"] = {"post": _post(
        "Probabilities, as in TensorFlow Serving.", {"anyOf": schemas[8:]},
        {"type": "object"})}
    paths[start + ":classify"] = {"post": _post(
        "Labels and scores, as in TensorFlow Serving.", classify,
        classify_answer)}
  described = {
      "openapi": "3.1.0",
      "info": {"title": "Multi-label classification: " + name,
               "version": version},
      "paths": paths,
      "components": {"schemas": components},
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
            "schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
  return {"summary": summary, "responses": responses}


def _post(summary, request, answer):
  operation = _operation(summary, {"application/json": {"schema": answer}},
                         sorted(_ERRORS))
  operation["requestBody"] = {
      "required": True, "content": {"application/json": {"schema": request}}}
  return operation
