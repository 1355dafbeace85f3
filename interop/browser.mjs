// The person's side of consent, sign-in and account, in a browser: reads a plan from standard input (browser.py writes it),
// prints a line for everything that is as it should be, and one that begins with FAILED for everything else.
import { execFileSync } from 'node:child_process';
import dns from 'node:dns';
import { json } from 'node:stream/consumers';

import { Application, until } from './application.mjs';
import { attacker, proxy, publisher } from './strangers.mjs';
import { heading, launch, look, person, press, text } from './chromium.mjs';

// Names of the trial are this machine's, for the browser (chromium.mjs) and for us.
const { lookup } = dns;
dns.lookup = (name, ...rest) => lookup(name.endsWith('.example') ? '127.0.0.1' : name, ...rest);

const plan = await json(process.stdin);
const browser = await launch(plan);
let failed = 0;

async function trial(name, run) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.stack}`);
  }
}

function must(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

const same = (got, wanted, what) => must(got === wanted, `${what}: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);

// What was pressed a moment ago takes as long as the gate does, which may ask others first.
async function says(page, ...wanted) {
  let said = '';
  for (let tries = 0; tries < 50; tries += 1) {
    // A page that is being replaced has no text.
    said = await text(page).catch(() => '');
    if (wanted.every((words) => said.includes(words))) return;
    await page.waitForTimeout(200);
  }
  for (const words of wanted) must(said.includes(words), `"${words}" is not on the page: ${said}`);
}

async function headed(page, wanted) {
  await page.locator('h1').filter({ hasText: wanted }).waitFor();
}

const seen = async (page, name) => {
  const faults = await look(page, name, plan.screens);
  must(!faults.length, faults.join('\n'));
};

const cookies = async (page) => (await page.context().cookies()).filter(({ name }) => name.includes('bartizan'));

// The gate shows who asks, for what, and where the answer goes, and nothing has happened yet.
async function asked(page, app, { servers, scopes, host }) {
  same(await heading(page), `Allow ${app.name} to act for you?`, 'the heading');
  await says(page, app.redirect, app.endpoint, ...servers, ...scopes, host ? `Published by ${host}` : 'Not verified: anybody can use this name');
  same((await text(page)).includes('It runs on this computer.'), new URL(app.redirect).hostname === '127.0.0.1', 'the warning of loopback');
}

// What the application is answered, once the browser is there.
async function answered(page, app) {
  const answer = await app.answer();
  await headed(page, 'Back at the application');
  return answer;
}

// The frame of this page shows the browser's own page, which says that it may not show ours.
async function nothingFramed(page) {
  const [frame] = page.frames().filter((each) => each !== page.mainFrame());
  await until('chrome-error://chromewebdata/', () => frame.url(), 'what the frame shows');
  same(await frame.locator('form').count(), 0, 'forms in the frame');
}

// A browser that stays at the page which leads on to `prefix`.
const hold = (page, prefix) => page.context().route((url) => url.href.startsWith(prefix), (route) => route.fulfill({ status: 204 }));

const TICKETS = { scope: 'tickets:read tickets:write', scopes: ['read your tickets', 'change and close them'] };

// -- the gate of a laptop ------------------------------------------------------------------------------------------------

async function local(gate) {
  const login = () => execFileSync(gate.login[0], gate.login.slice(1), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  const app = await Application.start({ endpoint: `${gate.origin}/mcp/tickets`, name: 'Trial editor' });
  const plain = { javaScriptEnabled: false };
  let link;

  await trial('local: the whole way by keyboard and without scripts', async () => {
    const page = await person(browser, plain);
    await page.goto(app.address());
    await headed(page, 'Sign in first');
    await says(page, 'Trial editor', 'bartizan login');
    link = login();
    // Programs that look at links first do not use them up.
    for (let visits = 0; visits < 2; visits += 1) await page.goto(link);
    await headed(page, 'Sign in as the owner of this machine?');
    await press(page, 'Sign in');
    await headed(page, 'You are signed in');
    await says(page, 'Trial editor is waiting for your decision.');
    await press(page, 'Go on');
    await headed(page, 'Allow Trial editor to act for you?');
    await asked(page, app, { servers: ['tickets'], scopes: ['use what this server offers'] });
    await press(page, 'Deny');
    same((await answered(page, app)).error, 'access_denied', 'what the application hears');
    await page.goto(app.address());
    await press(page, 'Allow');
    const tokens = await app.redeem((await answered(page, app)).code);
    same(await app.use(tokens.access_token), 200, 'using the token');
    const jar = await cookies(page);
    const named = jar.every(({ name }) => name.startsWith(`bartizan-${new URL(gate.origin).port}-`));
    must(jar.length && named, `cookies of a port's own: ${JSON.stringify(jar)}`);
    must(jar.every((c) => c.httpOnly && c.sameSite === 'Lax' && c.path === '/' && c.domain === '127.0.0.1'), JSON.stringify(jar));
  });

  await trial('local: a link is good once', async () => {
    const page = await person(browser, plain);
    await page.goto(link);
    await headed(page, 'This link does not work any more');
  });

  await trial('local: every page looks right', async () => {
    const page = await person(browser);
    await page.goto(`${gate.origin}/account`);
    await says(page, 'bartizan login');
    await seen(page, 'local-account-away');
    await page.goto(app.address());
    await seen(page, 'local-wait');
    await page.goto(link);
    await seen(page, 'local-link-used');
    await page.goto(login());
    await seen(page, 'local-link');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await headed(page, 'You are signed in');
    await seen(page, 'local-signed-in');
    await page.getByRole('link', { name: 'Go on' }).click();
    await headed(page, 'Allow Trial editor');
    await seen(page, 'local-consent');
    await hold(page, app.redirect);
    await page.getByRole('button', { name: 'Allow' }).click();
    await headed(page, 'On your way to Trial editor');
    await seen(page, 'local-onward');
    await page.reload();
    await headed(page, 'Already decided');
    await seen(page, 'local-decided');
    await page.goto(`${gate.origin}/account`);
    await says(page, 'the owner of this machine', 'Trial editor');
    await seen(page, 'local-account');
    await page.getByRole('button', { name: 'Sign out', exact: true }).click();
    await headed(page, 'You are signed out');
    await seen(page, 'local-signed-out');
    must(!page.complaints.length, page.complaints.join());
  });

  await trial('local: all servers at once, and a name that would like to be something else', async () => {
    const endpoint = `${gate.origin}/mcp`;
    const refused = await Application.start({ endpoint, name: 'Trial \u202eelgooG' }).catch((error) => error.message);
    must(String(refused).startsWith('registration: 400'), `a name that turns the text round: ${refused}`);
    const name = '<img src=x onerror=alert(1)> "Google"'.padEnd(100, ' and many words');
    const liar = await Application.start({ endpoint, name });
    const page = await person(browser);
    await page.goto(login());
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.goto(liar.address());
    must((await heading(page)).startsWith('Allow <img src=x onerror=alert(1)> "Google" and many'), await heading(page));
    await says(page, 'On all of these servers', 'tickets', 'clock', `${gate.origin}/mcp`);
    await seen(page, 'local-consent-liar');
    must(!page.complaints.length, page.complaints.join());
    same(await page.locator('img').count(), 0, 'pictures');
    liar.stop();
  });
  app.stop();
}

// Signs in at the provider without a browser, and stops before going to `back`: whoever holds the address can send it to others.
async function signInAt(url, back) {
  const jar = new Map();
  while (!url.startsWith(back)) {
    const answer = await fetch(url, { redirect: 'manual', headers: { cookie: [...jar].map((pair) => pair.join('=')).join('; ') } });
    for (const line of answer.headers.getSetCookie()) jar.set(...line.split(';')[0].split(/=(.*)/s));
    must(answer.headers.has('location'), `${url}: ${answer.status}`);
    url = new URL(answer.headers.get('location'), url).href;
  }
  return url;
}

// -- the gate in front of an identity provider ------------------------------------------------------------------------------

async function facade(gate) {
  const app = await Application.start({ endpoint: `${gate.origin}/mcp/tickets`, name: 'Trial editor', ...TICKETS });
  const wanted = { servers: ['tickets'], scopes: TICKETS.scopes };
  const alice = await person(browser);
  const reached = (page) => page.visited.some((url) => url.startsWith(gate.provider));
  let tokens;

  await trial('facade: the provider is not reached before consent, nor after a denial', async () => {
    await alice.goto(app.address());
    await asked(alice, app, wanted);
    await says(alice, `If you allow this, you go on to ${new URL(gate.provider).hostname} to sign in.`);
    await seen(alice, 'facade-consent');
    must(!reached(alice), 'the provider was reached before anybody allowed it');
    must(!(await cookies(alice)).some(({ name }) => name.includes('state')), 'there is a state before anybody allowed it');
    await alice.getByRole('button', { name: 'Deny' }).click();
    same((await answered(alice, app)).error, 'access_denied', 'what the application hears');
    must(!reached(alice), 'the provider was reached after a denial');
  });

  await trial('facade: allowing it leads by the provider to the application, by keyboard', async () => {
    await alice.goto(app.address());
    await press(alice, 'Allow');
    const { code } = await answered(alice, app);
    must(reached(alice), 'nobody signed in at the provider');
    tokens = await app.redeem(code);
    same(await app.use(tokens.access_token), 200, 'using the token');
  });

  await trial('facade: a sign-in is over once it was finished, and the address of it works again for nobody', async () => {
    await alice.goto(alice.visited.findLast((url) => url.startsWith(`${gate.origin}/oauth/callback`)));
    await headed(alice, 'This sign-in is over');
    await seen(alice, 'facade-over');
  });

  await trial('facade: CD-14 what runs on this computer is asked about each time, also without scripts', async () => {
    const page = await person(browser, { javaScriptEnabled: false });
    for (let times = 0; times < 2; times += 1) {
      await page.goto(app.address());
      await asked(page, app, wanted);
      await press(page, 'Allow');
      await app.redeem((await answered(page, app)).code);
    }
    await page.goto(app.address());
    await says(page, 'You are signed in as alice.');
  });

  await trial('facade: a decision counts once, in another window or after going back too', async () => {
    const page = await person(browser);
    await page.goto(app.address());
    const form = await page.locator('input[name=form]').inputValue();
    await hold(page, gate.provider);
    await page.getByRole('button', { name: 'Allow' }).click();
    await headed(page, 'On your way');
    await seen(page, 'facade-onward');
    await page.reload();
    await headed(page, 'Already decided');
    await page.goBack();
    await headed(page, 'Allow Trial editor');
    await page.locator('input[name=form]').evaluate((field, old) => (field.value = old), form);
    await page.getByRole('button', { name: 'Allow' }).click();
    await headed(page, 'Already decided');
  });

  await trial('facade: CD-01 a sign-in that began in one browser is not finished in another', async () => {
    const [attackers, victims] = [await person(browser), await person(browser)];
    await hold(attackers, gate.provider);
    await attackers.goto(app.address());
    await attackers.getByRole('button', { name: 'Allow' }).click();
    const away = await attackers.getByRole('link', { name: 'Go on' }).getAttribute('href');
    const back = await signInAt(away, `${gate.origin}/oauth/callback`);
    await victims.goto(back);
    await headed(victims, 'This sign-in began in another browser');
    await seen(victims, 'facade-another-browser');
    await attackers.goto(back);
    await headed(attackers, 'This sign-in is over');
    same(app.answers.length, 0, 'answers to the application');
  });

  const evil = await attacker();
  const other = await Application.start({ endpoint: `${gate.origin}/mcp/tickets`, name: 'Other editor', ...TICKETS });

  await trial('facade: CD-02 other pages cannot decide, revoke or sign out', async () => {
    await alice.goto(other.address());
    const consent = { form: await alice.locator('input[name=form]').inputValue(), decision: 'allow' };
    const tab = await alice.context().newPage();
    await tab.goto(`${gate.origin}/account`);
    const account = { csrf: await tab.locator('input[name=csrf]').first().inputValue(), client: app.id, action: 'revoke' };
    const actions = [account, { ...account, action: 'unlink', server: 'work' }, { ...account, action: 'sign-out-everywhere' }];
    const posts = [['/oauth/consent', consent], ...actions.map((fields) => ['/account', fields])];
    // The same host on another port shares its cookies; the other name does not.
    for (const origin of [`http://127.0.0.1:${evil.port}`, `http://localhost:${evil.port}`]) {
      for (const [path, fields] of posts) {
        await tab.goto(evil.form(origin, `${gate.origin}${path}`, fields));
        await tab.getByRole('button').click();
        await headed(tab, 'Another page sent this');
      }
    }
    await seen(tab, 'facade-other-page');
    same(other.answers.length, 0, 'answers to the other application');
    same(await app.use(tokens.access_token), 200, 'the token that was not revoked');
    // The very form is good where it was shown.
    await alice.getByRole('button', { name: 'Allow' }).click();
    await other.redeem((await answered(alice, other)).code);
  });

  await trial('facade: CD-10 no page of the gate shows in a frame', async () => {
    const page = await alice.context().newPage();
    for (const address of [app.address(), `${gate.origin}/account`]) {
      await page.goto(evil.frame(`http://127.0.0.1:${evil.port}`, address));
      await nothingFramed(page);
    }
  });

  await trial('facade: the account page lists what was allowed, and takes it back', async () => {
    await alice.goto(`${gate.origin}/account`);
    await says(alice, 'alice', gate.provider, 'Trial editor', 'Other editor', ...TICKETS.scopes);
    await seen(alice, 'facade-account');
    const applications = alice.getByRole('region', { name: 'Applications that act for you' }).locator('article');
    same(await applications.count(), 2, 'applications');
    await applications.filter({ hasText: 'Trial editor' }).getByRole('button').click();
    await alice.waitForURL(`${gate.origin}/account`);
    await until(1, () => applications.count(), 'applications after one was revoked');
    same((await app.token({ grant_type: 'refresh_token', refresh_token: tokens.refresh_token })).status, 400, 'refreshing');
    await until(401, () => app.use(tokens.access_token), 'using the token after it was revoked');
    await press(alice, 'Revoke access');
    await until(0, () => applications.count(), 'applications after both were revoked');
    await seen(alice, 'facade-account-empty');
    await press(alice, 'Sign out');
    await headed(alice, 'You are signed out');
    await alice.goto(`${gate.origin}/account`);
    await seen(alice, 'facade-account-away');
    await press(alice, `Sign in at ${new URL(gate.provider).hostname}`);
    await headed(alice, 'Your account');
    await says(alice, 'You are alice');
    must(!alice.complaints.length, alice.complaints.join());
  });
  await trial('facade: one links an account of one\'s own at a server, sees it, and unlinks it', async () => {
    const work = await Application.start({ endpoint: `${gate.origin}/mcp/work`, name: 'Working editor', ...TICKETS });
    await alice.goto(work.address());
    await press(alice, 'Allow');
    const { access_token: token } = await work.redeem((await answered(alice, work)).code);
    const refused = (await work.list(token)).text;
    must(refused.includes(`${gate.origin}/connect/work`), `where to link: ${refused}`);
    await alice.goto(`${gate.origin}/account`);
    await says(alice, 'Your accounts at servers', 'work', 'Not linked');
    await seen(alice, 'facade-account-unlinked');
    await press(alice, 'Link your account');
    await headed(alice, 'Link your account at work');
    await says(alice, '127.0.0.1', 'mcp:tools', 'alice');
    await seen(alice, 'facade-link');
    await press(alice, 'Link my account');
    await headed(alice, 'Your account is linked');
    await seen(alice, 'facade-linked');
    const listed = (await work.list(token)).text;
    must(listed.includes('convert_time'), `the tools of a linked account: ${listed}`);
    // Not even with a page's own mark can another page take it back.
    await alice.goto(`${gate.origin}/connect/work`);
    await seen(alice, 'facade-link-again');
    const csrf = await alice.locator('input[name=csrf]').inputValue();
    for (const origin of [`http://127.0.0.1:${evil.port}`, `http://localhost:${evil.port}`]) {
      const tab = await alice.context().newPage();
      await tab.goto(evil.form(origin, `${gate.origin}/connect/work`, { csrf, do: 'unlink' }));
      await tab.getByRole('button').click();
      // A browser that comes from another host does not even say who it is.
      await headed(tab, origin.includes('localhost') ? 'Your account' : 'Nothing was linked');
      await tab.goto(evil.frame(origin, `${gate.origin}/connect/work`));
      await nothingFramed(tab);
    }
    must((await work.list(token)).text.includes('convert_time'), 'another page unlinked it');
    await alice.getByRole('link', { name: 'your account page' }).click();
    await says(alice, 'Linked since');
    await seen(alice, 'facade-account-linked');
    await press(alice, 'Unlink');
    // The provider has no revocation endpoint, and the person is told so.
    await headed(alice, 'Unlinked');
    await says(alice, 'did not confirm');
    await alice.getByRole('link', { name: 'Your account' }).click();
    await says(alice, 'Not linked');
    // Every gate looks anew after some seconds.
    const until = Date.now() + 20_000;
    while (!(await work.list(token)).text.includes('/connect/work')) {
      must(Date.now() < until, 'it is linked long after it was unlinked');
      await new Promise((done) => setTimeout(done, 200));
    }
    work.stop();
  });
  for (const each of [app, other, evil]) each.stop();
}

// -- the gate over TLS ------------------------------------------------------------------------------------------------------

async function tls(gate) {
  const way = await proxy(gate.proxy);
  const host = await publisher(plan.tls, { editor: 'Example editor', elsewhere: 'Restless editor' });
  const apps = {};
  for (const [id, name] of [['editor', 'Example editor'], ['elsewhere', 'Restless editor']]) {
    const published = { name, id: host.id(id), redirect: host.redirect(id) };
    host.listens[id] = apps[id] = await Application.start({ endpoint: `${gate.origin}/mcp/tickets`, ...published, ...TICKETS });
  }
  const app = apps.editor;
  const wanted = { servers: ['tickets'], scopes: TICKETS.scopes, host: 'app.example' };
  const page = await person(browser);

  await trial('tls: a published application, and cookies that only this host can have set', async () => {
    await page.goto(app.address());
    await asked(page, app, wanted);
    await seen(page, 'tls-consent');
    await page.getByRole('button', { name: 'Allow' }).click();
    await app.redeem((await answered(page, app)).code);
    const jar = await cookies(page);
    must(jar.some(({ name }) => name === '__Host-bartizan-session'), `the session's cookie: ${JSON.stringify(jar)}`);
    const strict = (c) => c.name.startsWith('__Host-') && c.secure && c.httpOnly && c.sameSite === 'Lax' && c.path === '/' && !c.domain.startsWith('.');
    must(jar.every(strict), JSON.stringify(jar));
  });

  await trial('tls: what was allowed is remembered for this person, and for nobody else', async () => {
    const before = page.visited.length;
    await page.goto(app.address());
    await app.redeem((await answered(page, app)).code);
    must(page.visited.slice(before).every((url) => !url.includes('/oauth/consent')), 'the person was asked again');
    const stranger = await person(browser);
    await stranger.goto(app.address());
    await asked(stranger, app, wanted);
  });

  await trial('tls: a published application that answers elsewhere', async () => {
    const curious = await person(browser);
    await curious.goto(apps.elsewhere.address());
    await asked(curious, apps.elsewhere, wanted);
    await says(curious, 'This is not the host that published the application.');
    await seen(curious, 'tls-consent-elsewhere');
  });

  const evil = await attacker(plan.tls);
  await trial('tls: CD-02, CD-10 another site can neither send forms nor show pages', async () => {
    await page.goto(`${gate.origin}/account`);
    const account = { csrf: await page.locator('input[name=csrf]').first().inputValue(), client: app.id, action: 'revoke' };
    const tab = await page.context().newPage();
    await tab.goto(evil.form(`https://evil.example:${evil.port}`, `${gate.origin}/account`, account));
    await tab.getByRole('button').click();
    await headed(tab, 'Another page sent this');
    await tab.goto(evil.frame(`https://evil.example:${evil.port}`, app.address()));
    await nothingFramed(tab);
    await page.reload();
    await says(page, 'Example editor');
    await seen(page, 'tls-account');
  });
  for (const each of [...Object.values(apps), host, evil, way]) each.stop();
}

for (const [name, scene] of Object.entries({ local, facade, tls })) {
  if (plan.gates[name]) await trial(`${name}: the scene comes to its end`, () => scene(plan.gates[name]));
}
await browser.close();
process.exit(failed ? 1 : 0);
