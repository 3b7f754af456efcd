// From little to far too much: readings and heartbeats on a ramp that no machine of this size can serve. What is too
// much is refused (503 with Retry-After), nothing breaks, and heartbeats go on.
import { deviceToken, heartbeat, options as common, reading } from './lib.js';

const peak = Number(__ENV.EVERBEAT_PEAK || 20000);
const ramp = (share, exec) => ({
  executor: 'ramping-arrival-rate',
  exec,
  startRate: Math.round(50 * share),
  timeUnit: '1s',
  preAllocatedVUs: 128,
  maxVUs: 3000,
  stages: [
    { target: Math.round(peak * share), duration: __ENV.EVERBEAT_DURATION || '30s' },
    { target: Math.round(peak * share), duration: '10s' },
    { target: Math.round(50 * share), duration: '5s' },
  ],
});

export const options = common({
  scenarios: { readings: ramp(0.8, 'readings'), heartbeats: ramp(0.2, 'heartbeats') },
  thresholds: {
    everbeat_broken: ['rate==0'],
    everbeat_shed: ['count>0'],
    'everbeat_served{name:heartbeat}': ['rate>0.99'],
  },
});
export const setup = deviceToken;
export function readings(data) {
  reading(data);
}
export function heartbeats(data) {
  heartbeat(data);
}
