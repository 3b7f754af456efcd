// Single readings of five values, each acknowledged after its COMMIT, at a steady rate.
import { constant, deviceToken, options as common, reading } from './lib.js';

export const options = common({
  scenarios: { readings: constant(300) },
  thresholds: {
    everbeat_broken: ['rate==0'],
    everbeat_shed: ['count==0'],
    'http_req_duration{name:reading}': ['p(99)<500'],
    dropped_iterations: ['count==0'],
  },
});
export const setup = deviceToken;
export default reading;
