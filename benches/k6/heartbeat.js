// Heartbeats at a steady rate.
import { deviceToken, heartbeat, steady } from './lib.js';

export const options = steady(500, { heartbeat: 250 });
export const setup = deviceToken;
export default heartbeat;
