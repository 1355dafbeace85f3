"""The official Python client signs in by OAuth and calls a tool: pyoauth.py URL MODE TOOL ARGUMENTS.

It finds everything out by itself, from the first 401 on. In front of the browser is whoever PERSON says (person.py), or, without
one, `person.Person`; sign-in links come from LOGIN, a command in JSON. Prints one line of JSON: version, tools, result, token, the refresh token if there is one.
"""

import asyncio
import json
import os
import subprocess
import sys
from urllib.parse import parse_qs, urlparse

import httpx2
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

from person import Person, from_environment

CALLBACK = "http://127.0.0.1:8999/callback"
LOGIN = json.loads(os.environ.get("LOGIN", "null"))


def link():
    return subprocess.run(LOGIN, check=True, capture_output=True, text=True).stdout.strip()


class Memory(TokenStorage):
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def main(url, mode, tool, arguments):
    answered, memory = {}, Memory()

    async def browse(address):
        person = from_environment() if "PERSON" in os.environ else Person(link if LOGIN else None)
        where = await asyncio.to_thread(person.travel, address, CALLBACK)
        if not where.startswith(CALLBACK):
            raise SystemExit(f"{person.seen}: {where[:600]}")
        answered.update({name: values[0] for name, values in parse_qs(urlparse(where).query).items()})

    async def callback():
        return AuthorizationCodeResult(code=answered["code"], state=answered["state"], iss=answered.get("iss"))

    metadata = OAuthClientMetadata(client_name="trial", redirect_uris=[CALLBACK])
    sign_in = OAuthClientProvider(url, metadata, memory, browse, callback)
    async with httpx2.AsyncClient(auth=sign_in, follow_redirects=True, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(tool, json.loads(arguments))
            seen = {
                "version": client.protocol_version,
                "tools": [t.name for t in tools.tools],
                "result": [c.text for c in result.content],
                "token": memory.tokens.access_token,
                "refresh": memory.tokens.refresh_token,
                "client": memory.client.client_id,
            }
            print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:5]))
