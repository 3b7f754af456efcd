// What a fleet does: heartbeats, single readings, now and then a batch, and an operator who looks.
import { batch, deviceToken, heartbeat, read, reading, steady } from './lib.js';

export const options = steady(300, { heartbeat: 250, reading: 500, batch: 1000, devices: 500 });
export const setup = deviceToken;
export default function (data) {
  const dice = Math.random();
  if (dice < 0.55) heartbeat(data);
  else if (dice < 0.9) reading(data);
  else if (dice < 0.98) batch(data, 100);
  else read('/v1/devices?limit=50', 'devices');
}
