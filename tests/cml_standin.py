"""A STAND-IN for CML's executable, and an address below which the real one finds the stand-in for GitHub's API."""

import datetime
import ipaddress
import ssl
import stat
import sys
from pathlib import Path

from tests.github_api_standin import StandIn

TEXT = r"""#!{python}
# A STAND-IN for CML 0.20.6's executable: it posts as CML does, from one page, whoever's comment it is. It refuses what
# bin/cml.js and bin/cml/comment/create.js of https://github.com/iterative/cml refuse: unknown options, pairs that
# exclude each other, no token, no file, a target that is none.
import argparse, json, os, re, sys, urllib.request
open({log!r}, "a").write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\n")
open(os.path.expanduser("~/.gitconfig"), "w").write("edited")
if {code}:
    sys.exit({code})
def refuse(why):
    print(why, file=sys.stderr)
    sys.exit(1)
parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
parser.error = refuse
for name in ("--log", "--repo", "--target", "--watermark-title", "--publish-url", "--trigger-file"):
    parser.add_argument(name)
parser.add_argument("--driver", choices=["github", "gitlab", "bitbucket"])
parser.add_argument("--driver-token", "--token")
parser.add_argument("--commit-sha", "--head-sha")
for name in ("--pr", "--watch", "--publish", "--publish-native", "--native", "--update", "--rm-watermark"):
    parser.add_argument(name, nargs="?", const="true", choices=["true", "false"])
parser.add_argument("words", nargs="*")
given = parser.parse_intermixed_args()
for one, two in (("commit_sha", "target"), ("commit_sha", "pr"), ("pr", "target"), ("watermark_title", "rm_watermark")):
    if getattr(given, one) is not None and getattr(given, two) is not None:
        refuse(f"Arguments {{one}} and {{two}} are mutually exclusive")
if given.words[:2] != ["comment", "update"] or len(given.words) != 3:
    refuse("Unknown arguments, or not enough: " + " ".join(given.words))
if not re.fullmatch(r"https://[^/]+/[^/]+/[^/]+", given.repo or "") or given.driver is None:
    refuse("repo not found, or driver not set")
token = given.driver_token or os.environ.get("REPO_TOKEN") or os.environ.get("GITHUB_TOKEN")
if not token:
    refuse("token not found")
target = re.fullmatch(r"(?:pr|issue)/(\d+)", given.target or "")
if target is None:
    refuse(f"unsupported comment target {{given.target!r}}")
if given.publish != "false":
    refuse("asset.cml.dev cannot be reached from here")
sha = given.commit_sha or os.environ.get("GITHUB_SHA")
where = "https://cml.dev/watermark.png" + (f"#{{sha}}" if sha else "")
title = f"CML watermark {{given.watermark_title or ''}}".strip().replace("_", "\\_")
mark = f'![]({{where}} "{{title}}")'
body = open(given.words[2]).read() + "\n\n" + mark
def ask(method, path, data=None):
    request = urllib.request.Request({url!r} + path, method=method, data=data and json.dumps(data).encode())
    request.add_header("Authorization", "Bearer " + token)
    return json.load(urllib.request.urlopen(request))
here = "/repos/{repository}/issues"
found = [
    c for c in ask("GET", here + f"/{{target[1]}}/comments")
    if re.search(r'!\[\]\(https://cml\.dev/watermark\.png#[0-9a-fA-F]+ "' + re.escape(title) + r'"\)', c["body"])
]
if found:
    ask("PATCH", here + f"/comments/{{found[-1]['id']}}", {{"body": body}})
else:
    ask("POST", here + f"/{{target[1]}}/comments", {{"body": body}})
"""


def install(folder: Path, hub: StandIn, code: int = 0) -> Path:
    """Write ``folder``/bin/cml, which posts to ``hub``, or ends with ``code``; return its log."""
    log, program = folder / "cml.log", folder / "bin" / "cml"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        TEXT.format(python=sys.executable, log=str(log), code=code, url=hub.url, repository=hub.repository)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return log


def enterprise(hub: StandIn, folder: Path) -> tuple[Path, str]:
    """Serve ``hub`` by TLS below /api/v3, as a GitHub server of a company's own; the certificate and the address."""
    certificate, key = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    twin = StandIn(hub.repository)
    twin.__dict__ |= {name: value for name, value in vars(hub).items() if name in _STATE}
    twin.prefix = "/api/v3"
    twin.socket = context.wrap_socket(twin.socket, server_side=True)
    twin.start()
    return certificate, f"https://{twin.host}/api/v3"


_STATE = ("pulls", "comments", "checks", "statuses", "asked", "headers", "refused", "faults", "author", "changing")


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private
