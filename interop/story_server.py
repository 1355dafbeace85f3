"""Two servers of a story, over stdio: one fetches pages, one sends mail.

    story_server.py web
    story_server.py mail OUTBOX

`fetch` returns the text behind a URL, `send` appends a message to the file OUTBOX, a JSON line each. Both do what they are
told: that is the point.
"""

import json
import sys
import urllib.request

TEXT = {"type": "string"}


def fetch(arguments):
    with urllib.request.urlopen(arguments["url"], timeout=10) as page:
        return page.read(100_000).decode()


def send(arguments):
    with open(sys.argv[2], "a") as outbox:
        outbox.write(json.dumps(arguments) + "\n")
    return "sent"


TOOLS = {
    "web": ("fetch", "Fetches the page at a URL.", ["url"], fetch),
    "mail": ("send", "Sends a mail.", ["to", "body"], send),
}


def main():
    name, description, needed, run = TOOLS[sys.argv[1]]
    schema = {"type": "object", "properties": dict.fromkeys(needed, TEXT), "required": needed}
    tool = {"name": name, "description": description, "inputSchema": schema}
    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        if "id" not in message:
            continue
        answer = {"jsonrpc": "2.0", "id": message["id"]}
        if method == "initialize":
            answer["result"] = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": sys.argv[1], "version": "1"},
            }
        elif method == "tools/list":
            answer["result"] = {"tools": [tool]}
        elif method == "tools/call" and params["name"] == name:
            answer["result"] = {"content": [{"type": "text", "text": run(params["arguments"])}]}
        elif method == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": -32601, "message": "unknown method"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
