// The load test of the specification, for k6: 50 virtual users, 1,000 requests between them.
//
//   k6 run -e BASE=http://127.0.0.1:8000 -e KEY=sk-proxy-… benchmarks/load-test.js
//
// k6 exits with an error when a threshold is missed. `make load-test` runs the same scenario without k6.

import http from 'k6/http';
import { check } from 'k6';

const BASE = __ENV.BASE || 'http://127.0.0.1:8000';
const KEY = __ENV.KEY;

export const options = {
  scenarios: {
    specification: { executor: 'shared-iterations', vus: 50, iterations: 1000, maxDuration: '2m' },
  },
  thresholds: {
    http_req_duration: ['p(95)<500'],
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    http_reqs: ['count==1000'],
  },
};

const body = JSON.stringify({
  model: 'gpt-4o-mini',
  messages: [{ role: 'user', content: 'word '.repeat(40) }],
});

export function setup() {
  if (!KEY) {
    throw new Error('Name a proxy key: -e KEY=sk-proxy-…');
  }
}

export default function () {
  const answer = http.post(`${BASE}/v1/chat/completions`, body, {
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${KEY}` },
    timeout: '30s',
  });
  check(answer, {
    'is 200': (one) => one.status === 200,
    'is a whole answer': (one) => one.status === 200 && one.json('choices.0.message.content') !== undefined,
  });
}
