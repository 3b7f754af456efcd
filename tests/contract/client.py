"""A device's and an operator's day with the generated clients. Usage: client.py SITUATION (a JSON file)."""

import datetime
import json
import ssl
import sys
import time
import uuid

with open(sys.argv[1]) as file:
    AT = json.load(file)
sys.path.insert(0, AT["clients"])

from everbeat_admin import AuthenticatedClient as OperatorClient  # noqa: E402
from everbeat_admin.api.default import (  # noqa: E402
    get_v1_devices,
    get_v1_devices_device,
    get_v1_devices_device_presence,
    get_v1_devices_device_readings,
    get_v1_devices_device_readings_latest,
    get_v1_events,
    get_v1_fleets,
    get_v1_whoami,
)
from everbeat_admin.models import GetV1DevicesDeviceReadingsOrder as Order  # noqa: E402
from everbeat_device import AuthenticatedClient, Client  # noqa: E402
from everbeat_device.api.default import (  # noqa: E402
    get_v1_ca,
    get_v1_me,
    post_v1_enroll,
    post_v1_heartbeat,
    post_v1_readings,
    post_v1_token,
)
from everbeat_device.models import (  # noqa: E402
    EnrollRequest,
    HeartbeatRequest,
    Problem,
    ReadingItem,
    ReadingItemValues,
)


def values(**named):
    made = ReadingItemValues()
    made.additional_properties = named
    return made


def tls(identity=None):
    context = ssl.create_default_context(cafile=AT["ca"])
    if identity:
        context.load_cert_chain(*identity)
    return context


def done(answer, status):
    assert answer.status_code == status, (answer.status_code, answer.content)
    assert answer.parsed is not None
    return answer.parsed


def soon(holds):
    """What becomes visible with the next flush or snapshot."""
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until, "not within 20 s"
        time.sleep(0.05)


def a_device():
    stranger = Client(base_url=AT["device_url"], verify_ssl=tls())
    assert "BEGIN CERTIFICATE" in done(get_v1_ca.sync_detailed(client=stranger), 200)
    refused = done(post_v1_token.sync_detailed(client=stranger), 401)
    assert isinstance(refused, Problem) and refused.type_ == "urn:everbeat:problem:certificate-required", refused
    request = EnrollRequest(token=AT["enrollment_token"], name="client-1", csr=AT["csr"], tags=["generated"])
    enrolled = done(post_v1_enroll.sync_detailed(client=stranger, body=request), 201)
    assert enrolled.device.name == "client-1" and enrolled.not_after > enrolled.renew_after
    with open(AT["certificate"], "w") as file:
        file.write(enrolled.certificate)

    known = tls((AT["certificate"], AT["key"]))
    token = done(post_v1_token.sync_detailed(client=Client(base_url=AT["device_url"], verify_ssl=known)), 200)
    device = AuthenticatedClient(base_url=AT["device_url"], verify_ssl=known, token=token.access_token)
    beat = done(post_v1_heartbeat.sync_detailed(client=device, body=HeartbeatRequest(seq=1, status="fine")), 200)
    assert beat.next_in_s > 0
    now = datetime.datetime.now(datetime.timezone.utc)
    one = ReadingItem(id=str(uuid.uuid4()), ts=now, values=values(temperature=21.5, open=True, mode="eco"))
    other = ReadingItem(values=values(temperature=22.0))
    assert done(post_v1_readings.sync_detailed(client=device, body=one), 200).stored == 1
    answer = done(post_v1_readings.sync_detailed(client=device, body=[one, other]), 200)
    assert (answer.stored, answer.duplicates) == (1, 1), answer
    me = done(get_v1_me.sync_detailed(client=device), 200)
    assert me.device == enrolled.device and me.certificate.not_after == enrolled.not_after
    return enrolled.device


def an_operator(device):
    operator = OperatorClient(base_url=AT["admin_url"], verify_ssl=tls(), token=AT["admin_token"])
    assert done(get_v1_whoami.sync_detailed(client=operator), 200).subject == "root"
    assert [fleet.name for fleet in done(get_v1_fleets.sync_detailed(client=operator), 200).items] == ["pumps"]
    listed = done(get_v1_devices.sync_detailed(client=operator, tag="generated", limit=10), 200).items
    assert [item.id for item in listed] == [device.id], listed
    assert listed[0].latest.values.additional_properties, listed
    named = get_v1_devices_device.sync_detailed("name:pumps:client-1", client=operator)
    assert done(named, 200).id == device.id and named.headers["etag"], named.headers
    presence = lambda: done(get_v1_devices_device_presence.sync_detailed(str(device.id), client=operator), 200)  # noqa: E731
    soon(lambda: presence().state == "online" and presence().why.status == "fine")
    readings = done(get_v1_devices_device_readings.sync_detailed(str(device.id), client=operator, order=Order.ASC), 200)
    assert len(readings.items) == 2 and readings.next_ is None, readings
    latest = done(get_v1_devices_device_readings_latest.sync_detailed(str(device.id), client=operator), 200)
    assert latest in readings.items
    events = lambda: done(get_v1_events.sync_detailed(client=operator, kind="device.enrolled"), 200).items  # noqa: E731
    soon(lambda: device.id in [event.device_id for event in events()])


an_operator(a_device())
print("a device and an operator were served")
