"""A person who signs in when a program asks: reads pages, allows what is asked, signs in by a link.

`Person` has a browser that keeps cookies and runs no scripts; `Chromium` has Chromium, by way of person.mjs.
"""

import contextlib
import html.parser
import http.cookiejar
import json
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request


class Page(html.parser.HTMLParser):
    """The forms, links and onward address of a page."""

    def __init__(self, text):
        super().__init__()
        self.forms, self.links, self.onward, self.heading, self.in_heading = [], [], None, "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        at = dict(attributes)
        if tag == "form":
            self.forms.append({"action": at.get("action", ""), "fields": {}, "buttons": []})
        elif tag == "input" and self.forms and at.get("name"):
            self.forms[-1]["fields"][at["name"]] = at.get("value", "")
        elif tag == "button" and self.forms and at.get("name"):
            self.forms[-1]["buttons"].append((at["name"], at.get("value", "")))
        elif tag == "a" and at.get("href"):
            self.links.append(at["href"])
        elif tag == "meta" and at.get("http-equiv", "").lower() == "refresh":
            self.onward = at["content"].split("url=", 1)[1]
        elif tag == "h1":
            self.in_heading = True

    def handle_endtag(self, tag):
        if tag == "h1":
            self.in_heading = False

    def handle_data(self, data):
        if self.in_heading:
            self.heading += data


class Quiet(urllib.request.HTTPRedirectHandler):
    """Redirects are ours to follow."""

    def redirect_request(self, *_):
        return None


class Person:
    """`link` gives a fresh sign-in link where one is needed; `decision` is what the person decides."""

    def __init__(self, link=None, decision="allow"):
        self.link, self.decision = link, decision
        self.seen = []
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.browser = urllib.request.build_opener(jar, Quiet)

    def ask(self, url, form=None):
        """Status, `Location` and text of one request."""
        request = urllib.request.Request(url, None if form is None else urllib.parse.urlencode(form).encode())
        if form is not None:
            where = urllib.parse.urlsplit(url)
            request.add_header("Origin", f"{where.scheme}://{where.netloc}")
        try:
            with self.browser.open(request, timeout=30) as response:
                return response.status, response.headers.get("Location"), response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Location"), error.read().decode(errors="replace")

    def travel(self, url, until=None):
        """Goes where the pages lead; the address that begins with `until`, not visited, or the last page's text."""
        form, signed_in = None, False
        for _ in range(30):
            if until and form is None and url.startswith(until):
                return url
            status, location, text = self.ask(url, form)
            self.seen.append((url.split("?")[0], status))
            form = None
            if location:
                url = urllib.parse.urljoin(url, location)
                continue
            page = Page(text)
            if page.onward:
                url = urllib.parse.urljoin(url, page.onward)
                continue
            decision = next((f for f in page.forms if f["action"] == "/oauth/consent"), None)
            if decision:
                form = decision["fields"] | {"decision": self.decision}
                url = urllib.parse.urljoin(url, decision["action"])
                continue
            press = next((f for f in page.forms if f["action"] == "/oauth/sign-in"), None)
            if press:
                form = press["fields"] | dict(press["buttons"][:1])
                url = urllib.parse.urljoin(url, press["action"])
                continue
            onward = next((link for link in page.links if link.startswith("/oauth/authorize")), None)
            if onward and signed_in:
                url = urllib.parse.urljoin(url, onward)
                continue
            if self.link and not signed_in and status < 500 and "bartizan login" in text:
                url, signed_in = self.link(), True
                continue
            return text
        raise RuntimeError(f"the pages do not end: {self.seen}")


class Chromium:
    """Somebody in front of Chromium: `port` is where person.mjs listens, `login` a command that prints a sign-in link."""

    def __init__(self, port, login=None):
        self.port, self.login = port, login
        self.seen = []

    def travel(self, url, until=None):
        """As `Person.travel`."""
        wanted = json.dumps({"url": url, "until": until, "login": self.login}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/", wanted), timeout=60) as response:
            said = json.load(response)
        self.seen = said["seen"]
        return said.get("where") or said["text"]


def from_environment():
    """Whoever is at PERSON, the port of person.mjs, with links from LOGIN, a command in JSON."""
    login = json.loads(os.environ.get("LOGIN", "null"))
    return Chromium(int(os.environ["PERSON"]), login)


@contextlib.contextmanager
def chromium(node, log):
    """Starts person.mjs; yields its port."""
    import harness

    port = pathlib.Path(log).with_suffix(".port")
    with open(port, "wb") as said:
        command = [node, harness.HOME / "person.mjs", harness.chromium()]
        with harness.process(command, log, stdout=said, env=harness.environment(port.parent)) as child:
            harness.wait_for(lambda: port.read_text().endswith("\n"), child, log)
            yield int(port.read_text())
