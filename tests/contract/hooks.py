"""What schemathesis asks of Everbeat besides its own checks: whatever the schema allows is accepted.

Its own check of that takes any 401, 403, 404, 409 or 429 for a good answer, and no other. This one also takes the few
refusals whose reason no schema can state, each by its slug and place, and looks into answers that accept a part.
"""

import os
import re

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

PROBLEM = "urn:everbeat:problem:"
# The time of a reading is judged by the database's clock; the same id twice is a conflict.
OF_ITS_TIME = re.compile(r"/(ts|id): the time must lie between")


# What is in them, no schema of theirs says: of NDJSON and CBOR, that of JSON does; a SenML pack is judged once it is
# resolved (RFC 8428, 4.6).
OF_ITS_OWN = ("application/x-ndjson", "application/senml+json", "application/senml+cbor")


@schemathesis.serializer("application/x-ndjson", "application/senml+cbor", "application/pkcs10")
def text(ctx, value):
    return value.encode() if isinstance(value, str) else str(value).encode()


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Leads requests that keep to the schema to where something happens."""
    # A deadline shorter than requests wait for their commits is refused with 503, as it should be.
    if str(case.headers.get("X-Request-Deadline-Ms", "")).strip("0").isdigit():
        case.headers["X-Request-Deadline-Ms"] = "20000"
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    # Most cursors that can be made up belong to no list: every other request goes without, and gets a page.
    if len(case.query.get("cursor", "")) % 2:
        del case.query["cursor"]
    if case.operation.path == "/v1/enroll" and isinstance(case.body, dict):
        case.body.update(token=os.environ["ENROLLMENT_TOKEN"], csr=os.environ["CSR"])
    if case.operation.path == "/.well-known/est/simpleenroll":
        case.body = "".join(line for line in os.environ["CSR"].splitlines() if not line.startswith("-----"))
    if case.operation.path == "/v1/renew" and isinstance(case.body, dict) and len(case.body["csr"]) % 4:
        case.body["csr"] = os.environ["CSR"]


def problem(response):
    if not response.headers.get("content-type", [""])[0].startswith("application/problem+json"):
        return {}
    return response.json()


def is_beyond_schemas(case, response):
    """Was it refused for what no schema can state?"""
    said = problem(response)
    slug = said.get("type", "").removeprefix(PROBLEM)
    return (
        # Whether base64 is a signed request for a certificate; RFC 7030 has its errors in words.
        (case.operation.path.startswith("/.well-known/est/") and response.status_code == 400)
        # A cursor of another list, an edited one.
        or slug == "bad-cursor"
        # Whether text is a signed request for a certificate.
        or slug == "bad-csr"
        # Which version the resource has.
        or slug == "precondition-failed"
        # Whether client_id is the device of the certificate (RFC 6749, 5.2).
        or (case.operation.path == "/v1/token" and said.get("error") == "invalid_client")
    )


@schemathesis.check
def schema_valid_is_accepted(ctx, response, case):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return None
    if case.media_type in OF_ITS_OWN:
        assert response.status_code < 500
        return None
    if case.operation.path == "/v1/readings" and response.status_code in (207, 422):
        for item in response.json()["rejected"]:
            allowed = item["type"] == "conflict" or OF_ITS_TIME.match(item["detail"])
            assert allowed, f"a reading that the schema allows was rejected: {item}"
        return None
    if is_beyond_schemas(case, response):
        return None
    return positive_data_acceptance(ctx, response, case)
