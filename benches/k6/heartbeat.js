// Heartbeats at a steady rate.
import { constant, deviceToken, heartbeat, options as common } from './lib.js';

export const options = common({
  scenarios: { heartbeat: constant(500) },
  thresholds: {
    everbeat_broken: ['rate==0'],
    everbeat_shed: ['count==0'],
    'http_req_duration{name:heartbeat}': ['p(99)<250'],
    dropped_iterations: ['count==0'],
  },
});
export const setup = deviceToken;
export default heartbeat;
