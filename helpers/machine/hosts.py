"""Which hosts answer, and why one does not: no network, a proxy, a certificate, a mirror, or offline by choice.

The course downloads with requests (pooch) and with huggingface_hub. Each host is asked with the library that downloads
from it, because the two obey different variables: REQUESTS_CA_BUNDLE and SSL_CERT_FILE, for instance.
"""

import functools
import os
import re
import threading
import time

import requests
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from helpers.machine.variables import is_on, setting

HUB = (setting("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")  # a mirror is named as for Hugging Face's tools
HUB_HOST = HUB.rpartition("://")[2]
HOSTS = ("raw.githubusercontent.com", "www.gutenberg.org", "openaipublic.blob.core.windows.net", HUB_HOST)
if setting("HF_ENDPOINT"):  # Xet would fetch the file from a host of Hugging Face's, past the mirror
    constants.HF_HUB_DISABLE_XET = True
PATIENCE = 2.5  # seconds to wait for all hosts together


def reachable_hosts():
    """Which of HOSTS answer."""
    return frozenset(host for host, problem in problems().items() if problem is None)


def why_not(host):
    """Why a host cannot be used, in words that follow "because"."""
    return problems().get(host) or f"{host} does not answer"


@functools.cache
def problems():
    """{host: why it cannot be used, or None if it answers} for each of HOSTS.

    All are asked at the same time, once per process, so being offline costs PATIENCE at most. Each host has a thread,
    because a library's timeout covers neither a slow name lookup nor a network that swallows everything.
    """
    if is_on("COURSE_OFFLINE"):
        return dict.fromkeys(HOSTS, "COURSE_OFFLINE is set")
    found = {host: f"{host} does not answer" for host in HOSTS}

    def ask(host):
        try:
            if host == HUB_HOST:
                get_session().head(HUB, timeout=PATIENCE)
            else:
                requests.head(f"https://{host}", timeout=PATIENCE)
            found[host] = None
        except Exception as error:  # wrong settings raise errors of many kinds: OSError, ValueError, ImportError
            found[host] = why(host, error)

    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in HOSTS]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)  # a copy, which a late answer does not change


def why(host, error):
    """Why a request to a host failed: one sentence that names the setting to look at, where there is one."""
    text, kind = re.sub(r"//[^/\s]*@", "//", str(error).partition("\n")[0]), type(error).__name__  # without passwords
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(name) and not os.path.exists(os.environ[name]):
            return f"{name}={os.environ[name]}: there is no such file; correct it or unset it"
    if refused := re.search(r"certificate verify failed: ([^('\n]+)", str(error)):
        return (f"the certificate of {host} is not accepted: {refused[1].strip()}; if this network inspects traffic, "
                "set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to the file with its root certificate, else check the clock")
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    is_setting = isinstance(error, (ValueError, ImportError)) or "Protocol" in kind
    if requests.utils.get_environ_proxies(f"https://{host}"):
        status = re.search(r"\b[45]\d\d [A-Z][\w ]*", text)
        detail = status[0] if status else text if is_setting else "no connection"
        return f"{host} does not answer through the proxy of HTTPS_PROXY or ALL_PROXY ({detail})"
    if host == HUB_HOST and setting("HF_ENDPOINT"):
        return f"HF_ENDPOINT={HUB} does not answer" + f" ({text})" * is_setting
    return f"{host} does not answer" + f" ({text})" * is_setting
