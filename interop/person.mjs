// A person with Chromium who signs in when a program sends them somewhere: POST a JSON of {url, until, login} to the port that is
// printed; the answer has `where` (the address that begins with `until`, not visited) or `text` (the last page's), and `seen`.
// Each journey has a browser of its own. The person allows what is asked, and runs `login` where a page asks for a link.
import { execFileSync } from 'node:child_process';
import http from 'node:http';
import { json } from 'node:stream/consumers';

import { heading, launch, person, text } from './chromium.mjs';

const browser = await launch({ executable: process.argv[2] });

async function travel({ url, until, login }) {
  const page = await person(browser);
  // It is seen on its way, which may lead nowhere: whoever asked takes the answer from the address.
  const arrived = new Promise((resolve) => {
    page.on('request', (request) => until && request.url().startsWith(until) && resolve(request.url()));
  });
  try {
    const where = await Promise.race([walk(page, url, login), arrived]);
    if (where) return { where, seen: page.visited };
    return { text: `${await heading(page).catch(() => '')}: ${await text(page).catch(() => '')}`.slice(0, 600), seen: page.visited };
  } finally {
    await page.context().close();
  }
}

// What to press on a page of the gate's, in order of preference.
const PRESSED = ['Allow', 'Sign in', 'Go on'];
// How long a page may take to lead to the next, milliseconds.
const PATIENCE = 30_000;

// Does on each page of the gate what it asks for, until a page asks for nothing.
async function walk(page, url, login) {
  let [loaded, looked, deadline] = [0, 0, Date.now() + PATIENCE];
  page.on('load', () => {
    loaded += 1;
    deadline = Date.now() + PATIENCE;
  });
  // A program that was answered may close its port before the browser has read the page.
  await page.goto(url).catch(() => {});
  while (Date.now() < deadline) {
    if (loaded === looked) await new Promise((resolve) => setTimeout(resolve, 10));
    else if ((looked = loaded) && !(await act(page, login))) return;
  }
}

// Whether the page leads further.
async function act(page, login) {
  if (await page.locator('meta[http-equiv=refresh]').count()) return true;
  for (const name of PRESSED) {
    const found = page.getByRole('button', { name, exact: true }).or(page.getByRole('link', { name, exact: true }));
    if (!(await found.count())) continue;
    await found.click();
    return true;
  }
  if (!login || !(await page.getByRole('heading', { name: 'Sign in first' }).count())) return false;
  await page.goto(execFileSync(login[0], login.slice(1), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim());
  return true;
}

const server = http.createServer(async (request, response) => {
  const answer = await json(request).then(travel).catch((error) => ({ text: String(error.stack), seen: [] }));
  response.end(JSON.stringify(answer));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
