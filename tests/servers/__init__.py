"""Real servers for the tests, provisioned without root and without touching the system."""

from tests.servers.ceph import Ceph
from tests.servers.ftp import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.gpg import Gpg
from tests.servers.moto import Moto
from tests.servers.openssh import OpenSSH
from tests.servers.packages import Missing
from tests.servers.postgres import Postgres
from tests.servers.server import Server, StartFailed

__all__ = [
    "Ceph",
    "FtpServer",
    "Gpg",
    "Missing",
    "Moto",
    "OpenSSH",
    "Postgres",
    "Proftpd",
    "PureFtpd",
    "Server",
    "StartFailed",
    "Vsftpd",
]
