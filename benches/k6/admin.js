// Operators' reads: lists of devices by presence, one device, its readings, leases and events.
import { read, steady } from './lib.js';

const paths = [
  ['/v1/devices?limit=50', 'devices'],
  ['/v1/devices?presence=online&limit=50', 'online'],
  ['/v1/devices/name:dev:curl', 'device'],
  ['/v1/devices/name:dev:curl/readings?limit=100', 'readings'],
  ['/v1/leases', 'leases'],
  ['/v1/events?limit=50', 'events'],
];

export const options = steady(60, Object.fromEntries(paths.map(([, name]) => [name, 500])));
export default function () {
  const [path, name] = paths[Math.floor(Math.random() * paths.length)];
  read(path, name);
}
