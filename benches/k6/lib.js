// What every script shares: where the service is, who calls, and what a request looks like.
//
// k6 presents one client certificate for all its virtual users, so all of them are one device, each with a connection
// of its own. `everbeat bench` has a certificate for each device; k6 is for those who know it, and for its reports.
import http from 'k6/http';
import { check, fail } from 'k6';
import { Counter, Rate } from 'k6/metrics';

const dir = __ENV.EVERBEAT_DIR;
const identity = `${dir}/devices/curl/current`;
export const deviceUrl = __ENV.EVERBEAT_DEVICE_URL;
export const adminUrl = __ENV.EVERBEAT_ADMIN_URL;
const adminToken = open(`${dir}/admin-token`).trim();

// Refused because there was too much (429, 503): not an error of the service, and not served.
export const shed = new Counter('everbeat_shed');
export const served = new Rate('everbeat_served');
// Neither served nor shed.
export const broken = new Rate('everbeat_broken');

// `extra`: scenarios and thresholds of the script.
export function options(extra) {
  return Object.assign(
    {
      tlsAuth: [{ cert: open(`${identity}/certificate.pem`), key: open(`${identity}/key.pem`) }],
      summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
      // 429 and 503 are answers; what is broken is counted by `everbeat_broken`.
      discardResponseBodies: true,
    },
    extra,
  );
}

// A steady rate that the service can well do, whatever the answers take: nothing is shed, nothing breaks, nothing is
// late. `p99`: milliseconds, by the name of the request.
export function steady(rate, p99) {
  const none = 'count==0';
  const thresholds = { everbeat_broken: ['rate==0'], everbeat_shed: [none], dropped_iterations: [none] };
  for (const name in p99) thresholds[`http_req_duration{name:${name}}`] = [`p(99)<${p99[name]}`];
  const scenario = {
    executor: 'constant-arrival-rate',
    rate: Number(__ENV.EVERBEAT_RATE || rate),
    timeUnit: '1s',
    duration: __ENV.EVERBEAT_DURATION || '30s',
    preAllocatedVUs: 64,
    maxVUs: 512,
  };
  return options({ scenarios: { steady: scenario }, thresholds });
}

// A device's token, bound to the certificate of the connections (RFC 8705). A script's `setup`.
export function deviceToken() {
  const answer = http.post(`${deviceUrl}/v1/token`, null, { responseType: 'text' });
  if (answer.status !== 200) fail(`no token: ${answer.status} ${answer.body}`);
  return { token: answer.json('access_token') };
}

export function heartbeat(data) {
  return judge('heartbeat', http.post(`${deviceUrl}/v1/heartbeat`, '{}', json(data.token, 'heartbeat')));
}

export function reading(data) {
  const values = { temperature: 21.5, humidity: 40.25, pressure: 1013, door: false, mode: 'auto' };
  return judge('reading', http.post(`${deviceUrl}/v1/readings`, JSON.stringify({ values }), json(data.token, 'reading')));
}

export function batch(data, count) {
  const now = Date.now();
  const readings = [];
  for (let i = 0; i < count; i++) readings.push({ ts: now - i, values: { temperature: 20 + i / 10, count: i } });
  return judge('batch', http.post(`${deviceUrl}/v1/readings`, JSON.stringify(readings), json(data.token, 'batch')));
}

export function read(path, name) {
  const params = { headers: { Authorization: `Bearer ${adminToken}` }, tags: { name } };
  return judge(name, http.get(`${adminUrl}${path}`, params));
}

function json(token, name) {
  return { headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` }, tags: { name } };
}

function judge(name, answer) {
  const isShed = answer.status === 429 || answer.status === 503;
  const isServed = answer.status >= 200 && answer.status < 300;
  if (isShed) shed.add(1);
  served.add(isServed, { name });
  broken.add(!isShed && !isServed);
  check(answer, { [`${name}: served or shed`]: () => isServed || isShed });
  return isServed;
}
