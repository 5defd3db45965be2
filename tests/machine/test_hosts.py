"""Why a host does not answer: mirrors, proxies, certificates and switches, each tried on a server of this machine."""

import contextlib
import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading

import pytest

from helpers.machine import assets, hosts

pytestmark = pytest.mark.offline

WEIGHTS = """
import hashlib
from helpers.machine import assets
assets.GPT2_FILES = {name: hashlib.sha256(name.encode()).hexdigest() for name in assets.GPT2_FILES}
found = assets.gpt2_weights()
print("stand-in" if found.is_stand_in else sorted(path.name for path in found.path.iterdir()))
"""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
HERE = "127.0.0.1"


class Mirror(http.server.BaseHTTPRequestHandler):
    """A hub that has every file of every repository: its content is its name. It is a proxy that refuses, too."""

    body = staticmethod(lambda name: name.encode())

    def do_CONNECT(self):
        self.send_error(407)

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        if self.headers.get("Authorization"):
            return self.send_error(401)
        path, _, revision_and_name = self.path.partition("/resolve/")
        revision, _, name = revision_and_name.partition("/")
        body = self.body(name)
        self.send_response(200)
        for field, value in {"Content-Length": len(body), "ETag": f'"{hashlib.sha256(name.encode()).hexdigest()}"',
                             "X-Repo-Commit": revision, "X-Xet-Hash": "a" * 64,  # Xet would lead to another host
                             "X-Xet-Refresh-Route": f"http://{HERE}:9/xet"}.items():
            self.send_header(field, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, context=None):
    with http.server.ThreadingHTTPServer((HERE, 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"{HERE}:{server.server_port}"
        server.shutdown()


@pytest.fixture
def weights(tmp_path):
    """Asks for GPT-2's weights in a process of its own, with an empty cache and these variables. Returns its output."""

    def ask(**variables):
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "COURSE_"))
                 and name.upper() not in (*PROXIES, "NO_PROXY", "TRANSFORMERS_OFFLINE")}
        own = {"COURSE_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "home"), "PYTHONUTF8": "1"}
        done = subprocess.run([sys.executable, "-c", WEIGHTS], cwd=assets.ROOT, env=plain | own | variables,
                              capture_output=True, text=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return ask


@pytest.mark.parametrize("written", ["http://{}", "http://{}/", ' "http://{}"'])
def test_a_mirror_is_asked_and_its_files_are_verified(weights, written):
    with serving(Mirror) as host:
        assert "['config.json', 'model.safetensors']" in weights(HF_ENDPOINT=written.format(host))


def test_a_mirror_with_other_files_is_not_used(weights):
    class Other(Mirror):
        body = staticmethod(lambda name: name.upper().encode())

    with serving(Other) as host:
        output = weights(HF_ENDPOINT=f"http://{host}")
    assert "stand-in" in output and output.count("DAMAGED") == 2 and "is not the file that the course knows" in output


def test_a_mirror_that_refuses_a_token_is_named(weights):
    with serving(Mirror) as host:
        output = weights(HF_ENDPOINT=f"http://{host}", HF_TOKEN="hf_expired")
    assert "401" in output and "renew HF_TOKEN or unset it" in output and "hf_expired" not in output


@pytest.mark.parametrize("variables, message", [
    ({"HF_ENDPOINT": f"http://{HERE}:9"}, f"(HF_ENDPOINT=http://{HERE}:9 does not answer)"),
    ({"HF_ENDPOINT": "mirror.example"}, "HF_ENDPOINT=mirror.example does not answer (Request URL is missing"),
    ({"HF_HUB_OFFLINE": "1"}, "(HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)"),
    ({"TRANSFORMERS_OFFLINE": "1"}, "(HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)"),
    ({"COURSE_OFFLINE": "1"}, "(COURSE_OFFLINE is set)"),
    ({"SSL_CERT_FILE": "/nowhere.pem"}, "(SSL_CERT_FILE=/nowhere.pem: there is no such file; correct it or unset it)"),
    ({"HTTPS_PROXY": f"http://ann:secret@{HERE}:9"}, "through the proxy of HTTPS_PROXY or ALL_PROXY (no connection)"),
    ({"ALL_PROXY": f"gopher://ann:secret@{HERE}:9"}, "through the proxy of HTTPS_PROXY or ALL_PROXY (Unknown scheme"),
])
def test_the_setting_that_stops_the_download_is_named(weights, variables, message):
    output = weights(**variables)
    assert "stand-in" in output and message in output, output
    assert "secret" not in output


def test_a_proxy_that_wants_a_password_is_quoted(weights):
    with serving(Mirror) as host:
        assert "ALL_PROXY (407 Proxy Authentication Required)" in weights(HTTPS_PROXY=f"http://{host}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_network_that_inspects_traffic_is_named_with_what_to_set(weights, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", "key.pem", "-out", "root.pem", "-addext", f"subjectAltName=IP:{HERE}"],
                   cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "root.pem", tmp_path / "key.pem")
    with serving(Mirror, context) as host:
        output = weights(HF_ENDPOINT=f"https://{host}")
        assert f"the certificate of {host} is not accepted: self-signed certificate" in output
        assert "set REQUESTS_CA_BUNDLE and SSL_CERT_FILE" in output and "does not answer" not in output
        assert "model.safetensors" in weights(HF_ENDPOINT=f"https://{host}", SSL_CERT_FILE=str(tmp_path / "root.pem"))


def raising(error):
    def head(*_, **__):
        raise error

    return head


@pytest.mark.parametrize("error, message", [
    (hosts.requests.exceptions.SSLError("certificate verify failed: certificate has expired (_ssl.c:1)"),
     "not accepted: certificate has expired;"),
    (hosts.requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."), "(Missing dependencies"),
    (ValueError("Unable to determine SOCKS version from socks://ann:secret@here"), "(Unable to determine"),
    (hosts.requests.exceptions.ConnectTimeout("slow"), "raw.githubusercontent.com does not answer"),
])
def test_a_wrong_setting_of_the_other_hosts_is_named_too(offline, monkeypatch, error, message):
    """Those that requests asks, where errors of other kinds than its own ended a thread with a traceback."""
    monkeypatch.delenv("COURSE_OFFLINE")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hosts.requests, "head", raising(error))
    monkeypatch.setattr(hosts, "get_session", raising(error))
    with pytest.raises(assets.AssetUnavailable) as unavailable:
        assets.locate("things", {"a.txt": ("https://raw.githubusercontent.com/a.txt", "0" * 64)})
    assert message in str(unavailable.value) and "secret" not in str(unavailable.value)
