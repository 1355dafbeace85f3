// The official TypeScript client signs in by OAuth and calls a tool: tsoauth.mjs URL MODE TOOL ARGUMENTS; MODE is legacy, auto or modern.
// It finds everything out by itself, from the first 401 on. The person is at person.mjs (PERSON is its port, LOGIN the command that
// prints a sign-in link). Prints one line of JSON: version, tools, result.
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const CALLBACK = 'http://127.0.0.1:8998/callback';
const MODES = { legacy: {}, auto: { versionNegotiation: { mode: 'auto' } }, modern: { versionNegotiation: { mode: { pin: '2026-07-28' } } } };
const [url, mode, tool, args] = process.argv.slice(2);

const kept = {};
let answered;
const provider = {
  redirectUrl: CALLBACK,
  clientMetadata: { client_name: 'TypeScript trial', redirect_uris: [CALLBACK], grant_types: ['authorization_code', 'refresh_token'] },
  state: () => (kept.state ??= crypto.randomUUID()),
  clientInformation: () => kept.client,
  saveClientInformation: (client) => (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => (kept.tokens = tokens),
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (verifier) => (kept.verifier = verifier),
  async redirectToAuthorization(address) {
    const body = JSON.stringify({ url: address.href, until: CALLBACK, login: JSON.parse(process.env.LOGIN ?? 'null') });
    const said = await (await fetch(`http://127.0.0.1:${process.env.PERSON}/`, { method: 'POST', body })).json();
    if (!said.where) throw new Error(JSON.stringify(said));
    answered = new URL(said.where).searchParams;
    if (answered.get('state') !== kept.state) throw new Error('the answer is to another request');
  },
};

async function connect() {
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  const client = new Client({ name: 'trial', version: '1' }, MODES[mode]);
  try {
    await client.connect(transport);
    return client;
  } catch (error) {
    if (!(error instanceof UnauthorizedError) || !answered) throw error;
    await transport.finishAuth(answered);
    answered = undefined;
    return connect();
  }
}

const client = await connect();
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
console.log(JSON.stringify({ version: client.getNegotiatedProtocolVersion(), tools: tools.map(({ name }) => name), result: result.content.map(({ text }) => text) }));
await client.close().catch(() => {});
process.exit();
