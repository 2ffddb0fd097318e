"""OpenStack Swift with its S3 API on this machine: four small processes, every request signed, conditions honoured."""

import getpass
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.storage.servers import free_ports, serving

KEYS = ("test:tester", "testing")
REPOSITORY = Path(__file__).resolve().parents[2]

COMMON = """\
[swift-hash]
swift_hash_path_prefix = mapjob
swift_hash_path_suffix = mapjob
[storage-policy:0]
name = only
default = yes
"""
STORE = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_address = /nonexistent
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
FILTERS = ("catch_errors", "cache", "listing_formats", "s3api", "tempauth", "copy", "slo", "dlo")
PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_address = /nonexistent
[pipeline:main]
pipeline = {filters} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""
OPTIONS = {
    "cache": "paste.filter_factory = tests.storage.swift_cache:filter_factory",
    "s3api": "use = egg:swift#s3api\nlocation = us-east-1\ncheck_bucket_owner = false",
    "tempauth": "use = egg:swift#tempauth\nuser_test_tester = testing .admin",
}
# Where objects of one name are: a ring of one device for each kind of server.
RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *servers = sys.argv[1:]
for server in servers:
    kind, port = server.split(":")
    ring = RingBuilder(4, 1, 0)
    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1})
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{kind}.ring.gz")
"""
KINDS = ("account", "container", "object")


@contextmanager
def swift(folder: Path) -> Iterator[str]:
    """The endpoint of a Swift that keeps its objects below `folder`, while the context lasts."""
    *ports, proxy_port = free_ports(4)
    (folder / "devices" / "d1").mkdir(parents=True)
    settings = {"folder": folder, "user": getpass.getuser()}
    (folder / "swift.conf").write_text(COMMON)
    for kind, port in zip(KINDS, ports):
        (folder / f"{kind}-server.conf").write_text(STORE.format(kind=kind, port=port, **settings))
    proxy = PROXY.format(port=proxy_port, filters=" ".join(FILTERS), **settings)
    proxy += "".join(f"[filter:{name}]\n{OPTIONS.get(name, f'use = egg:swift#{name}')}\n" for name in FILTERS)
    (folder / "proxy-server.conf").write_text(proxy)
    servers = [f"{kind}:{port}" for kind, port in zip(KINDS, ports)]
    environment = {**os.environ, "SWIFT_DIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", RINGS, str(folder), *servers], check=True, capture_output=True, timeout=60)
    programs = Path(sys.executable).parent
    commands = [(programs / f"swift-{kind}-server", folder / f"{kind}-server.conf") for kind in (*KINDS, "proxy")]
    with serving(commands, [*ports, proxy_port], folder / "servers.log", environment):
        yield f"http://127.0.0.1:{proxy_port}"


def why_not(folder: Path) -> str | None:
    """Why Swift cannot run here with its objects below `folder`, or None."""
    if importlib.util.find_spec("swift") is None:
        return "OpenStack Swift is not installed (the extra `test` has it for Linux)"
    try:
        os.setxattr(folder, "user.mapjob", b"")
    except OSError as error:
        return f"OpenStack Swift needs extended attributes, which {folder} has not: {error}"
    return None
