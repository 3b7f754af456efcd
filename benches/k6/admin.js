// Operators' reads: lists of devices by presence, one device, its readings, leases and events.
import { constant, options as common, read } from './lib.js';

const paths = [
  ['/v1/devices?limit=50', 'devices'],
  ['/v1/devices?presence=online&limit=50', 'online'],
  ['/v1/devices/name:dev:curl', 'device'],
  ['/v1/devices/name:dev:curl/readings?limit=100', 'readings'],
  ['/v1/leases', 'leases'],
  ['/v1/events?limit=50', 'events'],
];

export const options = common({
  scenarios: { admin: constant(60) },
  thresholds: {
    everbeat_broken: ['rate==0'],
    everbeat_shed: ['count==0'],
    http_req_duration: ['p(99)<500'],
    dropped_iterations: ['count==0'],
  },
});
export default function () {
  const [path, name] = paths[Math.floor(Math.random() * paths.length)];
  read(path, name);
}
