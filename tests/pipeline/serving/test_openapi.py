"""Requests drawn from the OpenAPI document: no internal error, and no answer that the document does not have."""

import shutil

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from services import WITH_KEY, running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    "POST /v1/search",
    "GET /v1/items",
    "GET /v1/attributes",
    "POST /v1/items:batch",
    "GET /v1/images/{id}",
    "GET /v1/items/{id}",
    "PUT /v1/items/{id}",
    "DELETE /v1/items/{id}",
    "GET /v1/release",
    "GET /v1/releases",
    "POST /v1/releases/current",
    "POST /v1/releases/compared",
    "DELETE /v1/releases/compared",
    "POST /v1/models/{name}:predict",
    "POST /v1/models/{name}/versions/{version}:predict",
    "GET /v1/models/{name}",
    "GET /v1/models/{name}/versions/{version}",
    "GET /v1/models/{name}/metadata",
    "GET /v1/models/{name}/versions/{version}/metadata",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def served(published, tmp_path_factory):
    # A copy: drawn requests switch and roll back.
    releases = shutil.copytree(published, tmp_path_factory.mktemp("drawn") / "releases")
    with running(releases) as client:
        yield client


@pytest.fixture(scope="module")
def operations(served):
    schema = schemathesis.openapi.from_dict(served.get("/openapi.json").json())
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_every_operation_is_drawn_from(operations):
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_drawn_requests(served, operations, label):
    @given(case=operations[label].as_strategy())
    @settings(max_examples=15, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case):
        drawn = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
        body = drawn.body.encode() if isinstance(drawn.body, str) else drawn.body
        answer = served.request(drawn.method, drawn.url, content=body, headers={**drawn.headers, **WITH_KEY})
        case.validate_response(schemathesis.Response.from_httpx(answer, verify=True), checks=CHECKS)

    ask()
