// Single readings of five values, each acknowledged after its COMMIT, at a steady rate.
import { deviceToken, reading, steady } from './lib.js';

export const options = steady(300, { reading: 500 });
export const setup = deviceToken;
export default reading;
