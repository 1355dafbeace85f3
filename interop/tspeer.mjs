// The official TypeScript client as a trial's peer: cells in on standard input, what each saw out on standard output.
// A cell is {key, mode: legacy|auto|modern, calls: [{name, arguments}], and url with token, or command with env}.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { json } from 'node:stream/consumers';

const LIMIT = 60_000;
const MODES = { legacy: {}, auto: { mode: 'auto' }, modern: { mode: { pin: '2026-07-28' } } };

async function visit(cell) {
  const options = cell.mode === 'legacy' ? {} : { versionNegotiation: MODES[cell.mode] };
  const client = new Client({ name: 'trial', version: '1' }, options);
  const transport = cell.url
    ? new StreamableHTTPClientTransport(new URL(cell.url), { requestInit: { headers: { authorization: `Bearer ${cell.token}` } } })
    : new StdioClientTransport({ command: cell.command[0], args: cell.command.slice(1), env: cell.env, stderr: 'ignore' });
  try {
    await client.connect(transport);
    // Follows every page by itself.
    const { tools } = await client.listTools();
    const results = [];
    for (const call of cell.calls) results.push(await client.callTool(call));
    return { version: client.getNegotiatedProtocolVersion(), tools, results };
  } finally {
    await transport.terminateSession?.().catch(() => {});
    await client.close().catch(() => {});
  }
}

const seen = {};
for (const cell of await json(process.stdin)) {
  const late = new Promise((_, reject) => setTimeout(reject, LIMIT, new Error(`no answer in ${LIMIT} ms`)).unref());
  seen[cell.key] = await Promise.race([visit(cell), late]).catch((error) => ({ error: `${error.name}: ${error.message}` }));
}
process.stdout.write(JSON.stringify(seen), () => process.exit());
