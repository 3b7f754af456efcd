// What a fleet does: heartbeats, single readings, now and then a batch, and an operator who looks.
import { batch, constant, deviceToken, heartbeat, options as common, read, reading } from './lib.js';

export const options = common({
  scenarios: { mixed: constant(300) },
  thresholds: {
    everbeat_broken: ['rate==0'],
    everbeat_shed: ['count==0'],
    'http_req_duration{name:heartbeat}': ['p(99)<250'],
    'http_req_duration{name:reading}': ['p(99)<500'],
    'http_req_duration{name:batch}': ['p(99)<1000'],
    dropped_iterations: ['count==0'],
  },
});
export const setup = deviceToken;
export default function (data) {
  const dice = Math.random();
  if (dice < 0.55) heartbeat(data);
  else if (dice < 0.9) reading(data);
  else if (dice < 0.98) batch(data, 100);
  else read('/v1/devices?limit=50', 'devices');
}
