// Who else is on the network: somebody who means ill, and somebody who publishes an application.
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';

// What a person sees who is back at an application.
export const BACK = '<!doctype html><html lang="en"><title>Done</title><h1>Back at the application</h1>';

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

export async function listen(tls, answer) {
  const server = tls ? https.createServer(tls, answer) : http.createServer(answer);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () => {
    server.closeAllConnections();
    server.close();
  };
  return { port: server.address().port, stop };
}

// Serves pages that send a form to, or show a frame of, wherever its maker likes.
export async function attacker(tls) {
  const listening = await listen(tls, (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://evil.example');
    const to = searchParams.get('to');
    const fields = [...searchParams].filter(([name]) => name !== 'to');
    const inputs = fields.map(([name, value]) => `<input type="hidden" name="${escaped(name)}" value="${escaped(value)}">`).join('');
    const pages = {
      '/form': () => `<form method="post" action="${escaped(to)}">${inputs}<button>Win a prize</button></form>`,
      '/frame': () => `<iframe src="${escaped(to)}" width="600" height="600"></iframe>`,
    };
    response.writeHead(pages[pathname] ? 200 : 404, { 'content-type': 'text/html' });
    response.end(`<!doctype html><title>A prize</title>${pages[pathname]?.() ?? ''}`);
  });
  return {
    ...listening,
    form: (origin, to, fields) => `${origin}/form?${new URLSearchParams({ ...fields, to })}`,
    frame: (origin, to) => `${origin}/frame?${new URLSearchParams({ to })}`,
  };
}

// Publishes the metadata of applications at `app.example`, where one of them lives; the other answers at `elsewhere.example`.
export async function publisher(tls, names) {
  const self = { listens: {} };
  const listening = await listen(tls, (request, response) => {
    const url = new URL(request.url, `https://${request.headers.host}`);
    const published = url.pathname.match(/^\/(\w+)\.json$/)?.[1];
    if (published) {
      const body = { client_id: self.id(published), client_name: names[published], redirect_uris: [self.redirect(published)] };
      const document = JSON.stringify({ ...body, token_endpoint_auth_method: 'none' });
      return response.writeHead(200, { 'content-type': 'application/json' }).end(document);
    }
    self.listens[url.pathname.slice(1)]?.deliver(url);
    return response.writeHead(200, { 'content-type': 'text/html' }).end(BACK);
  });
  const { port } = listening;
  self.id = (name) => `https://app.example:${port}/${name}.json`;
  self.redirect = (name) => `https://${name === 'elsewhere' ? name : 'app'}.example:${port}/${name}`;
  return Object.assign(self, listening);
}

// The way out of the gate's network: to it, names of the trial are public hosts. `where` says at which port of this machine one
// lives, or nothing for the others.
export async function proxy(port, where = (host, to) => host.endsWith('.example') && Number(to)) {
  const server = http.createServer((_, response) => response.writeHead(405).end());
  const open = new Set();
  server.on('connect', (request, socket) => {
    const here = where(...request.url.split(':'));
    if (!here) return socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    const onward = net.connect(here, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    for (const each of [socket, onward]) {
      open.add(each);
      each.on('error', () => [socket, onward].forEach((end) => end.destroy()));
    }
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const stop = () => {
    for (const each of open) each.destroy();
    server.close();
  };
  return { stop };
}
