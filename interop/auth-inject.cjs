// Preload: adds a bearer token to every request for one origin, for clients that have no option for it.
// TRIAL_ORIGIN is `http://host:port`, TRIAL_TOKEN the token.
'use strict';
const { subscribe } = require('node:diagnostics_channel');

const origin = process.env.TRIAL_ORIGIN;
const bearer = `Bearer ${process.env.TRIAL_TOKEN}`;

// fetch, and undici wherever it is imported from: both publish here before the request is written.
subscribe('undici:request:create', ({ request }) => {
  if (String(request.origin) === origin) request.addHeader('authorization', bearer);
});

// node:http; its Host header is set by now unless the caller forged it, and no caller of ours does.
subscribe('http.client.request.created', ({ request }) => {
  if (`${request.protocol}//${request.getHeader('host')}` === origin) request.setHeader('authorization', bearer);
});
