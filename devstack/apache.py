"""Apache Kafka itself, as jars through Maven, for `make run KAFKA=apache` and `make test-kafka`.

One node in KRaft mode, with the settings that Herald expects of a production broker.
"""

import base64
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Final

from devstack.children import Child
from devstack.ports import free_ports
from devstack.servers import HOST, Kafka, greets
from notification.errors import SettingsError, Unavailable
from notification.limits import EVENT_BYTES_MAX, KAFKA_RETENTION_MS, STARTUP_DEADLINE_S

POM: Final = Path(__file__).with_suffix(".pom.xml")
FETCH_DEADLINE_S: Final = 600  # 45 MB from Maven Central, once per machine
SHUTDOWN_S: Final = 30.0
HEAP: Final = "512m"
APT_HINT: Final = "apt-get install --no-install-recommends openjdk-17-jre-headless maven"
LOGGING: Final = """\
log4j.rootLogger=WARN, stdout
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d{ISO8601} %p %c: %m%n
"""


class ApacheKafka(Kafka):
    """Apache Kafka on one node; unlike Tansu it keeps what it was given."""

    title = "Kafka (Apache)"

    async def _prepare(self) -> Child:
        jars = await fetch_jars(self.log)
        logs = self.data / "apache"
        properties = self.data / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties(logs).items()))
        logging = self.data / "log4j.properties"
        logging.write_text(LOGGING)
        java = [
            _program("java"), f"-Xms{HEAP}", f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError",
            "-XX:TieredStopAtLevel=1", f"-Dlog4j.configuration=file:{logging}", "-cp", f"{jars}/*",
        ]  # fmt: skip
        if not (logs / "meta.properties").exists():
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # With "=": an id may begin with a dash.
            argv = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(properties)]
            await _run("kafka-storage format", argv, self.log, STARTUP_DEADLINE_S)
        argv = [*java, "kafka.Kafka", str(properties)]
        return Child(self.title, argv, self.log, stop_s=SHUTDOWN_S, cwd=self.data)

    def _properties(self, logs: Path) -> dict[str, object]:
        controller_port = free_ports(1)[0]
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.advertised_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": logs,
            "log.message.timestamp.type": "LogAppendTime",
            "log.retention.ms": KAFKA_RETENTION_MS,
            "message.max.bytes": max(1_048_588, EVENT_BYTES_MAX),  # Kafka's default; batches count as one message
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 8,
            "group.initial.rebalance.delay.ms": 0,
        }

    async def _ready(self) -> bool:
        return await greets(self.port, b"", b"")


async def fetch_jars(log: Path) -> Path:
    """The folder of the jars: in the user's cache, so that `make clean` does not cost a download.

    Raises SettingsError when Java or Maven is missing, Unavailable when Maven cannot fetch.
    """
    _program("java")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herald"
    jars = cache / f"kafka-{kafka_version()}"
    if jars.exists():
        return jars
    unfinished = cache / f"{jars.name}.{os.getpid()}"
    argv = [_program("mvn"), "--batch-mode", "--quiet", "-f", str(POM), "dependency:copy-dependencies",
            f"-DoutputDirectory={unfinished}"]  # fmt: skip
    try:
        await _run("mvn", argv, log, FETCH_DEADLINE_S)
        if not jars.exists():  # another run may have been faster
            unfinished.rename(jars)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return jars


def kafka_version() -> str:
    """The version that the pom pins."""
    version = re.search(
        r"<artifactId>kafka_[0-9.]+</artifactId>\s*<version>([0-9.]+)</version>", POM.read_text("utf-8")
    )
    assert version is not None
    return version[1]


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SettingsError(
            f"Apache Kafka needs {name}, which is not installed: {APT_HINT} (or leave out KAFKA=apache, "
            "or set kafka = HOST:PORT)"
        )
    return path


async def _run(name: str, argv: list[str], log: Path, deadline_s: float) -> None:
    child = Child(name, argv, log)
    child.start()
    try:
        code = await child.wait(deadline_s)
    finally:
        await child.stop()
    if code is None:
        raise Unavailable(f"{name} took longer than {deadline_s} s; the end of {log}:\n{child.log_tail()}")
    if code != 0:
        raise child.died()
