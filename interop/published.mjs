// Somebody else's published documents, where their hosts cannot be reached: published.mjs PORT KEY CERT, with an object of address and
// document on standard input. PORT is of a proxy that leads to them; the certificate must be good for every host.
import fs from 'node:fs';
import { json } from 'node:stream/consumers';

import { listen, proxy } from './strangers.mjs';

const [port, key, cert] = process.argv.slice(2);
const documents = await json(process.stdin);
const hosts = Object.keys(documents).map((address) => new URL(address).hostname);
const tls = { key: fs.readFileSync(key), cert: fs.readFileSync(cert) };
const { port: published } = await listen(tls, (request, response) => {
  const document = documents[`https://${request.headers.host}${request.url}`];
  response.writeHead(document ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(document ?? {}));
});
await proxy(Number(port), (host) => hosts.includes(host) && published);
