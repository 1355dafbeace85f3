// A person's browser: Debian's Chromium, and what is looked at on every page.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
// How long a page, or anything on it, may take to appear, milliseconds. It is only waited for when something is wrong.
const PATIENCE = 20_000;
const NARROW = { width: 360, height: 740 };
const WIDE = { width: 1024, height: 900 };

// `spki` is the digest of the one authority's key that is trusted besides the system's.
export async function launch({ executable, spki }) {
  const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP *.example 127.0.0.1'];
  if (spki) args.push(`--ignore-certificate-errors-spki-list=${spki}`);
  return chromium.launch({ executablePath: executable, headless: true, args });
}

// A browser of its own: nobody is signed in in it.
export async function person(browser, options = {}) {
  const context = await browser.newContext({ viewport: WIDE, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  // Where it has been, in order; and what it complained of.
  page.visited = [];
  page.complaints = [];
  page.on('request', (request) => request.isNavigationRequest() && page.visited.push(request.url()));
  page.on('dialog', (dialog) => {
    page.complaints.push(`a script ran: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('pageerror', (error) => page.complaints.push(`a script failed: ${error.message}`));
  return page;
}

export const heading = (page) => page.locator('h1').innerText();
export const text = async (page) => (await page.locator('main').innerText()).replace(/\s+/g, ' ');

// What every page must be, in both colour schemes and on a telephone; the screenshots are for people.
export async function look(page, name, screens) {
  const faults = [];
  const shot = (kind) => page.screenshot({ path: path.join(screens, `${name}-${kind}.png`), fullPage: true });
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    faults.push(...(await accessibility(page)).map((fault) => `${name}, ${colorScheme}: ${fault}`));
    await shot(colorScheme);
  }
  await page.setViewportSize(NARROW);
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  if (content > window) faults.push(`${name}: ${content} px wide in a window of ${window}`);
  await shot('narrow');
  await page.setViewportSize(WIDE);
  await page.emulateMedia({ colorScheme: 'light' });
  return faults;
}

// What axe finds that keeps somebody out. It is put beside the page, past the page's policy, which forbids every script.
async function accessibility(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  return grave.map(({ id, nodes }) => `${id} at ${nodes.map(({ target }) => target.join(' ')).join('; ')}`);
}

// Goes to the button or link of this name by the Tab key alone, looks whether one sees where one is, and presses Enter.
export async function press(page, name) {
  for (let tabs = 0; tabs < 30; tabs += 1) {
    await page.keyboard.press('Tab');
    const here = await page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return { name: document.activeElement.innerText.trim(), outline: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 };
    });
    if (here.name !== name) continue;
    if (!here.outline) throw new Error(`one does not see that "${name}" has the focus`);
    return page.keyboard.press('Enter');
  }
  throw new Error(`the Tab key does not lead to "${name}"`);
}
