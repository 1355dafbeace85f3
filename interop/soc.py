#!/usr/bin/env python3
"""The audit log at real receivers: rsyslog over TLS with client certificates, an OTLP receiver that reads protobuf with the
official types, and OCSF events held against the shape of the published schema.

    interop/soc.py [--gate BIN]

Needs rsyslogd with its OpenSSL driver (Debian: rsyslog, rsyslog-openssl). Exit 0 if everything arrived as it should, 1
otherwise. Logs are in target/interop/logs/soc.
"""

import argparse
import contextlib
import datetime
import http.server
import ipaddress
import json
import pathlib
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
import urllib.request

import jsonschema
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

import harness

# How long anything may take to arrive, seconds: three times the longest pause of an exporter between two attempts, for on a machine
# that is busy with other things the first ones may fail.
PATIENCE = 180

SHAPE = harness.ROOT / "crates/audit/src/export/ocsf.schema.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    options = parser.parse_args()
    binary = harness.built(options.gate, "bartizan-cli")
    rsyslogd = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin:/sbin")
    if not rsyslogd:
        raise SystemExit("rsyslogd is missing: install rsyslog and rsyslog-openssl")
    logs = harness.HOME / "logs" / "soc"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-soc-"))
    try:
        Trial(binary, rsyslogd, scratch, logs).run()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


class Trial:
    def __init__(self, binary, rsyslogd, scratch, logs):
        self.binary, self.rsyslogd, self.scratch, self.logs = binary, rsyslogd, scratch, logs
        self.authority = Authority(scratch)
        self.port = None
        self.messages = scratch / "messages"
        # Calls beside those that are counted one by one.
        self.more = 0

    def run(self):
        self.authority.sign("localhost")
        self.authority.sign("gateway.example")
        self.authority.sign("stranger.example")
        receiver = Receiver()
        with receiver.serving():
            with self.rsyslog():
                # It listens by now: the exporter finds it at the port that it got.
                good = self.settings(receiver.port, "gateway.example")
                with harness.gate(self.binary, [sample(self.binary)], self.logs / "gate.log", good) as gate:
                    self.everything_arrives(gate, receiver)
                    self.nobody_else_is_heard(gate)
                    self.nothing_is_lost_while_rsyslog_is_away(gate)

    def everything_arrives(self, gate, receiver):
        for number in range(3):
            call(gate, "echo", {"text": f"word {number} with a ] and a \" in it"})
        call(gate, "no_such_tool", {})
        records = self.wait("call.closed at rsyslog", lambda: self.closed(3))
        for record in records:
            # Columns are what rsyslog's own parser made of the message.
            assert record["host"] == "gate-1" and record["app"] == "bartizan", record
            entry = json.loads(record["message"].lstrip("\ufeff"))
            assert entry["kind"] == record["kind"] and f'seq="{entry["seq"]}"' in record["data"], record
        say("rsyslog over TLS with client certificates", f"{len(self.records())} messages")

        self.wait("call.closed at the OTLP receiver", lambda: receiver.named("bartizan.call.closed"))
        request = receiver.logs[0]
        resource = {a.key: a.value.string_value for a in request.resource_logs[0].resource.attributes}
        assert resource["service.name"] == "bartizan" and resource["host.name"] == "gate-1", resource
        for record in receiver.records():
            assert record.time_unix_nano > 0 and 1 <= record.severity_number <= 24, record
            assert record.event_name.startswith("bartizan.") and record.body.string_value, record
        for request in receiver.logs:
            # A field that the official types do not know would be kept apart and written again.
            known = type(request).FromString(request.SerializeToString())
            known.DiscardUnknownFields()
            assert known == request, "a field nobody knows"
        say("OTLP logs in protobuf, read with the official types", f"{len(receiver.records())} records")

        spans = self.wait("spans at the OTLP receiver", lambda: receiver.spans() if len(receiver.spans()) >= 3 else None)
        for span in spans:
            assert span.name.startswith("tools/call ") and span.kind == span.SPAN_KIND_SERVER, span
            assert len(span.trace_id) == 16 and len(span.span_id) == 8, span
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
        assert [link.trace_id.hex() for link in spans[0].links] == ["0af7651916cd43dd8448eb211c80319c"], spans[0]
        assert spans[0].trace_id.hex() != "0af7651916cd43dd8448eb211c80319c", "a caller's trace is not ours"
        say("OTLP traces in protobuf: calls as spans, linked with their callers'", f"{len(spans)} spans")

        self.wait("call.closed in OCSF", lambda: [e for e in receiver.events if e["metadata"]["event_code"] == "call.closed"])
        check = jsonschema.Draft202012Validator(json.loads(SHAPE.read_text()))
        for event in receiver.events:
            faults = [f"{'/'.join(map(str, f.absolute_path))}: {f.message}" for f in check.iter_errors(event)]
            assert not faults, (event, faults)
        kinds = {event["metadata"]["event_code"] for event in receiver.events}
        assert {"call.opened", "call.closed", "request.refused", "config.changed", "pin.recorded"} <= kinds, kinds
        say("OCSF events have the shape of the schema", f"{len(receiver.events)} events of {len(kinds)} kinds")

    def nobody_else_is_heard(self, gate):
        """Another name under the right authority, then no certificate at all; then the right one again."""
        receiver = gate.config.read_text()
        log = self.logs / "gate.log"
        count = lambda words: log.read_text().count(words)
        for wrong in (
            receiver.replace("gateway.example", "stranger.example"),
            receiver.replace(f', client_cert = "{self.scratch}/gateway.example.pem", key = "{self.scratch}/gateway.example.key"', ""),
        ):
            assert wrong != receiver
            troubles = count("the audit log is not delivered")
            gate.config.write_text(wrong)

            def is_refused():
                # The exporter of before may still deliver what happens while it ends; and under TLS 1.3 rsyslog now and then reads what
                # came with the handshake before it looks at the name. What is ours: the certificate is the configured one.
                call(gate, "echo", {"text": "not for strangers"})
                self.more += 1
                return count("the audit log is not delivered") > troubles

            self.wait("it is refused", is_refused)
        gate.config.write_text(receiver)
        call(gate, "echo", {"text": "again"})
        self.wait("the rest at rsyslog", lambda: self.closed(4 + self.more))
        self.without_gaps()
        say("without the right client certificate the receiver refuses, which is told, and nothing is lost")

    def nothing_is_lost_while_rsyslog_is_away(self, gate):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        for _ in range(5):
            call(gate, "echo", {"text": "in the meantime"})
        with self.rsyslog():
            self.wait("everything at rsyslog", lambda: self.closed(9 + self.more))
            self.without_gaps()
        say("what happened while rsyslog was away arrives afterwards")

    def without_gaps(self):
        seen = {int(record["data"].split('seq="')[1].split('"')[0]) for record in self.records()}
        assert seen == set(range(max(seen) + 1)), sorted(seen)

    def closed(self, count):
        found = {r["data"].split('id="')[1].split('"')[0]: r for r in self.records() if r["kind"] == "call.closed"}
        return list(found.values()) if len(found) >= count else None

    def records(self):
        if not self.messages.exists():
            return []
        # What has no end yet is still being written.
        whole = self.messages.read_bytes().rpartition(b"\n")[0].decode(errors="strict")
        lines = [line.split("\t", 5) for line in whole.split("\n")]
        names = ("severity", "host", "app", "kind", "data", "message")
        return [dict(zip(names, line)) for line in lines if len(line) == 6]

    def settings(self, port, name):
        at = self.scratch
        return f"""
[audit]
host = "gate-1"
[[audit.export]]
name = "siem"
kind = "syslog"
url = "tls://localhost:{self.port}"
tls = {{ ca = "{at}/ca.pem", client_cert = "{at}/{name}.pem", key = "{at}/{name}.key" }}
[[audit.export]]
name = "collector"
kind = "otlp"
url = "http://127.0.0.1:{port}/v1/logs"
[[audit.export]]
name = "tracer"
kind = "otlp-traces"
url = "http://127.0.0.1:{port}/v1/traces"
[[audit.export]]
name = "lake"
kind = "http"
url = "http://127.0.0.1:{port}/ocsf"
"""

    def wait(self, what, found):
        """What `found` finds; an exit that says how rsyslog and the gate are if it finds nothing."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if result := found():
                return result
            time.sleep(0.1)
        for name in ("rsyslog.log", "gate.log"):
            log = self.logs / name
            tail = log.read_text(errors="replace")[-3000:] if log.exists() else "there is none"
            print(f"--- {name} ends with:\n{tail}", flush=True)
        raise SystemExit(f"FAILED: waited in vain: {what}; rsyslog {'runs' if self.child.poll() is None else 'has ended'}")

    @contextlib.contextmanager
    def rsyslog(self):
        """rsyslog, once it is known to be who listens at `self.port`. One whose port somebody else has goes on without listening: it
        is started again, at another port if nobody knows the first one yet."""
        is_first, deadline = self.port is None, time.monotonic() + PATIENCE
        log = self.logs / "rsyslog.log"
        while True:
            if is_first:
                self.port = harness.free_port()
            # It was killed: its file may name a process that is somebody else's by now.
            (self.scratch / "rsyslog.pid").unlink(missing_ok=True)
            with harness.process([self.rsyslogd, "-n", "-f", self.configured(), "-i", self.scratch / "rsyslog.pid"], log) as child:
                self.child = child
                listens = False
                while not listens and child.poll() is None and not could_not_listen(log) and time.monotonic() < deadline:
                    time.sleep(0.1)
                    listens = self.is_rsyslogs()
                if listens:
                    yield
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"rsyslogd does not listen; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")
            # What was said of this one says nothing of the next.
            log.rename(log.with_suffix(f".{time.monotonic_ns()}.log"))

    def is_rsyslogs(self):
        """Whether who listens at the port has rsyslog's certificate: whoever else may have got the port has not."""
        context = ssl.create_default_context(cafile=self.scratch / "ca.pem")
        # The authority of a trial says no more of itself than it must.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(self.scratch / "gateway.example.pem", self.scratch / "gateway.example.key")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as plain:
            with context.wrap_socket(plain, server_hostname="localhost"):
                return True
        return False

    def configured(self):
        at = self.scratch
        config = at / "rsyslog.conf"
        config.write_text(f"""
global(workDirectory="{at}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="on"
       defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{at}/ca.pem"
       defaultNetstreamDriverCertFile="{at}/localhost.pem" defaultNetstreamDriverKeyFile="{at}/localhost.key")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/name"
       permittedPeer=["gateway.example"])
input(type="imtcp" address="127.0.0.1" port="{self.port}")
template(name="columns" type="string"
         string="%syslogseverity%\\t%hostname%\\t%app-name%\\t%msgid%\\t%structured-data%\\t%msg%\\n")
action(type="omfile" file="{self.messages}" template="columns" asyncWriting="off" flushOnTXEnd="on")
""")
        return config


class Authority:
    """An authority, and a folder with what it signed."""

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trials")])
        certificate = self.certificate("trials", self.key.public_key(), is_ca=True)
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(name, key.public_key(), is_ca=False)
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def certificate(self, name, public_key, is_ca):
        now = datetime.datetime.now(datetime.timezone.utc)
        alternatives = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self.key, hashes.SHA256())
        )


class Receiver:
    """An HTTP server that takes OTLP logs in protobuf and OCSF events in lines of JSON."""

    def __init__(self):
        self.logs, self.traces, self.events = [], [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = b""
                if self.path == "/v1/logs":
                    assert self.headers["content-type"] == "application/x-protobuf"
                    outer.logs.append(logs_service_pb2.ExportLogsServiceRequest.FromString(body))
                    answer = logs_service_pb2.ExportLogsServiceResponse().SerializeToString()
                elif self.path == "/v1/traces":
                    outer.traces.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                    answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
                else:
                    outer.events.extend(json.loads(line) for line in body.splitlines())
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    @contextlib.contextmanager
    def serving(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            self.server.shutdown()

    def records(self):
        return [r for request in self.logs for g in request.resource_logs for s in g.scope_logs for r in s.log_records]

    def spans(self):
        return [s for request in self.traces for g in request.resource_spans for c in g.scope_spans for s in c.spans]

    def named(self, name):
        return [record for record in self.records() if record.event_name == name]


def sample(binary):
    """The built-in sample server."""
    return {"name": "sample", "command": [str(binary), "__sample"]}


def call(gate, tool, arguments):
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    request = urllib.request.Request(
        gate.endpoint("sample"),
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode(),
        {
            "Authorization": f"Bearer {gate.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        },
    )
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30) as response:
        response.read()


def could_not_listen(log):
    """Whether rsyslog says that it got no port."""
    said = log.read_text(errors="replace").lower() if log.exists() else ""
    return any(words in said for words in ("address already in use", "could not bind", "no tcp listen"))


def say(what, detail=""):
    print(f"ok  {what}" + (f" ({detail})" if detail else ""), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
