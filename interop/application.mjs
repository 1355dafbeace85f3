// A small honest OAuth client of the gate's, for the browser's trials: it registers or says who it is, sends the person to
// the gate, waits for the answer on loopback, and uses what it gets.
import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';

import { BACK } from './strangers.mjs';

const random = () => randomBytes(32).toString('base64url');

export class Application {
  // `endpoint` is what it wants to use; with `id` it is known, else it registers under `name`.
  static async start({ endpoint, name, id, redirect, scope }) {
    const app = new Application();
    Object.assign(app, { endpoint, name, scope, answers: [], waiting: [] });
    await app.listen();
    app.redirect = redirect ?? `http://127.0.0.1:${app.port}/callback`;
    const { origin, pathname } = new URL(endpoint);
    const resource = await read(`${origin}/.well-known/oauth-protected-resource${pathname}`);
    app.server = await read(`${resource.authorization_servers[0]}/.well-known/oauth-authorization-server`);
    app.id = id ?? (await app.register());
    return app;
  }

  async register() {
    const body = { client_name: this.name, redirect_uris: [this.redirect], token_endpoint_auth_method: 'none' };
    const headers = { 'content-type': 'application/json' };
    const registered = await fetch(this.server.registration_endpoint, { method: 'POST', headers, body: JSON.stringify(body) });
    if (registered.status !== 201) throw new Error(`registration: ${registered.status} ${await registered.text()}`);
    return (await registered.json()).client_id;
  }

  // Where the answers come in.
  listen() {
    this.listener = http.createServer((request, response) => {
      const url = new URL(request.url, 'http://127.0.0.1');
      response.writeHead(200, { 'content-type': 'text/html' }).end(BACK);
      if (url.pathname === '/callback') this.deliver(url);
    });
    return new Promise((resolve) => {
      this.listener.listen(0, '127.0.0.1', () => resolve((this.port = this.listener.address().port)));
    });
  }

  // An answer has come in, here or wherever else this application lives.
  deliver(url) {
    const answer = Object.fromEntries(url.searchParams);
    const next = this.waiting.shift();
    if (next) next(answer);
    else this.answers.push(answer);
  }

  // A fresh request; its address is where the person goes.
  address() {
    this.verifier = random();
    this.state = random();
    const query = new URLSearchParams({
      response_type: 'code',
      client_id: this.id,
      redirect_uri: this.redirect,
      resource: this.endpoint,
      state: this.state,
      code_challenge: createHash('sha256').update(this.verifier).digest('base64url'),
      code_challenge_method: 'S256',
      ...(this.scope && { scope: this.scope }),
    });
    return `${this.server.authorization_endpoint}?${query}`;
  }

  // The next answer that comes in, which must be to the request made last and of the right server.
  async answer() {
    const answer = this.answers.shift() ?? (await within(new Promise((resolve) => this.waiting.push(resolve)), `an answer to ${this.name}`));
    if (answer.state !== this.state) throw new Error(`an answer to another request: ${JSON.stringify(answer)}`);
    if (answer.iss !== this.server.issuer) throw new Error(`an answer of ${answer.iss}`);
    return answer;
  }

  async redeem(code) {
    const form = { grant_type: 'authorization_code', code, redirect_uri: this.redirect, code_verifier: this.verifier };
    const { status, tokens } = await this.token({ ...form, resource: this.endpoint });
    if (status !== 200) throw new Error(`the code was not redeemed: ${status} ${JSON.stringify(tokens)}`);
    return tokens;
  }

  async token(form) {
    const body = new URLSearchParams({ client_id: this.id, ...form });
    const answer = await fetch(this.server.token_endpoint, { method: 'POST', body });
    return { status: answer.status, tokens: await answer.json() };
  }

  // The status of one request.
  async use(token) {
    return (await this.list(token)).status;
  }

  // What a request of the stateless era for the tools is answered: status and text.
  async list(token) {
    const _meta = { 'io.modelcontextprotocol/protocolVersion': '2026-07-28', 'io.modelcontextprotocol/clientCapabilities': {} };
    const headers = {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28',
      'mcp-method': 'tools/list',
    };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta } });
    const answer = await fetch(this.endpoint, { method: 'POST', headers, body });
    return { status: answer.status, text: await answer.text() };
  }

  stop() {
    this.listener.closeAllConnections();
    this.listener.close();
  }
}

async function read(url) {
  const answer = await fetch(url);
  if (answer.status !== 200) throw new Error(`${url}: ${answer.status}`);
  return answer.json();
}

// Waits for `promise`, but not for ever.
export function within(promise, what, milliseconds = 20_000) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`there is no ${what}`)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Asks until the answer is the wanted one.
export async function until(wanted, ask, what) {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const got = await ask();
    if (got === wanted) return;
    if (Date.now() > deadline) throw new Error(`${what}: ${got}, not ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
