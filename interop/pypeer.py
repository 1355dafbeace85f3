"""The official Python client as a trial's peer: cells in on standard input, what each saw out on standard output.

A cell is {key, mode: legacy|auto|modern, calls: [{name, arguments}], and url with token, or command with env}.
"""

import asyncio
import contextlib
import json
import sys

import httpx2
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

MODES = {"legacy": "legacy", "auto": "auto", "modern": "2026-07-28"}
# One cell, seconds.
LIMIT = 60


async def visit(cell):
    async with contextlib.AsyncExitStack() as stack:
        if "url" in cell:
            headers = {"Authorization": f"Bearer {cell['token']}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=LIMIT))
            transport = streamable_http_client(cell["url"], http_client=http)
        else:
            program, *arguments = cell["command"]
            transport = stdio_client(StdioServerParameters(command=program, args=arguments, env=cell["env"]))
        client = await stack.enter_async_context(Client(transport, mode=MODES[cell["mode"]]))
        # A pinned client has not spoken to the server yet: the list is its first word.
        tools, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        results = [await client.call_tool(call["name"], call["arguments"]) for call in cell["calls"]]
        return {"version": client.protocol_version, "tools": [plain(t) for t in tools], "results": [plain(r) for r in results]}


def plain(value):
    return value.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def guarded(cell):
    try:
        return await asyncio.wait_for(visit(cell), LIMIT)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this cell's result
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return {"error": f"{type(error).__name__}: {error}"}


async def main():
    # One after the other: two cells must not share a connection pool, a server or an event loop's luck.
    seen = {cell["key"]: await guarded(cell) for cell in json.load(sys.stdin)}
    json.dump(seen, sys.stdout)


asyncio.run(main())
