"""Which cluster is joined, and how one that is lost is noticed before Ray waits for ever or ends the process."""

import socket
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from mapjob.errors import ConfigError, IncompleteError
from mapjob.pipeline import cluster


@pytest.mark.parametrize(
    ("address", "named", "started", "found"),
    [
        (None, None, "1.2.3.4:6379", "local"),
        (None, "", None, "local"),
        ("5.6.7.8:6379", "auto", None, "5.6.7.8:6379"),
        (None, "5.6.7.8:6379", None, "5.6.7.8:6379"),
        ("auto", "5.6.7.8:6379", "1.2.3.4:6379", "5.6.7.8:6379"),
        (None, "auto", "1.2.3.4:6379", "1.2.3.4:6379"),
        ("auto", None, "1.2.3.4:6379", "1.2.3.4:6379"),
    ],
)
def test_the_address(monkeypatch, address, named, started, found):
    monkeypatch.setattr(cluster, "read_ray_address", lambda: started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named is not None:
        monkeypatch.setenv("RAY_ADDRESS", named)
    assert cluster.find_address(address) == found


def test_auto_is_no_ray_that_a_process_has_for_itself(monkeypatch):
    """Such a Ray is in no file that `ray start` writes."""
    monkeypatch.setattr(cluster, "read_ray_address", lambda: None)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("joined"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match="no cluster was started by `ray start`"):
        cluster.connect(None)


def test_other_versions_of_ray_are_named(monkeypatch):
    """As Ray words it."""
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"

    def refuse(*_, **__):
        raise RuntimeError(said + "This process on 1.2.3.4 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "_knock", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"has Ray: 2\.60\.0, Python: 3\.12\.1, and this process has Ray: 2\.60\.0, Python: 3\.11\.7"
    ):
        cluster.connect("1.2.3.4:6379")


@pytest.mark.parametrize("kind", [RayActorError, lambda **_: RayTaskError("task", TRACE, ModuleNotFoundError())])
def test_what_a_worker_lacks_is_named(kind):
    error = kind(error_msg=TRACE)
    explained = cluster.explain(error)
    assert isinstance(explained, ConfigError)
    assert explained.what == "a worker of the cluster lacks safetensors"


TRACE = "Traceback:\nModuleNotFoundError: No module named 'safetensors'"


@pytest.fixture
def lost(monkeypatch):
    """A cluster whose `head` and `node` listen on loopback, and what was `left`; patience is short."""
    left: list[str] = []
    head, node = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    context = SimpleNamespace(gcs_address=f"127.0.0.1:{head.getsockname()[1]}", get_node_id=lambda: "this")
    nodes = [{"NodeID": "this", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": node.getsockname()[1]}]
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "disconnect", lambda: left.append("left"))
    monkeypatch.setattr(cluster, "HEAD_LOST_AFTER_S", 0.1)
    yield SimpleNamespace(head=head, node=node, left=left)
    head.close()
    node.close()


def test_a_lost_node_is_noticed_at_once(lost):
    heartbeat = cluster.Heartbeat()
    assert heartbeat.check()
    lost.node.close()
    with pytest.raises(IncompleteError, match="node that this process is attached to is lost") as caught:
        heartbeat.check()
    assert caught.value.exit_code == 4
    assert lost.left == ["left"], "since Ray ends a process that stays"


def test_a_lost_head_is_given_time(lost):
    heartbeat = cluster.Heartbeat()
    lost.head.close()
    assert not heartbeat.check()
    time.sleep(0.2)
    with pytest.raises(IncompleteError, match="head of the Ray cluster is lost"):
        heartbeat.check()
    assert lost.left == ["left"]


def test_a_cluster_that_is_reached_in_another_way_is_not_watched(lost):
    lost.head.close()
    assert cluster.Heartbeat().check()
